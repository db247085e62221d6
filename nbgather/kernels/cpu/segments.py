"""The kernel that reduces segments: rows that follow each other, from one offset to the next."""

from __future__ import annotations

import numpy as np

from nbgather.kernels.cpu.folds import divider, folder, identity, number_type, run_folder
from nbgather.kernels.cpu.reduce import LAST_COUNT, fill

U = np.uint64


def make_segment_reduce(reduce, kind):
    """``args`` = [B, T]: columns, and those of a tile. ``idx`` are the offsets, ``aux`` one number.

    That is what stands for a segment of no rows. A position of the range is a tile of a segment.
    """
    fold, first = folder(reduce, kind), identity(reduce, kind)
    fold_run, divide, of = run_folder(reduce, kind), divider(kind), number_type(kind)
    mean, last = reduce == "mean", U(LAST_COUNT.get(kind, 1 << 63))

    def reduce_segments(out, src, idx, aux, args, lo, hi):
        B, T = U(args[0]), U(args[1])
        tiles = (B + T - U(1)) // T
        empty = aux[U(0)]
        p = U(lo)
        while p < U(hi):
            a = p // tiles
            begin, end = U(idx[a]), U(idx[a + U(1)])
            if B == U(1) and p + U(4) <= U(hi):
                # Four in turns: a sum waits for the one before it.
                e1, e2 = U(idx[a + U(2)]), U(idx[a + U(3)])
                e3 = U(idx[a + U(4)])
                m = min(min(end - begin, e1 - end), min(e2 - e1, e3 - e2))
                t0, t1, t2, t3 = first, first, first, first
                for k in range(m):
                    t0 = fold(t0, src[begin + k])
                    t1 = fold(t1, src[end + k])
                    t2 = fold(t2, src[e1 + k])
                    t3 = fold(t3, src[e2 + k])
                out[p] = fold_run(t0, src, begin + m, end - begin - m)
                out[p + U(1)] = fold_run(t1, src, end + m, e1 - end - m)
                out[p + U(2)] = fold_run(t2, src, e1 + m, e2 - e1 - m)
                out[p + U(3)] = fold_run(t3, src, e2 + m, e3 - e2 - m)
                for k in range(U(4)):
                    count = U(idx[a + k + U(1)]) - U(idx[a + k])
                    if count == U(0):
                        out[p + k] = empty
                    elif mean:
                        out[p + k] = divide(out[p + k], of(min(count, last)))
                p += U(4)
                continue
            b = (p - a * tiles) * T
            n, o, count = min(T, B - b), a * B + b, end - begin
            if count == U(0):
                fill(out, o, n, empty)
            elif B == U(1):
                out[o] = fold_run(first, src, begin, count)
            else:
                for e in range(n):
                    out[o + e] = fold(first, src[begin * B + b + e])
                for r in range(begin + U(1), end):
                    for e in range(n):
                        out[o + e] = fold(out[o + e], src[r * B + b + e])
            if mean and count != U(0):
                number = of(min(count, last))
                for e in range(n):
                    out[o + e] = divide(out[o + e], number)
            p += U(1)
        return 0

    return reduce_segments
