"""Memory that somebody else made for a large result: large pages for it, and zeros.

XLA takes new memory for every result, whose pages the system clears one by one when they are first
written to: that takes longer than most gathers. Of large pages there are few. NumPy asks the same
for its arrays.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nbgather.kernels.cpu.intrinsics import address

U = np.uint64
_I32, _I64 = ir.IntType(32), ir.IntType(64)

#: Words of the kernel's integers.
NBYTES, PAGE_BYTES, FUNCTION, ADVICE = map(U, range(4))


@intrinsic
def advise_system(typingctx, function, start, nbytes, advice):
    """Call ``int32 function(start, nbytes, int32 advice)`` at an address."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_I32, [_I64, _I64, _I32])
        pointer = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(pointer, [*values[1:3], builder.trunc(values[3], _I32)])
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64, types.uint64, types.int64), codegen


def advise_range(out, src, idx, aux, args, lo, hi):
    """Advise the system of the pages that lie whole in a block; what it says to that is no matter.

    The range counts for nothing: whoever calls does all.
    """
    mask = U(args[PAGE_BYTES]) - U(1)
    first = (address(out) + mask) & ~mask
    end = (address(out) + U(args[NBYTES])) & ~mask
    if first < end:
        advise_system(args[FUNCTION], first, end - first, args[ADVICE])
    return 0


@intrinsic
def clear(typingctx, start, nbytes):
    """memset by an address."""

    def codegen(context, builder, sig, values):
        pointer = builder.inttoptr(values[0], ir.IntType(8).as_pointer())
        cgutils.memset(builder, pointer, values[1], 0)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), codegen


def clear_range(out, src, idx, aux, args, lo, hi):
    """Zeros; the range is in bytes."""
    clear(address(out) + U(lo), U(hi - lo))
    return 0
