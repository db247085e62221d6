"""Images and video to patches and back, and only the patches that a mask keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nbgather.operations import checks
from nbgather.operations.base import (
    BOOL,
    FLOAT32,
    Apply,
    Operation,
    Spec,
    Tuple,
    device_of,
    fresh,
    known,
)
from nbgather.operations.shapes import Shape
from nbgather.operations.tokens import KeepTokens, RandomMasking, ranks

#: Pixels that can be normalised.
PIXEL_DTYPES = ("uint8", "float32")
#: Numbers of channels that images have, to tell channels from sides in a message.
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Patchify(Operation):
    """Cut images into patches: operand images `[N, C, H, W]` or `[N, C, T, H, W]`."""

    patch_size: tuple[int, ...]

    names: ClassVar[tuple[str, ...]] = ("images",)
    differentiable: ClassVar[tuple[int, ...]] = (0,)
    composed: ClassVar[bool] = True

    def result(self, images: Spec) -> tuple[Spec, ...]:
        shape = images.shape
        grid = image_grid(shape, self.patch_size)
        width = math.prod(self.patch_size) * shape[1]
        return (fresh((shape[0], math.prod(grid), width), images.dtype, images),)

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        return (do.run(Unpatchify(self.patch_size, tuple(specs[0].shape[2:])), cotangent),)

    def tangent(self, do: Apply, tangents: Tuple, specs: Tuple, operands: Tuple) -> Any:
        return do.run(self, tangents[0])

    def lower(self, do: Apply, *operands: Any) -> Any:
        (images,) = operands
        xp, sizes, nd = do.xp, self.patch_size, len(self.patch_size)
        n, channels, *_ = images.shape
        grid = image_grid(tuple(images.shape), sizes)
        split = [m for pair in zip(grid, sizes, strict=True) for m in pair]
        # [N, C, g0, p0, g1, p1, ...] → [N, g0, g1, ..., p0, p1, ..., C]
        order = (0, *range(2, 2 + 2 * nd, 2), *range(3, 3 + 2 * nd, 2), 1)
        cut = xp.permute_dims(xp.reshape(images, (n, channels, *split)), order)
        tokens, width = 1, channels
        for g, p in zip(grid, sizes, strict=True):
            tokens, width = tokens * g, width * p
        return xp.reshape(cut, (n, tokens, width))


@dataclass(frozen=True)
class Unpatchify(Operation):
    """Put patches together again: operand patches `[N, L, prod(patch_size) * C]`."""

    patch_size: tuple[int, ...]
    image_size: tuple[int, ...]

    names: ClassVar[tuple[str, ...]] = ("patches",)
    differentiable: ClassVar[tuple[int, ...]] = (0,)
    composed: ClassVar[bool] = True

    def result(self, patches: Spec) -> tuple[Spec, ...]:
        channels = self.channels(patches.shape)
        return (fresh((patches.shape[0], channels, *self.image_size), patches.dtype, patches),)

    def channels(self, shape: Shape) -> Any:
        """The number of channels of patches of this shape."""
        grid = cut_sides(self.image_size, self.patch_size)
        area, count = math.prod(self.patch_size), math.prod(grid)
        if len(shape) != 3 or shape[1] != count or shape[2] % area:
            raise ValueError(
                f"patches has shape {shape}: [N, {count}, {area} * C] is needed for a grid of"
                f" {grid} patches of {self.patch_size}"
            )
        return shape[2] // area

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        return (do.run(Patchify(self.patch_size), cotangent),)

    def tangent(self, do: Apply, tangents: Tuple, specs: Tuple, operands: Tuple) -> Any:
        return do.run(self, tangents[0])

    def lower(self, do: Apply, *operands: Any) -> Any:
        (patches,) = operands
        xp, nd = do.xp, len(self.patch_size)
        channels = self.channels(tuple(patches.shape))
        grid = cut_sides(self.image_size, self.patch_size)
        # [N, g0, g1, ..., p0, p1, ..., C] → [N, C, g0, p0, g1, p1, ...]
        order = [0, 1 + 2 * nd]
        for d in range(nd):
            order += [1 + d, 1 + nd + d]
        n = patches.shape[0]
        split = xp.reshape(patches, (n, *grid, *self.patch_size, channels))
        return xp.reshape(xp.permute_dims(split, tuple(order)), (n, channels, *self.image_size))


@dataclass(frozen=True)
class CutPatches(Operation):
    """The kept patches of images: operands (images, ids_keep `[N, K]`, ids_restore).

    An id of -1 is none; ``ids_restore`` is looked at for a gradient alone. ``affine`` is what
    pixels are normalised by, in float32: (scale, mean of each channel, std of each channel).
    """

    patch_size: tuple[int, ...]
    affine: tuple[float, ...] | None = None
    #: Whether ids may be -1.
    padded: bool = False

    names: ClassVar[tuple[str, ...]] = ("images", "ids_keep", "ids_restore")
    differentiable_parts: ClassVar[bool] = True

    def result(self, images: Spec, ids: Spec, ranks: Spec | None = None) -> tuple[Spec, ...]:
        checks.itemsize(images.dtype, "images")
        image_grid(images.shape, self.patch_size)
        if self.affine is not None:
            pixels(images.dtype.name)
        dtype = images.dtype if self.affine is None else FLOAT32
        width = math.prod(self.patch_size) * images.shape[1]
        return (fresh((*ids.shape, width), dtype, images),)

    def lower(self, do: Apply, *operands: Any) -> Any:
        images, ids_keep, ids_restore = operands
        patches = do.run(Patchify(self.patch_size), images)
        kept = do.run(KeepTokens(self.padded), patches, ids_keep, ids_restore)
        if self.affine is None:
            return kept
        return self._normalise(do, kept, ids_keep)

    def _normalise(self, do: Apply, kept: Any, ids_keep: Any) -> Any:
        """(pixel * scale - mean) / std, each step rounded to float32 by itself."""
        assert self.affine is not None
        xp, channels = do.xp, len(self.affine) // 2
        pixels = kept.shape[2] // channels
        numbers = xp.asarray(self.affine, dtype=xp.float32, device=device_of(kept))
        mean = xp.tile(numbers[1 : 1 + channels], (pixels,))
        std = xp.tile(numbers[1 + channels :], (pixels,))
        normal = (xp.astype(kept, xp.float32) * numbers[0] - mean) / std
        if not self.padded:
            return normal
        return xp.where(ids_keep[..., None] >= 0, normal, 0.0)


@dataclass(frozen=True)
class MaskedPatchify(RandomMasking):
    """Only the patches that a mask keeps: operands (images, noise, sample_ids)."""

    patch_size: tuple[int, ...] = ()
    affine: tuple[float, ...] | None = None

    names: ClassVar[tuple[str, ...]] = ("images", "noise", "sample_ids")

    def result(self, images: Spec, noise: Spec | None, ids: Spec | None) -> tuple[Spec, ...]:
        self.check(images, noise, ids)
        samples, length = images.shape[0], self.tokens(images.shape)
        ids_keep, ids_restore, mask = ranks(self.keep, samples, length, images)
        (kept,) = self.cut.result(images, ids_keep)
        if self.keep.counts is None:
            return kept, mask, ids_restore
        return kept, mask, ids_restore, fresh(ids_keep.shape, BOOL, images)

    def check(self, images: Spec, noise: Spec | None, ids: Spec | None) -> None:
        pair = images.shape[0], self.tokens(images.shape)
        if self.affine is not None:
            pixels(images.dtype.name)
        self.check_source(images.shape, pair, noise, ids)

    def tokens(self, shape: Shape) -> int:
        """L of images of this shape."""
        return math.prod(image_grid(shape, self.patch_size))

    @property
    def cut(self) -> CutPatches:
        """What cuts the chosen patches."""
        return CutPatches(self.patch_size, self.affine, self.keep.counts is not None)

    def lower(self, do: Apply, *operands: Any) -> Any:
        images, noise, ids = operands
        length = self.tokens(tuple(images.shape))
        ids_keep, ids_restore, mask = self.choose(do, images, length, noise, ids)
        return do.run(self.cut, images, ids_keep, ids_restore), mask, ids_restore


def patch_size(value: Any, shape: Shape) -> tuple[int, ...]:
    """A patch size for each side of images of this shape."""
    if len(shape) not in (4, 5):
        raise ValueError(f"images has shape {shape}: [N, C, H, W] or [N, C, T, H, W] is needed")
    sizes = checks.sizes(value, "patch_size")
    sides = len(shape) - 2
    if len(sizes) == 1 and sides == 2:
        sizes = sizes * 2
    if len(sizes) != sides:
        raise ValueError(f"patch_size is {value}: {sides} numbers are needed for {sides} sides")
    return sizes


def image_size(value: Any) -> tuple[int, ...]:
    sides = checks.sizes(value, "image_size")
    if len(sides) == 1:
        sides = sides * 2
    if len(sides) not in (2, 3):
        raise ValueError(f"image_size is {value}: (H, W) or (T, H, W) is needed")
    return sides


def pixels(dtype: str) -> None:
    """Whether pixels of a dtype can be normalised."""
    name = np.dtype(dtype).name if dtype[:1] in "<>=|" else dtype.rpartition(".")[2]
    if name not in PIXEL_DTYPES:
        raise TypeError(f"images has dtype {dtype}: {' or '.join(PIXEL_DTYPES)} can be normalised")


def affine(scale: Any, mean: Any, std: Any, channels: int) -> tuple[float, ...] | None:
    """(scale, mean of each channel, std of each channel) as float32; None without any."""
    if scale is None and mean is None and std is None:
        return None
    parts = [_floats(1.0 if scale is None else scale, 1, "scale")]
    parts += [_floats(0.0 if mean is None else mean, channels, "mean")]
    parts += [_floats(1.0 if std is None else std, channels, "std")]
    if not parts[2].all():
        raise ValueError(f"std is {std}: none may be 0 in float32")
    return tuple(np.concatenate(parts).tolist())


def _floats(value: Any, count: int, what: str) -> np.ndarray:
    try:
        values = np.asarray(value)
    except (TypeError, ValueError):
        values = np.asarray("")
    if values.dtype.kind not in "fiu":  # no text, and no bools
        raise TypeError(f"{what} is {value!r}: numbers are needed")
    values = values.astype(np.float64)
    if values.shape not in ((), (count,)):
        raise ValueError(
            f"{what} has shape {values.shape}: one number is needed"
            + (f", or {count}, one for each channel of [N, C, ...]" if what != "scale" else "")
        )
    with np.errstate(over="ignore"):
        narrow = np.broadcast_to(values, (count,)).astype(np.float32)
    if not np.isfinite(narrow).all():
        raise ValueError(f"{what} is {value}: finite numbers of float32 are needed")
    return narrow


def cut_sides(sides: Shape, sizes: tuple[int, ...]) -> tuple[Any, ...]:
    """Patches along each side."""
    for side, size in zip(sides, sizes, strict=True):
        if known(side) and side % size:
            raise ValueError(
                f"sides {sides} cannot be cut into patches of {sizes}: each must divide"
            )
    return tuple(s // p for s, p in zip(sides, sizes, strict=True))


def checked_channels(value: Any) -> str:
    if not isinstance(value, str) or value not in ("first", "last"):
        raise ValueError(f"channels is {value!r}: it must be 'first' or 'last'")
    return value


def channels_first(shape: Shape, size: Any, what: str, single: bool) -> tuple[int, ...]:
    """The order of dimensions that puts the channels of `[N, ..., C]` in front of the sides.

    ``single`` images have no N.
    """
    nd = len(shape) - (1 if single else 2)
    names = ("H", "W", "C") if nd == 2 else ("T", "H", "W", "C")
    order = ", ".join(names if single else ("N", *names))
    if nd not in (2, 3):
        wanted = "[H, W, C] or [T, H, W, C]" if single else "[N, H, W, C] or [N, T, H, W, C]"
        raise ValueError(f"{what} has shape {shape}: {wanted} is needed with channels='last'")
    first = 0 if single else 1
    sizes = patch_size(size, (0, 0, *shape[first:-1]))
    try:
        cut_sides(shape[first:-1], sizes)
    except ValueError as error:
        raise ValueError(f"{what} has shape {shape}, taken as [{order}]: {error}") from None
    return (*range(first), len(shape) - 1, *range(first, len(shape) - 1))


def image_grid(shape: Shape, sizes: tuple[int, ...]) -> tuple[Any, ...]:
    """Patches along each side of images of this shape."""
    try:
        return cut_sides(shape[2:], sizes)
    except ValueError as error:
        order = "[N, C, H, W]" if len(shape) == 4 else "[N, C, T, H, W]"
        hint = ""
        if shape[-1] in _CHANNELS and shape[1] not in _CHANNELS:
            last = "[N, H, W, C]" if len(shape) == 4 else "[N, T, H, W, C]"
            hint = f"; it looks like {last}, whose channels must go to dimension 1"
        raise ValueError(f"images has shape {shape}, taken as {order}: {error}{hint}") from None
