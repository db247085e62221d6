"""The row of a data loader: images in memory to visible patches in the training process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nbgather.apps.bench.contest import Call, Contest, Row
from nbgather.apps.published import published_masking

__all__ = ["LOADER_ROWS"]

IMAGES, BATCH, WORKERS = 4096, 64, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: An epoch by torch takes seconds.
TURNS = 3


def _normalised(pixels: Any) -> Any:
    import torch

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (pixels.float() * (1 / 255) - mean) / std


def _masked(images: Any) -> tuple[Any, ...]:
    """The paper's code: all patches, of which 49 of 196 stay."""
    import torch

    x = images.reshape(len(images), 3, 14, 16, 14, 16)
    x = torch.einsum("nchpwq->nhwpqc", x).reshape(len(images), 196, 768)
    return published_masking(x, 49, expand=True)


def _recipe(samples: Sequence[tuple[int, Any]]) -> tuple[Any, ...]:
    """The recipe as a collate function, which the workers run."""
    import torch

    numbers, images = zip(*samples, strict=True)
    return torch.tensor(numbers), _masked(_normalised(torch.stack(images)))


class _Images:
    """Images that lie in memory, as they are or normalised."""

    def __init__(self, pixels: Any, change: Callable[[Any], Any] | None = None) -> None:
        self.pixels, self.change = pixels, change

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, number: int) -> tuple[int, Any]:
        pixels = self.pixels[number]
        return number, pixels if self.change is None else self.change(pixels)


def _epoch(
    images: Any, collate: Any, workers: int = WORKERS, then: Callable[[Any], Any] | None = None
) -> Call:
    """An epoch of a loader; what it gives is the last batch."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        images, BATCH, shuffle=True, collate_fn=collate, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip

    def call() -> Any:
        masked = None
        for _, batch in loader:
            masked = batch if then is None else then(batch)
        return tuple(masked or ())

    return call


def _loaders() -> Contest:
    import torch

    from nbgather.torch import MaskingCollate

    pixels = torch.randint(0, 256, (IMAGES, 3, 224, 224), dtype=torch.uint8)
    collate = MaskingCollate(16, 0.75, seed=1, scale=1 / 255, mean=MEAN, std=STD)
    images, floats = _Images(pixels), _Images(pixels, _normalised)
    kept = 49 * 768
    return Contest(
        _epoch(images, collate),
        {
            "torch in the collate function": _epoch(images, _recipe),
            "torch in the main process": _epoch(floats, None, then=_masked),
            "nbgather without workers": _epoch(images, collate, workers=0),
        },
        IMAGES * (kept * 5 + 196 * 12),
        random=True,
        scales=False,
        turns=TURNS,
    )


LOADER_ROWS: tuple[Row, ...] = (
    Row("data loader", "masking",
        f"{IMAGES:,} uint8 images [3,224,224] in memory, {WORKERS} workers", _loaders,
        {"torch in the collate function": 6, "torch in the main process": 10,
         "nbgather without workers": 1}),
)  # fmt: skip
