"""The row of a dataset: pictures in a folder to visible patches in zarr."""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbgather.apps.bench.contest import Contest, Row
from nbgather.apps.published import published_masking

__all__ = ["DATASET_ROWS"]

PICTURES, SIDE, PATCH, CHUNK, PROCESSES = 1024, 224, 16, 64, 2
TOKENS, KEPT, WIDTH = (SIDE // PATCH) ** 2, 49, 3 * PATCH * PATCH
LOADER = f"torch's DataLoader of {PROCESSES} workers, written by zarr"
NAMES = ("x_masked", "mask", "ids_restore")
#: A job takes seconds.
TURNS = 3


def _folder() -> Path:
    """JPEG files of smooth noise, as large as photos of this size are."""
    from PIL import Image

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    generator = np.random.default_rng(0)
    for number in range(PICTURES):
        rough = generator.integers(0, 256, (28, 28, 3), np.uint8)
        picture = Image.fromarray(rough).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:05}.jpg", quality=90)
    return folder


def _client() -> Any:
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=PROCESSES, threads_per_worker=1, dashboard_address=None
    )  # fmt: skip
    client = Client(cluster)
    atexit.register(cluster.close)
    atexit.register(client.close)
    return client


class _Files:
    """The pictures as a dataset of torch's."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Any:
        import torch
        from PIL import Image

        with Image.open(io.BytesIO(self.paths[number].read_bytes())) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB")))


def _masked(pictures: Sequence[Any]) -> list[np.ndarray]:
    """The paper's code, in the workers: all patches, of which some stay."""
    import torch

    x = torch.stack(list(pictures))
    side = SIDE // PATCH
    x = x.reshape(len(x), side, PATCH, side, PATCH, 3)
    x = torch.einsum("nhpwqc->nhwpqc", x).reshape(len(x), TOKENS, WIDTH)
    return [part.numpy() for part in published_masking(x, KEPT, expand=True)]


def _by_torch(folder: Path, target: Path) -> Path:
    """A loader whose workers mask; this process writes."""
    import zarr
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        _Files(folder), CHUNK, collate_fn=_masked, num_workers=PROCESSES
    )  # fmt: skip
    group = zarr.open_group(str(target), mode="w")
    shapes = ((KEPT, WIDTH), "u1"), ((TOKENS,), "f4"), ((TOKENS,), "i8")
    for name, (shape, dtype) in zip(NAMES, shapes, strict=True):
        group.create_array(name, shape=(PICTURES, *shape), chunks=(CHUNK, *shape), dtype=dtype)
    for number, batch in enumerate(loader):
        start = number * CHUNK
        for name, part in zip(NAMES, batch, strict=True):
            group[name][start : start + len(part)] = part
    return target


def _datasets() -> Contest:
    import zarr

    from nbgather.dask.dataset import mask_dataset

    folder, client = _folder(), _client()

    def made(write: Any) -> Any:
        def call() -> Any:
            with tempfile.TemporaryDirectory() as name:
                group = zarr.open_group(str(write(Path(name) / "out.zarr")), mode="r")
                return tuple(np.asarray(group[name]) for name in NAMES)

        return call

    def job(target: Path, client: Any = None) -> Path:
        return mask_dataset(
            folder, target, 0.75, seed=0, patch_size=PATCH, chunk=CHUNK, client=client
        )

    return Contest(
        made(job),
        {
            LOADER: made(lambda target: _by_torch(folder, target)),
            "nbgather on a cluster of this machine": made(lambda target: job(target, client)),
        },
        PICTURES * (3 * SIDE * SIDE + KEPT * WIDTH + TOKENS * 12),
        random=True,
        scales=False,
        turns=TURNS,
    )


DATASET_ROWS: tuple[Row, ...] = (
    Row("dataset", "masking",
        f"{PICTURES:,} JPEG files of {SIDE} x {SIDE} to zarr", _datasets, {LOADER: 1}),
)  # fmt: skip
