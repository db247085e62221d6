"""Images and video to patches and back, in the paper's order: row, column, channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbgather import _arrays, _validate

__all__ = ["patchify", "unpatchify"]


def patchify(images: Any, patch_size: int | Sequence[int]) -> Any:
    """Cut images or video into patches.

    Parameters
    ----------
    images : array, shape [N, C, H, W] or [N, C, T, H, W]
        Any dtype.
    patch_size : int or sequence of int
        ``p`` or ``(ph, pw)`` for images, ``(pt, ph, pw)`` for video; each must divide its side.

    Returns
    -------
    array, shape [N, L, prod(patch_size) * C]
        Patches in row-major order of the grid; within a patch (time,) row, column, channel.

    Raises
    ------
    TypeError, ValueError
        A patch size that does not fit the images.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> images = np.arange(16).reshape(1, 1, 4, 4)
    >>> nbgather.patchify(images, 2).tolist()
    [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]
    """
    adapted = _arrays.adapter(images, "images")
    shape = tuple(images.shape)
    sizes = _validate.patch_size(patch_size, shape)
    grid = _validate.grid(shape[2:], sizes)
    n, channels, nd = shape[0], shape[1], len(sizes)
    split = [m for pair in zip(grid, sizes, strict=True) for m in pair]
    # [N, C, g0, p0, g1, p1, ...] → [N, g0, g1, ..., p0, p1, ..., C]
    order = (0, *range(2, 2 + 2 * nd, 2), *range(3, 3 + 2 * nd, 2), 1)
    cut = adapted.permute(images.reshape(n, channels, *split), order)
    tokens, width = 1, channels
    for g, p in zip(grid, sizes, strict=True):
        tokens, width = tokens * g, width * p
    return cut.reshape(n, tokens, width)


def unpatchify(
    patches: Any, patch_size: int | Sequence[int], image_size: int | Sequence[int]
) -> Any:
    """Put patches together again: the inverse of :func:`patchify`.

    Parameters
    ----------
    patches : array, shape [N, L, prod(patch_size) * C]
        As :func:`patchify` gives them.
    patch_size : int or sequence of int
        As in :func:`patchify`.
    image_size : int or sequence of int
        ``(H, W)`` or ``(T, H, W)``; an int stands for a square image.

    Returns
    -------
    array, shape [N, C, H, W] or [N, C, T, H, W]

    Raises
    ------
    TypeError, ValueError
        Sizes that do not fit the patches.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> images = np.arange(16).reshape(1, 1, 4, 4)
    >>> bool((nbgather.unpatchify(nbgather.patchify(images, 2), 2, 4) == images).all())
    True
    """
    adapted = _arrays.adapter(patches, "patches")
    shape = tuple(patches.shape)
    sides = _validate.image_size(image_size)
    sizes = _validate.patch_size(patch_size, (0, 0, *sides))
    grid = _validate.grid(sides, sizes)
    channels = _validate.patches(shape, grid, sizes)
    nd = len(sizes)
    # [N, g0, g1, ..., p0, p1, ..., C] → [N, C, g0, p0, g1, p1, ...]
    order = [0, 1 + 2 * nd]
    for d in range(nd):
        order += [1 + d, 1 + nd + d]
    joined = adapted.permute(patches.reshape(shape[0], *grid, *sizes, channels), tuple(order))
    return joined.reshape(shape[0], channels, *sides)
