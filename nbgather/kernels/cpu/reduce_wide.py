"""The kernels that reduce many columns, and lanes of any strides.

What they have in common with the others is told in :mod:`nbgather.kernels.cpu.reduce`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nbgather.kernels.constants import NO_MEMORY
from nbgather.kernels.cpu.bounds import any_outside
from nbgather.kernels.cpu.folds import divider, folder, identity, number_type
from nbgather.kernels.cpu.gather import outer_offset
from nbgather.kernels.cpu.intrinsics import (
    LINE_BYTES,
    address,
    allocate,
    copy_bytes,
    prefetch,
    release,
    uint64_at,
)
from nbgather.kernels.cpu.reduce import (
    BAD,
    LAST_COUNT,
    MET,
    STEP,
    any_equal,
    fill,
    pair_loops,
    pairs_of,
    restore,
    starts_filled,
)
from nbgather.kernels.cpu.scatter import SIFTED_ITEMS, STRIDED_OUTER, WIDE_OUTER
from nbgather.kernels.cpu.scatter_wide import CLASHING_BYTES, FAR_TILE_BYTES, NEAR_TILE_BYTES

U = np.uint64

#: How many rows ahead values and indices are prefetched, and the place that a row goes to: the
#: processor alone fetches too little of what it reads in order, too.
FETCHED_ROWS, NEXT_ROWS = U(16), U(8)
#: Indices that are prefetched at once: those of 8 bytes in a cache line.
INDEX_LINE = U(8)


@njit(inline="always")
def fetch(pointer, f, n, line):
    """Prefetch ``n`` items, of which a cache line has so many."""
    for e in range(U(0), n, line):
        prefetch(pointer, f + e)


class Columns(NamedTuple):
    """The loops over a row of ``n`` columns, each with its own index.

    Of a mean they write to pairs, ``along`` of them for each place.
    """

    begin: Any
    walk: Any


@functools.cache
def column_loops(reduce: str, kind: str, include_self: bool) -> Columns:
    fold, first, mean = folder(reduce, kind), identity(reduce, kind), reduce == "mean"
    put_pair = pair_loops(kind, include_self).put if mean else fold

    @njit(inline="always")
    def put(to, p, value):
        if mean:
            put_pair(to, p, value)
        else:
            to[p] = fold(to[p], value)

    # The check of a few indices before they are used keeps their loads ahead of the stores: with
    # one check of the whole row, and a loop behind it, a walk takes twice as long.

    @njit(inline="always")
    def begin(to, o, idx, i, n, size, along):
        e = U(0)
        while e + STEP <= n:
            if any_outside(idx, i + e, size):
                return BAD
            for t in range(e, e + STEP):
                to[o + U(idx[i + t]) * along + t] = first
            e += STEP
        while e < n:
            if U(idx[i + e]) >= size:
                return BAD
            to[o + U(idx[i + e]) * along + e] = first
            e += U(1)
        return U(0)

    @njit(inline="always")
    def walk(to, o, src, s, idx, i, n, size, along):
        e = U(0)
        while e + STEP <= n:
            if any_outside(idx, i + e, size):
                return BAD
            for t in range(e, e + STEP):
                put(to, o + U(idx[i + t]) * along + t, src[s + t])
            e += STEP
        while e < n:
            if U(idx[i + e]) >= size:
                return BAD
            put(to, o + U(idx[i + e]) * along + e, src[s + e])
            e += U(1)
        return U(0)

    return Columns(begin, walk)


def make_wide_reduce(reduce, kind, itemsize, include_self):
    """Columns that each have their own index: ``args`` as those of the wide scatter, ``ib`` 1.

    A position of the range is a tile of columns of one of the outer axes.
    """
    begin, walk = column_loops(reduce, kind, include_self)
    first, mean = identity(reduce, kind), reduce == "mean"
    memory, begin_pairs, _, _, finish_pairs = pairs_of(reduce, kind, include_self)
    may_fill = starts_filled(reduce, include_self)
    LINE = U(LINE_BYTES // itemsize)

    @njit(inline="always")
    def walk_rows(to, o, src, s, idx, i, D, n, size, along, id_, sd, watches):
        bad, met = U(0), U(0)
        for d in range(D):
            fetch(idx, i + (d + FETCHED_ROWS) * id_, n, INDEX_LINE)
            fetch(src, s + (d + FETCHED_ROWS) * sd, n, LINE)
            bad = walk(to, o, src, s + d * sd, idx, i + d * id_, n, size, along)
            if bad:
                return BAD
            if watches and any_equal(src, s + d * sd, n, first):
                met = MET
        return met

    def reduce_wide(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        id_, sd, T = U(args[3]), U(args[4]), U(args[6])
        copies = args[7]
        tiles = (B + T - U(1)) // T
        row, tile = B * U(itemsize), size * T * U(itemsize)
        # Where the rows of a tile would push each other out of the caches, it is put together.
        clashing = row % CLASHING_BYTES == U(0) and NEAR_TILE_BYTES < tile <= FAR_TILE_BYTES
        staged = not mean and clashing and T < B and D * U(4) >= size
        buffer, pairs = out, memory(out, max(size * T, U(1)))
        if staged:
            buffer = allocate(out, tile)
        if (staged and address(buffer) == U(0)) or (mean and address(pairs) == U(0)):
            if staged:
                release(buffer)
            if mean:
                release(pairs)
            return NO_MEMORY
        target, along = (buffer, T) if staged else (out, B)
        before = aux if copies else out
        fills = may_fill and copies and D >= size
        bad = U(0)
        p = U(lo)
        while p < U(hi) and not bad:
            a = p // tiles
            b = (p - a * tiles) * T
            n = min(T, B - b)
            at = a * size * B + b
            o = U(0) if staged else at
            i = U(outer_offset(args, WIDE_OUTER, 2, np.int64(a))) + b
            s = U(outer_offset(args, WIDE_OUTER, 3, np.int64(a))) + b
            p += U(1)
            if mean:
                for place in range(size):
                    begin_pairs(pairs, place * T, before, at + place * B, n)
                bad = walk_rows(pairs, U(0), src, s, idx, i, D, n, size, T, id_, sd, False)
                if not bad:
                    for place in range(size):
                        row_at = at + place * B
                        finish_pairs(out, row_at, pairs, place * T, before, row_at, n)
                continue
            found = MET
            if fills:
                for place in range(size):
                    fill(target, o + place * along, n, first)
                found = walk_rows(target, o, src, s, idx, i, D, n, size, along, id_, sd, True)
                bad = found & BAD
            if found == MET:
                if n == B and copies and not staged:
                    copy_bytes(out, at, aux, at, size * row)
                elif copies or staged:
                    for place in range(size):
                        copy_bytes(
                            target, o + place * along, before, at + place * B, n * U(itemsize)
                        )
                if not include_self:
                    for d in range(D):
                        bad |= begin(target, o, idx, i + d * id_, n, size, along)
                if not bad:
                    bad = walk_rows(target, o, src, s, idx, i, D, n, size, along, id_, sd, False)
            if staged:
                for place in range(size):
                    copy_bytes(out, at + place * B, buffer, place * T, n * U(itemsize))
            if found == U(0):
                for place in range(size):
                    restore(out, at + place * B, aux, n, first)
        if staged:
            release(buffer)
        if mean:
            release(pairs)
        return np.int64(bad)

    return reduce_wide


@njit(inline="always")
def rises(idx, i, D, id_):
    """Whether no index is less than the one before it."""
    d, falls = U(1), False
    while d < D and not falls:
        for t in range(d, min(d + SIFTED_ITEMS, D)):
            falls |= U(idx[i + t * id_]) < U(idx[i + (t - U(1)) * id_])
        d += SIFTED_ITEMS
    return not falls


@njit(inline="always")
def first_from(idx, i, D, id_, place):
    """Of indices that rise, the position of the first that is not before a place."""
    low, high = U(0), D
    while low < high:
        middle = (low + high) // U(2)
        if U(idx[i + middle * id_]) < place:
            low = middle + U(1)
        else:
            high = middle
    return low


def make_row_reduce(reduce, kind, itemsize, include_self):
    """Columns that all have the same index: ``args`` as of the wide scatter, but for ``ib``.

    A position of the range is a place of a tile of columns of one of the outer axes. A range of
    places has its own part of an index that rises. Of another it walks the whole, and leaves out
    what is not in it; or, with 1 for ``ib``, the range of the first place has all places.
    """
    fold, first = folder(reduce, kind), identity(reduce, kind)
    divide, of, mean = divider(kind), number_type(kind), reduce == "mean"
    LINE = U(LINE_BYTES // itemsize)
    counts, last = mean or not include_self, U(LAST_COUNT.get(kind, 1 << 63))

    @njit(inline="always")
    def put(out, at, src, f, n, number, j):
        if counts:
            number[j] += U(1)
        if not include_self and number[j] == U(1):
            for e in range(n):
                out[at + e] = fold(first, src[f + e])
        else:
            for e in range(n):
                out[at + e] = fold(out[at + e], src[f + e])

    @njit(inline="always")
    def walk(out, o, src, s, idx, i, D, n, size, B, id_, sd, number, low, high, chosen, in_order):
        d, start, stop = U(0), U(0), D
        if in_order:
            if U(idx[i + (D - U(1)) * id_]) >= size:
                return BAD
            start, stop = first_from(idx, i, D, id_, low), first_from(idx, i, D, id_, high)
        if in_order or (low == U(0) and high == size):
            for d in range(start, stop):
                j = U(idx[i + d * id_])
                if j >= size:
                    return BAD
                fetch(src, s + (d + FETCHED_ROWS) * sd, n, LINE)
                later = U(idx[i + min(d + NEXT_ROWS, D - U(1)) * id_])
                fetch(out, o + later * B, n, LINE)
                put(out, o + j * B, src, s + d * sd, n, number, j - low)
            return U(0)
        while d < D:
            end, found, outside = min(d + SIFTED_ITEMS, D), U(0), U(0)
            for t in range(d, end):
                j = U(idx[i + t * id_])
                outside |= U(1) if j >= size else U(0)
                chosen[found] = t
                found += U(1) if j - low < high - low else U(0)
            if outside:
                return BAD
            for c in range(found):
                t = chosen[c]
                j = U(idx[i + t * id_])
                if c + FETCHED_ROWS < found:
                    fetch(src, s + chosen[c + FETCHED_ROWS] * sd, n, LINE)
                put(out, o + j * B, src, s + t * sd, n, number, j - low)
            d = end
        return U(0)

    def reduce_rows(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        id_, sd, T = U(args[3]), U(args[4]), U(args[6])
        alone, copies = args[5], args[7]
        tiles = (B + T - U(1)) // T
        if size == U(0):
            return 1
        chosen = allocate(uint64_at(U(0)), U(8) * SIFTED_ITEMS)
        number = chosen
        if counts:
            number = allocate(chosen, U(8) * (size if alone else min(size, U(hi - lo))))
        if address(chosen) == U(0) or address(number) == U(0):
            release(chosen)
            if counts:
                release(number)
            return NO_MEMORY
        bad = U(0)
        p = U(lo)
        while p < U(hi) and not bad:
            q = p // size
            low = p - q * size
            high = min(size, low + U(hi) - p)
            p += high - low
            a = q // tiles
            b = (q - a * tiles) * T
            n = min(T, B - b)
            o = a * size * B + b
            i = U(outer_offset(args, WIDE_OUTER, 2, np.int64(a)))
            s = U(outer_offset(args, WIDE_OUTER, 3, np.int64(a))) + b
            in_order = high - low < size and rises(idx, i, D, id_)
            if alone and not in_order:
                if low:
                    continue
                high = size
            if copies and n == B:
                at = o + low * B
                copy_bytes(out, at, aux, at, (high - low) * B * U(itemsize))
            elif copies:
                for place in range(low, high):
                    copy_bytes(out, o + place * B, aux, o + place * B, n * U(itemsize))
            if counts:
                fill(number, U(0), high - low, U(include_self))
            bad = walk(
                out, o, src, s, idx, i, D, n, size, B, id_, sd, number, low, high, chosen, in_order
            )
            if mean and not bad:
                for place in range(low, high):
                    count = of(min(number[place - low], last))
                    at = o + place * B
                    for e in range(n):
                        out[at + e] = divide(out[at + e], count)
        release(chosen)
        if counts:
            release(number)
        return np.int64(bad)

    return reduce_rows


def make_strided_reduce(reduce, kind, itemsize, include_self):
    """Lanes of any strides: ``args`` as those of the strided scatter; the result is the input."""
    fold, first, mean = folder(reduce, kind), identity(reduce, kind), reduce == "mean"
    memory, begin_pairs, put_pair, _, finish_pairs = pairs_of(reduce, kind, include_self)

    def reduce_strided(out, src, idx, aux, args, lo, hi):
        size, along = U(args[0]), U(args[1])
        D, id_, sd = U(args[2]), U(args[3]), U(args[4])
        B = args[5]
        pairs = memory(out, max(size, U(1)))
        if mean and address(pairs) == U(0):
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
                elif not include_self and not mean:
                    out[x + j * along] = first
            if bad:
                break
            if mean:
                for j in range(size):
                    begin_pairs(pairs, j, out, x + j * along, U(1))
            for d in range(D):
                j = U(idx[i + d * id_])
                if mean:
                    put_pair(pairs, j, src[s + d * sd])
                else:
                    out[x + j * along] = fold(out[x + j * along], src[s + d * sd])
            if mean:
                for j in range(size):
                    at = x + j * along
                    finish_pairs(out, at, pairs, j, out, at, U(1))
        if mean:
            release(pairs)
        return np.int64(bad)

    return reduce_strided
