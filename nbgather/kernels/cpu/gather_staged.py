"""Gathers that first copy parts of the input together, where it is read many times from afar.

``args`` is as in :mod:`nbgather.kernels.cpu.gather`.
"""

from __future__ import annotations

import numpy as np

from nbgather.kernels.cpu.gather import OUTER, gather_run, make_blocks, outer_offset, until_line
from nbgather.kernels.cpu.intrinsics import address, allocate, fence, prefetch, release

U = np.uint64

#: How far ahead of its use the index is prefetched, in rows of a panel.
INDEX_PREFETCH_ROWS = 8


def make_panel_gather(mode, from_end, itemsize, method, streams):
    """The kernel for a dimension with a large stride: a panel of W neighbours at a time.

    B is contiguous in input, index and output, M runs along the gathered dimension. A panel of the
    input is first copied into a buffer that the second-level cache holds: read in place, its rows
    would compete for the same few sets of that cache, and each index would touch another page. One
    position of the range is one panel of one outer position. Panels start at cache lines of the
    output, so there is one more than B / W, and the first may be empty.
    """

    block, block_across, narrow_block = make_blocks(mode, from_end, method, streams)

    def gather_panels(out, src, idx, aux, args, lo, hi):
        size = U(args[0])
        limit = U(args[1])
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
            part = buffer if staged else src
            first, stride = (U(0), W) if staged else (x + b, along)
            for m in range(M):
                row = i + m * im + b
                ahead = row + U(INDEX_PREFETCH_ROWS) * im
                for k in range(U(0), n, U(8)):
                    prefetch(idx, ahead + k)
                bad |= gather_run(
                    out, o + m * om + b, part, first, idx, row, n, U(0), n, U(1), U(0),
                    size, limit, stride, aux, mode, from_end, itemsize, method, streams,
                    U(0), U(0), False, block, block_across, narrow_block,
                )  # fmt: skip
        if staged:
            release(buffer)
        if nt:
            fence()
        return np.int64(bad != U(0) and args[1] >= 0)

    return gather_panels


def make_lane_gather(mode, from_end, itemsize, method, streams):
    """The kernel for a dimension that is innermost in index and output, but not in the input.

    W neighbouring lanes of the input at a time are first copied so that each is contiguous: a cache
    line of the input is then read once, not once for every index. One position of the range is W
    lanes of one outer position.
    """

    block, block_across, narrow_block = make_blocks(mode, from_end, method, streams)

    def gather_lanes(out, src, idx, aux, args, lo, hi):
        size = U(args[0])
        limit = U(args[1])
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
            part = buffer if staged else src
            stride = U(1) if staged else along
            for m in range(first, last):
                start = (m - first) * lane if staged else x + m * xm
                bad |= gather_run(
                    out, o + m * om, part, start, idx, i + m * im, B, U(0), B, U(0), U(0),
                    size, limit, stride, aux, mode, from_end, itemsize, method, streams,
                    U(0), U(0), False, block, block_across, narrow_block,
                )  # fmt: skip
        if staged:
            release(buffer)
        if nt:
            fence()
        return np.int64(bad != U(0) and args[1] >= 0)

    return gather_lanes
