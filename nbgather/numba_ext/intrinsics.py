"""What the loops here need, and numba has no function for."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import numpy_support

_I64 = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()


@functools.cache
def loader(kind: Any) -> Any:
    """``load(address)``: the integer of a numba type at any address."""

    @intrinsic
    def load(typingctx, address):
        def codegen(context, builder, sig, values):
            pointer = builder.inttoptr(values[0], context.get_data_type(kind).as_pointer())
            value = builder.load(pointer)
            value.align = 1
            return value

        return kind(types.int64), codegen

    return load


@functools.cache
def mover(itemsize: int) -> Any:
    """``move(to, from)``: copy the bits of an item between any addresses."""

    @intrinsic
    def move(typingctx, to, source):
        def codegen(context, builder, sig, values):
            kind = ir.IntType(8 * itemsize).as_pointer()
            value = builder.load(builder.inttoptr(values[1], kind))
            value.align = 1
            builder.store(value, builder.inttoptr(values[0], kind)).align = 1
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return move


#: Items that `block_mover` moves at once.
BLOCK_ITEMS = 8


@functools.cache
def block_mover(itemsize: int, kind: Any) -> Any:
    """``move(to, from, index, step, index_step, along, size, from_end)``: a block of items.

    They are stored at once, where all of their indices are in bounds: else False, and nothing is
    moved. ``step`` and ``index_step`` are those from one item to the next.
    """

    @intrinsic
    def move(typingctx, to, source, index, step, index_step, along, size, from_end):
        signature = types.boolean(*[types.int64] * 8)

        def codegen(context, builder, sig, values):
            to, source, index, step, index_step, along, size, from_end = values
            pointer, added = context.get_data_type(kind).as_pointer(), builder.mul(size, from_end)
            items, inside = [], ir.IntType(1)(1)
            for k in range(BLOCK_ITEMS):
                at = builder.add(index, builder.mul(index_step, _I64(k)))
                value = builder.load(builder.inttoptr(at, pointer))
                value.align = 1
                value = context.cast(builder, value, kind, types.int64)
                if kind.signed:
                    below = builder.icmp_signed("<", value, _I64(0))
                    value = builder.add(value, builder.select(below, added, _I64(0)))
                inside = builder.and_(inside, builder.icmp_unsigned("<", value, size))
                item = builder.add(source, builder.mul(step, _I64(k)))
                items.append(builder.add(item, builder.mul(value, along)))
            with builder.if_then(inside, likely=True):
                one = ir.IntType(8 * itemsize)
                block = ir.VectorType(one, BLOCK_ITEMS)
                moved = ir.Constant(block, ir.Undefined)
                for k, at in enumerate(items):
                    loaded = builder.load(builder.inttoptr(at, one.as_pointer()))
                    loaded.align = 1
                    moved = builder.insert_element(moved, loaded, ir.Constant(ir.IntType(32), k))
                builder.store(moved, builder.inttoptr(to, block.as_pointer())).align = 1
            return inside

        return signature, codegen

    return move


@intrinsic
def copy(typingctx, to, source, count):
    """memcpy by addresses."""

    def codegen(context, builder, sig, values):
        pointers = [builder.inttoptr(value, _BYTES) for value in values[:2]]
        cgutils.raw_memcpy(builder, *pointers, values[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@functools.cache
def converter(source: Any, target: Any) -> tuple[Any, Any]:
    """``convert(to, from)``: an item of one of numba's types as one of another, and its key."""
    key = str(source), str(target)
    if source == target:
        return mover(numpy_support.as_dtype(target).itemsize), key

    @intrinsic
    def convert(typingctx, to, origin):
        def codegen(context, builder, sig, values):
            models = [context.data_model_manager[kind] for kind in (target, source)]
            kinds = [model.get_data_type().as_pointer() for model in models]
            loaded = builder.load(builder.inttoptr(values[1], kinds[1]))
            loaded.align = 1
            value = models[1].from_data(builder, loaded)
            made = context.cast(builder, value, source, target)
            data = models[0].as_data(builder, made)
            builder.store(data, builder.inttoptr(values[0], kinds[0])).align = 1
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return convert, key
