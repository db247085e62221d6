"""Chunked images to patches and back, a chunk of samples at a time."""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

import numpy as np

from nbgather import _validate, patches
from nbgather.dask import _sides

logger = logging.getLogger(__name__)


def patchify(images: Any, patch_size: Any) -> Any:
    """Cut chunked images or video into patches; :func:`nbgather.patchify`.

    Parameters
    ----------
    images : dask.array.Array, shape [N, C, H, W] or [N, C, T, H, W]
        Chunked in any way; unknown chunk sizes along N are taken too. What is chunked off N is
        brought into one chunk.
    patch_size : int or sequence of int
        As in :func:`nbgather.patchify`.

    Returns
    -------
    dask.array.Array, shape [N, L, prod(patch_size) * C]
        Chunked over N as ``images`` is.

    Raises
    ------
    TypeError, ValueError
        As :func:`nbgather.patchify`, when the graph is built; unknown chunk sizes off N.

    Examples
    --------
    >>> import dask.array as da
    >>> from nbgather.dask import patchify
    >>> images = da.zeros((4, 3, 32, 32), chunks=(2, 1, 16, 16), dtype="uint8")
    >>> made = patchify(images, 8)
    >>> made.shape, made.chunks[0], made.dtype
    ((4, 16, 192), (2, 2), dtype('uint8'))
    """
    images = _sides.chunked(images, "images")
    sizes = _validate.patch_size(patch_size, tuple(images.shape))
    images = _sides.whole_samples(images, "images", logger)
    grid = _validate.image_grid((*images.shape[:2], *_numbers(images.shape[2:])), sizes)
    shape = math.prod(grid), math.prod(sizes) * int(images.shape[1])
    return images.map_blocks(
        functools.partial(_patchify_block, sizes),
        chunks=(images.chunks[0], *((n,) for n in shape)), drop_axis=list(range(3, images.ndim)),
        dtype=images.dtype, meta=np.empty((0, 0, 0), images.dtype),
    )  # fmt: skip


def unpatchify(patches: Any, patch_size: Any, image_size: Any) -> Any:
    """Put chunked patches together again; :func:`nbgather.unpatchify`.

    Parameters
    ----------
    patches : dask.array.Array, shape [N, L, prod(patch_size) * C]
        Chunked in any way; unknown chunk sizes along N are taken too. What is chunked off N is
        brought into one chunk.
    patch_size, image_size : int or sequence of int
        As in :func:`nbgather.unpatchify`.

    Returns
    -------
    dask.array.Array, shape [N, C, H, W] or [N, C, T, H, W]
        Chunked over N as ``patches`` is.

    Raises
    ------
    TypeError, ValueError
        As :func:`nbgather.unpatchify`, when the graph is built; unknown chunk sizes off N.

    Examples
    --------
    >>> import dask.array as da
    >>> from nbgather.dask import patchify, unpatchify
    >>> images = da.arange(96, chunks=96).reshape(2, 3, 4, 4).rechunk((1, 2, 4, 3))
    >>> bool((unpatchify(patchify(images, 2), 2, 4) == images).all().compute())
    True
    """
    taken = _sides.chunked(patches, "patches")
    sides = _validate.image_size(image_size)
    sizes = _validate.patch_size(patch_size, (0, 0, *sides))
    grid = _validate.grid(sides, sizes)
    taken = _sides.whole_samples(taken, "patches", logger)
    channels = _validate.patches((taken.shape[0], *_numbers(taken.shape[1:])), grid, sizes)
    return taken.map_blocks(
        functools.partial(_unpatchify_block, sizes, sides),
        chunks=(taken.chunks[0], *((n,) for n in (channels, *sides))),
        new_axis=list(range(3, 2 + len(sides))),
        dtype=taken.dtype, meta=np.empty((0,) * (2 + len(sides)), taken.dtype),
    )  # fmt: skip


def _numbers(shape: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in shape)


def _patchify_block(sizes: tuple[int, ...], images: Any) -> np.ndarray:
    return np.asarray(patches.patchify(_sides.plain_block(images, "images"), sizes))


def _unpatchify_block(sizes: tuple[int, ...], sides: tuple[int, ...], taken: Any) -> np.ndarray:
    return np.asarray(patches.unpatchify(_sides.plain_block(taken, "patches"), sizes, sides))
