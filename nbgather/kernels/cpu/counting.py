"""Ranks by counting comparisons: no branch depends on a key, and sixteen keys are ranked at once.

Keys are signed integers that are never the largest of their type, since one more than a key is
compared too: of equal keys the earlier comes first, so an earlier key counts if it is below one
more than this one, and a later key if it is below this one.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nbgather.kernels.constants import BLOCK_KEYS

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _at(builder, pointer, offset, kind):
    """The address ``offset`` items into ``pointer``, as a pointer to ``kind``."""
    return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())


@intrinsic
def rank_block(typingctx, ranks, keys, start, first, last, base, later):
    """``ranks[start + k]``: how many of ``keys[first:last]`` come before ``keys[start + k]``.

    For the k below `BLOCK_KEYS` for which ``start + k < last``; what others get means nothing, but
    they are read and written. ``base`` is added. ``later[j * BLOCK_KEYS + k]``, of the keys' type,
    is 1 where j < k and else 0.
    """
    integer = types.uint64
    signature = types.void(ranks, keys, integer, integer, integer, integer, later)

    def codegen(context, builder, sig, values):
        ranks, keys, start, first, last, base, later = values
        item, rank = keys.type.pointee, ranks.type.pointee
        kind = ir.VectorType(item, BLOCK_KEYS)
        zeros = ir.Constant(ir.VectorType(_I32, BLOCK_KEYS), [0] * BLOCK_KEYS)
        undefined = ir.Constant(kind, ir.Undefined)

        def splat(value):
            vector = builder.insert_element(undefined, value, _I32(0))
            return builder.shuffle_vector(vector, undefined, zeros)

        def constant(values):
            return ir.Constant(kind, values)

        own = builder.load(_at(builder, keys, start, kind))
        own.align = item.width // 8
        counts = cgutils.alloca_once(builder, kind)
        builder.store(splat(builder.trunc(base, item) if item.width < 64 else base), counts)

        def count(position, bound):
            key = splat(builder.load(builder.gep(keys, [position])))
            before = builder.sext(builder.icmp_signed(">", bound, key), kind)
            builder.store(builder.sub(builder.load(counts), before), counts)

        def count_all(lo, hi, bound):
            with cgutils.for_range_slice(builder, lo, hi, _I64(1)) as (position, _):
                count(position, bound)

        count_all(first, start, builder.add(own, constant([1] * BLOCK_KEYS)))
        end = builder.add(start, _I64(BLOCK_KEYS))
        whole = builder.icmp_unsigned("<=", end, last)
        with builder.if_else(whole) as (then, otherwise):
            with then:
                for j in range(BLOCK_KEYS):
                    ties = constant([int(j < k) for k in range(BLOCK_KEYS)])
                    count(builder.add(start, _I64(j)), builder.add(own, ties))
                count_all(end, last, own)
            with otherwise, cgutils.for_range_slice(builder, start, last, _I64(1)) as (at, _):
                row = builder.mul(builder.sub(at, start), _I64(BLOCK_KEYS))
                ties = builder.load(_at(builder, later, row, kind))
                ties.align = item.width // 8
                count(at, builder.add(own, ties))
        result = builder.load(counts)
        if rank.width < item.width:
            result = builder.trunc(result, ir.VectorType(rank, BLOCK_KEYS))
        builder.store(result, _at(builder, ranks, start, result.type)).align = rank.width // 8
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def as_float(typingctx, bits):
    """The float of the same size that has these bits."""
    result = types.float64 if bits.bitwidth == 64 else types.float32

    def codegen(context, builder, sig, values):
        return builder.bitcast(values[0], context.get_value_type(sig.return_type))

    return result(bits), codegen
