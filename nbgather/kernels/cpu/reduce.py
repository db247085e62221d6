"""The kernels that reduce what is scattered to one place, in row-major order of the index.

They take the arguments of the scatter kernels (:mod:`nbgather.kernels.cpu.scatter`), whose forms
they have, fewer of them: ``lanes`` are lanes or a few columns side by side, ``places`` the same
where a thread has a range of places, ``wide`` and ``strided`` as there
(:mod:`nbgather.kernels.cpu.reduce_wide`).

Where the input does not count, the places of the index are first given what the reduction begins
with, so that the second walk over an index finds it good. A mean counts the values of each place
beside their sum, in numbers of the same type, and divides at the end: a count rounds or wraps as
the sums do.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nbgather.kernels.constants import NO_MEMORY
from nbgather.kernels.cpu.bounds import CHECKED_ITEMS, any_outside
from nbgather.kernels.cpu.folds import divider, folder, identity, number_type
from nbgather.kernels.cpu.gather import outer_offset
from nbgather.kernels.cpu.intrinsics import address, allocate, copy_bytes, release, uint64_at
from nbgather.kernels.cpu.scatter import COPIED_BYTES, NARROW_OUTER, SIFTED_ITEMS, copy_lanes

U = np.uint64
STEP = U(CHECKED_ITEMS)


@njit(inline="always")
def are_inside(idx, i, n, size):
    """Not 0 if one of ``n`` indices is not below ``size``."""
    bad, k = U(0), U(0)
    while k + STEP <= n:
        bad |= any_outside(idx, i + k, size)
        k += STEP
    while k < n:
        bad |= U(1) if U(idx[i + k]) >= size else U(0)
        k += U(1)
    return bad


@njit(inline="always")
def fill(out, o, n, value):
    for k in range(n):
        out[o + k] = value


class Loops(NamedTuple):
    """The innermost loops of a reduction; ``number`` has the counts of a mean."""

    #: Give the places of an index what the reduction begins with, and look whether it is good.
    begin: Any
    #: Reduce into the places of an index.
    walk: Any
    #: The same into a range of places.
    walk_range: Any
    #: Divide by the counts.
    finish: Any


@functools.cache
def loops(reduce: str, kind: str, include_self: bool) -> Loops:
    """The loops over an index of ``n`` items, of lanes of which ``B`` lie side by side."""
    fold, first = folder(reduce, kind), identity(reduce, kind)
    counts, divide, one = reduce == "mean", divider(kind), number_type(kind)(1)

    @njit(inline="always")
    def put(out, o, number, p, value):
        out[o + p] = fold(out[o + p], value)
        if counts:
            number[p] = number[p] + one

    @njit(inline="always")
    def begin(out, o, idx, i, n, B, size):
        k, column = U(0), U(0)
        while k < n:
            end = min(k + SIFTED_ITEMS, n)
            if are_inside(idx, i + k, end - k, size):
                return U(1)
            if not include_self:
                for t in range(k, end):
                    out[o + U(idx[i + t]) * B + column] = first
                    column += U(1)
                    if column >= B:
                        column = U(0)
            k = end
        return U(0)

    @njit(inline="always")
    def walk(out, o, src, s, idx, i, n, B, size, number):
        k, column = U(0), U(0)
        while k < n:
            end = min(k + SIFTED_ITEMS, n)
            if include_self and are_inside(idx, i + k, end - k, size):
                return U(1)
            if B == U(1):
                for t in range(k, end):
                    put(out, o, number, U(idx[i + t]), src[s + t])
            else:
                for t in range(k, end):
                    put(out, o, number, U(idx[i + t]) * B + column, src[s + t])
                    column += U(1)
                    if column == B:
                        column = U(0)
            k = end
        return U(0)

    @njit(inline="always")
    def walk_range(out, o, src, s, idx, i, n, B, size, lowest, last, number, chosen, begins):
        k = U(0)
        while k < n:
            end = min(k + SIFTED_ITEMS, n)
            if are_inside(idx, i + k, end - k, size):
                return U(1)
            found = U(0)
            for t in range(k, end):
                chosen[found] = t
                found += U(1) if U(idx[i + t]) - lowest < last - lowest else U(0)
            for c in range(found):
                t = chosen[c]
                p = (U(idx[i + t]) - lowest) * B + t % B
                if begins:
                    out[o + p] = first
                else:
                    put(out, o, number, p, src[s + t])
            k = end
        return U(0)

    @njit(inline="always")
    def finish(out, o, number, n):
        for k in range(n):
            out[o + k] = divide(out[o + k], number[k])

    return Loops(begin, walk, walk_range, finish)


# The args of the next kernels are those of the scatter's lanes and columns:
# [size, D, B, copies, outer, (n, 0, i, s) * outer].


def make_lane_reduce(reduce, kind, itemsize, include_self):
    """Lanes one after the other; of a few side by side, the columns in turns."""
    begin, walk, _, finish = loops(reduce, kind, include_self)
    counts, start = reduce == "mean", number_type(kind)(include_self)

    def reduce_lanes(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        copies = args[3]
        row = size * B
        if size == U(0):
            return 1
        number = out
        if counts:
            number = allocate(out, row * U(itemsize))
            if address(number) == U(0):
                return NO_MEMORY
        together, copied = max(COPIED_BYTES // (row * U(itemsize)), U(1)), U(lo)
        bad = U(0)
        for a in range(U(lo), U(hi)):
            if copies and a == copied:
                copied = min(a + together, U(hi))
                copy_lanes(out, aux, a, copied, row, itemsize)
            i = U(outer_offset(args, NARROW_OUTER, 2, np.int64(a)))
            s = U(outer_offset(args, NARROW_OUTER, 3, np.int64(a)))
            if not include_self:
                bad = begin(out, a * row, idx, i, D * B, B, size)
            if counts:
                fill(number, U(0), row, start)
            if not bad:
                bad = walk(out, a * row, src, s, idx, i, D * B, B, size, number)
            if bad:
                break
            if counts:
                finish(out, a * row, number, row)
        if counts:
            release(number)
        return np.int64(bad)

    return reduce_lanes


def make_place_reduce(reduce, kind, itemsize, include_self):
    """The same for few lanes: a position of the range is one place of one of the outer axes."""
    _, _, walk_range, finish = loops(reduce, kind, include_self)
    counts, start = reduce == "mean", number_type(kind)(include_self)

    def reduce_places(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        copies = args[3]
        if size == U(0):
            return 1
        chosen = allocate(uint64_at(U(0)), U(8) * SIFTED_ITEMS)
        number = out
        if counts:
            number = allocate(out, min(size, U(hi - lo)) * B * U(itemsize))
        if address(chosen) == U(0) or address(number) == U(0):
            release(chosen)
            if counts:
                release(number)
            return NO_MEMORY
        bad = U(0)
        p = U(lo)
        while p < U(hi) and not bad:
            a = p // size
            first = p - a * size
            last = min(size, first + U(hi) - p)
            o, n = (a * size + first) * B, (last - first) * B
            if copies:
                copy_bytes(out, o, aux, o, n * U(itemsize))
            i = U(outer_offset(args, NARROW_OUTER, 2, np.int64(a)))
            s = U(outer_offset(args, NARROW_OUTER, 3, np.int64(a)))
            if not include_self:
                bad = walk_range(
                    out, o, src, s, idx, i, D * B, B, size, first, last, number, chosen, True
                )
            if counts:
                fill(number, U(0), n, start)
            if not bad:
                bad = walk_range(
                    out, o, src, s, idx, i, D * B, B, size, first, last, number, chosen, False
                )
            if counts and not bad:
                finish(out, o, number, n)
            p += last - first
        release(chosen)
        if counts:
            release(number)
        return np.int64(bad)

    return reduce_places
