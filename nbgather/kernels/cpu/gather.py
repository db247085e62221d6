"""The gather kernels: numbers and addresses in, bits moved, not 0 out when an index was bad.

The layout of ``args`` is made by :func:`nbgather.engine.plan.plan_gather`::

    [size, limit, along, B, xb, ib, ob, M, xm, im, om, nt, W, outer, (n, x, i, o) * outer]

``size`` is the length of the gathered dimension and ``along`` its stride in the input. ``B`` is
the innermost axis of the loop and ``M`` the next; the outer axes follow, innermost first. Each
axis has a length and three strides: input, index, output. ``nt`` tells that the output is too
large for any cache to keep, so it is written past them. ``W`` is the width of a panel.

All arithmetic on positions is in uint64, since numba adds wraparound code to signed subscripts; a
negative stride is right there too, modulo 2**64.
"""

from __future__ import annotations

import sys

import numpy as np
from numba import njit

from nbgather.kernels import scalar
from nbgather.kernels.cpu.intrinsics import (
    address,
    allocate,
    copy_bytes,
    fence,
    gather_block,
    gather_narrow_block,
    prefetch,
    release,
    stream_line,
)
from nbgather.kernels.scalar import FILL, RAISE

U = np.uint64

#: A narrow item is cut out of a word from the side where the lower addresses are.
LITTLE = sys.byteorder == "little"
#: Forms of the innermost loop of an element gather.
LAST, MIDDLE, STRIDED = range(3)
#: Elements by which the index is fetched before it is needed.
AHEAD = 128
#: Rows by which the input is fetched before it is copied.
SOON = 3
#: Rows of a panel by which the index is fetched before it is needed.
ROWS_AHEAD = 4

resolve = scalar.resolve


@njit(inline="always")
def outer_offset(args, which, q):
    """The offset of outer position ``q`` in the input (1), the index (2) or the output (3)."""
    offset = np.int64(0)
    outer = args[13]
    for d in range(outer):
        at = 14 + 4 * d
        if d == outer - 1:
            offset += q * args[at + which]
        else:
            rest = q // args[at]
            offset += (q - rest * args[at]) * args[at + which]
            q = rest
    return offset


@njit(inline="always")
def gather_one(out, o, src, x, value, size, along, aux, mode, from_end):
    """One element; 1 if its index was bad."""
    j = resolve(value, size, mode, from_end)
    bad = U(0)
    inside = True
    if mode == RAISE:
        if j >= size:
            bad = U(1)
            j = U(0)
    elif mode == FILL:
        inside = j < size
    out[o] = src[x + j * along] if inside else aux[U(0)]
    return bad


@njit(inline="always")
def until_line(out, o, itemsize):
    """How many items from ``out[o]`` the next cache line starts; more than there are if never."""
    off = (address(out) + o * itemsize) & U(63)
    return ((U(64) - off) & U(63)) // itemsize


@njit(inline="always")
def gather_run(out, o, src, x, idx, i, n, size, along, step, aux, mode, from_end, itemsize, nt):
    """``n`` elements whose indices and outputs are neighbours; not 0 if an index was bad.

    16 at a time where one instruction can gather them.
    """
    bad = U(0)
    k = U(0)
    if (itemsize == 4 or itemsize == 8) and (mode == RAISE or mode == FILL):
        if (address(out) + o * U(itemsize)) & U(63):
            nt = U(0)  # whatever gets to the next line costs more than the caches do
        fill = U(1) if mode == FILL else U(0)
        while k + U(16) <= n:
            prefetch(idx, i + k + U(AHEAD))
            prefetch(idx, i + k + U(AHEAD + 8))
            flags = gather_block(
                out, o + k, src, x + k * step, idx, i + k, size, along, step, aux, fill,
                U(from_end), nt,
            )  # fmt: skip
            if mode == RAISE:
                bad |= flags
            k += U(16)
            if nt == U(0) and k < n and k + U(16) > n:
                k = n - U(16)  # a few elements twice: cheaper than the rest one by one
    else:
        narrow = LITTLE and (itemsize == 1 or itemsize == 2) and (mode == RAISE or mode == FILL)
        if narrow and step == U(0) and along == U(1) and size * U(itemsize) >= U(4):
            fill = U(1) if mode == FILL else U(0)
            while k + U(16) <= n:
                prefetch(idx, i + k + U(2 * AHEAD))
                prefetch(idx, i + k + U(2 * AHEAD + 8))
                flags = gather_narrow_block(
                    out, o + k, src, x, idx, i + k, size, aux, fill, U(from_end)
                )
                if mode == RAISE:
                    bad |= flags
                k += U(16)
        while k + U(8) <= n:
            prefetch(idx, i + k + U(2 * AHEAD))
            for t in range(8):
                e = k + U(t)
                bad |= gather_one(
                    out, o + e, src, x + e * step, idx[i + e], size, along, aux, mode, from_end
                )
            k += U(8)
    while k < n:
        bad |= gather_one(
            out, o + k, src, x + k * step, idx[i + k], size, along, aux, mode, from_end
        )
        k += U(1)
    return bad


def make_gather(mode, from_end, form, itemsize):
    """Element by element, along the innermost axis."""

    def gather_elements(out, src, idx, aux, args, lo, hi):
        size = U(args[0])
        along = U(args[2])
        B = args[3]
        xb, ib, ob = U(args[4]), U(args[5]), U(args[6])
        M = args[7]
        nt = U(args[11])
        step = U(1) if form == MIDDLE else U(0)
        bad = U(0)
        p = lo
        while p < hi:
            q = p // (B * M)
            m = (p - q * B * M) // B
            b = p - q * B * M - m * B
            x0 = outer_offset(args, 1, q)
            i0 = outer_offset(args, 2, q)
            o0 = outer_offset(args, 3, q)
            while m < M and p < hi:
                n = min(B - b, hi - p)
                x = U(x0 + m * args[8])
                i = U(i0 + m * args[9])
                o = U(o0 + m * args[10])
                if form == STRIDED:
                    for k in range(U(b), U(b + n)):
                        bad |= gather_one(
                            out, o + k * ob, src, x + k * xb, idx[i + k * ib],
                            size, along, aux, mode, from_end,
                        )  # fmt: skip
                else:
                    f = U(b)
                    bad |= gather_run(
                        out, o + f, src, x + f * step, idx, i + f, U(n),
                        size, along, step, aux, mode, from_end, itemsize, nt,
                    )  # fmt: skip
                p += n
                b = np.int64(0)
                m += 1
        if nt:
            fence()
        return np.int64(bad != U(0))

    return gather_elements


def make_panel_gather(mode, from_end, itemsize):
    """Along an axis whose steps are far apart in memory, a panel of W neighbours at a time.

    B runs along input, index and output alike, M along the gathered dimension. A panel of the
    input is first copied together, where the second-level cache holds it: read in place, its rows
    would fall into the same few sets of that cache, and each index would touch a new page. One
    position of the range is one panel of one outer position; panels begin with a cache line of the
    output, so there is one more of them, and the first may be empty.
    """

    def gather_panels(out, src, idx, aux, args, lo, hi):
        size = U(args[0])
        along = U(args[2])
        B = U(args[3])
        M = U(args[7])
        im, om = U(args[9]), U(args[10])
        nt = U(args[11])
        W = U(args[12])
        panels = (B + W - U(1)) // W + U(1)
        buffer = allocate(src, size * W * U(itemsize))
        staged = address(buffer) != U(0)
        bad = U(0)
        for p in range(U(lo), U(hi)):
            q = p // panels
            x = U(outer_offset(args, 1, np.int64(q)))
            i = U(outer_offset(args, 2, np.int64(q)))
            o = U(outer_offset(args, 3, np.int64(q)))
            head = min(until_line(out, o, U(itemsize)), W) % W
            c = p - q * panels
            end = min(head + c * W, B)
            b = U(0) if c == U(0) else min(head + (c - U(1)) * W, B)
            n = end - b
            if n == U(0):
                continue
            if staged:
                for j in range(size):
                    for k in range(n):
                        buffer[j * W + k] = src[x + j * along + b + k]
            for m in range(M):
                here = i + m * im + b
                soon = here + U(ROWS_AHEAD) * im
                for k in range(U(0), n, U(8)):
                    prefetch(idx, soon + k)
                if staged:
                    bad |= gather_run(
                        out, o + m * om + b, buffer, U(0), idx, here, n,
                        size, W, U(1), aux, mode, from_end, itemsize, nt,
                    )  # fmt: skip
                else:
                    bad |= gather_run(
                        out, o + m * om + b, src, x + b, idx, here, n,
                        size, along, U(1), aux, mode, from_end, itemsize, nt,
                    )  # fmt: skip
        if staged:
            release(buffer)
        if nt:
            fence()
        return np.int64(bad != U(0))

    return gather_panels


def make_lane_gather(mode, from_end, itemsize):
    """Along an axis that is innermost in index and output, but not in the input.

    W lanes of the input at a time are first copied so that each lies together: they are neighbours
    in memory, so a cache line of the input is read once and not once for every index. One position
    of the range is W lanes of one outer position.
    """

    def gather_lanes(out, src, idx, aux, args, lo, hi):
        size = U(args[0])
        along = U(args[2])
        B = U(args[3])
        M = U(args[7])
        xm, im, om = U(args[8]), U(args[9]), U(args[10])
        nt = U(args[11])
        W = U(args[12])
        groups = (M + W - U(1)) // W
        # A line more, so that lanes of a power of two do not meet in one set of the cache.
        lane = size + U(64) // U(itemsize)
        buffer = allocate(src, lane * W * U(itemsize))
        staged = address(buffer) != U(0)
        bad = U(0)
        for p in range(U(lo), U(hi)):
            q = p // groups
            x = U(outer_offset(args, 1, np.int64(q)))
            i = U(outer_offset(args, 2, np.int64(q)))
            o = U(outer_offset(args, 3, np.int64(q)))
            first = (p - q * groups) * W
            last = min(first + W, M)
            if staged:
                for j in range(size):
                    for m in range(first, last):
                        buffer[(m - first) * lane + j] = src[x + j * along + m * xm]
            for m in range(first, last):
                if staged:
                    bad |= gather_run(
                        out, o + m * om, buffer, (m - first) * lane, idx, i + m * im, B,
                        size, U(1), U(0), aux, mode, from_end, itemsize, nt,
                    )  # fmt: skip
                else:
                    bad |= gather_run(
                        out, o + m * om, src, x + m * xm, idx, i + m * im, B,
                        size, along, U(0), aux, mode, from_end, itemsize, nt,
                    )  # fmt: skip
        if staged:
            release(buffer)
        if nt:
            fence()
        return np.int64(bad != U(0))

    return gather_lanes


@njit(inline="always")
def copy_row(out, o, src, x, count, nt):
    """memcpy, or line by line past the caches."""
    if nt and count >= U(256):
        head = (U(64) - (address(out) + o)) & U(63)
        copy_bytes(out, o, src, x, head)
        k = head
        while k + U(64) <= count:
            stream_line(out, o + k, src, x + k)
            k += U(64)
        copy_bytes(out, o + k, src, x + k, count - k)
    else:
        copy_bytes(out, o, src, x, count)


def make_gather_rows(mode, from_end):
    def gather_rows(out, src, idx, aux, args, lo, hi):
        # B is the bytes of a row, strides of input and output are in bytes, and there is one index
        # a row. `limit` is what an index must be below unless it is -1; from `size` on, a row is
        # copied from aux.
        size = U(args[0])
        limit = args[1]
        along = U(args[2])
        B = args[3]
        M = args[7]
        nt = U(args[11])
        bad = U(0)
        p = lo
        while p < hi:
            q = p // (B * M)
            m = (p - q * B * M) // B
            b = p - q * B * M - m * B
            x0 = outer_offset(args, 1, q)
            i0 = outer_offset(args, 2, q)
            o0 = outer_offset(args, 3, q)
            while m < M and p < hi:
                if m + SOON < M:
                    # Any value will do for a prefetch, a bad index too.
                    soon = U(idx[U(i0 + (m + SOON) * args[9])]) * along
                    soon += U(x0 + (m + SOON) * args[8])
                    for line in range(U(0), min(U(B), U(1024)), U(64)):
                        prefetch(src, soon + line)
                count = min(B, b + hi - p) - b
                j = resolve(idx[U(i0 + m * args[9])], size, mode, from_end)
                to = U(o0 + m * args[10] + b)
                if j < size:
                    copy_row(out, to, src, U(x0 + m * args[8] + b) + j * along, U(count), nt)
                else:
                    if limit >= 0 and j >= U(limit):
                        bad += U(1)
                    if mode == FILL:
                        copy_bytes(out, to, aux, U(b), U(count))
                p += count
                b = np.int64(0)
                m += 1
        if nt:
            fence()
        return np.int64(bad)

    return gather_rows
