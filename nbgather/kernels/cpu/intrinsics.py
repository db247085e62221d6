"""LLVM instructions that numba has no function for, as intrinsics."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()

#: A function that LLVM puts in the place of its calls. That it is compiled once, and not again at
#: each of them as with ``inline="always"``, halves the time of compiling.
inlined = njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)

#: Bytes of a cache line.
LINE_BYTES = 64


def at(builder, pointer, offset, kind):
    """The address ``offset`` items into ``pointer``, as a pointer to ``kind``."""
    return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())


def stream(builder, store, nbytes=LINE_BYTES):
    """Make a store non-temporal; its address must be a multiple of its bytes, or start a line."""
    store.align = min(nbytes, LINE_BYTES)
    store.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))


@intrinsic
def copy_bytes(typingctx, dst, dst_offset, src, src_offset, count):
    """memcpy ``count`` bytes between two byte pointers."""
    signature = types.void(dst, types.uint64, src, types.uint64, types.uint64)

    def codegen(context, builder, sig, values):
        target = builder.gep(values[0], [values[1]])
        source = builder.gep(values[2], [values[3]])
        cgutils.raw_memcpy(builder, target, source, values[4], 1)
        return context.get_dummy_value()

    return signature, codegen


@functools.cache
def copy_overlapping(width: int) -> Any:
    """Copy ``count`` bytes, from ``width`` to twice as many, between two byte pointers.

    By two moves of ``width`` bytes, which overlap unless ``count`` is twice as many.
    """

    @intrinsic
    def copy(typingctx, dst, dst_offset, src, src_offset, count):
        signature = types.void(dst, types.uint64, src, types.uint64, types.uint64)

        def codegen(context, builder, sig, values):
            dst, dst_offset, src, src_offset, count = values
            kind = ir.VectorType(ir.IntType(8), width)
            last = builder.sub(count, _I64(width))
            starts = (_I64(0), last)
            loaded = [
                builder.load(at(builder, src, builder.add(src_offset, k), kind)) for k in starts
            ]
            for value, k in zip(loaded, starts, strict=True):
                value.align = 1
                store = builder.store(value, at(builder, dst, builder.add(dst_offset, k), kind))
                store.align = 1
            return context.get_dummy_value()

        return signature, codegen

    return copy


@intrinsic
def stream_line(typingctx, dst, dst_offset, src, src_offset):
    """Copy a cache line with a non-temporal store, between byte pointers; ``dst`` starts a line."""
    signature = types.void(dst, types.uint64, src, types.uint64)

    def codegen(context, builder, sig, values):
        line = ir.VectorType(_I64, LINE_BYTES // 8)
        loaded = builder.load(at(builder, values[2], values[3], line))
        loaded.align = 1
        stream(builder, builder.store(loaded, at(builder, values[0], values[1], line)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def fence(typingctx):
    """Make non-temporal stores visible before any later store."""

    def codegen(context, builder, sig, values):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def prefetch(typingctx, pointer, offset):
    """Prefetch the cache line of an item that will be read; any address is allowed."""
    signature = types.void(pointer, types.uint64)

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        address = builder.bitcast(builder.gep(values[0], [values[1]]), _BYTES)
        builder.call(function, [address, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def address(typingctx, pointer):
    """A pointer as a number."""

    def codegen(context, builder, sig, values):
        return builder.ptrtoint(values[0], _I64)

    return types.uint64(pointer), codegen


def _pointer_to(kind):
    def pointer(typingctx, number):
        def codegen(context, builder, sig, values):
            return builder.inttoptr(values[0], context.get_value_type(sig.return_type))

        return types.CPointer(kind)(types.uint64), codegen

    return intrinsic(pointer)


#: A number as a pointer.
int64_at = _pointer_to(types.int64)
uint64_at = _pointer_to(types.uint64)
int32_at = _pointer_to(types.int32)
uint32_at = _pointer_to(types.uint32)
float32_at = _pointer_to(types.float32)
float64_at = _pointer_to(types.float64)
uint8_at = _pointer_to(types.uint8)


@intrinsic
def allocate(typingctx, like, count):
    """malloc: ``count`` bytes as a pointer of the type of ``like``, null if there is no memory."""
    signature = like(like, types.uint64)

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_BYTES, [_I64])
        function = cgutils.get_or_insert_function(builder.module, kind, "malloc")
        return builder.bitcast(builder.call(function, [values[1]]), values[0].type)

    return signature, codegen


@intrinsic
def release(typingctx, pointer):
    """Free memory of `allocate`."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(ir.VoidType(), [_BYTES])
        function = cgutils.get_or_insert_function(builder.module, kind, "free")
        builder.call(function, [builder.bitcast(values[0], _BYTES)])
        return context.get_dummy_value()

    return types.void(pointer), codegen


def words_on_stack(count: int) -> Any:
    """Memory of the calling function: ``count`` int64, by its address."""

    def codegen(context, builder, sig, values):
        return builder.ptrtoint(cgutils.alloca_once(builder, _I64, size=count), _I64)

    return intrinsic(lambda typingctx: (types.int64(), codegen))


@intrinsic
def trailing_zeros(typingctx, word):
    """How many bits of a word that is not 0 are 0 below the lowest that is 1."""

    def codegen(context, builder, sig, values):
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), codegen
