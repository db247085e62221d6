"""The scatter kernels of many columns, and of any strides.

What they have in common with the others is told in :mod:`nbgather.kernels.cpu.scatter`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels.constants import ADD, SET
from nbgather.kernels.cpu.bounds import any_outside
from nbgather.kernels.cpu.gather import outer_offset
from nbgather.kernels.cpu.intrinsics import address, allocate, copy_bytes, release
from nbgather.kernels.cpu.scatter import (
    COMPARED_PLACES,
    INTERLEAVED_LANES,
    STEP,
    STRIDED_OUTER,
    WIDE_OUTER,
    combine,
    scatter_one,
)

U = np.uint64

#: Rows of the result that are so many bytes apart, or a multiple, share few sets of the caches.
CLASHING_BYTES = U(1 << 11)
#: Bytes of a tile from which on that matters, and up to which a copy of it stays in a cache.
NEAR_TILE_BYTES, FAR_TILE_BYTES = U(1 << 14), U(1 << 20)


@njit(inline="always")
def scatter_row(out, o, src, s, n, action):
    """A row of values that all go to one place of the dimension."""
    for e in range(n):
        combine(out, o + e, src[s + e], action)


@njit(inline="always")
def scatter_wide_row(out, o, src, s, idx, i, n, size, along, action):
    """A row of values, each with its own index, to columns side by side."""
    e = U(0)
    while e + STEP <= n:
        if any_outside(idx, i + e, size):
            return U(1)
        for t in range(e, e + STEP):
            combine(out, o + U(idx[i + t]) * along + t, src[s + t], action)
        e += STEP
    while e < n:
        if scatter_one(out, o + e, src, s + e, idx[i + e], size, along, action):
            return U(1)
        e += U(1)
    return U(0)


@njit(inline="always")
def compare_columns(out, o, src, s, idx, i, n, size, along):
    """As `scatter_wide_row` of sums for few places, each of which is compared with all indices."""
    outside = U(0)
    for e in range(n):
        outside |= U(1) if U(idx[i + e]) >= size else U(0)
    if outside:
        return U(1)
    for j in range(size):
        for e in range(n):
            before = out[o + e]
            out[o + e] = before + src[s + e] if U(idx[i + e]) == j else before
        o += along
    return U(0)


def make_wide_scatter(action, itemsize):
    """``args`` = [size, D, B, id, sd, ib, T, copies, outer, (n, 0, i, s) * outer].

    ``id`` and ``sd`` are the strides along the dimension, ``T`` is the columns of a tile. ``ib`` is
    0 if all columns have the same index. A position of the range is a tile of one of the outer
    axes.
    """

    def scatter_wide(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        id_, sd, ib, T = U(args[3]), U(args[4]), U(args[5]), U(args[6])
        copies = args[7]
        tiles = (B + T - U(1)) // T
        row, tile = B * U(itemsize), size * T * U(itemsize)
        # Where the rows of a tile would push each other out of the caches, it is copied together.
        clashing = row % CLASHING_BYTES == U(0) and NEAR_TILE_BYTES < tile <= FAR_TILE_BYTES
        clashing = clashing and T < B and D * U(4) >= size and ib != U(0)
        buffer = out
        if clashing:
            buffer = allocate(out, tile)
        staged = clashing and address(buffer) != U(0)
        target, along = (buffer, T) if staged else (out, B)
        before = aux if copies else out
        bad = U(0)
        p = U(lo)
        while p < U(hi) and not bad:
            a = p // tiles
            b = (p - a * tiles) * T
            n = min(T, B - b)
            first = a * size * B + b
            o = U(0) if staged else first
            i = U(outer_offset(args, WIDE_OUTER, 2, np.int64(a))) + b * ib
            s = U(outer_offset(args, WIDE_OUTER, 3, np.int64(a))) + b
            if n == B and copies:
                copy_bytes(out, first, aux, first, size * row)
            elif copies or staged:
                for place in range(size):
                    at = first + place * B
                    copy_bytes(target, o + place * along, before, at, n * U(itemsize))
            for _ in range(D):
                if ib == U(0):
                    j = U(idx[i])
                    bad = U(1) if j >= size else U(0)
                    if not bad:
                        scatter_row(out, o + j * B, src, s, n, action)
                elif action == ADD and size <= COMPARED_PLACES:
                    bad = compare_columns(target, o, src, s, idx, i, n, size, along)
                else:
                    bad = scatter_wide_row(target, o, src, s, idx, i, n, size, along, action)
                if bad:
                    break
                i += id_
                s += sd
            if staged:
                for place in range(size):
                    copy_bytes(out, first + place * B, buffer, place * T, n * U(itemsize))
            p += U(1)
        if staged:
            release(buffer)
        return np.int64(bad)

    return scatter_wide


def make_strided_scatter(action, itemsize, by_lane):
    """``args`` = [size, along, D, id, sd, B, xb, ib, sb, outer, (n, x, i, s) * outer].

    ``B`` is the innermost axis of the lanes; the outer axes follow, innermost first. Each has a
    length and three strides: result, index, src.
    """

    def scatter_strided(out, src, idx, aux, args, lo, hi):
        size, along = U(args[0]), U(args[1])
        D, id_, sd = U(args[2]), U(args[3]), U(args[4])
        B = args[5]
        xb, ib, sb = U(args[6]), U(args[7]), U(args[8])
        bad = U(0)
        p = lo
        while p < hi:
            q = p // B
            b = U(p - q * B)
            n = U(min(B - np.int64(b), hi - p))
            p += np.int64(n)
            x = U(outer_offset(args, STRIDED_OUTER, 1, q)) + b * xb
            i = U(outer_offset(args, STRIDED_OUTER, 2, q)) + b * ib
            s = U(outer_offset(args, STRIDED_OUTER, 3, q)) + b * sb
            if by_lane:
                interleaved = U(0)
                if action != SET:
                    interleaved = n // INTERLEAVED_LANES * INTERLEAVED_LANES
                for k in range(U(0), interleaved, INTERLEAVED_LANES):
                    for d in range(D):
                        for t in range(INTERLEAVED_LANES):
                            e = k + t
                            bad |= scatter_one(
                                out, x + e * xb, src, s + e * sb + d * sd,
                                idx[i + e * ib + d * id_], size, along, action,
                            )  # fmt: skip
                for e in range(interleaved, n):
                    for d in range(D):
                        bad |= scatter_one(
                            out, x + e * xb, src, s + e * sb + d * sd,
                            idx[i + e * ib + d * id_], size, along, action,
                        )  # fmt: skip
            else:
                for d in range(D):
                    for e in range(n):
                        bad |= scatter_one(
                            out, x + e * xb, src, s + e * sb + d * sd,
                            idx[i + e * ib + d * id_], size, along, action,
                        )  # fmt: skip
        return np.int64(bad)

    return scatter_strided
