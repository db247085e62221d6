"""The graphs of patchify and unpatchify: a chunk of samples at a time."""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

from nbgather.containers.dask import blocks, sides
from nbgather.operations.base import Operation
from nbgather.operations.patches import Patchify, Unpatchify, image_grid

logger = logging.getLogger("nbgather.dask")


def patchify(operation: Patchify, images: Any) -> Any:
    """Patches, chunked over N as the images are."""
    images, sizes = sides.chunked(images, "images"), operation.patch_size
    images = sides.whole_samples(images, "images", logger)
    grid = image_grid((*images.shape[:2], *_numbers(images.shape[2:])), sizes)
    shape = math.prod(grid), math.prod(sizes) * int(images.shape[1])
    return images.map_blocks(
        functools.partial(_block, operation, "images"),
        chunks=(images.chunks[0], *((n,) for n in shape)), drop_axis=list(range(3, images.ndim)),
        dtype=images.dtype, meta=sides.meta_of(images, 3, images.dtype),
    )  # fmt: skip


def unpatchify(operation: Unpatchify, patches: Any) -> Any:
    """Images, chunked over N as the patches are."""
    patches = sides.whole_samples(sides.chunked(patches, "patches"), "patches", logger)
    shape = operation.image_size
    channels = operation.channels((patches.shape[0], *_numbers(patches.shape[1:])))
    return patches.map_blocks(
        functools.partial(_block, operation, "patches"),
        chunks=(patches.chunks[0], *((n,) for n in (channels, *shape))),
        new_axis=list(range(3, 2 + len(shape))),
        dtype=patches.dtype, meta=sides.meta_of(patches, 2 + len(shape), patches.dtype),
    )  # fmt: skip


def _numbers(shape: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in shape)


def _block(operation: Operation, what: str, block: Any) -> Any:
    return blocks.execute(operation, sides.plain_block(block, what))
