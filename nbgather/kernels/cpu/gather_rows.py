"""Gathers of rows: a row is a run of bytes that has one index.

``args`` is as in :mod:`nbgather.kernels.cpu.gather`: B is the bytes of a row, strides of input and
output are in bytes. Unless ``limit`` is -1, an index must be below it; a row whose index is not
below ``size`` is filled from ``aux``.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from nbgather.kernels import scalar
from nbgather.kernels.constants import FILL, RAISE
from nbgather.kernels.cpu.gather import OUTER, outer_offset
from nbgather.kernels.cpu.intrinsics import (
    LINE_BYTES,
    address,
    at,
    copy_bytes,
    copy_overlapping,
    fence,
    prefetch,
    stream_line,
    uint8_at,
)

U = np.uint64

#: How far ahead of its copy a row of the input is prefetched, and how much of it at most.
INPUT_PREFETCH_ROWS = 3
INPUT_PREFETCH_BYTES = 1024
#: Of rows of a few lines: how many bytes ahead.
FETCHED_BYTES = 2048

resolve = scalar.resolve


@intrinsic
def copy_line(typingctx, dst, dst_offset, src, src_offset):
    """Copy as many bytes as a cache line has, between byte pointers of any alignment."""
    signature = types.void(dst, types.uint64, src, types.uint64)

    def codegen(context, builder, sig, values):
        line = ir.VectorType(ir.IntType(8), LINE_BYTES)
        loaded = builder.load(at(builder, values[2], values[3], line))
        loaded.align = 1
        builder.store(loaded, at(builder, values[0], values[1], line)).align = 1
        return context.get_dummy_value()

    return signature, codegen


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
    """The kernel of long rows; a position of the range is a byte, so that a row can be split."""

    def gather_rows(out, src, idx, aux, args, lo, hi):
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


@njit(inline="always")
def copy_lines(out, o, src, x, count):
    """Copy bytes, at least a cache line, line by line: the last two may overlap."""
    last = count - U(LINE_BYTES)
    for b in range(U(0), last, U(LINE_BYTES)):
        copy_line(out, o + b, src, x + b)
    copy_line(out, o + last, src, x + last)


def make_gather_short_rows(mode, from_end, width):
    """The kernel of rows that memcpy's call would take longer for; they are not streamed.

    Rows of at least ``width`` bytes, a power of two, and at most twice as many; or with 0 those of
    two cache lines to some dozen of them. A position of the range is a row.
    """
    copy = copy_overlapping(width) if width else copy_lines

    def gather_short_rows(out, src, idx, aux, args, lo, hi):
        size = U(args[0])
        limit = U(args[1])
        along = U(args[2])
        B = U(args[3])
        M = args[7]
        xm, im, om = U(args[8]), U(args[9]), U(args[10])
        source = address(src)
        far = U(FETCHED_BYTES) // B + U(1)
        fetched = width == 0 or width >= LINE_BYTES
        bad = U(0)
        p = lo
        while p < hi:
            q = p // M
            m = p - q * M
            n = U(min(M - m, hi - p))
            p += np.int64(n)
            x = U(outer_offset(args, OUTER, 1, q)) + U(m) * xm
            i = U(outer_offset(args, OUTER, 2, q)) + U(m) * im
            o = U(outer_offset(args, OUTER, 3, q)) + U(m) * om
            for k in range(n):
                if fetched and k + far < n:
                    # A prefetch may have any address, so the index needs no check.
                    ahead = x + (k + far) * xm + U(idx[i + (k + far) * im]) * along
                    for b in range(U(0), B, U(LINE_BYTES)):
                        prefetch(src, ahead + b)
                    if width:
                        prefetch(src, ahead + B - U(1))
                j = resolve(idx[i + k * im], size, mode, from_end)
                bad |= U(1) if j >= limit else U(0)
                if mode == FILL:
                    row = source + x + k * xm + j * along if j < size else address(aux)
                    copy(out, o + k * om, uint8_at(row), U(0), B)
                elif mode != RAISE or j < size:
                    copy(out, o + k * om, src, x + k * xm + j * along, B)
        return np.int64(bad != U(0) and args[1] >= 0)

    return gather_short_rows
