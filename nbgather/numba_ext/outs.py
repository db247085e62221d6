"""Whether compiled code can write a result to what was given as ``out``; see `engine.out`."""

from __future__ import annotations

import numpy as np

from nbgather.kernels.cpu.intrinsics import int64_at
from nbgather.numba_ext.emit import ADDRESS, NDIM, OWN_NDIM, SIZES
from nbgather.numba_ext.subroutines import of_numbers

U = np.uint64

#: What is said of an ``out``: it will do, it will not, it meets an operand and Python must tell.
DOES, DOES_NOT, MEETS = range(3)


@of_numbers(3)
def end_of(words, itemsize, last):
    """Where an array's memory begins, or with ``last`` ends; both the same if it has none."""
    w = int64_at(U(words))
    nd, low, high = w[NDIM], w[ADDRESS], w[ADDRESS] + itemsize
    for d in range(nd):
        if w[SIZES + d] == 0:
            return w[ADDRESS]
        step = w[SIZES + nd + d] * (w[SIZES + d] - 1)
        if step < 0:
            low += step
        else:
            high += step
    return high if last else low


@of_numbers(2)
def overlaps_itself(words, itemsize):
    """Not 0 unless each stride steps over all that the smaller ones reach."""
    w = int64_at(U(words))
    nd, reach, before, done = w[NDIM], itemsize, np.int64(-1), 0
    for d in range(nd):
        if w[SIZES + d] == 0:
            return 0
    while done < nd:
        # The next of the strides in their order, and how far all of its axes reach.
        step, moved = np.int64(-1), np.int64(0)
        for d in range(nd):
            stride = abs(w[SIZES + nd + d])
            if stride > before and (step < 0 or stride < step):
                step = stride
        for d in range(nd):
            if abs(w[SIZES + nd + d]) == step:
                done += 1
                if w[SIZES + d] > 1:
                    if step < reach + moved:
                        return 1
                    moved += step * (w[SIZES + d] - 1)
        reach += moved
        before = step
    return 0


@of_numbers(6)
def check_out(out, result, x, index, itemsize, index_size):
    """`DOES`, `DOES_NOT` or `MEETS`, of arrays by their words."""
    ow, rw = int64_at(U(out)), int64_at(U(result))
    if overlaps_itself(out, itemsize) != 0:
        return DOES_NOT
    low, high = end_of(out, itemsize, 0), end_of(out, itemsize, 1)
    meets = low < end_of(x, itemsize, 1) and end_of(x, itemsize, 0) < high
    if low < end_of(index, index_size, 1) and end_of(index, index_size, 0) < high:
        meets = True
    for d in range(ow[OWN_NDIM]):
        if ow[SIZES + d] != rw[SIZES + d]:
            return DOES_NOT
    return MEETS if meets else DOES
