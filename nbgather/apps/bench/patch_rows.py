"""Rows from images to visible patches."""

from __future__ import annotations

from typing import Any

import numpy as np

import nbgather
from nbgather.apps.bench.contest import Call, Contest, Row
from nbgather.apps.bench.operands import compiled, floats, generator
from nbgather.apps.published import published_masking

__all__ = ["PATCH_ROWS"]


def _masked_patches(normalise: bool) -> Contest:
    """Images to visible patches; torch cuts all patches, then masks them."""
    import torch

    pixels = generator().integers(0, 256, (64, 3, 224, 224)).astype(np.uint8)
    images = pixels if normalise else pixels.astype(np.float32)
    tensor = torch.from_numpy(images)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    affine: dict[str, Any] = {"scale": 1 / 255, "mean": mean, "std": std} if normalise else {}
    kept = 64 * 49 * 768

    def cut(x: Any) -> Any:
        x = x.reshape(64, 3, 14, 16, 14, 16)
        return torch.einsum("nchpwq->nhwpqc", x).reshape(64, 196, 768)

    def first() -> tuple[Any, ...]:
        """As a data loader's transforms do it: the whole image is normalised."""
        m, s = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
        x = (tensor.float() * (1 / 255) - m) / s if normalise else tensor
        return published_masking(cut(x), 49, expand=True)

    def last() -> tuple[Any, ...]:
        """What is kept is cut from bytes, and only that normalised."""
        x, mask, ids_restore = published_masking(cut(tensor), 49, expand=True)
        m, s = (torch.tensor(v).repeat(256) for v in (mean, std))
        return (x.float() * (1 / 255) - m) / s, mask, ids_restore

    peers: dict[str, Call] = {"torch": first, **({} if normalise else compiled(first))}
    if normalise:
        peers = {"torch, normalised first": first, "torch, normalised last": last}
        peers |= compiled(last)
    return Contest(
        lambda: nbgather.masked_patchify(images, 16, seed=1, **affine),
        peers,
        kept * images.itemsize + kept * 4 + 64 * 196 * 12,
        random=True,
    )


def _channels_last() -> Contest:
    """Pictures as they are decoded, to normalised visible patches."""
    import torch

    pixels = generator().integers(0, 256, (64, 224, 224, 3)).astype(np.uint8)
    tensor = torch.from_numpy(pixels)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    kept = 64 * 49 * 768

    def recipe() -> tuple[Any, ...]:
        m, s = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
        x = (tensor.permute(0, 3, 1, 2).float() * (1 / 255) - m) / s
        x = torch.einsum("nchpwq->nhwpqc", x.reshape(64, 3, 14, 16, 14, 16))
        return published_masking(x.reshape(64, 196, 768), 49, expand=True)

    return Contest(
        lambda: nbgather.masked_patchify(
            pixels, 16, seed=1, scale=1 / 255, mean=mean, std=std, channels="last"
        ),
        {"torch": recipe},
        kept * 5 + 64 * 196 * 12,
        random=True,
    )


def _packed(patches: bool) -> Contest:
    """Counts of their own for all samples: without padding, and with it.

    The visible tokens have other shapes, so the rest is what is compared.
    """
    counts = generator().integers(20, 80, 64).tolist()
    if patches:
        pixels = generator().integers(0, 256, (64, 3, 224, 224)).astype(np.uint8)

        def call(packed: Any) -> Any:
            return nbgather.masked_patchify(
                pixels, 16, seed=1, num_keep=counts, scale=1 / 255, packed=packed
            )[1:3]
    else:
        x = floats((64, 196, 768))

        def call(packed: Any) -> Any:
            return nbgather.random_masking(x, seed=1, num_keep=counts, packed=packed)[1:3]

    return Contest(
        lambda: call(True),
        {"padded": lambda: call(False)},
        sum(counts) * 768 * (5 if patches else 8) + 64 * 196 * 12,
        random=True,
    )


PATCH_ROWS: tuple[Row, ...] = (
    Row("masked patches", "masking", "[64,3,224,224] float32, patches of 16",
        lambda: _masked_patches(False), {"torch": 5}),
    Row("masked patches, bytes", "masking", "the same from uint8, normalised",
        lambda: _masked_patches(True), {"best": 5}),
    Row("masked patches, channels last", "masking", "[64,224,224,3] uint8, normalised",
        _channels_last, {"torch": 6}),
    Row("packed tokens", "masking", "[64,196,768] float32, 20 to 79 of each sample",
        lambda: _packed(False), {"padded": 1}),
    Row("packed patches", "masking", "[64,3,224,224] uint8, normalised, 20 to 79 of each",
        lambda: _packed(True), {"padded": 1}),
)  # fmt: skip
