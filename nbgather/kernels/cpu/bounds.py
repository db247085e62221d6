"""A check of several indices at once."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

#: Indices that are checked at once.
CHECKED_ITEMS = 8

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_PLACES, _LANES = (ir.VectorType(kind, CHECKED_ITEMS) for kind in (_I32, _I64))


@intrinsic
def any_beyond(typingctx, idx, i, size, shift):
    """Not 0 if one of ``CHECKED_ITEMS`` indices from ``idx[i]`` on, plus shift, is not below size.

    All are uint64, modulo 2**64.
    """
    signature = types.uint64(idx, types.uint64, types.uint64, types.uint64)

    def codegen(context, builder, sig, values):
        pointer, start, limit, shift = values
        kind = ir.VectorType(pointer.type.pointee, CHECKED_ITEMS)
        first = builder.gep(pointer, [start])
        index = builder.load(builder.bitcast(first, kind.as_pointer()))
        index.align = kind.element.width // 8
        if kind.element.width < 64:
            widen = builder.sext if sig.args[0].dtype.signed else builder.zext
            index = widen(index, _LANES)

        def all_lanes(value):
            undefined = ir.Constant(_LANES, ir.Undefined)
            first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
            return builder.shuffle_vector(
                first, undefined, ir.Constant(_PLACES, [0] * CHECKED_ITEMS)
            )

        index, limits = builder.add(index, all_lanes(shift)), all_lanes(limit)
        outside = builder.icmp_unsigned(">=", index, limits)
        return builder.zext(builder.bitcast(outside, ir.IntType(CHECKED_ITEMS)), _I64)

    return signature, codegen


@njit(inline="always")
def any_outside(idx, i, size):
    """Not 0 if one of ``CHECKED_ITEMS`` indices from ``idx[i]`` on is not below ``size``."""
    return any_beyond(idx, i, size, np.uint64(0))
