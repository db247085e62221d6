"""The scatter kernels: the values of one place come in row-major order of the index.

So the last of several values for one place wins, and sums are the same bits, whatever the number of
threads: each place of the result is written by one thread, which meets its values in order. The
forms of the loop are these. In all but the last the index covers the whole result but for the
dimension, and the thread that scatters into a part of the result copies that part of the input
first (``aux``, if ``copies``):

``lane``, ``far``, ``few``, ``columns``
    Lanes one by one, four in turns, or side by side in few columns: index and src are contiguous
    from the dimension on.
``shared``
    The same where there are few lanes: a thread takes a range of *places*, walks all of the index,
    and leaves out what is another thread's.
``wide``
    Many columns: a tile of them at a time, so that its part of the result stays in a cache.
``strided``
    Any strides, into a result that holds the input already.

Where an index is out of bounds the result is not whole, and nobody sees it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels.constants import ADD, NO_MEMORY, SET
from nbgather.kernels.cpu.bounds import CHECKED_ITEMS, any_beyond, any_outside
from nbgather.kernels.cpu.gather import outer_offset
from nbgather.kernels.cpu.gather_rows import copy_row
from nbgather.kernels.cpu.intrinsics import (
    address,
    allocate,
    copy_bytes,
    fence,
    release,
    uint64_at,
)

U = np.uint64

#: Lanes that are walked in turns. A sum depends on the one before it in the same place, so sums of
#: several lanes overlap; the order within a lane stays the same.
INTERLEAVED_LANES = U(4)
#: Places up to which each is compared with the index of a whole row of a wide scatter.
COMPARED_PLACES = U(4)
#: Bytes of the result that are copied at a time, to be in the first-level cache when added to.
COPIED_BYTES = U(1 << 14)
#: Indices that are looked through at a time where a thread has a range of places.
SIFTED_ITEMS = U(512)
#: The position of the number of outer axes in ``args`` of each form.
NARROW_OUTER, WIDE_OUTER, STRIDED_OUTER = 4, 8, 9

STEP = U(CHECKED_ITEMS)


@njit(inline="always")
def combine(out, o, value, action):
    """Scatter one element to where it belongs."""
    if action == SET:
        out[o] = value
    elif action == ADD:
        out[o] += value
    else:
        out[o] |= value


@njit(inline="always")
def scatter_one(out, x, src, s, value, size, along, action):
    """Scatter one element; 1 if its index was out of bounds, and then nothing is written."""
    j = U(value)
    if j >= size:
        return U(1)
    combine(out, x + j * along, src[s], action)
    return U(0)


@njit(inline="always")
def walk_lane(out, o, src, s, idx, i, D, size, far, action):
    """One contiguous lane, in order."""
    d = U(0)
    if far:
        while d + STEP <= D:
            if any_outside(idx, i + d, size):
                return U(1)
            for t in range(STEP):
                combine(out, o + U(idx[i + d + t]), src[s + d + t], action)
            d += STEP
    else:
        while d + U(4) <= D:
            e, f = i + d, s + d
            j0, j1, j2, j3 = U(idx[e]), U(idx[e + U(1)]), U(idx[e + U(2)]), U(idx[e + U(3)])
            if j0 >= size or j1 >= size or j2 >= size or j3 >= size:
                return U(1)
            combine(out, o + j0, src[f], action)
            combine(out, o + j1, src[f + U(1)], action)
            combine(out, o + j2, src[f + U(2)], action)
            combine(out, o + j3, src[f + U(3)], action)
            d += U(4)
    while d < D:
        if scatter_one(out, o, src, s + d, idx[i + d], size, U(1), action):
            return U(1)
        d += U(1)
    return U(0)


@njit(inline="always")
def walk_four_lanes(out, o, src, s, sn, idx, i, n, D, size, action):
    """Four lanes in turns, ``n`` and ``sn`` items apart in index and src."""
    for d in range(D):
        for k in range(INTERLEAVED_LANES):
            value = idx[i + k * n + d]
            if scatter_one(out, o + k * size, src, s + k * sn + d, value, size, U(1), action):
                return U(1)
    return U(0)


@njit(inline="always")
def walk_single_place(out, o, src, s, idx, i, D):
    """A lane of one place, whose sum stays in a register; every index must be 0."""
    total, outside = out[o], U(0)
    for d in range(D):
        outside |= U(idx[i + d])
        total += src[s + d]
    out[o] = total
    return outside


@njit(inline="always")
def walk_four_places(out, o, src, s, sn, idx, i, n, D):
    """Four lanes of one place each, as `walk_single_place`."""
    t0, t1, t2, t3 = out[o], out[o + U(1)], out[o + U(2)], out[o + U(3)]
    outside = U(0)
    for d in range(D):
        e, f = s + d, i + d
        outside |= U(idx[f]) | U(idx[f + n]) | U(idx[f + U(2) * n]) | U(idx[f + U(3) * n])
        t0 += src[e]
        t1 += src[e + sn]
        t2 += src[e + U(2) * sn]
        t3 += src[e + U(3) * sn]
    out[o], out[o + U(1)], out[o + U(2)], out[o + U(3)] = t0, t1, t2, t3
    return outside


@njit(inline="always")
def walk_range(out, o, src, s, idx, i, D, B, size, first, last, chosen, action):
    """A few lanes side by side, of whose places those from ``first`` on before ``last`` count.

    What counts is first collected without a branch, for none could be predicted.
    """
    length, f = D * B, U(0)
    while f < length:
        n, found = min(SIFTED_ITEMS, length - f), U(0)
        t = U(0)
        while t + STEP <= n:
            if any_outside(idx, i + f + t, size):
                return U(1)
            for e in range(t, t + STEP):
                chosen[found] = e
                found += U(1) if U(idx[i + f + e]) - first < last - first else U(0)
            t += STEP
        while t < n:
            j = U(idx[i + f + t])
            if j >= size:
                return U(1)
            chosen[found] = t
            found += U(1) if j - first < last - first else U(0)
            t += U(1)
        if B == U(1):
            for c in range(found):
                e = f + chosen[c]
                combine(out, o + U(idx[i + e]), src[s + e], action)
        else:
            for c in range(found):
                e = f + chosen[c]
                combine(out, o + U(idx[i + e]) * B + e % B, src[s + e], action)
        f += n
    return U(0)


@njit(inline="always")
def copy_lanes(out, aux, a, end, row, itemsize):
    """The input's part of some lanes into the result."""
    copy_bytes(out, a * row, aux, a * row, (end - a) * row * U(itemsize))


def find_outside(out, src, idx, aux, args, lo, hi):
    """Not 0 if one of some indices is not below ``args[0]``, before anything is written.

    Of negative ones, ``args[1]`` are in bounds: those from that far below 0 on.
    """
    size, below, bad, i = U(args[0]), U(args[1]), U(0), U(lo)
    while i + STEP <= U(hi):
        bad |= any_beyond(idx, i, size + below, below)
        i += STEP
    while i < U(hi):
        bad |= U(1) if U(idx[i]) + below >= size + below else U(0)
        i += U(1)
    return np.int64(bad != U(0))


# The args of the next kernels are [size, D, B, copies, outer, (n, 0, i, s) * outer]. D is the
# index's length along the dimension, B the number of columns. A position of the range is one of the
# outer axes. Each form is a kernel of its own, and short: the loop has all registers.


def make_lane_scatter(action, itemsize, far):
    """One lane after the other. ``far``: of so many places that memory is waited for."""

    def scatter_lane(out, src, idx, aux, args, lo, hi):
        size, D = U(args[0]), U(args[1])
        copies = args[3]
        if size == U(0):
            return 1
        together = max(COPIED_BYTES // (size * U(itemsize)), U(1))
        copied = U(lo)
        evenly = args[NARROW_OUTER] == 1
        n, sn = U(args[NARROW_OUTER + 3]), U(args[NARROW_OUTER + 4])
        for a in range(U(lo), U(hi)):
            if copies and a == copied:
                copied = min(a + together, U(hi))
                copy_lanes(out, aux, a, copied, size, itemsize)
            i, s = a * n, a * sn
            if not evenly:
                i = U(outer_offset(args, NARROW_OUTER, 2, np.int64(a)))
                s = U(outer_offset(args, NARROW_OUTER, 3, np.int64(a)))
            if walk_lane(out, a * size, src, s, idx, i, D, size, far, action):
                return 1
        return 0

    return scatter_lane


def make_few_scatter(action, itemsize):
    """Lanes of few places or values, four in turns. There is one outer axis."""

    def scatter_few(out, src, idx, aux, args, lo, hi):
        size, D = U(args[0]), U(args[1])
        n, sn = U(args[NARROW_OUTER + 3]), U(args[NARROW_OUTER + 4])
        if size == U(0):
            return 1
        together = max(COPIED_BYTES // (size * U(itemsize)), INTERLEAVED_LANES)
        bad = U(0)
        a = U(lo)
        while a < U(hi) and not bad:
            end = min(a + together, U(hi))
            if args[3]:
                copy_lanes(out, aux, a, end, size, itemsize)
            while a + INTERLEAVED_LANES <= end:
                if action == ADD and size == U(1):
                    bad |= walk_four_places(out, a, src, a * sn, sn, idx, a * n, n, D)
                else:
                    bad |= walk_four_lanes(
                        out, a * size, src, a * sn, sn, idx, a * n, n, D, size, action
                    )
                a += INTERLEAVED_LANES
            while a < end:
                if action == ADD and size == U(1):
                    bad |= walk_single_place(out, a, src, a * sn, idx, a * n, D)
                else:
                    bad |= walk_lane(out, a * size, src, a * sn, idx, a * n, D, size, False, action)
                a += U(1)
        return np.int64(bad != U(0))

    return scatter_few


def make_column_scatter(action, itemsize):
    """A few lanes side by side."""

    def scatter_columns(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        copies = args[3]
        row = size * B
        if size == U(0):
            return 1
        for a in range(U(lo), U(hi)):
            if copies:
                copy_lanes(out, aux, a, a + U(1), row, itemsize)
            o = a * row
            i = U(outer_offset(args, NARROW_OUTER, 2, np.int64(a)))
            s = U(outer_offset(args, NARROW_OUTER, 3, np.int64(a)))
            column = U(0)
            for f in range(D * B):
                j = U(idx[i + f])
                if j >= size:
                    return 1
                combine(out, o + j * B + column, src[s + f], action)
                column += U(1)
                if column == B:
                    column = U(0)
        return 0

    return scatter_columns


def make_shared_scatter(action, itemsize):
    """The same for few lanes: a position of the range is one place of one of the outer axes."""

    def scatter_shared(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        copies = args[3]
        if size == U(0):
            return 1
        chosen = allocate(uint64_at(U(0)), U(8) * SIFTED_ITEMS)
        if address(chosen) == U(0):
            return NO_MEMORY
        bad = U(0)
        p = U(lo)
        while p < U(hi) and not bad:
            a = p // size
            first = p - a * size
            last = min(size, first + U(hi) - p)
            o = a * size * B
            if copies:
                begin = o + first * B
                copy_bytes(out, begin, aux, begin, (last - first) * B * U(itemsize))
            i = U(outer_offset(args, NARROW_OUTER, 2, np.int64(a)))
            s = U(outer_offset(args, NARROW_OUTER, 3, np.int64(a)))
            bad = walk_range(out, o, src, s, idx, i, D, B, size, first, last, chosen, action)
            p += last - first
        release(chosen)
        return np.int64(bad)

    return scatter_shared


def copy_range(out, src, idx, aux, args, lo, hi):
    """Bytes from one block to another."""
    copy_row(out, U(lo), src, U(lo), U(hi - lo), args[0])
    if args[0]:
        fence()
    return 0
