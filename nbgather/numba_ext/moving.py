"""Copies and scatters in compiled code, by arrays' words; see :mod:`.gather_loops`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nbgather.kernels.constants import ADD, ANY, SET
from nbgather.kernels.cpu.intrinsics import int64_at
from nbgather.numba_ext.emit import ADDRESS, NDIM, SIZES
from nbgather.numba_ext.gather_loops import finder, fits
from nbgather.numba_ext.intrinsics import copy, loader, mover
from nbgather.numba_ext.records import GATHER
from nbgather.numba_ext.reducing import reducer
from nbgather.numba_ext.subroutines import inlined, of_numbers

U = np.uint64


@functools.cache
def copier(itemsize: int) -> Any:
    """``copy_array(to, source)``: copy an array's items into one of its shape, by their words."""
    move = mover(itemsize)

    @of_numbers(2, types.void, key=itemsize)
    def copy_array(to, source):
        tw, sw = int64_at(U(to)), int64_at(U(source))
        nd, count, together = tw[NDIM], np.int64(1), True
        for k in range(nd):
            d = nd - 1 - k
            step = count * itemsize
            n = tw[SIZES + d]
            if n != 1 and (tw[SIZES + nd + d] != step or sw[SIZES + nd + d] != step):
                together = False
            count *= n
        if count == 0:
            return
        t, s = tw[ADDRESS], sw[ADDRESS]
        if together:
            copy(t, s, count * itemsize)
            return
        last = nd - 1
        n, ts, ss = tw[SIZES + last], tw[SIZES + nd + last], sw[SIZES + nd + last]
        for row in range(count // n):
            # By division: rows are few beside the items.
            to_row, from_row, rest = t, s, row
            for k in range(1, nd):
                d = last - k
                at = rest % tw[SIZES + d]
                rest //= tw[SIZES + d]
                to_row += at * tw[SIZES + nd + d]
                from_row += at * sw[SIZES + nd + d]
            for k in range(n):
                move(to_row + k * ts, from_row + k * ss)

    return copy_array


@functools.cache
def _combiner(dtype: Any, action: Any) -> Any:
    """``combine(to, source)``: replace an item, add to it or or it, at any addresses.

    Or reduce it, where the action is a pair of the reduction and of the kind of its numbers.
    """
    if isinstance(action, tuple):
        return reducer(dtype, *action)
    if action == SET:
        return mover(dtype)  # of so many bytes

    @intrinsic
    def combine(typingctx, to, source):
        def codegen(context, builder, sig, values):
            kind = context.get_data_type(dtype)
            pointers = [builder.inttoptr(value, kind.as_pointer()) for value in values]
            old, new = (builder.load(pointer) for pointer in pointers)
            old.align = new.align = 1
            if action == ANY:
                total = builder.or_(old, new)
            elif isinstance(kind, ir.LiteralStructType):
                total = old
                for k in range(2):
                    parts = [builder.extract_value(one, k) for one in (old, new)]
                    total = builder.insert_value(total, builder.fadd(*parts), k)
            elif isinstance(kind, ir.IntType):
                total = builder.add(old, new)
            else:
                total = builder.fadd(old, new)
            builder.store(total, pointers[0]).align = 1
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return combine


def action_of(dtype: Any, adds: bool) -> int:
    """What a scatter does with items of a dtype of numba's."""
    if not adds:
        return SET
    return ANY if isinstance(dtype, types.Boolean) else ADD


@of_numbers(4, types.boolean)
@inlined
def fits_scatter(dim, x, index, src):
    """Whether the operands of a scatter fit; ``src`` is 0 for one item."""
    xw, iw = int64_at(U(x)), int64_at(U(index))
    n = xw[NDIM]
    if dim < -n or dim >= n:
        return False
    if not fits(GATHER, dim + n if dim < 0 else dim, x, index):
        return False
    for d in range(iw[NDIM]):
        if iw[SIZES + d] == 0:
            return True
    if src == 0:
        return True
    sw = int64_at(U(src))
    if sw[NDIM] != iw[NDIM]:
        return False
    for d in range(iw[NDIM]):
        if iw[SIZES + d] > sw[SIZES + d]:
            return False
    return True


@functools.cache
def scatterer(itemsize: int, dtype: Any, action: int, kind: Any) -> Any:
    """``scatter(dim, result, index, src, item)``: 0, or the record of a bad index.

    In row-major order of the index. ``src`` is an array's words, or 0 for the item at ``item``.
    """
    load, find = loader(kind), finder(kind)
    combine = _combiner(itemsize if action == SET else dtype, action)

    @of_numbers(5, key=(itemsize, str(dtype), action, str(kind)))
    def scatter(dim, result, index, src, item):
        rw, iw = int64_at(U(result)), int64_at(U(index))
        nd, count = iw[NDIM], np.int64(1)
        for d in range(nd):
            count *= iw[SIZES + d]
        if count == 0:
            return 0
        dim = dim + nd if dim < 0 else dim
        size, along = rw[SIZES + dim], rw[SIZES + nd + dim]
        last = nd - 1
        n, i_step = iw[SIZES + last], iw[SIZES + nd + last]
        r_step = 0 if dim == last else rw[SIZES + nd + last]
        s_step = np.int64(0)
        if src != 0:
            s_step = int64_at(U(src))[SIZES + nd + last]
        for row in range(count // n):
            r, i, s, rest = rw[ADDRESS], iw[ADDRESS], item, row
            if src != 0:
                s = int64_at(U(src))[ADDRESS]
            for k in range(1, nd):
                d = last - k
                at = rest % iw[SIZES + d]
                rest //= iw[SIZES + d]
                i += at * iw[SIZES + nd + d]
                if d != dim:
                    r += at * rw[SIZES + nd + d]
                if src != 0:
                    s += at * int64_at(U(src))[SIZES + nd + d]
            for _ in range(n):
                position = U(load(i))
                if position >= U(size):
                    return find(index, dim, size, 0)
                combine(r + np.int64(position) * along, s)
                r += r_step
                i += i_step
                s += s_step
        return 0

    return scatter
