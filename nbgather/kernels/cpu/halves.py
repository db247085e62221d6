"""Scores of 16 bits as float32 in the same order, by integers alone.

No arithmetic on the scores: subnormal ones count whatever the processor's mode.
"""

from __future__ import annotations

import numpy as np

MAGNITUDE, SIGN = np.int32(0x7FFF), np.int32(0x8000)


def order_of_halves(out, src, idx, aux, args, lo, hi):
    """Numbers in the order of scores: -0 equals 0, NaN comes last. args = [infinity's bits]."""
    infinity = np.int32(args[0])
    for k in range(np.uint64(lo), np.uint64(hi)):
        bits = np.int32(src[k])
        size = bits & MAGNITUDE
        signed = -size if bits & SIGN else size
        out[k] = np.float32(SIGN if size > infinity else signed)
    return 0
