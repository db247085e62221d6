"""Noise: the words of samples, and what is made of them."""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels import scalar
from nbgather.kernels.cpu.intrinsics import (
    address,
    copy_bytes,
    uint8_at,
    uint32_at,
    words_on_stack,
)

U = np.uint64

philox4x32 = scalar.philox4x32
unit_float = scalar.unit_float

#: Tokens up to which samples are drawn side by side: there are too few blocks of one sample for a
#: vector. And how many samples at a time.
FEW_TOKENS, SIDE_BY_SIDE = 31, 64
_words_side_by_side = words_on_stack(2 * SIDE_BY_SIDE)


@njit(inline="always")
def draw(words, block, length, sample, epoch, k0, k1, shift):
    """A sample's words from a block on, shifted right; up to 3 more than ``length`` are written."""
    low = U(0xFFFFFFFF)
    for q in range((length + U(3)) // U(4)):
        w0, w1, w2, w3 = philox4x32((block + q) & low, sample & low, sample >> U(32), epoch, k0, k1)
        words[q * U(4)] = np.uint32(w0 >> shift)
        words[q * U(4) + U(1)] = np.uint32(w1 >> shift)
        words[q * U(4) + U(2)] = np.uint32(w2 >> shift)
        words[q * U(4) + U(3)] = np.uint32(w3 >> shift)


@njit(inline="always")
def draw_block(drawn, block, idx, first, count, implied, epoch, k0, k1):
    """The words of one block of some samples: word w of sample i at ``w * SIDE_BY_SIDE + i``."""
    low = U(0xFFFFFFFF)
    for i in range(count):
        sample = first + i if implied else U(idx[first + i])
        w0, w1, w2, w3 = philox4x32(block, sample & low, sample >> U(32), epoch, k0, k1)
        drawn[i] = np.uint32(w0)
        drawn[U(SIDE_BY_SIDE) + i] = np.uint32(w1)
        drawn[U(2 * SIDE_BY_SIDE) + i] = np.uint32(w2)
        drawn[U(3 * SIDE_BY_SIDE) + i] = np.uint32(w3)


@njit(inline="always")
def draw_rows(words, length, idx, first, count, implied, epoch, k0, k1, shift):
    """The words of some samples of few tokens, one sample after the other, shifted right."""
    drawn = uint32_at(U(_words_side_by_side()))
    done = U(0)
    while done < count:
        samples = min(U(SIDE_BY_SIDE), count - done)
        for q in range((length + U(3)) // U(4)):
            draw_block(drawn, q, idx, first + done, samples, implied, epoch, k0, k1)
            for w in range(min(U(4), length - q * U(4))):
                for i in range(samples):
                    at = (done + i) * length + q * U(4) + w
                    words[at] = np.uint32(drawn[w * U(SIDE_BY_SIDE) + i] >> shift)
        done += samples


def token_noise_range(out, src, idx, aux, args, lo, hi):
    """Rows ``lo`` to ``hi`` of the noise: args = [num_tokens, epoch, key low, key high, frames].

    A row is so many times the sample's noise.
    """
    tokens = U(args[0])
    epoch, k0, k1 = U(args[1]), U(args[2]), U(args[3])
    blocks, frames = tokens // U(4), U(args[4])
    low = U(0xFFFFFFFF)
    first = U(lo)
    if tokens <= U(FEW_TOKENS) and frames == U(1):
        while first < U(hi):
            count = min(U(SIDE_BY_SIDE), U(hi) - first)
            words = uint32_at(address(out) + U(4) * first * tokens)
            draw_rows(words, tokens, idx, first, count, False, epoch, k0, k1, U(8))
            for k in range(count * tokens):
                out[first * tokens + k] = np.float32(np.int32(words[k])) * np.float32(2.0**-24)
            first += count
    for n in range(first, U(hi)):
        sample = U(idx[n])
        row = n * tokens * frames
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
        frame = U(4) * tokens
        rows = uint8_at(address(out) + U(4) * row)
        for f in range(U(1), frames):
            copy_bytes(rows, f * frame, rows, U(0), frame)
    return 0
