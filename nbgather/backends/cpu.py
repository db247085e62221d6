"""The CPU kernels: numbers and addresses in, bits moved, the number of bad indices out.

The layout of ``args`` for the gather kernels is made by :func:`nbgather._plan.plan_gather`::

    [size, limit, along, B, xb, ib, ob, M, xm, im, om, outer, (n, x, i, o) * outer]

``size`` is the length of the gathered dimension and ``along`` its stride in the input. ``B`` is
the innermost axis of the loop and ``M`` the next; the outer axes follow, innermost first. Each
axis has a length and three strides: input, index, output. All arithmetic on positions is in
uint64, since numba adds wraparound code to signed subscripts; a negative stride is right there
too, modulo 2**64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from nbgather._arrays import memory_address
from nbgather._plan import GatherPlan
from nbgather.backends import _compile, parallel, scalar
from nbgather.backends._intrinsics import copy_bytes
from nbgather.backends.scalar import FILL, RAISE

U = np.uint64

#: Forms of the innermost loop of an element gather.
LAST, MIDDLE, STRIDED = range(3)

INDEX_TYPES = {
    "i1": types.int8,
    "i2": types.int16,
    "i4": types.int32,
    "i8": types.int64,
    "u1": types.uint8,
    "u2": types.uint16,
    "u4": types.uint32,
    "u8": types.uint64,
}

resolve = scalar.resolve
philox4x32 = scalar.philox4x32
unit_float = scalar.unit_float
key_f4 = scalar.key_f4
key_f8 = scalar.key_f8


@njit(inline="always")
def outer_offset(args, which, q):
    """The offset of outer position ``q`` in the input (1), the index (2) or the output (3)."""
    offset = np.int64(0)
    outer = args[11]
    for d in range(outer):
        at = 12 + 4 * d
        if d == outer - 1:
            offset += q * args[at + which]
        else:
            rest = q // args[at]
            offset += (q - rest * args[at]) * args[at + which]
            q = rest
    return offset


def _make_gather(mode, from_end, form):
    def gather_elements(out, src, idx, aux, args, lo, hi):
        size = U(args[0])
        along = U(args[2])
        B = args[3]
        xb, ib, ob = U(args[4]), U(args[5]), U(args[6])
        M = args[7]
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
                end = min(B, b + hi - p)
                x = U(x0 + m * args[8])
                i = U(i0 + m * args[9])
                o = U(o0 + m * args[10])
                p += end - b
                for k in range(U(b), U(end)):
                    if form == STRIDED:
                        j = resolve(idx[i + k * ib], size, mode, from_end)
                    else:
                        j = resolve(idx[i + k], size, mode, from_end)
                    inside = True
                    if mode == RAISE:
                        if j >= size:
                            bad += U(1)
                            j = U(0)
                    elif mode == FILL:
                        inside = j < size
                    if form == LAST:
                        out[o + k] = src[x + j] if inside else aux[U(0)]
                    elif form == MIDDLE:
                        out[o + k] = src[x + j * along + k] if inside else aux[U(0)]
                    else:
                        out[o + k * ob] = src[x + j * along + k * xb] if inside else aux[U(0)]
                b = np.int64(0)
                m += 1
        return np.int64(bad)

    return gather_elements


def _make_gather_rows(mode, from_end):
    def gather_rows(out, src, idx, aux, args, lo, hi):
        # As above, with B the bytes of a row, strides of input and output in bytes, and one index
        # a row. `limit` is what an index must be
        # below unless it is -1; from `size` on, a row is copied from aux.
        size = U(args[0])
        limit = args[1]
        along = U(args[2])
        B = args[3]
        M = args[7]
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
                count = min(B, b + hi - p) - b
                j = resolve(idx[U(i0 + m * args[9])], size, mode, from_end)
                to = U(o0 + m * args[10] + b)
                if j < size:
                    copy_bytes(out, to, src, U(x0 + m * args[8] + b) + j * along, U(count))
                else:
                    if limit >= 0 and j >= U(limit):
                        bad += U(1)
                    if mode == FILL:
                        copy_bytes(out, to, aux, U(b), U(count))
                p += count
                b = np.int64(0)
                m += 1
        return np.int64(bad)

    return gather_rows


def token_noise_range(out, src, idx, aux, args, lo, hi):
    """Rows ``lo`` to ``hi`` of the noise: args = [num_tokens, epoch, key low, key high]."""
    tokens = U(args[0])
    epoch, k0, k1 = U(args[1]), U(args[2]), U(args[3])
    blocks = tokens // U(4)
    low = U(0xFFFFFFFF)
    for n in range(U(lo), U(hi)):
        sample = U(idx[n])
        at = n * tokens
        for q in range(blocks):
            w0, w1, w2, w3 = philox4x32(q, sample & low, sample >> U(32), epoch, k0, k1)
            out[at + q * U(4)] = unit_float(w0)
            out[at + q * U(4) + U(1)] = unit_float(w1)
            out[at + q * U(4) + U(2)] = unit_float(w2)
            out[at + q * U(4) + U(3)] = unit_float(w3)
        rest = tokens - blocks * U(4)
        if rest > U(0):
            w0, w1, w2, w3 = philox4x32(blocks, sample & low, sample >> U(32), epoch, k0, k1)
            out[at + blocks * U(4)] = unit_float(w0)
            if rest > U(1):
                out[at + blocks * U(4) + U(1)] = unit_float(w1)
            if rest > U(2):
                out[at + blocks * U(4) + U(2)] = unit_float(w2)
    return 0


def _make_rank(width):
    def rank_tokens(out, src, idx, aux, args, lo, hi):
        # Stable least-significant-digit radix sort of each row's keys, eight bits a pass.
        # out: ids_restore, src: score bits, idx: ids_keep, aux: mask; args = [L, K].
        L, K = U(args[0]), U(args[1])
        keys, ids = np.empty(L, np.uint64), np.empty(L, np.uint64)
        keys2, ids2 = np.empty(L, np.uint64), np.empty(L, np.uint64)
        counts = np.empty(width * 256, np.uint64)
        for n in range(U(lo), U(hi)):
            counts[:] = U(0)
            for t in range(L):
                key = U(key_f4(src[n * L + t])) if width == 4 else key_f8(src[n * L + t])
                keys[t] = key
                ids[t] = t
                for d in range(U(width)):
                    counts[d * U(256) + ((key >> (d * U(8))) & U(255))] += U(1)
            for d in range(U(width)):
                first = U(255) & (keys[U(0)] >> (d * U(8)))
                if counts[d * U(256) + first] == L:
                    continue  # every key has the same digit: nothing moves
                total = U(0)
                for v in range(d * U(256), (d + U(1)) * U(256)):
                    here = counts[v]
                    counts[v] = total
                    total += here
                for t in range(L):
                    v = d * U(256) + ((keys[t] >> (d * U(8))) & U(255))
                    to = counts[v]
                    counts[v] = to + U(1)
                    keys2[to] = keys[t]
                    ids2[to] = ids[t]
                keys, keys2 = keys2, keys
                ids, ids2 = ids2, ids
            for r in range(L):
                token = ids[r]
                out[n * L + token] = np.int64(r)
                if r < K:
                    idx[n * K + r] = np.int64(token)
                    aux[n * L + token] = np.float32(0)
                else:
                    aux[n * L + token] = np.float32(1)
        return 0

    return rank_tokens


_FORMS = {"last": LAST, "middle": MIDDLE, "strided": STRIDED}


def _gather_kernel(plan: GatherPlan) -> int:
    """The address of the kernel for a plan, compiled if it is not yet."""
    mode, from_end, index = scalar.MODES.index(plan.mode), plan.from_end, plan.index
    if plan.form == "rows":
        bits = types.uint8
        key: tuple[Any, ...] = ("gather_rows", index, mode, from_end)
        make = lambda: _make_gather_rows(mode, from_end)  # noqa: E731
    else:
        bits = _compile.BITS[plan.itemsize]
        key = ("gather", plan.itemsize, index, mode, from_end, plan.form)
        make = lambda: _make_gather(mode, from_end, _FORMS[plan.form])  # noqa: E731
    build = lambda: _compile.range_kernel(make(), bits, bits, INDEX_TYPES[index], bits)  # noqa: E731
    return _compile.once(key, build)[0]


def gather(plan: GatherPlan, out: int, src: int, idx: int, aux: int) -> int:
    """Gather by addresses; the number of bad indices."""
    kernel = plan.kernel
    if kernel is None:
        kernel = plan.kernel = _gather_kernel(plan)
    return parallel.run(kernel, out, src, idx, aux, plan.args, plan.count, plan.work)


def token_noise(args: tuple[int, int, int], ids: np.ndarray, out: np.ndarray) -> None:
    """Fill float32 ``out`` `[N, L]` for ``args`` = (epoch, key low, key high)."""
    u1 = types.uint8
    kernel, _ = _compile.once(
        "token_noise",
        lambda: _compile.range_kernel(token_noise_range, types.float32, u1, types.int64, u1),
    )
    numbers = np.array([out.shape[1], *args], np.int64)
    # A counter's ten rounds cost about what 40 bytes of copying do.
    work = out.size * 10
    parallel.run(
        kernel, memory_address(out), 0, memory_address(ids), 0, numbers, out.shape[0], work
    )


def rank_tokens(
    scores: np.ndarray, ids_keep: np.ndarray, ids_restore: np.ndarray, mask: np.ndarray
) -> None:
    """Rank contiguous float32 or float64 scores `[N, L]`."""
    width = scores.itemsize
    kernel, _ = _compile.once(
        ("rank_tokens", width),
        lambda: _compile.range_kernel(
            _make_rank(width), types.int64, _compile.BITS[width], types.int64, types.float32
        ),
    )
    numbers = np.array([scores.shape[1], ids_keep.shape[1]], np.int64)
    parallel.run(
        kernel,
        memory_address(ids_restore),
        memory_address(scores),
        memory_address(ids_keep),
        memory_address(mask),
        numbers,
        scores.shape[0],
        scores.nbytes * 16,
    )
