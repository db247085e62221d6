"""The kernels that reduce what is scattered to one place, in row-major order of the index.

They take the arguments of the scatter kernels (:mod:`nbgather.kernels.cpu.scatter`), whose forms
they have, fewer of them: ``lanes`` are lanes or a few columns side by side; where several threads
share these, see :mod:`nbgather.kernels.cpu.reduce_shared`; ``wide``, ``rows`` and ``strided`` are
in :mod:`nbgather.kernels.cpu.reduce_wide`.

Where the input does not count, the places of the index are first given what the reduction begins
with. The largest and the smallest do without this walk over the index: every place is given the
least number, and where it is still there the input comes back, unless a value was that number
itself. A mean adds up pairs of a sum and a count, in numbers of the same type, and divides at the
end: a count rounds or wraps as the sums do.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nbgather.kernels.constants import NO_MEMORY
from nbgather.kernels.cpu.bounds import CHECKED_ITEMS, any_outside
from nbgather.kernels.cpu.folds import (
    add_pair,
    divider,
    folder,
    identity,
    is_half,
    number_type,
    pair_memory,
    run_folder,
    widen,
)
from nbgather.kernels.cpu.gather import outer_offset
from nbgather.kernels.cpu.intrinsics import address, prefetch, release
from nbgather.kernels.cpu.scatter import COPIED_BYTES, NARROW_OUTER, SIFTED_ITEMS, copy_lanes

U = np.uint64
STEP = U(CHECKED_ITEMS)
#: Indices that are looked at to see whether most of some more repeat the one before.
PROBED_ITEMS = U(64)
#: How far ahead indices and values are prefetched.
AHEAD_ITEMS = U(256)
#: What a walk gives: an index was bad; a value was what the places began with.
BAD, MET = U(1), U(2)
#: The largest number that counting by one reaches.
LAST_COUNT = {"f4": 1 << 24}


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


@njit(inline="always")
def any_equal(src, s, n, value):
    """Whether one of ``n`` numbers equals another."""
    met = U(0)
    for k in range(n):
        met |= U(1) if src[s + k] == value else U(0)
    return met != U(0)


@njit(inline="always")
def restore(out, o, aux, n, value):
    """Give places that still have what they began with the input's numbers."""
    for k in range(n):
        now = out[o + k]
        out[o + k] = aux[o + k] if now == value else now


@njit(inline="always")
def mostly_repeats(idx, i, n):
    """Whether nearly all of ``n`` indices are the one before.

    Where shorter runs end is not foretold: that takes longer than sums that wait for each other.
    """
    repeats = U(0)
    for k in range(U(1), n):
        repeats += U(1) if idx[i + k] == idx[i + k - U(1)] else U(0)
    return repeats * U(10) > n * U(9)


@njit(inline="always")
def run_length(idx, i, n):
    """How many indices from the first on are equal."""
    k = U(1)
    while k < n and idx[i + k] == idx[i]:
        k += U(1)
    return k


class Pairs(NamedTuple):
    """Of sums and counts of places side by side, from place ``o`` on of the result."""

    memory: Any
    begin: Any
    put: Any
    put_run: Any
    finish: Any


@functools.cache
def pair_loops(kind: str, include_self: bool) -> Pairs:
    """The parts of a mean."""
    divide, wide = divider(kind), widen(kind)
    summed = "f4" if is_half(kind) else kind
    of = number_type(summed)
    one, none, start = of(1), of(0), of(include_self)
    fold_run, last = run_folder("mean", kind), LAST_COUNT.get(summed)
    limit = of(last or 0)

    @njit(inline="always")
    def begin(pairs, q, before, o, n):
        for k in range(n):
            pairs[U(2) * (q + k)] = wide(before[o + k]) if include_self else none
            pairs[U(2) * (q + k) + U(1)] = start

    @njit(inline="always")
    def put(pairs, p, value):
        add_pair(pairs, p, wide(value), one)

    @njit(inline="always")
    def put_run(pairs, p, src, s, n):
        pairs[U(2) * p] = fold_run(pairs[U(2) * p], src, s, n)
        count = of(pairs[U(2) * p + U(1)] + of(n))
        if last:
            count = min(count, limit)
        pairs[U(2) * p + U(1)] = count

    @njit(inline="always")
    def finish(out, o, pairs, q, before, b, n):
        for k in range(n):
            count = pairs[U(2) * (q + k) + U(1)]
            mean = divide(pairs[U(2) * (q + k)], count)
            if include_self:
                out[o + k] = mean
            else:
                old = before[b + k]  # read in any case: the loop has no branch
                out[o + k] = old if count == none else mean

    return Pairs(pair_memory(kind), begin, put, put_run, finish)


def pairs_of(reduce: str, kind: str, include_self: bool) -> Pairs:
    """The parts of a mean; of another reduction, what stands for them and does nothing."""
    if reduce == "mean":
        return pair_loops(kind, include_self)
    nothing = njit(inline="always")(lambda *_: None)
    return Pairs(
        njit(inline="always")(lambda like, places: like), nothing, nothing, nothing, nothing
    )


class Loops(NamedTuple):
    """The innermost loops over an index of ``n`` items, of lanes of which ``B`` lie side by side.

    They write to ``to``: the result, or a mean's pairs; place 0 is at ``o``.
    """

    begin: Any
    walk: Any
    walk_range: Any


@functools.cache
def loops(reduce: str, kind: str, include_self: bool) -> Loops:
    fold, first, mean = folder(reduce, kind), identity(reduce, kind), reduce == "mean"
    fold_run, pairs = run_folder(reduce, kind), None if not mean else pair_loops(kind, include_self)
    put_pair, put_pairs = (pairs.put, pairs.put_run) if pairs else (fold, fold)
    watches = starts_filled(reduce, include_self)

    @njit(inline="always")
    def put(to, p, value):
        if mean:
            put_pair(to, p, value)
        else:
            to[p] = fold(to[p], value)

    @njit(inline="always")
    def put_run(to, p, src, s, n):
        if mean:
            put_pairs(to, p, src, s, n)
        else:
            to[p] = fold_run(to[p], src, s, n)

    @njit(inline="always")
    def begin(to, o, idx, i, n, B, size):
        k, column = U(0), U(0)
        while k < n:
            end = min(k + SIFTED_ITEMS, n)
            if are_inside(idx, i + k, end - k, size):
                return BAD
            for t in range(k, end):
                to[o + U(idx[i + t]) * B + column] = first
                column += U(1)
                if column >= B:
                    column = U(0)
            k = end
        return U(0)

    @njit(inline="always")
    def put_four(to, o, src, s, idx, i):
        # What is read before the first of four is written need not wait for it.
        j0, j1, j2, j3 = U(idx[i]), U(idx[i + U(1)]), U(idx[i + U(2)]), U(idx[i + U(3)])
        v0, v1, v2, v3 = src[s], src[s + U(1)], src[s + U(2)], src[s + U(3)]
        put(to, o + j0, v0)
        put(to, o + j1, v1)
        put(to, o + j2, v2)
        put(to, o + j3, v3)

    @njit(inline="always")
    def walk_block(to, o, src, s, idx, i, n, size):
        # A check of all indices ahead would be waited for where few places are hit most.
        t = U(0)
        while t + STEP <= n:
            if any_outside(idx, i + t, size):
                return BAD
            prefetch(idx, i + t + AHEAD_ITEMS)
            prefetch(src, s + t + AHEAD_ITEMS)
            put_four(to, o, src, s + t, idx, i + t)
            put_four(to, o, src, s + t + U(4), idx, i + t + U(4))
            t += STEP
        while t < n:
            if U(idx[i + t]) >= size:
                return BAD
            put(to, o + U(idx[i + t]), src[s + t])
            t += U(1)
        return U(0)

    @njit(inline="always")
    def walk_runs(to, o, src, s, idx, i, n, size):
        t = U(0)
        while t < n:
            if U(idx[i + t]) >= size:
                return BAD
            length = run_length(idx, i + t, n - t)
            for e in range(t, t + length, STEP):
                prefetch(idx, i + e + AHEAD_ITEMS)
                prefetch(src, s + e + AHEAD_ITEMS)
            put_run(to, o + U(idx[i + t]), src, s + t, length)
            t += length
        return U(0)

    @njit(inline="always")
    def walk(to, o, src, s, idx, i, n, B, size):
        k, column, found, bad = U(0), U(0), U(0), U(0)
        while k < n:
            m = min(n - k, SIFTED_ITEMS)
            if watches and any_equal(src, s + k, m, first):
                found = MET
            if B == U(1):
                if mostly_repeats(idx, i + k, min(m, PROBED_ITEMS)):
                    bad = walk_runs(to, o, src, s + k, idx, i + k, m, size)
                else:
                    bad = walk_block(to, o, src, s + k, idx, i + k, m, size)
            else:
                bad = are_inside(idx, i + k, m, size)
                if not bad:
                    for t in range(k, k + m):
                        put(to, o + U(idx[i + t]) * B + column, src[s + t])
                        column += U(1)
                        if column == B:
                            column = U(0)
            if bad:
                return BAD
            k += m
        return found

    @njit(inline="always")
    def walk_range(to, o, src, s, idx, i, n, B, size, lowest, last, chosen, begins):
        k, met = U(0), U(0)
        while k < n:
            end = min(k + SIFTED_ITEMS, n)
            if are_inside(idx, i + k, end - k, size):
                return BAD
            if watches and not begins and any_equal(src, s + k, end - k, first):
                met = MET
            found = U(0)
            for t in range(k, end):
                chosen[found] = t
                found += U(1) if U(idx[i + t]) - lowest < last - lowest else U(0)
            if B == U(1) and not begins and found and mostly_repeats(idx, i + k, end - k):
                t = k
                while t < end:
                    length = run_length(idx, i + t, end - t)
                    if U(idx[i + t]) - lowest < last - lowest:
                        put_run(to, o + U(idx[i + t]) - lowest, src, s + t, length)
                    t += length
                found = U(0)
            for c in range(found):
                # Puts that read and write far places in turn wait for each other's.
                p = o + (U(idx[i + chosen[c]]) - lowest) * B
                prefetch(to, U(2) * p if mean else p)
            for c in range(found):
                t = chosen[c]
                p = o + U(idx[i + t]) - lowest
                if B > U(1):  # a remainder takes longer than all else here
                    p = o + (U(idx[i + t]) - lowest) * B + t % B
                if begins:
                    to[p] = first
                else:
                    put(to, p, src[s + t])
            k = end
        return met

    return Loops(begin, walk, walk_range)


def starts_filled(reduce: str, include_self: bool) -> bool:
    """Whether places may begin with a number that tells those to which no value comes."""
    return reduce in ("amax", "amin") and not include_self


# The args of the next kernels are those of the scatter's lanes and columns:
# [size, D, B, copies, outer, (n, 0, i, s) * outer].


def make_lane_reduce(reduce, kind, itemsize, include_self):
    """Lanes one after the other; of a few side by side, the columns in turns."""
    begin, walk, _ = loops(reduce, kind, include_self)
    first, mean = identity(reduce, kind), reduce == "mean"
    memory, begin_pairs, _, _, finish_pairs = pairs_of(reduce, kind, include_self)
    may_fill = starts_filled(reduce, include_self)

    def reduce_lanes(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        copies = args[3]
        row, n = size * B, D * B
        if size == U(0):
            return 1
        pairs = memory(out, row)
        if mean and address(pairs) == U(0):
            return NO_MEMORY
        before = aux if copies else out
        fills = may_fill and copies and n >= row
        together, copied = max(COPIED_BYTES // (row * U(itemsize)), U(1)), U(lo)
        bad = U(0)
        for a in range(U(lo), U(hi)):
            if copies and not mean and not fills and a == copied:
                copied = min(a + together, U(hi))
                copy_lanes(out, aux, a, copied, row, itemsize)
            o = a * row
            i = U(outer_offset(args, NARROW_OUTER, 2, np.int64(a)))
            s = U(outer_offset(args, NARROW_OUTER, 3, np.int64(a)))
            if mean:
                begin_pairs(pairs, U(0), before, o, row)
                bad = walk(pairs, U(0), src, s, idx, i, n, B, size)
                if not bad:
                    finish_pairs(out, o, pairs, U(0), before, o, row)
            else:
                found = MET
                if fills:
                    fill(out, o, row, first)
                    found = walk(out, o, src, s, idx, i, n, B, size)
                    if found == MET:
                        copy_lanes(out, aux, a, a + U(1), row, itemsize)
                    elif found == U(0):
                        restore(out, o, aux, row, first)
                if found == MET:
                    if not include_self:
                        bad = begin(out, o, idx, i, n, B, size)
                    if not bad:
                        bad = walk(out, o, src, s, idx, i, n, B, size) & BAD
                else:
                    bad = found
            if bad:
                break
        if mean:
            release(pairs)
        return np.int64(bad)

    return reduce_lanes
