"""A check of several indices at once, as an intrinsic."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

#: Indices that `any_outside` checks at once.
CHECKED_ITEMS = 8

_I64 = ir.IntType(64)
_LANES = ir.VectorType(_I64, CHECKED_ITEMS)


@intrinsic
def any_outside(typingctx, idx, i, size):
    """Not 0 if one of ``CHECKED_ITEMS`` indices from ``idx[i]`` on is not below ``size``."""
    signature = types.uint64(idx, types.uint64, types.uint64)

    def codegen(context, builder, sig, values):
        pointer, start, limit = values
        kind = ir.VectorType(pointer.type.pointee, CHECKED_ITEMS)
        first = builder.gep(pointer, [start])
        index = builder.load(builder.bitcast(first, kind.as_pointer()))
        index.align = kind.element.width // 8
        if kind.element.width < 64:
            widen = builder.sext if sig.args[0].dtype.signed else builder.zext
            index = widen(index, _LANES)
        zero = ir.Constant(ir.IntType(32), 0)
        undefined = ir.Constant(_LANES, ir.Undefined)
        limits = builder.shuffle_vector(
            builder.insert_element(undefined, limit, zero),
            undefined,
            ir.Constant(ir.VectorType(ir.IntType(32), CHECKED_ITEMS), [0] * CHECKED_ITEMS),
        )
        outside = builder.icmp_unsigned(">=", index, limits)
        return builder.zext(builder.bitcast(outside, ir.IntType(CHECKED_ITEMS)), _I64)

    return signature, codegen
