"""The kernels that reduce many columns, and lanes of any strides.

What they have in common with the others is told in :mod:`nbgather.kernels.cpu.reduce`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nbgather.kernels.constants import NO_MEMORY
from nbgather.kernels.cpu.folds import divider, folder, identity, number_type
from nbgather.kernels.cpu.gather import outer_offset
from nbgather.kernels.cpu.intrinsics import address, allocate, copy_bytes, release, uint64_at
from nbgather.kernels.cpu.reduce import are_inside, fill
from nbgather.kernels.cpu.scatter import COMPARED_PLACES, STRIDED_OUTER, WIDE_OUTER
from nbgather.kernels.cpu.scatter_wide import CLASHING_BYTES, FAR_TILE_BYTES, NEAR_TILE_BYTES

U = np.uint64

#: The largest number that counting by one reaches in float32.
LAST_COUNT = {"f4": np.uint64(1 << 24)}


class Columns(NamedTuple):
    """The loops over a row of ``n`` columns, each with its own index."""

    begin: Any
    walk: Any
    compare: Any


@functools.cache
def column_loops(reduce: str, kind: str) -> Columns:
    fold, first = folder(reduce, kind), identity(reduce, kind)
    counts, of = reduce == "mean", number_type(kind)
    one, none = of(1), of(0)

    @njit(inline="always")
    def begin(out, o, idx, i, n, along):
        for e in range(n):
            out[o + U(idx[i + e]) * along + e] = first

    @njit(inline="always")
    def walk(out, o, src, s, idx, i, n, along, number, T):
        for e in range(n):
            j = U(idx[i + e])
            p = o + j * along + e
            out[p] = fold(out[p], src[s + e])
            if counts:
                q = j * T + e
                number[q] = number[q] + one

    @njit(inline="always")
    def compare(out, o, src, s, idx, i, n, size, along, number, T, begins):
        for j in range(size):
            for e in range(n):
                before = out[o + e]
                after = first if begins else fold(before, src[s + e])
                out[o + e] = after if U(idx[i + e]) == j else before
            if counts and not begins:
                for e in range(n):
                    number[j * T + e] += one if U(idx[i + e]) == j else none
            o += along

    return Columns(begin, walk, compare)


def make_wide_reduce(reduce, kind, itemsize, include_self):
    """Columns that each have their own index: ``args`` as those of the wide scatter, ``ib`` 1.

    A position of the range is a tile of columns of one of the outer axes.
    """
    begin, walk, compare = column_loops(reduce, kind)
    divide, counts, start = divider(kind), reduce == "mean", number_type(kind)(include_self)

    def reduce_wide(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        id_, sd, T = U(args[3]), U(args[4]), U(args[6])
        copies = args[7]
        tiles = (B + T - U(1)) // T
        row, tile = B * U(itemsize), size * T * U(itemsize)
        # Where the rows of a tile would push each other out of the caches, it is copied together.
        clashing = row % CLASHING_BYTES == U(0) and NEAR_TILE_BYTES < tile <= FAR_TILE_BYTES
        clashing = clashing and T < B and D * U(4) >= size
        buffer = number = out
        if clashing:
            buffer = allocate(out, tile)
        if counts:
            number = allocate(out, tile)
            if address(number) == U(0):
                if clashing:
                    release(buffer)
                return NO_MEMORY
        staged = clashing and address(buffer) != U(0)
        target, along = (buffer, T) if staged else (out, B)
        before = aux if copies else out
        few = size <= COMPARED_PLACES
        bad = U(0)
        p = U(lo)
        while p < U(hi) and not bad:
            a = p // tiles
            b = (p - a * tiles) * T
            n = min(T, B - b)
            first = a * size * B + b
            o = U(0) if staged else first
            i = U(outer_offset(args, WIDE_OUTER, 2, np.int64(a))) + b
            s = U(outer_offset(args, WIDE_OUTER, 3, np.int64(a))) + b
            if n == B and copies:
                copy_bytes(out, first, aux, first, size * row)
            elif copies or staged:
                for place in range(size):
                    at = first + place * B
                    copy_bytes(target, o + place * along, before, at, n * U(itemsize))
            if counts:
                fill(number, U(0), size * T, start)
            if not include_self:
                for d in range(D):
                    bad = are_inside(idx, i + d * id_, n, size)
                    if bad:
                        break
                    if few:
                        compare(
                            target, o, src, s, idx, i + d * id_, n, size, along, number, T, True
                        )
                    else:
                        begin(target, o, idx, i + d * id_, n, along)
            for d in range(U(0) if bad else D):
                e, f = i + d * id_, s + d * sd
                if include_self:
                    bad = are_inside(idx, e, n, size)
                    if bad:
                        break
                if few:
                    compare(target, o, src, f, idx, e, n, size, along, number, T, False)
                else:
                    walk(target, o, src, f, idx, e, n, along, number, T)
            if counts and not bad:
                for place in range(size):
                    at, c = o + place * along, place * T
                    for e in range(n):
                        target[at + e] = divide(target[at + e], number[c + e])
            if staged:
                for place in range(size):
                    copy_bytes(out, first + place * B, buffer, place * T, n * U(itemsize))
            p += U(1)
        if staged:
            release(buffer)
        if counts:
            release(number)
        return np.int64(bad)

    return reduce_wide


def make_row_reduce(reduce, kind, itemsize, include_self):
    """Columns that all have the same index, which is of a row: ``args`` as above, ``ib`` 0."""
    fold, first = folder(reduce, kind), identity(reduce, kind)
    divide, of, mean = divider(kind), number_type(kind), reduce == "mean"
    counts, last = mean or not include_self, LAST_COUNT.get(kind, U(1 << 63))

    def reduce_rows(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        id_, sd, T = U(args[3]), U(args[4]), U(args[6])
        copies = args[7]
        tiles = (B + T - U(1)) // T
        number = uint64_at(U(0))
        if counts:
            number = allocate(number, U(8) * size)
            if address(number) == U(0):
                return NO_MEMORY
        bad = U(0)
        p = U(lo)
        while p < U(hi) and not bad:
            a = p // tiles
            b = (p - a * tiles) * T
            n = min(T, B - b)
            o = a * size * B + b
            i = U(outer_offset(args, WIDE_OUTER, 2, np.int64(a)))
            s = U(outer_offset(args, WIDE_OUTER, 3, np.int64(a))) + b
            if n == B and copies:
                copy_bytes(out, o, aux, o, size * B * U(itemsize))
            elif copies:
                for place in range(size):
                    copy_bytes(out, o + place * B, aux, o + place * B, n * U(itemsize))
            if counts:
                fill(number, U(0), size, U(include_self))
            for d in range(D):
                j = U(idx[i + d * id_])
                if j >= size:
                    bad = U(1)
                    break
                at, f = o + j * B, s + d * sd
                if counts:
                    number[j] += U(1)
                if not include_self and number[j] == U(1):
                    for e in range(n):
                        out[at + e] = fold(first, src[f + e])
                else:
                    for e in range(n):
                        out[at + e] = fold(out[at + e], src[f + e])
            if mean and not bad:
                for place in range(size):
                    count = of(min(number[place], last))
                    at = o + place * B
                    for e in range(n):
                        out[at + e] = divide(out[at + e], count)
            p += U(1)
        if counts:
            release(number)
        return np.int64(bad)

    return reduce_rows


def make_strided_reduce(reduce, kind, itemsize, include_self):
    """Lanes of any strides: ``args`` as those of the strided scatter; the result is the input."""
    fold, first = folder(reduce, kind), identity(reduce, kind)
    divide, of, counts = divider(kind), number_type(kind), reduce == "mean"
    start, one = of(include_self), of(1)

    def reduce_strided(out, src, idx, aux, args, lo, hi):
        size, along = U(args[0]), U(args[1])
        D, id_, sd = U(args[2]), U(args[3]), U(args[4])
        B = args[5]
        number = out
        if counts:
            number = allocate(out, max(size, U(1)) * U(itemsize))
            if address(number) == U(0):
                return NO_MEMORY
        bad = U(0)
        for p in range(lo, hi):
            q = p // B
            b = U(p - q * B)
            x = U(outer_offset(args, STRIDED_OUTER, 1, q)) + b * U(args[6])
            i = U(outer_offset(args, STRIDED_OUTER, 2, q)) + b * U(args[7])
            s = U(outer_offset(args, STRIDED_OUTER, 3, q)) + b * U(args[8])
            for d in range(D):
                j = U(idx[i + d * id_])
                if j >= size:
                    bad = U(1)
                elif not include_self:
                    out[x + j * along] = first
            if bad:
                break
            if counts:
                fill(number, U(0), size, start)
            for d in range(D):
                j = U(idx[i + d * id_])
                out[x + j * along] = fold(out[x + j * along], src[s + d * sd])
                if counts:
                    number[j] = number[j] + one
            if counts:
                for j in range(size):
                    out[x + j * along] = divide(out[x + j * along], number[j])
        if counts:
            release(number)
        return np.int64(bad)

    return reduce_strided
