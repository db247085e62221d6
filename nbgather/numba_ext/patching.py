"""patchify and unpatchify inside compiled code."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from nbgather.kernels.cpu.intrinsics import int64_at
from nbgather.numba_ext import arguments, emit
from nbgather.numba_ext.arguments import dtype_of
from nbgather.numba_ext.calls import Call, all_of, made_array, size_of
from nbgather.numba_ext.emit import ADDRESS, I64, NDIM, SIZES
from nbgather.numba_ext.intrinsics import mover
from nbgather.numba_ext.subroutines import of_numbers

U = np.uint64


@functools.cache
def _patch_mover(itemsize: int) -> Any:
    """``move(images, patches, sizes, inverse)``: between images and patches, by their words.

    ``sizes`` is the address of the patches' sides. With ``inverse`` patches are put into images.
    """
    move = mover(itemsize)

    @of_numbers(4, types.void, key=itemsize)
    def move_patches(images, patches, sizes, inverse):
        iw, pw, side = int64_at(U(images)), int64_at(U(patches)), int64_at(U(sizes))
        nd = iw[NDIM]
        sides, channels, channel = nd - 2, iw[SIZES + 1], iw[SIZES + nd + 1]
        area, last = np.int64(1), nd - 1
        for d in range(sides):
            area *= side[d]
        width = side[sides - 1]
        rows = area // width
        samples, tokens = iw[SIZES], pw[SIZES + 1]
        pixel, item = iw[SIZES + nd + last], pw[SIZES + 5]
        for p in range(samples * tokens):
            n = p // tokens
            token = p - n * tokens
            corner = iw[ADDRESS] + n * iw[SIZES + nd]
            for k in range(sides):
                d = sides - 1 - k
                grid = iw[SIZES + 2 + d] // side[d]
                corner += token % grid * side[d] * iw[SIZES + nd + 2 + d]
                token //= grid
            to = pw[ADDRESS] + n * pw[SIZES + 3] + (p - n * tokens) * pw[SIZES + 4]
            for row in range(rows):
                line, rest = corner, row
                for k in range(1, sides):
                    d = sides - 1 - k
                    line += rest % side[d] * iw[SIZES + nd + 2 + d]
                    rest //= side[d]
                for b in range(width):
                    for c in range(channels):
                        at = line + b * pixel + c * channel
                        if inverse != 0:
                            move(at, to)
                        else:
                            move(to, at)
                        to += item

    return move_patches


def _sides(context: Any, builder: Any, kind: Any, value: Any, count: int) -> list[Any] | None:
    """The sides that an argument names, or None where it names another number of them."""
    if isinstance(kind, types.BaseTuple):
        parts = cgutils.unpack_tuple(builder, value)
        sides = [
            arguments.whole(context, builder, one, part)
            for one, part in zip(kind, parts, strict=True)
        ]
    else:
        sides = [arguments.whole(context, builder, kind, value)]
    if len(sides) == 1 and count == 2:
        sides = sides * 2
    return sides if len(sides) == count else None


def _number_of(kind: Any) -> int:
    return len(kind) if isinstance(kind, types.BaseTuple) else 1


def _cuts(builder: Any, side: Any, size: Any) -> tuple[Any, Any]:
    """Whether a size of 1 or more divides a side, and how often."""
    is_one = builder.icmp_signed(">=", size, I64(1))
    safe = builder.select(is_one, size, I64(1))
    divides = builder.icmp_signed("==", builder.srem(side, safe), I64(0))
    return builder.and_(is_one, divides), builder.sdiv(side, safe)


def _product(builder: Any, values: list[Any]) -> Any:
    return functools.reduce(builder.mul, values)


class _Patchify(Call):
    """patchify(images, patch_size)."""

    name = "patchify"

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        self.result = types.Array(kinds[0].dtype, 3, "C")
        self.arrays = (self.result,)
        self.is_refused = arguments.is_refused(self.name, kinds)

    def check(self, context, builder, kinds, values):
        images, size = kinds
        self.sizes = None
        if images.ndim in (4, 5):
            self.sizes = _sides(context, builder, size, values[1], images.ndim - 2)
        if self.sizes is None:
            return None
        self.words = emit.words_of(context, builder, images, values[0])
        sides = [size_of(builder, self.words, 2 + d) for d in range(images.ndim - 2)]
        cuts = [_cuts(builder, *pair) for pair in zip(sides, self.sizes, strict=True)]
        channels = size_of(builder, self.words, 1)
        self.shape = (
            size_of(builder, self.words, 0),
            _product(builder, [grid for _, grid in cuts]),
            builder.mul(_product(builder, self.sizes), channels),
        )
        return all_of(builder, *(fits for fits, _ in cuts))

    def work(self, builder):
        return builder.mul(_product(builder, [*self.shape]), I64(dtype_of(self.result).itemsize))

    def asked(self, kinds, values):
        return [*zip(kinds, values, strict=True)]

    def run(self, context, builder, kinds, values):
        made, words = made_array(context, builder, self.result, *self.shape)
        _move(context, builder, self.result, self.words, words, self.sizes, 0)
        return [made]


class _Unpatchify(Call):
    """unpatchify(patches, patch_size, image_size)."""

    name = "unpatchify"

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        patches, _, size = kinds
        self.count = max(_number_of(size), 2)
        self.result = types.Array(patches.dtype, 2 + self.count, "C")
        self.arrays = (self.result,)
        self.is_refused = arguments.is_refused(self.name, kinds) or self.count > 3

    def check(self, context, builder, kinds, values):
        patches, size, image = kinds
        self.sizes = _sides(context, builder, size, values[1], self.count)
        sides = _sides(context, builder, image, values[2], self.count)
        if self.sizes is None or sides is None or patches.ndim != 3:
            return None
        self.words = emit.words_of(context, builder, patches, values[0])
        cuts = [_cuts(builder, *pair) for pair in zip(sides, self.sizes, strict=True)]
        tokens = _product(builder, [grid for _, grid in cuts])
        width = size_of(builder, self.words, 2)
        divides, channels = _cuts(builder, width, _product(builder, self.sizes))
        self.shape = size_of(builder, self.words, 0), channels, *sides
        return all_of(
            builder,
            divides,
            builder.icmp_signed("==", size_of(builder, self.words, 1), tokens),
            *(fits for fits, _ in cuts),
            *(builder.icmp_signed(">=", side, I64(1)) for side in sides),
        )

    work, asked = _Patchify.work, _Patchify.asked

    def run(self, context, builder, kinds, values):
        made, words = made_array(context, builder, self.result, *self.shape)
        _move(context, builder, self.result, words, self.words, self.sizes, 1)
        return [made]


def _move(context, builder, kind, images, patches, sizes, inverse):
    memory = emit.memory(builder, len(sizes))
    for d, size in enumerate(sizes):
        builder.store(size, emit.word(builder, memory, d))
    move = _patch_mover(dtype_of(kind).itemsize)
    move.emit(context, builder, images, patches, memory, I64(inverse))


def _call(made: Any, what: str, kinds: tuple[Any, ...]) -> Any:
    reason = arguments.why_not(made.name, {what: kinds[0]}, kinds[1:])
    if reason is not None:
        return reason
    # Items of other sizes are no integers of LLVM's.
    if dtype_of(kinds[0]).itemsize not in (1, 2, 4, 8, 16):
        return f"{made.name}: items of 1, 2, 4, 8 or 16 bytes are needed, not {kinds[0].dtype}"
    call = made(kinds)
    return call.result, call.write


def patchify(images, patch_size):
    return _call(_Patchify, "images", (images, patch_size))


def unpatchify(patches, patch_size, image_size):
    return _call(_Unpatchify, "patches", (patches, patch_size, image_size))
