"""The masking kernels: noise, and a whole masking in one pass."""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels import scalar
from nbgather.kernels.cpu.gather_rows import INPUT_PREFETCH_BYTES, INPUT_PREFETCH_ROWS, copy_row
from nbgather.kernels.cpu.intrinsics import (
    address,
    allocate,
    fence,
    float32_at,
    int64_at,
    prefetch,
    release,
    uint32_at,
    uint64_at,
)

U = np.uint64

philox4x32 = scalar.philox4x32
unit_float = scalar.unit_float
key_f4 = scalar.key_f4
key_f8 = scalar.key_f8

#: Where the scores of a masking come from: drawn by seed, or given as float32 or float64.
SEED, FLOAT32, FLOAT64 = range(3)

#: The arguments of a masking kernel, in the order of its ``args``. ``keep`` (0: not written),
#: ``restore``, ``mask`` and ``counts`` are addresses; with ``counts`` (0: none) each sample keeps
#: its own number of tokens, and ``kept`` is the largest. Bytes: ``row`` (0: no tokens are copied),
#: and x's strides ``x_n`` and ``x_l``. With ``implied`` the sample ids are 0, 1, ...
MASKING_ARGS = (
    "length", "kept", "epoch", "key_low", "key_high", "row", "x_n", "x_l", "keep", "restore",
    "mask", "bits", "nt", "counts", "implied",
)  # fmt: skip


@njit(inline="always")
def draw(words, length, sample, epoch, k0, k1, shift):
    """A sample's words shifted right by ``shift``; up to 3 more than ``length`` are written."""
    low = U(0xFFFFFFFF)
    for q in range((length + U(3)) // U(4)):
        w0, w1, w2, w3 = philox4x32(q, sample & low, sample >> U(32), epoch, k0, k1)
        words[q * U(4)] = np.uint32(w0 >> shift)
        words[q * U(4) + U(1)] = np.uint32(w1 >> shift)
        words[q * U(4) + U(2)] = np.uint32(w2 >> shift)
        words[q * U(4) + U(3)] = np.uint32(w3 >> shift)


def token_noise_range(out, src, idx, aux, args, lo, hi):
    """Rows ``lo`` to ``hi`` of the noise: args = [num_tokens, epoch, key low, key high]."""
    tokens = U(args[0])
    epoch, k0, k1 = U(args[1]), U(args[2]), U(args[3])
    blocks = tokens // U(4)
    low = U(0xFFFFFFFF)
    for n in range(U(lo), U(hi)):
        sample = U(idx[n])
        row = n * tokens
        for q in range(blocks):
            w0, w1, w2, w3 = philox4x32(q, sample & low, sample >> U(32), epoch, k0, k1)
            out[row + q * U(4)] = unit_float(w0)
            out[row + q * U(4) + U(1)] = unit_float(w1)
            out[row + q * U(4) + U(2)] = unit_float(w2)
            out[row + q * U(4) + U(3)] = unit_float(w3)
        rest = tokens - blocks * U(4)
        if rest > U(0):
            w0, w1, w2, w3 = philox4x32(blocks, sample & low, sample >> U(32), epoch, k0, k1)
            out[row + blocks * U(4)] = unit_float(w0)
            if rest > U(1):
                out[row + blocks * U(4) + U(1)] = unit_float(w1)
            if rest > U(2):
                out[row + blocks * U(4) + U(2)] = unit_float(w2)
    return 0


@njit(inline="always")
def rank_even(words, ranked, counts, length, bits):
    """Rank 24-bit words that are spread evenly, into ``word << 32 | token``.

    One pass into at least as many buckets as there are tokens leaves them almost sorted, and an
    insertion sort finishes in linear time. Word and token are one number, so of equal words the
    lower token comes first.
    """
    shift = U(24) - bits
    for v in range(U(1) << bits):
        counts[v] = np.uint32(0)
    for t in range(length):
        counts[U(words[t]) >> shift] += np.uint32(1)
    total = np.uint32(0)
    for v in range(U(1) << bits):
        count = counts[v]
        counts[v] = total
        total += count
    for t in range(length):
        bucket = U(words[t]) >> shift
        ranked[U(counts[bucket])] = (U(words[t]) << U(32)) | t
        counts[bucket] += np.uint32(1)
    for filled in range(U(1), length):
        item = ranked[filled]
        slot = U(filled)
        while slot > U(0) and ranked[slot - U(1)] > item:
            ranked[slot] = ranked[slot - U(1)]
            slot -= U(1)
        ranked[slot] = item


@njit(inline="always")
def radix_pass(ranked, other, keys, counts, length, digit, wide):
    """Sort stably by one digit of eight bits; False if all items have the same, and nothing moved.

    The digit is one of the item's upper half, or with ``wide`` of the key of its token.
    """
    shift = digit * U(8) + (U(0) if wide else U(32))
    low = U(0xFFFFFFFF)
    for v in range(U(256)):
        counts[v] = np.uint32(0)
    for t in range(length):
        key = keys[ranked[t] & low] if wide else ranked[t]
        counts[(key >> shift) & U(255)] += np.uint32(1)
    key = keys[ranked[U(0)] & low] if wide else ranked[U(0)]
    if U(counts[(key >> shift) & U(255)]) == length:
        return False
    total = np.uint32(0)
    for v in range(U(256)):
        count = counts[v]
        counts[v] = total
        total += count
    for t in range(length):
        key = keys[ranked[t] & low] if wide else ranked[t]
        v = (key >> shift) & U(255)
        other[U(counts[v])] = ranked[t]
        counts[v] += np.uint32(1)
    return True


def make_masking(source):
    """The kernel of a whole masking: scores, ranks, mask and visible tokens, sample by sample."""

    def masking(out, src, idx, aux, args, lo, hi):
        # out: x_masked, src: x, both in bytes; idx: the sample ids, aux: the scores' bits.
        length, kept = U(args[0]), U(args[1])
        epoch, k0, k1 = U(args[2]), U(args[3]), U(args[4])
        row, x_n, x_l = U(args[5]), U(args[6]), U(args[7])
        keep, restore, mask = int64_at(U(args[8])), int64_at(U(args[9])), float32_at(U(args[10]))
        bits, nt = U(args[11]), U(args[12])
        kept_counts = int64_at(U(args[13]))
        low = U(0xFFFFFFFF)
        # One allocation: two buffers of items, the words or the wide keys, and the buckets.
        buckets = max(U(1) << bits, U(256))
        memory = allocate(uint64_at(U(0)), U(8) * (U(3) * length + U(2)) + U(4) * buckets)
        start = address(memory)
        if start == U(0):
            return 1
        ranked, other = memory, uint64_at(start + U(8) * length)
        keys = uint64_at(start + U(16) * length)
        words = uint32_at(start + U(16) * length)
        counts = uint32_at(start + U(8) * (U(3) * length + U(2)))
        for n in range(U(lo), U(hi)):
            if source == SEED:
                sample = n if args[14] != 0 else U(idx[n])
                draw(words, length, sample, epoch, k0, k1, U(8))
                rank_even(words, ranked, counts, length, bits)
            elif source == FLOAT32:
                for t in range(length):
                    ranked[t] = (U(key_f4(aux[n * length + t])) << U(32)) | t
                for digit in range(U(4)):
                    if radix_pass(ranked, other, keys, counts, length, digit, False):
                        ranked, other = other, ranked
            else:
                for t in range(length):
                    ranked[t] = t
                    keys[t] = key_f8(aux[n * length + t])
                for digit in range(U(8)):
                    if radix_pass(ranked, other, keys, counts, length, digit, True):
                        ranked, other = other, ranked
            visible = U(kept_counts[n]) if args[13] != 0 else kept
            for r in range(length):
                token = ranked[r] & low
                restore[n * length + token] = np.int64(r)
                mask[n * length + token] = np.float32(0) if r < visible else np.float32(1)
            if args[8] != 0:
                for r in range(kept):
                    keep[n * kept + r] = np.int64(ranked[r] & low) if r < visible else np.int64(-1)
            if row != U(0):
                for r in range(visible):
                    later = r + U(INPUT_PREFETCH_ROWS)
                    if later < visible:
                        ahead = n * x_n + (ranked[later] & low) * x_l
                        for line in range(U(0), min(row, U(INPUT_PREFETCH_BYTES)), U(64)):
                            prefetch(src, ahead + line)
                    token = ranked[r] & low
                    copy_row(out, (n * kept + r) * row, src, n * x_n + token * x_l, row, nt)
                for b in range((n * kept + visible) * row, (n + U(1)) * kept * row):
                    out[b] = np.uint8(0)
        release(memory)
        if nt:
            fence()
        return 0

    return masking
