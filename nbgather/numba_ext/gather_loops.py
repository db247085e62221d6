"""Gathers in compiled code: the checks and the loop, which know arrays by their words alone.

What is here is compiled once in a process, or once for each size of items and each index dtype, and
not again for each function of a user.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np
from numba import types

from nbgather.kernels import scalar
from nbgather.kernels.constants import CLIP, FILL, MODES, RAISE, WRAP
from nbgather.kernels.cpu.intrinsics import address, allocate, int64_at
from nbgather.numba_ext.emit import ADDRESS, NDIM, OWN_NDIM, SIZES
from nbgather.numba_ext.intrinsics import BLOCK_ITEMS, block_mover, copy, loader, mover
from nbgather.numba_ext.records import (
    ALONG,
    BAD_INDEX,
    GATHER,
    GONE_INDEX,
    MODE,
    RESTORE,
    TOKENS,
)
from nbgather.numba_ext.subroutines import apart, inlined, of_numbers, subroutine

U = np.uint64
resolve = scalar.resolve

_WORDS = types.CPointer(types.int64)

#: The words of a loop: its axes, the dimension and its size, what an index must be below (-1: of
#: anything), the stride along the dimension, whether negative values count from the end, the mode,
#: the bytes of a row that has one index, how many items come out, and the three addresses.
ND, DIM, SIZE, LIMIT, ALONG_STRIDE, FROM_END, HOW, ROW, COUNT, X, I, O = range(12)  # noqa: E741
#: Then, for each axis, its length, its strides in x, index and result, and where the loop stands.
AXES, AXIS_WORDS = 12, 5


# Records of what is wrong


@subroutine(_WORDS(types.int64, types.int64))
@apart
def record(kind, words):
    """Memory for a record of so many words after its kind."""
    memory = allocate(int64_at(U(0)), U(8 * (words + 1)))
    memory[0] = kind
    return memory


_first_four = loader(types.uint32)
_byte = loader(types.uint8)
_HEADS = tuple(int.from_bytes(name[:4].encode(), sys.byteorder) for name in MODES)
_LAST = ord(MODES[RAISE][-1])
#: A mode that puts off on a GPU what is raised at once in compiled code.
_DEFER, _DEFER_LAST = int.from_bytes(b"defe", sys.byteorder), ord("r")


@of_numbers(3)
def mode_of(data, length, width):
    """The number of a mode by its text; -1 if it is none."""
    if width != 1 or (length != 4 and length != 5):
        return -1
    head = _first_four(data)
    if length == 5:
        last = _byte(data + 4)
        if head == _HEADS[RAISE] and last == _LAST:
            return RAISE
        return RAISE if head == _DEFER and last == _DEFER_LAST else -1
    if head == _HEADS[CLIP]:
        return CLIP
    if head == _HEADS[WRAP]:
        return WRAP
    return FILL if head == _HEADS[FILL] else -1


@of_numbers(3)
@apart
def refused_mode(data, length, width):
    """The record of a text that is no mode."""
    memory = record(MODE, 2 + length * width // 8 + 1)
    memory[1], memory[2] = length, width
    copy(np.int64(address(memory)) + 24, data, length * width)
    return np.int64(address(memory))


@functools.cache
def finder(kind: Any) -> Any:
    """``find(index, dim, size, from_end)``: the record of the first index that is out of bounds."""
    load = loader(kind)
    unsigned = int(not kind.signed)

    @of_numbers(4, key=str(kind))
    @apart
    def find(index, dim, size, from_end):
        w = int64_at(U(index))
        nd, count = w[NDIM], 1
        for d in range(nd):
            count *= w[SIZES + d]
        for k in range(count):
            rest, at = k, w[ADDRESS]
            for d in range(nd - 1, -1, -1):
                at += rest % w[SIZES + d] * w[SIZES + nd + d]
                rest //= w[SIZES + d]
            value = load(at)
            position = U(value)
            if from_end and value < 0:
                position += U(size)
            if position >= U(size):
                memory = record(BAD_INDEX, 5 + w[OWN_NDIM])
                memory[1], memory[2], memory[3] = dim, size, unsigned
                memory[4], memory[5] = np.int64(value), w[OWN_NDIM]
                rest = k
                for d in range(w[OWN_NDIM] - 1, -1, -1):
                    memory[6 + d] = rest % w[SIZES + d]
                    rest //= w[SIZES + d]
                return np.int64(address(memory))
        # Somebody writes to the index meanwhile.
        memory = record(GONE_INDEX, 2)
        memory[1], memory[2] = dim, size
        return np.int64(address(memory))

    return find


# The plan


@of_numbers(4, types.boolean)
@inlined
def fits(kind, dim, x, index):
    """Whether the shapes of a gather's operands fit; `dim` counts from the front."""
    xw, iw = int64_at(U(x)), int64_at(U(index))
    if kind >= TOKENS:
        if iw[OWN_NDIM] != 2 or xw[OWN_NDIM] < 2 or xw[SIZES] != iw[SIZES]:
            return False
        return kind == TOKENS or xw[SIZES + 1] <= iw[SIZES + 1]
    nd = iw[NDIM]
    if kind == GATHER:
        for d in range(nd):
            if iw[SIZES + d] == 0:
                return True
    if xw[NDIM] != nd:
        return False
    for d in range(nd):
        n, m = iw[SIZES + d], xw[SIZES + d]
        if d != dim and n != m and (n > m if kind == GATHER else n != 1 and m != 1):
            return False
    return True


@of_numbers(6)
@inlined
def write_result_shape(kind, dim, x, index, result, ndim):
    """The sizes of the result; how many items it has."""
    xw, iw, ow = int64_at(U(x)), int64_at(U(index)), int64_at(U(result))
    count = 1
    for d in range(ndim):
        n = xw[SIZES + d] if kind >= TOKENS and d > 1 else iw[SIZES + d]
        if kind == ALONG and d != dim and xw[SIZES + d] != 1:
            n = xw[SIZES + d]
        ow[SIZES + d] = n
        count *= n
    return count


@of_numbers(8, types.boolean)
@inlined
def plan_gather(kind, dim, mode, x, index, result, ndim, loop):
    """Check a gather and begin its loop; whether the operands fit."""
    xw, w = int64_at(U(x)), int64_at(U(loop))
    n = xw[NDIM] if kind != ALONG else xw[OWN_NDIM]
    if dim < -n or dim >= n:
        return False
    d = dim + n if dim < 0 else dim
    if not fits(kind, d, x, index):
        return False
    count = write_result_shape(kind, d, x, index, result, ndim)
    size = xw[SIZES + d]
    w[DIM], w[SIZE], w[COUNT], w[HOW] = d, size, count, mode
    w[FROM_END] = 1 if kind == ALONG else 0
    w[LIMIT] = int64_at(U(index))[SIZES + 1] if kind == RESTORE else -1
    return size != 0 or count == 0 or (mode != CLIP and mode != WRAP)


@of_numbers(6, types.void)
@inlined
def lay_out(kind, x, index, result, loop, itemsize):
    """The axes of a loop: those at the end whose items lie together are rows of one index."""
    xw, iw, ow, w = int64_at(U(x)), int64_at(U(index)), int64_at(U(result)), int64_at(U(loop))
    nd, xn, dim = ow[NDIM], xw[NDIM], w[DIM]
    w[X], w[I], w[O] = xw[ADDRESS], iw[ADDRESS], ow[ADDRESS]
    w[ALONG_STRIDE] = xw[SIZES + xn + dim]
    i_nd = iw[NDIM]
    for d in range(nd):
        axis = AXES + AXIS_WORDS * d
        n = ow[SIZES + d]
        w[axis], w[axis + 1], w[axis + 2] = n, 0, 0
        # With one item each way a step is none: in take_along_axis that is repeated.
        if d != dim and not (kind == ALONG and xw[SIZES + d] == 1):
            w[axis + 1] = xw[SIZES + xn + d]
        if d < i_nd and not (kind == ALONG and iw[SIZES + d] == 1):
            w[axis + 2] = iw[SIZES + i_nd + d]
        w[axis + 3], w[axis + 4] = ow[SIZES + nd + d], 0
    row, k = np.int64(itemsize), nd
    while k > 0:
        axis = AXES + AXIS_WORDS * (k - 1)
        together = w[axis + 2] == 0 and w[axis + 1] == row and w[axis + 3] == row
        if w[axis] != 1 and not together:
            break
        row *= w[axis]
        k -= 1
    w[ND], w[ROW] = k, row


@functools.cache
def gatherer(itemsize: int, kind: Any) -> Any:
    """``gather(kind, x, index, result, loop, aux, step)``: 0, or the record of a bad index.

    ``aux`` is the address of what is filled with: an item, or with ``step``, an item's bytes, a row
    of them.
    """
    walk, find = _walker(itemsize, kind), finder(kind)

    @of_numbers(7, key=(itemsize, str(kind)))
    @inlined
    def gather(kind, x, index, result, loop, aux, step):
        lay_out(kind, x, index, result, loop, itemsize)
        if walk(loop, aux, step):
            w = int64_at(U(loop))
            return find(index, w[DIM], w[SIZE] if w[LIMIT] < 0 else w[LIMIT], w[FROM_END])
        return 0

    return gather


def _walker(itemsize: int, kind: Any) -> Any:
    """``walk(loop, aux, step)``: run a loop; whether an index was out of bounds."""
    load, move, move_block = loader(kind), mover(itemsize), block_mover(itemsize, kind)

    @of_numbers(3, types.boolean, key=(itemsize, str(kind)))
    @inlined
    def walk(loop, aux, step):
        w = int64_at(U(loop))
        size, limit, along = U(w[SIZE]), w[LIMIT], U(w[ALONG_STRIDE])
        from_end, mode, row = w[FROM_END] != 0, w[HOW], w[ROW]
        x0, i0, o0, last = w[X], w[I], w[O], w[ND] - 1
        n, xs, is_, os = np.int64(1), np.int64(0), np.int64(0), np.int64(0)
        if last >= 0:
            inner = AXES + AXIS_WORDS * last
            n, xs, is_, os = w[inner], w[inner + 1], w[inner + 2], w[inner + 3]
        while True:
            x, i, o, left = x0, i0, o0, n
            if row == itemsize:
                # Most that there is: single items whose indices are in bounds.
                if os == itemsize:
                    while left >= BLOCK_ITEMS:
                        if not move_block(o, x, i, xs, is_, w[ALONG_STRIDE], w[SIZE], w[FROM_END]):
                            break
                        x += BLOCK_ITEMS * xs
                        i += BLOCK_ITEMS * is_
                        o += BLOCK_ITEMS * os
                        left -= BLOCK_ITEMS
                while left > 0:
                    value = load(i)
                    position = U(value)
                    if from_end and value < 0:
                        position += size
                    if position >= size:
                        break
                    move(o, x + np.int64(position * along))
                    x += xs
                    i += is_
                    o += os
                    left -= 1
            for _ in range(left):
                value = load(i)
                position = U(value)
                if from_end and value < 0:
                    position += size
                inside = True
                if position >= size:
                    if mode == RAISE or (limit >= 0 and position >= U(limit)):
                        return True
                    if mode == FILL:
                        inside = False
                        for b in range(0, row, itemsize):
                            move(o + b, aux)
                            aux += step
                        aux -= step * (row // itemsize)
                    else:
                        position = resolve(value, size, mode, from_end)
                if inside:
                    copy(o, x + np.int64(position * along), row)
                x += xs
                i += is_
                o += os
            d = last - 1
            while d >= 0:
                axis = AXES + AXIS_WORDS * d
                x0 += w[axis + 1]
                i0 += w[axis + 2]
                o0 += w[axis + 3]
                w[axis + 4] += 1
                if w[axis + 4] < w[axis]:
                    break
                x0 -= w[axis] * w[axis + 1]
                i0 -= w[axis] * w[axis + 2]
                o0 -= w[axis] * w[axis + 3]
                w[axis + 4] = 0
                d -= 1
            if d < 0:
                return False

    return walk
