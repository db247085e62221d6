"""The scatter kernels: each lane along the dimension is walked in order by one thread.

So the last of several values for one position wins, and sums are added in row-major order of the
index, whatever the number of threads. The layout of ``args``, as
:class:`nbgather.kernels.plans.ScatterPlan` holds it::

    [size, along, D, id, sd, B, xb, ib, sb, outer, (n, x, i, s) * outer]

``D`` is the index's length along the dimension, ``B`` the innermost axis of the lanes; the outer
axes follow, innermost first. Each has a length and three strides: result, index, src.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels.cpu.gather import outer_offset
from nbgather.kernels.cpu.gather_rows import copy_row
from nbgather.kernels.cpu.intrinsics import fence

U = np.uint64

#: What is done with a value: stored, added, or combined by a bitwise or, which adds bools.
SET, ADD, ANY = range(3)
#: Lanes that are walked in turns. A sum depends on the one before it in the same lane, so sums of
#: several lanes overlap; the order within a lane stays the same.
INTERLEAVED_LANES = 4
#: The position of the number of outer axes in ``args``.
OUTER = 9


@njit(inline="always")
def scatter_one(out, x, src, s, value, size, along, action):
    """Scatter one element; 1 if its index was out of bounds, and then nothing is written."""
    j = U(value)
    if j >= size:
        return U(1)
    if action == SET:
        out[x + j * along] = src[s]
    elif action == ADD:
        out[x + j * along] += src[s]
    else:
        out[x + j * along] |= src[s]
    return U(0)


def make_scatter(action, rows):
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
            x = U(outer_offset(args, OUTER, 1, q)) + b * xb
            i = U(outer_offset(args, OUTER, 2, q)) + b * ib
            s = U(outer_offset(args, OUTER, 3, q)) + b * sb
            if rows == 1:
                interleaved = U(0)
                if action != SET:
                    interleaved = n // U(INTERLEAVED_LANES) * U(INTERLEAVED_LANES)
                for k in range(U(0), interleaved, U(INTERLEAVED_LANES)):
                    for d in range(D):
                        for t in range(U(INTERLEAVED_LANES)):
                            e = k + t
                            bad |= scatter_one(
                                out, x + e * xb, src, s + e * sb + d * sd,
                                idx[i + e * ib + d * id_], size, along, action,
                            )  # fmt: skip
                for e in range(interleaved, n):
                    for d in range(D):
                        bad |= scatter_one(
                            out, x + e * xb, src, s + e * sb + d * sd,
                            idx[i + e * ib + d * id_], size, along, action,
                        )  # fmt: skip
            else:
                for d in range(D):
                    for e in range(n):
                        bad |= scatter_one(
                            out, x + e * xb, src, s + e * sb + d * sd,
                            idx[i + e * ib + d * id_], size, along, action,
                        )  # fmt: skip
        return np.int64(bad)

    return scatter_lanes


def copy_range(out, src, idx, aux, args, lo, hi):
    """Bytes from one block to another."""
    copy_row(out, U(lo), src, U(lo), U(hi - lo), args[0])
    if args[0]:
        fence()
    return 0
