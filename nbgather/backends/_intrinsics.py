"""The few LLVM instructions that numba has no word for."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I64 = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()


@intrinsic
def call_range(typingctx, kernel, out, src, idx, aux, args, lo, hi):
    """Call the range kernel at address ``kernel``."""
    integer = types.int64
    signature = integer(
        integer, integer, integer, integer, integer, types.Array(integer, 1, "C"), integer, integer
    )

    def codegen(context, builder, sig, values):
        block = cgutils.create_struct_proxy(sig.args[5])(context, builder, value=values[5])
        pointers = [builder.inttoptr(v, _BYTES) for v in values[1:5]]
        pointers.append(builder.bitcast(block.data, _BYTES))
        shape = ir.FunctionType(_I64, [_BYTES] * 5 + [_I64, _I64])
        function = builder.inttoptr(values[0], shape.as_pointer())
        return builder.call(function, [*pointers, values[6], values[7]])

    return signature, codegen


@intrinsic
def copy_bytes(typingctx, dst, dst_offset, src, src_offset, count):
    """memcpy ``count`` bytes between two byte pointers."""
    signature = types.void(dst, types.uint64, src, types.uint64, types.uint64)

    def codegen(context, builder, sig, values):
        to = builder.gep(values[0], [values[1]])
        frm = builder.gep(values[2], [values[3]])
        cgutils.raw_memcpy(builder, to, frm, values[4], 1)
        return context.get_dummy_value()

    return signature, codegen
