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
