"""The scatter kernels: each lane along the dimension is walked in order by one thread.

So the last of several values for one place wins, and sums are added in row-major order of the
index, whatever the number of threads. The layout of ``args`` is made by
:func:`nbgather.engine.plan.plan_scatter`::

    [size, along, D, id, sd, B, xb, ib, sb, outer, (n, x, i, s) * outer]

``D`` is the index's length along the dimension, ``B`` the innermost axis of the lanes; the outer
axes follow, innermost first. Each has a length and three strides: result, index, src.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels.cpu.gather import copy_row
from nbgather.kernels.cpu.intrinsics import fence

U = np.uint64

#: What is done with a value: put in place, added, or combined as bools are.
SET, ADD, ANY = range(3)
#: Lanes that are walked together. Sums into one place wait for each other, those of other lanes do
#: not; the order within a lane is untouched.
TOGETHER = 4


@njit(inline="always")
def lane_offset(args, which, q):
    """The offset of outer position ``q`` in the result (1), the index (2) or src (3)."""
    offset = np.int64(0)
    outer = args[9]
    for d in range(outer):
        at = 10 + 4 * d
        if d == outer - 1:
            offset += q * args[at + which]
        else:
            rest = q // args[at]
            offset += (q - rest * args[at]) * args[at + which]
            q = rest
    return offset


@njit(inline="always")
def scatter_one(out, x, src, s, value, size, along, how):
    """One element; 1 if its index was bad, and then nothing is written."""
    j = U(value)
    if j >= size:
        return U(1)
    if how == SET:
        out[x + j * along] = src[s]
    elif how == ADD:
        out[x + j * along] += src[s]
    else:
        out[x + j * along] |= src[s]
    return U(0)


def make_scatter(how, rows):
    def scatter_lanes(out, src, idx, aux, args, lo, hi):
        size, along = U(args[0]), U(args[1])
        D, id_, sd = U(args[2]), U(args[3]), U(args[4])
        B = args[5]
        xb, ib, sb = U(args[6]), U(args[7]), U(args[8])
        bad = U(0)
        p = lo
        while p < hi:
            q = p // B
            b = U(p - q * B)
            n = U(min(B - np.int64(b), hi - p))
            p += np.int64(n)
            x = U(lane_offset(args, 1, q)) + b * xb
            i = U(lane_offset(args, 2, q)) + b * ib
            s = U(lane_offset(args, 3, q)) + b * sb
            if rows == 1:
                together = U(0) if how == SET else n // U(TOGETHER) * U(TOGETHER)
                for k in range(U(0), together, U(TOGETHER)):
                    for d in range(D):
                        for t in range(U(TOGETHER)):
                            e = k + t
                            bad |= scatter_one(
                                out, x + e * xb, src, s + e * sb + d * sd,
                                idx[i + e * ib + d * id_], size, along, how,
                            )  # fmt: skip
                for e in range(together, n):
                    for d in range(D):
                        bad |= scatter_one(
                            out, x + e * xb, src, s + e * sb + d * sd,
                            idx[i + e * ib + d * id_], size, along, how,
                        )  # fmt: skip
            else:
                for d in range(D):
                    for e in range(n):
                        bad |= scatter_one(
                            out, x + e * xb, src, s + e * sb + d * sd,
                            idx[i + e * ib + d * id_], size, along, how,
                        )  # fmt: skip
        return np.int64(bad)

    return scatter_lanes


def copy_range(out, src, idx, aux, args, lo, hi):
    """Bytes from one block to another."""
    copy_row(out, U(lo), src, U(lo), U(hi - lo), args[0])
    if args[0]:
        fence()
    return 0
