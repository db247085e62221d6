"""Images and video to patches and back, in the paper's order: row, column, channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from nbgather import _arrays, _run, _validate, masking
from nbgather.engine import backends
from nbgather.results import Array, MaskedTokens, PaddedTokens

__all__ = ["masked_patchify", "patchify", "unpatchify"]


def patchify(images: Array, patch_size: int | Sequence[int]) -> Array:
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
    if adapted.name == "Dask":
        return adapted.detour(images).via_patchify(images, patch_size)
    adapted.require_strided(images)
    shape = adapted.shape(images)
    sizes = _validate.patch_size(patch_size, shape)
    grid = _validate.image_grid(shape, sizes)
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
    patches: Array, patch_size: int | Sequence[int], image_size: int | Sequence[int]
) -> Array:
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
    if adapted.name == "Dask":
        return adapted.detour(patches).via_unpatchify(patches, patch_size, image_size)
    adapted.require_strided(patches)
    shape = adapted.shape(patches)
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


@overload
def masked_patchify(
    images: Array,
    patch_size: int | Sequence[int],
    mask_ratio: float = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: int | None = None,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    backend: str | None = None,
) -> MaskedTokens[Array]: ...
@overload
def masked_patchify(
    images: Array,
    patch_size: int | Sequence[int],
    mask_ratio: float = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    backend: str | None = None,
) -> PaddedTokens[Array]: ...
def masked_patchify(
    images: Array,
    patch_size: int | Sequence[int],
    mask_ratio: float = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any = None,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    backend: str | None = None,
) -> MaskedTokens[Array] | PaddedTokens[Array]:
    """Cut only the patches out of images or video that a random mask keeps.

    The same as :func:`patchify` and then :func:`nbgather.random_masking`, but what is removed is
    never read and the whole of the patches never written. With ``scale``, ``mean`` or ``std`` the
    kept pixels are normalised on the way, to float32: ``(pixel * scale - mean) / std``, each step
    rounded by itself.

    Parameters
    ----------
    images : array, shape [N, C, H, W] or [N, C, T, H, W]
        Any dtype and strides; uint8 or float32 where they are normalised.
    patch_size : int or sequence of int
        As in :func:`patchify`.
    mask_ratio, noise, seed, sample_ids, epoch, num_keep
        As in :func:`nbgather.random_masking`; L is the number of patches of an image.
    scale : float, optional
        What pixels are multiplied by, e.g. 1 / 255.
    mean, std : float or sequence of C floats, optional
        What is subtracted from and divides the scaled pixels of each channel.
    backend : str, optional
        A name from :func:`nbgather.backends.available`.

    Returns
    -------
    MaskedTokens, or PaddedTokens where ``num_keep`` has a number for each sample
        ``(x_masked, mask, ids_restore)``, with ``x_masked`` `[N, K, prod(patch_size) * C]`.

    Raises
    ------
    TypeError, ValueError
        As :func:`patchify` and :func:`nbgather.random_masking`; a scale, mean or std that is not
        finite or not one for each channel, a std of 0, or another dtype to normalise.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> images = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    >>> nbgather.masked_patchify(images, 2, seed=0).x_masked.tolist()
    [[[0, 16, 32, 1, 17, 33, 4, 20, 36, 5, 21, 37]]]
    >>> made = nbgather.masked_patchify(images, 2, seed=0, scale=1 / 255, mean=0.5, std=0.5)
    >>> made.x_masked.dtype, made.x_masked.shape
    (dtype('float32'), (1, 1, 12))
    """
    adapted = _arrays.adapter(images, "images")
    shape = adapted.shape(images)
    sizes = _validate.patch_size(patch_size, shape)
    noise, sample_ids = masking.sides(adapted, images, "images", noise, sample_ids)
    if adapted.detours:
        detour = adapted.detour(images, noise, sample_ids)
        if detour is not None:
            options = {
                "noise": noise, "seed": seed, "sample_ids": sample_ids, "epoch": epoch,
                "num_keep": num_keep, "scale": scale, "mean": mean, "std": std, "backend": backend,
            }  # fmt: skip
            return detour.via_patches(images, patch_size, mask_ratio, options)
    grid = _validate.image_grid(shape, sizes)
    affine = _validate.affine(scale, mean, std, shape[1])
    if affine is not None:
        _validate.pixels(str(images.dtype))
    chosen, counts = masking.choose_tokens(
        adapted, images, (shape[0], math.prod(grid)),
        mask_ratio, num_keep, noise, seed, sample_ids, epoch, backend,
    )  # fmt: skip
    module = backends.serving(backend, adapted.home, adapted.device(images))
    if hasattr(module, "patches") and not adapted.wants_grad(images):
        kept = _cut(adapted, images, sizes, grid, chosen.ids_keep, affine)
    else:
        mode = "raise" if counts is None else "fill"
        patches = patchify(images, sizes)
        kept = _run.gather("tokens", patches, 1, chosen.ids_keep, mode, 0, None, backend)
        if affine is not None:
            kept = _normalised(adapted, kept, affine, counts)
    if counts is None:
        return MaskedTokens(kept, chosen.mask, chosen.ids_restore)
    valid = adapted.from_numpy(masking.valid_tokens(counts), images)
    return PaddedTokens(kept, chosen.mask, chosen.ids_restore, valid)


def _cut(
    adapted: _arrays.Adapter,
    images: Any,
    sizes: tuple[int, ...],
    grid: tuple[int, ...],
    ids_keep: Any,
    affine: np.ndarray | None,
) -> Any:
    """By the kernel that reads what is kept and no more."""
    images, key = _arrays.ready(adapted, images)
    shape, strides, dtype = adapted.layout(key)
    _validate.itemsize(dtype.name, dtype.itemsize, _arrays.ITEMSIZES, "images")
    item = dtype.itemsize
    apart = adapted.address(images) % item or any(s % item for s in strides)
    if apart or (affine is not None and not dtype.native):
        images, key = _arrays.ready(adapted, adapted.contiguous(images))
        shape, strides, dtype = adapted.layout(key)
    n, kept, channels = shape[0], int(ids_keep.shape[1]), shape[1]
    width = math.prod(sizes) * channels
    wanted = (n, kept, width)
    if affine is None:
        made = adapted.empty_result(wanted, images, math.prod(wanted) * item)
    else:
        like = adapted.empty((0,), images, "float32")
        made = adapted.empty_result(wanted, like, math.prod(wanted) * 4)
    if math.prod(wanted) == 0:
        return made
    steps = [s // item for s in strides]
    # An image is a video of one frame.
    time = (steps[2], sizes[0]) if len(sizes) == 3 else (0, 1)
    numbers = (
        kept, channels, *steps[:2], time[0], *steps[-2:], *grid[-2:], time[1], *sizes[-2:],
    )  # fmt: skip
    place, table = adapted.place(images), affine
    if place and affine is not None:
        table = adapted.constant(affine, images)
    with adapted.on(images):
        backends.get(adapted.home).patches(
            numbers,
            n * kept,
            adapted.address(made),
            adapted.address(images),
            adapted.address(ids_keep),
            item if affine is None else np.dtype(dtype.name).name,
            adapted.address(table) if place and table is not None else table,
            *place,
        )
    return made


def _normalised(
    adapted: _arrays.Adapter, patches: Any, affine: np.ndarray, counts: np.ndarray | None
) -> Any:
    """The same arithmetic by the array's own library."""
    pixels = int(patches.shape[2]) // (affine.size // 2)
    scale, mean, std = np.split(affine, [1, 1 + affine.size // 2])
    row = [adapted.from_numpy(np.tile(part, pixels), patches) for part in (mean, std)]
    scaled = adapted.cast(patches, "float32") * adapted.from_numpy(scale, patches)
    made = (scaled - row[0]) / row[1]
    if counts is None:
        return made
    valid = adapted.from_numpy(masking.valid_tokens(counts)[..., None], patches)
    return adapted.where(valid, made, 0.0)
