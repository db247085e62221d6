"""Segments and bags of rows in compiled code, by arrays' words; see :mod:`.gather_loops`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types
from numba.np import numpy_support

from nbgather.kernels.constants import FILL, RAISE
from nbgather.kernels.cpu.intrinsics import address, int64_at
from nbgather.kernels.cpu.reduce import LAST_COUNT
from nbgather.numba_ext.emit import ADDRESS, NDIM, SIZES
from nbgather.numba_ext.gather_loops import finder, record, resolve
from nbgather.numba_ext.intrinsics import converter, loader, mover
from nbgather.numba_ext.records import BAD_SEGMENTS, COUNTS
from nbgather.numba_ext.reducing import divider, reducer
from nbgather.numba_ext.subroutines import apart, of_numbers

U = np.uint64

#: What the index of a reduction of rows says: the segment of each, nothing where they come in
#: turn, or which row comes next.
SEGMENTS, NOTHING, ROWS = range(3)
_MOST_BYTES = (1 << 63) - 1


@of_numbers(3, types.boolean)
def is_possible(size, x, itemsize):
    """Whether so many rows like those of an array are what a memory could hold."""
    words, row = int64_at(U(x)), np.int64(itemsize)
    for d in range(1, words[NDIM]):
        row *= words[SIZES + d]
    return size >= 0 and (row == 0 or size <= _MOST_BYTES // row)


@functools.cache
def counter(kind: Any) -> Any:
    """``count(function, by, where, rows, counts)``: 0, or the record of bad offsets or counts.

    How many rows each segment has is written to an array of int64.
    """
    load, unsigned = loader(kind), int(not kind.signed)

    @of_numbers(5, key=str(kind))
    @apart
    def refused(function, by, where, rows, _):
        words = int64_at(U(where))
        n = words[SIZES]
        memory = record(BAD_SEGMENTS, 5 + n)
        memory[1], memory[2], memory[3], memory[4], memory[5] = function, by, rows, unsigned, n
        for k in range(n):
            memory[6 + k] = np.int64(load(words[ADDRESS] + k * words[SIZES + 1]))
        return np.int64(address(memory))

    @of_numbers(5, key=str(kind))
    def count(function, by, where, rows, counts):
        words, to = int64_at(U(where)), int64_at(U(int64_at(U(counts))[ADDRESS]))
        before = np.int64(0)
        for k in range(words[SIZES]):
            value = load(words[ADDRESS] + k * words[SIZES + 1])
            if U(value) > U(rows):
                return refused(function, by, where, rows, counts)
            here = np.int64(value)
            if by == COUNTS:
                to[k] = here
                before += here
                continue
            if here < before or (k == 0 and here != 0):
                return refused(function, by, where, rows, counts)
            if k > 0:
                to[k - 1] = here - before
            before = here
        return 0 if before == rows else refused(function, by, where, rows, counts)

    return count


@functools.cache
def row_reducer(dtype: Any, reduce: str, kind: str, index: Any) -> Any:
    """``reduce_rows(says, x, index, result, counts, numbers, mode, fill)``.

    It gives 0, or the record of a bad index; ``fill`` is the address of what fills a row.

    ``counts`` says how many rows each segment has; where the index has the segments it is to have
    zeros, and is counted. ``numbers`` has what a reduction begins with, what stands for no rows,
    and room for one number. Each segment is reduced in the order of its rows.
    """
    itemsize, mean = numpy_support.as_dtype(dtype).itemsize, reduce == "mean"
    load, find, move = loader(index), finder(index), mover(itemsize)
    combine = reducer(dtype, "sum" if mean else reduce, kind)
    # Of bools, which have no mean, there is nothing to divide.
    last = LAST_COUNT.get(kind, _MOST_BYTES)
    divide, (as_number, _) = divider(kind), converter(types.int64, dtype)

    @of_numbers(8, key=(str(dtype), reduce, kind, str(index), last))
    def reduce_rows(says, x, index, result, counts, numbers, mode, fill):
        xw, rw = int64_at(U(x)), int64_at(U(result))
        number, empty, room = numbers, numbers + itemsize, numbers + 2 * itemsize
        count = int64_at(U(int64_at(U(counts))[ADDRESS]))
        nd, rows, size, segments = xw[NDIM], xw[SIZES], xw[SIZES], rw[SIZES]
        n, step, columns = np.int64(1), np.int64(0), np.int64(1)
        for d in range(1, nd):
            n, step = xw[SIZES + d], xw[SIZES + nd + d]
            columns *= n
        width, i, i_row, i_step, i_size = columns * itemsize, 0, 0, 0, 1
        if says != NOTHING:
            iw = int64_at(U(index))
            i, i_row = iw[ADDRESS], iw[SIZES + iw[NDIM]]
            rows = iw[SIZES]
            if iw[NDIM] == 2:
                i_size, i_step = iw[SIZES + 1], iw[SIZES + 3]
                rows *= i_size
        if says == SEGMENTS:
            size = segments
        for k in range(segments * columns):
            move(rw[ADDRESS] + k * itemsize, number)
        to, left = np.int64(-1), np.int64(0)
        for k in range(rows):
            row, is_filled = np.int64(k), False
            if says != NOTHING:
                value = load(i + k // i_size * i_row + k % i_size * i_step)
                position = U(value)
                if position >= U(size):
                    if mode == RAISE:
                        return find(index, 0, size, 0)
                    is_filled = mode == FILL
                    position = U(0) if is_filled else resolve(value, U(size), mode, False)
                row = np.int64(position)
            if says == SEGMENTS:
                to, row = row, np.int64(k)
                count[to] += 1
            else:
                while left == 0:
                    to += 1
                    left = count[to]
                left -= 1
            o, start = rw[ADDRESS] + to * width, xw[ADDRESS] + row * xw[SIZES + nd]
            if is_filled:
                for _ in range(columns):
                    combine(o, fill)
                    o += itemsize
                continue
            for run in range(columns // n if n != 0 else 0):
                s, rest = start, run
                for d in range(nd - 2, 0, -1):
                    s += rest % xw[SIZES + d] * xw[SIZES + nd + d]
                    rest //= xw[SIZES + d]
                for _ in range(n):
                    combine(o, s)
                    o += itemsize
                    s += step
        o = rw[ADDRESS]
        for k in range(segments):
            if mean:
                count[k] = min(count[k], last)
                as_number(room, np.int64(address(count)) + 8 * k)
            for _ in range(columns):
                if count[k] == 0:
                    move(o, empty)
                elif mean:
                    divide(o, room)
                o += itemsize
        return 0

    return reduce_rows
