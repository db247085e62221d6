"""The kernel that gathers from an input that is split into chunks along the dimension.

``args`` = [size, chunks, B, K, each] and for each chunk [end, length, offset]: where it ends along
the dimension, its length there, and the items from ``src``, the first chunk, to its memory. All are
C-contiguous, `[A, length, B]`; the result is `[A, K, B]`. With ``each`` every item has its own
index, else every row of B has one. Position p of the range is row p of the result.
"""

from __future__ import annotations

import numpy as np

from nbgather.kernels import scalar
from nbgather.kernels.constants import FILL, RAISE

U = np.uint64

resolve = scalar.resolve


def make_gather_chunks(mode, from_end):
    def gather_chunks(out, src, idx, aux, args, lo, hi):
        size, chunks, B, K = U(args[0]), args[1], U(args[2]), U(args[3])
        each = args[4]
        bad = U(0)
        # The chunk of the previous index, which often holds the next one too.
        start, end, length, offset = U(0), U(0), U(0), U(0)
        for p in range(U(lo), U(hi)):
            a = p // K
            indices = B if each else U(1)
            for e in range(indices):
                j = resolve(idx[p * indices + e], size, mode, from_end)
                if j >= size:
                    if mode == RAISE:
                        bad = U(1)
                    elif mode == FILL:
                        for b in range(e, e + U(1) if each else B):
                            out[p * B + b] = aux[U(0)]
                    continue
                if j < start or j >= end:
                    low, high = 0, chunks - 1
                    while low < high:
                        middle = (low + high) // 2
                        if U(args[5 + 3 * middle]) <= j:
                            low = middle + 1
                        else:
                            high = middle
                    end = U(args[5 + 3 * low])
                    length = U(args[6 + 3 * low])
                    offset = U(args[7 + 3 * low])
                    start = end - length
                s = offset + (a * length + j - start) * B
                for b in range(e, e + U(1) if each else B):
                    out[p * B + b] = src[s + b]
        return np.int64(bad)

    return gather_chunks
