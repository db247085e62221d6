"""The masking kernels: noise, ranks, and a whole masking by seed in one pass."""

from __future__ import annotations

import numpy as np

from nbgather.backends import scalar
from nbgather.backends._gather import copy_row
from nbgather.backends._intrinsics import fence, float32_at, int64_at

U = np.uint64

philox4x32 = scalar.philox4x32
unit_float = scalar.unit_float
key_f4 = scalar.key_f4
key_f8 = scalar.key_f8


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


def make_rank(width):
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


def seeded_masking_range(out, src, idx, aux, args, lo, hi):
    """Samples ``lo`` to ``hi``: noise, ranks, mask, and the visible tokens, one after the other.

    args = [L, K, epoch, key low, key high, row, x's strides of N and L, the addresses of ids_keep,
    ids_restore and mask, bits, nt]. out: x_masked, src: x, both in bytes; idx: the sample ids. With
    row 0 no tokens are copied; with ids_keep 0 it is not written.

    The noise is even over its 24 bits, so one pass into at least as many buckets as there are
    tokens leaves them all but sorted, and an insertion sort ends it in linear time. Noise and
    token are one number, so equal noise leaves the lower token first.
    """
    L, K = U(args[0]), U(args[1])
    epoch, k0, k1 = U(args[2]), U(args[3]), U(args[4])
    row, xn, xl = U(args[5]), U(args[6]), U(args[7])
    keep, restore, mask = int64_at(U(args[8])), int64_at(U(args[9])), float32_at(U(args[10]))
    shift = U(24) - U(args[11])
    nt = U(args[12])
    blocks = (L + U(3)) // U(4)
    low = U(0xFFFFFFFF)
    words = np.empty(blocks * U(4), np.uint32)
    ranked = np.empty(L, np.uint64)
    counts = np.empty(U(1) << U(args[11]), np.uint32)
    for n in range(U(lo), U(hi)):
        sample = U(idx[n])
        for q in range(blocks):
            w0, w1, w2, w3 = philox4x32(q, sample & low, sample >> U(32), epoch, k0, k1)
            words[q * U(4)] = w0 >> U(8)
            words[q * U(4) + U(1)] = w1 >> U(8)
            words[q * U(4) + U(2)] = w2 >> U(8)
            words[q * U(4) + U(3)] = w3 >> U(8)
        counts[:] = np.uint32(0)
        for t in range(L):
            counts[U(words[t]) >> shift] += np.uint32(1)
        total = np.uint32(0)
        for v in range(U(counts.size)):
            here = counts[v]
            counts[v] = total
            total += here
        for t in range(L):
            bucket = U(words[t]) >> shift
            ranked[counts[bucket]] = (U(words[t]) << U(32)) | t
            counts[bucket] += np.uint32(1)
        for filled in range(U(1), L):
            item = ranked[filled]
            at = U(filled)
            while at > U(0) and ranked[at - U(1)] > item:
                ranked[at] = ranked[at - U(1)]
                at -= U(1)
            ranked[at] = item
        for r in range(L):
            token = ranked[r] & low
            restore[n * L + token] = np.int64(r)
            mask[n * L + token] = np.float32(0) if r < K else np.float32(1)
        if args[8] != 0:
            for r in range(K):
                keep[n * K + r] = np.int64(ranked[r] & low)
        if row != U(0):
            for r in range(K):
                token = ranked[r] & low
                copy_row(out, (n * K + r) * row, src, n * xn + token * xl, row, nt)
    if nt:
        fence()
    return 0
