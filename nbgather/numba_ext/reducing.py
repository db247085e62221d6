"""What a reduction does with items in compiled code, by addresses and arrays' words."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numba.np import numpy_support

from nbgather.kernels.cpu.folds import divided, folded
from nbgather.kernels.cpu.intrinsics import int64_at
from nbgather.numba_ext.emit import ADDRESS, NDIM, SIZES
from nbgather.numba_ext.intrinsics import mover
from nbgather.numba_ext.subroutines import of_numbers

U = np.uint64


def _of_two(dtype: Any, write: Any) -> Any:
    """``combine(to, source)``: what becomes of an item and another, at any addresses."""

    @intrinsic
    def combine(typingctx, to, source):
        def codegen(context, builder, sig, values):
            item = context.get_data_type(dtype)
            pointers = [builder.inttoptr(value, item.as_pointer()) for value in values]
            old, new = (builder.load(pointer) for pointer in pointers)
            old.align = new.align = 1
            builder.store(write(builder, old, new), pointers[0]).align = 1
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return combine


def reducer(dtype: Any, reduce: str, kind: str) -> Any:
    """Reduce a number into another, see :mod:`nbgather.kernels.cpu.folds`."""
    return _of_two(dtype, lambda builder, old, new: folded(builder, old, new, reduce, kind))


def divider(kind: str) -> Any:
    """Divide a sum by a count, unless that is 0."""
    dtype = numpy_support.from_dtype(np.dtype(kind))
    return _of_two(dtype, lambda builder, total, count: divided(builder, total, count, kind))


@functools.cache
def filler(itemsize: int) -> Any:
    """``fill(array, item)``: give all items of a new array the bits of one."""
    move = mover(itemsize)

    @of_numbers(2, types.void, key=itemsize)
    def fill(array, item):
        words, count = int64_at(U(array)), np.int64(1)
        for d in range(words[NDIM]):
            count *= words[SIZES + d]
        for k in range(count):
            move(words[ADDRESS] + k * itemsize, item)

    return fill


@functools.cache
def mean_maker(kind: str) -> Any:
    """``divide(sums, counts)``: make means of the sums in a new array, by the counts in another."""
    divide_one, itemsize = divider(kind), np.dtype(kind).itemsize

    @of_numbers(2, types.void, key=kind)
    def divide(sums, counts):
        words, others, count = int64_at(U(sums)), int64_at(U(counts)), np.int64(1)
        for d in range(words[NDIM]):
            count *= words[SIZES + d]
        for k in range(count):
            divide_one(words[ADDRESS] + k * itemsize, others[ADDRESS] + k * itemsize)

    return divide
