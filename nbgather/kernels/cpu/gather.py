"""The gather kernels. Each returns 0, or another number when an index was out of bounds.

The layout of ``args``, as :class:`nbgather.kernels.plans.GatherPlan` holds it::

    [size, limit, along, B, xb, ib, ob, M, xm, im, om, nt, W, outer, (n, x, i, o) * outer]

``size`` is the length of the gathered dimension and ``along`` its stride in the input. ``B`` is
the innermost axis of the loop and ``M`` the next; the outer axes follow, innermost first. Each
axis has a length and three strides: input, index, output. ``nt`` is 1 if the output is too large
for any cache, and is written with non-temporal stores. ``W`` is the width of a panel.

All arithmetic on positions is in uint64, since numba adds wraparound code to signed subscripts; a
negative stride is right as well, modulo 2**64.
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

#: `gather_narrow_block` shifts narrow items out of words, which is right on these machines only.
LITTLE_ENDIAN = sys.byteorder == "little"
#: Forms of the innermost loop of an element gather.
LAST, MIDDLE, STRIDED = range(3)
#: How far ahead of its use the index is prefetched, in elements of a run and in rows of a panel.
INDEX_PREFETCH_ITEMS = 128
INDEX_PREFETCH_ROWS = 4
#: How far ahead of its copy a row of the input is prefetched, and how much of it at most.
INPUT_PREFETCH_ROWS = 3
INPUT_PREFETCH_BYTES = 1024
#: The position of the number of outer axes in ``args``.
OUTER = 13

resolve = scalar.resolve


@njit(inline="always")
def outer_offset(args, first, operand, q):
    """The offset of position ``q`` of the outer axes in one operand.

    ``args[first]`` is the number of outer axes, a length and three strides for each of them
    follow, innermost axis first. ``operand`` is 1, 2 or 3: which of the strides.
    """
    offset = np.int64(0)
    outer = args[first]
    for d in range(outer):
        axis = first + 1 + 4 * d
        if d == outer - 1:
            offset += q * args[axis + operand]
        else:
            quotient = q // args[axis]
            offset += (q - quotient * args[axis]) * args[axis + operand]
            q = quotient
    return offset


@njit(inline="always")
def gather_one(out, o, src, x, value, size, along, aux, mode, from_end):
    """Gather one element; 1 if its index was out of bounds."""
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
    """The number of items from ``out[o]`` to the start of the next cache line."""
    past = (address(out) + o * itemsize) & U(63)
    return ((U(64) - past) & U(63)) // itemsize


@njit(inline="always")
def gather_run(out, o, src, x, idx, i, n, size, along, step, aux, mode, from_end, itemsize, nt):
    """Gather ``n`` elements whose indices and outputs are contiguous; not 0 if an index was bad.

    16 at a time where one instruction gathers them.
    """
    bad = U(0)
    k = U(0)
    if (itemsize == 4 or itemsize == 8) and (mode == RAISE or mode == FILL):
        if (address(out) + o * U(itemsize)) & U(63):
            nt = U(0)  # a scalar loop up to the next line costs more than the stores save
        fill = U(1) if mode == FILL else U(0)
        while k + U(16) <= n:
            prefetch(idx, i + k + U(INDEX_PREFETCH_ITEMS))
            prefetch(idx, i + k + U(INDEX_PREFETCH_ITEMS + 8))
            flags = gather_block(
                out, o + k, src, x + k * step, idx, i + k, size, along, step, aux, fill,
                U(from_end), nt,
            )  # fmt: skip
            if mode == RAISE:
                bad |= flags
            k += U(16)
            if nt == U(0) and k < n and k + U(16) > n:
                k = n - U(16)  # repeats a few elements: cheaper than the remainder one by one
    else:
        narrow = LITTLE_ENDIAN and itemsize <= 2 and (mode == RAISE or mode == FILL)
        if narrow and step == U(0) and along == U(1) and size * U(itemsize) >= U(4):
            fill = U(1) if mode == FILL else U(0)
            while k + U(16) <= n:
                prefetch(idx, i + k + U(2 * INDEX_PREFETCH_ITEMS))
                prefetch(idx, i + k + U(2 * INDEX_PREFETCH_ITEMS + 8))
                flags = gather_narrow_block(
                    out, o + k, src, x, idx, i + k, size, aux, fill, U(from_end)
                )
                if mode == RAISE:
                    bad |= flags
                k += U(16)
        while k + U(8) <= n:
            prefetch(idx, i + k + U(2 * INDEX_PREFETCH_ITEMS))
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
    """The kernel that goes element by element along the innermost axis."""

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
            x0 = outer_offset(args, OUTER, 1, q)
            i0 = outer_offset(args, OUTER, 2, q)
            o0 = outer_offset(args, OUTER, 3, q)
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
    """The kernel for a dimension with a large stride: a panel of W neighbours at a time.

    B is contiguous in input, index and output, M runs along the gathered dimension. A panel of the
    input is first copied into a buffer that the second-level cache holds: read in place, its rows
    would compete for the same few sets of that cache, and each index would touch another page. One
    position of the range is one panel of one outer position. Panels start at cache lines of the
    output, so there is one more than B / W, and the first may be empty.
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
            x = U(outer_offset(args, OUTER, 1, np.int64(q)))
            i = U(outer_offset(args, OUTER, 2, np.int64(q)))
            o = U(outer_offset(args, OUTER, 3, np.int64(q)))
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
                row = i + m * im + b
                ahead = row + U(INDEX_PREFETCH_ROWS) * im
                for k in range(U(0), n, U(8)):
                    prefetch(idx, ahead + k)
                if staged:
                    bad |= gather_run(
                        out, o + m * om + b, buffer, U(0), idx, row, n,
                        size, W, U(1), aux, mode, from_end, itemsize, nt,
                    )  # fmt: skip
                else:
                    bad |= gather_run(
                        out, o + m * om + b, src, x + b, idx, row, n,
                        size, along, U(1), aux, mode, from_end, itemsize, nt,
                    )  # fmt: skip
        if staged:
            release(buffer)
        if nt:
            fence()
        return np.int64(bad != U(0))

    return gather_panels


def make_lane_gather(mode, from_end, itemsize):
    """The kernel for a dimension that is innermost in index and output, but not in the input.

    W neighbouring lanes of the input at a time are first copied so that each is contiguous: a cache
    line of the input is then read once, not once for every index. One position of the range is W
    lanes of one outer position.
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
        # One cache line of padding, so that lanes of a power of two use different cache sets.
        lane = size + U(64) // U(itemsize)
        buffer = allocate(src, lane * W * U(itemsize))
        staged = address(buffer) != U(0)
        bad = U(0)
        for p in range(U(lo), U(hi)):
            q = p // groups
            x = U(outer_offset(args, OUTER, 1, np.int64(q)))
            i = U(outer_offset(args, OUTER, 2, np.int64(q)))
            o = U(outer_offset(args, OUTER, 3, np.int64(q)))
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
    """Copy bytes: memcpy, or with ``nt`` non-temporal stores line by line."""
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
        # B is the bytes of a row, strides of input and output are in bytes, each row has one index.
        # Unless `limit` is -1, an index must be below it; a row whose index is not below `size` is
        # filled from aux.
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
            x0 = outer_offset(args, OUTER, 1, q)
            i0 = outer_offset(args, OUTER, 2, q)
            o0 = outer_offset(args, OUTER, 3, q)
            while m < M and p < hi:
                later = m + INPUT_PREFETCH_ROWS
                if later < M:
                    # A prefetch may have any address, so the index needs no check.
                    ahead = U(idx[U(i0 + later * args[9])]) * along + U(x0 + later * args[8])
                    for line in range(U(0), min(U(B), U(INPUT_PREFETCH_BYTES)), U(64)):
                        prefetch(src, ahead + line)
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
