"""Noise: the words of samples, and what is made of them."""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels import scalar
from nbgather.kernels.cpu.intrinsics import address, copy_bytes, uint8_at

U = np.uint64

philox4x32 = scalar.philox4x32
unit_float = scalar.unit_float


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


def token_noise_range(out, src, idx, aux, args, lo, hi):
    """Rows ``lo`` to ``hi`` of the noise: args = [num_tokens, epoch, key low, key high, frames].

    A row is so many times the sample's noise.
    """
    tokens = U(args[0])
    epoch, k0, k1 = U(args[1]), U(args[2]), U(args[3])
    blocks, frames = tokens // U(4), U(args[4])
    low = U(0xFFFFFFFF)
    for n in range(U(lo), U(hi)):
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
