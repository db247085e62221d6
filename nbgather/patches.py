"""Images and video to patches and back, in the paper's order: row, column, channel."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, overload

from nbgather import dispatch, packing
from nbgather.operations import checks
from nbgather.operations.keep import keep_of
from nbgather.operations.packing import PackedPatchify
from nbgather.operations.patches import (
    MaskedPatchify,
    Patchify,
    Unpatchify,
    affine,
    channels_first,
    checked_channels,
    image_grid,
)
from nbgather.operations.patches import image_size as sides_of
from nbgather.operations.patches import patch_size as sizes_of
from nbgather.operations.tokens import one_source
from nbgather.results import Array, MaskedTokens, PackedImages, PackedTokens, PaddedTokens

__all__ = ["masked_patchify", "patchify", "unpatchify"]

Channels = Literal["first", "last"]
_FIRST = "first"


def patchify(
    images: Array, patch_size: int | Sequence[int], *, channels: Channels = "first"
) -> Array:
    """Cut images or video into patches.

    Parameters
    ----------
    images : array, shape [N, C, H, W] or [N, C, T, H, W]
        Any dtype.
    patch_size : int or sequence of int
        ``p`` or ``(ph, pw)`` for images, ``(pt, ph, pw)`` for video; each must divide its side.
    channels : {"first", "last"}
        Where the channels are: ``"last"`` for `[N, H, W, C]` and `[N, T, H, W, C]`, of which come
        the same patches.

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
    head = _head(Patchify, patch_size) if channels == _FIRST else None
    if head is not None:
        result = dispatch.recall(head, images)
        if result is not None:
            return result
    images = _channels_first(images, patch_size, channels)
    shape = dispatch.shape_of(images, "images")
    return dispatch.execute(Patchify(sizes_of(patch_size, shape)), images)


def unpatchify(
    patches: Array,
    patch_size: int | Sequence[int],
    image_size: int | Sequence[int],
    *,
    channels: Channels = "first",
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
    channels : {"first", "last"}
        Where the channels go.

    Returns
    -------
    array, shape [N, C, H, W] or [N, C, T, H, W]
        With ``channels="last"`` `[N, H, W, C]` or `[N, T, H, W, C]`, a view of the same memory.

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
    last = checked_channels(channels) == "last"
    head = None if last else _head(Unpatchify, patch_size, image_size)
    if head is not None:
        result = dispatch.recall(head, patches)
        if result is not None:
            return result
    sides = sides_of(image_size)
    images = dispatch.execute(Unpatchify(sizes_of(patch_size, (0, 0, *sides)), sides), patches)
    if not last:
        return images
    return dispatch.permuted(images, "patches", (0, *range(2, 2 + len(sides)), 1))


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
    packed: Literal[False] = False,
    channels: Channels = "first",
    backend: str | None = None,
) -> MaskedTokens[Array]: ...
@overload
def masked_patchify(
    images: list[Array] | tuple[Array, ...],
    patch_size: int | Sequence[int],
    mask_ratio: float | Sequence[float] = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any = None,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    packed: Literal[True],
    channels: Channels = "first",
    backend: str | None = None,
) -> PackedImages[Array]: ...
@overload
def masked_patchify(
    images: Array,
    patch_size: int | Sequence[int],
    mask_ratio: float | Sequence[float] = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any = None,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    packed: Literal[True],
    channels: Channels = "first",
    backend: str | None = None,
) -> PackedTokens[Array]: ...
@overload
def masked_patchify(
    images: Array,
    patch_size: int | Sequence[int],
    mask_ratio: float | Sequence[float] = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    packed: Literal[False] = False,
    channels: Channels = "first",
    backend: str | None = None,
) -> PaddedTokens[Array]: ...
@overload
def masked_patchify(
    images: Array,
    patch_size: int | Sequence[int],
    mask_ratio: Sequence[float],
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: None = None,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    packed: Literal[False] = False,
    channels: Channels = "first",
    backend: str | None = None,
) -> PaddedTokens[Array]: ...
def masked_patchify(
    images: Any,
    patch_size: int | Sequence[int],
    mask_ratio: float | Sequence[float] = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any = None,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    packed: bool = False,
    channels: Channels = "first",
    backend: str | None = None,
) -> MaskedTokens[Any] | PaddedTokens[Any] | PackedTokens[Any] | PackedImages[Any]:
    """Cut only the patches out of images or video that a random mask keeps.

    The same as :func:`patchify` and then :func:`nbgather.random_masking`, but what is removed is
    never read and the whole of the patches never written. With ``scale``, ``mean`` or ``std`` the
    kept pixels are normalised on the way, to float32: ``(pixel * scale - mean) / std``, each step
    rounded by itself.

    Parameters
    ----------
    images : array, shape [N, C, H, W] or [N, C, T, H, W]
        Any dtype and strides; uint8 or float32 where they are normalised. With ``packed`` also a
        list of images `[C, H, W]` of different sizes, or a nested tensor of them.
    patch_size : int or sequence of int
        As in :func:`patchify`.
    mask_ratio, noise, seed, sample_ids, epoch, num_keep
        As in :func:`nbgather.random_masking`; L is the number of patches of an image. For images of
        different sizes ``noise`` is a list of scores `[L]`.
    scale : float, optional
        What pixels are multiplied by, e.g. 1 / 255.
    mean, std : float or sequence of C floats, optional
        What is subtracted from and divides the scaled pixels of each channel.
    packed : bool
        Give the visible patches of all images one after the other, without padding.
    channels : {"first", "last"}
        Where the channels are: ``"last"`` for `[N, H, W, C]`, as pictures are decoded, and
        `[N, T, H, W, C]`. The result is the same.
    backend : str, optional
        A name from :func:`nbgather.backends.available`.

    Returns
    -------
    MaskedTokens, PaddedTokens where each sample has a number or ratio of its own, or PackedTokens
        ``(x_masked, mask, ids_restore)``, with ``x_masked`` `[N, K, prod(patch_size) * C]`; packed
        `[sum K, prod(patch_size) * C]`. For images of different sizes PackedImages.

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
    >>> masked = nbgather.masked_patchify(images, 2, seed=0, scale=1 / 255, mean=0.5, std=0.5)
    >>> masked.x_masked.dtype, masked.x_masked.shape
    (dtype('float32'), (1, 1, 12))
    >>> wide, high = np.zeros((3, 4, 8), np.uint8), np.zeros((3, 6, 4), np.uint8)
    >>> packed = nbgather.masked_patchify([wide, high], 2, 0.5, seed=0, packed=True)
    >>> packed.x_masked.shape, packed.cu_seqlens.tolist(), packed.grids
    ((7, 12), [0, 4, 7], ((2, 4), (3, 2)))
    """
    if packed is not False or channels != _FIRST or backend is not None:
        pass  # no small call that is repeated
    else:
        head = _head(MaskedPatchify, patch_size)
        if head is not None and not (scale is mean is std is None):
            words = _words_of(images, scale, mean, std)
            head = None if words is None else head + words
        if head is not None:
            result = dispatch.recall_masking(
                head, mask_ratio, num_keep, (images, noise, sample_ids, seed, epoch)
            )
            if result is not None:
                return MaskedTokens(*result)
    several = _several(images, packed)
    if several is not None:
        return packing.mask_images(
            [_channels_first(image, patch_size, channels, n) for n, image in enumerate(several)],
            patch_size, mask_ratio, noise=noise, seed=seed, sample_ids=sample_ids, epoch=epoch,
            num_keep=num_keep, numbers=lambda c: affine(scale, mean, std, c), backend=backend,
        )  # fmt: skip
    images = _channels_first(images, patch_size, channels)
    shape = dispatch.shape_of(images, "images")
    sizes = sizes_of(patch_size, shape)
    sample_ids = dispatch.ids_beside(sample_ids, shape[0], "images")
    one_source(noise, seed, sample_ids)
    length = prod(image_grid(shape, sizes))
    keep = keep_of(mask_ratio, dispatch.host_counts(num_keep, "num_keep"), shape[0], length)
    key = None if seed is None else checks.bits64(seed, "seed")
    numbers = None
    if not (scale is mean is std is None):
        numbers = dispatch.evaluate(images, "images", _noted_affine, (scale, mean, std, shape[1]))
    if packed:
        packs = PackedPatchify(keep, key, checks.epoch(epoch), sizes, numbers)
        rows, mask, ranks, ends = dispatch.execute(
            packs, images, noise, sample_ids, backend=backend
        )
        return PackedTokens(rows, mask, ranks, ends, keep.of(length) if shape[0] else 0)
    operation = MaskedPatchify(keep, key, checks.epoch(epoch), sizes, numbers)
    results = dispatch.execute(operation, images, noise, sample_ids, backend=backend)
    return MaskedTokens(*results) if keep.counts is None else PaddedTokens(*results)


def _several(images: Any, packed: Any) -> list[Any] | None:
    """Images of different sizes, one by one; None for an array of them."""
    if checks.flag(packed, "packed") and getattr(images, "is_nested", False):
        return list(images.unbind())
    if not isinstance(images, (list, tuple)):
        return None
    if not packed:
        raise TypeError(
            f"images is a {type(images).__name__}: one array [N, C, H, W] is needed, or packed=True"
            " for images of different sizes"
        )
    return list(images)


def _channels_first(images: Any, patch_size: Any, channels: Any, n: int | None = None) -> Any:
    """Images as a view with the channels in front of the sides; ``n`` is the place of one alone."""
    if checked_channels(channels) == _FIRST:
        return images
    what = "images" if n is None else f"images[{n}]"
    shape = dispatch.shape_of(images, what)
    axes = channels_first(shape, patch_size, what, n is not None)
    return dispatch.permuted(images, what, axes)


#: What small calls are kept under, of the numbers that normalise pixels, by these as they came.
_words: dict[tuple[Any, ...], tuple[Any, ...]] = {}
MAX_WORDS = 256


def _numbers_key(channels: Any, *numbers: Any) -> tuple[Any, ...] | None:
    """Numbers and sequences of them, with their types and bits; None for anything else."""
    if type(channels) is not int:  # a size that is not known yet, and has no hash
        return None
    key: list[Any] = [channels]
    for value in numbers:
        its = type(value)
        if its is list or its is tuple:
            key.append(len(value))
            items = value
        else:
            items = (value,)
        for item in items:
            if item is not None and type(item) is not float and type(item) is not int:
                return None
            key += (type(item), item or repr(item))  # 0.0 equals -0.0
    return tuple(key)


def _words_of(images: Any, *numbers: Any) -> tuple[Any, ...] | None:
    """What a call's numbers are kept under, if its like was made before."""
    if not dispatch.may_repeat(images) or images.ndim < 2:
        return None
    key = _numbers_key(images.shape[1], *numbers)
    return None if key is None else _words.get(key)


def _noted_affine(*numbers: Any) -> tuple[float, ...] | None:
    """`affine`, whose result is noted for calls that come again."""
    result = affine(*numbers)
    if result is not None:
        key = _numbers_key(numbers[3], *numbers[:3])
        words = dispatch.head(MaskedPatchify, *result)
        if key is not None and isinstance(words, tuple) and key not in _words:
            if len(_words) >= MAX_WORDS:
                _words.clear()
            _words[key] = words[1:]
    return result


def _head(kind: type, *sizes: Any) -> tuple[Any, ...] | None:
    """What small calls are kept under: sizes of all sides; None where they are no plain ints."""
    words: list[Any] = [kind]
    for size in sizes:
        sides = size if type(size) is tuple else (size, size)
        for n in sides:
            if type(n) is not int:
                return None
            words += (int, n)
    return tuple(words)
