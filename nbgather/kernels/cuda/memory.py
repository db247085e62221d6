"""A GPU's memory by address: what kernels load from and store to.

``LOAD[kind](address)`` reads what no thread writes during the kernel, ``READ`` anything, and
``STORE[kind](address, value)`` writes, ``STREAM`` past what caches keep; ``kind`` is ``u1`` ...
``u8``, ``i1`` ... ``i8``, ``f4``, ``f8`` or ``u16``, a pair of uint64 moved by one 128-bit access.
``AS_F4`` and ``AS_F8`` take bits for a float, ``F4_BITS`` and ``F8_BITS`` a float for its bits;
``F2_TO_F4`` and ``F4_TO_F2`` widen and round the bits of a float16. ``MULTIPLY``, ``SUBTRACT`` and
``DIVIDE`` round a float32 each by itself, ``MULTIPLY_F8``, ``DIVIDE_F8`` and ``ROOT_F8`` a float64.
``ATOMIC_ADD[kind](address, value)`` and ``ATOMIC_MAX``, of ``u4`` and ``u8``, come in any order
among threads. So do those of a uint64 that give the value from before: ``SWAP_IF(address, old,
new)`` writes the new value where the old one stands, ``LOWER`` takes the minimum and ``COUNT``
adds. Addresses are uint64 and multiples of the size. ``INLINE`` makes a function a part of the
kernels that call it; it may hold a barrier. The simulator has plain functions of the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.cuda import libdevice, types
from numba.cuda.cgutils import pack_array, unpack_tuple
from numba.cuda.extending import intrinsic

_I32 = ir.IntType(32)
_PAIR = types.UniTuple(types.uint64, 2)
_VECTOR = ir.VectorType(ir.IntType(64), 2)
_KINDS = {
    "u1": types.uint8, "u2": types.uint16, "u4": types.uint32, "u8": types.uint64,
    "i1": types.int8, "i2": types.int16, "i4": types.int32, "i8": types.int64,
    "f4": types.float32, "f8": types.float64,
}  # fmt: skip


def _pointer(context: Any, builder: Any, address: Any, kind: str) -> tuple[Any, int]:
    """A pointer into global memory, and its alignment."""
    to = _VECTOR if kind == "u16" else context.get_value_type(_KINDS[kind])
    return builder.inttoptr(address, ir.PointerType(to, addrspace=1)), int(kind[1:])


def _loader(kind: str, constant: bool) -> Callable[..., Any]:
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, align = _pointer(context, builder, args[0], kind)
            value = builder.load(pointer)
            value.align = align
            if constant:
                value.set_metadata("invariant.load", builder.module.add_metadata([]))
            if kind != "u16":
                return value
            halves = [builder.extract_element(value, ir.Constant(_I32, k)) for k in (0, 1)]
            return pack_array(builder, halves)

        return (_PAIR if kind == "u16" else _KINDS[kind])(types.uint64), codegen

    return intrinsic(load)


def _storer(kind: str) -> Callable[..., Any]:
    value_type = _PAIR if kind == "u16" else _KINDS[kind]

    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, align = _pointer(context, builder, args[0], kind)
            value = args[1]
            if kind == "u16":
                vector = ir.Constant(_VECTOR, ir.Undefined)
                for k, half in enumerate(unpack_tuple(builder, args[1], 2)):
                    vector = builder.insert_element(vector, half, ir.Constant(_I32, k))
                value = vector
            builder.store(value, pointer).align = align
            return context.get_dummy_value()

        return types.void(types.uint64, value_type), codegen

    return intrinsic(store)


def _streamer(kind: str) -> Callable[..., Any]:
    """A store that the caches give up first, which LLVM has no word for: ``st.global.cs``."""
    size = int(kind[1:])
    value_type = _PAIR if kind == "u16" else _KINDS[kind]
    # Registers of 8 bits there are none.
    suffix, letter = {1: ("u8", "h"), 2: ("u16", "h"), 4: ("u32", "r")}.get(size, ("u64", "l"))

    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values = [args[1]]
            text = f"st.global.cs.{suffix} [$0], $1;"
            if kind == "u16":
                values = unpack_tuple(builder, args[1], 2)
                text = "st.global.cs.v2.u64 [$0], {$1, $2};"
            elif size == 1:
                values = [builder.zext(args[1], ir.IntType(16))]
            types_of = [ir.IntType(64), *(v.type for v in values)]
            function = ir.FunctionType(ir.VoidType(), types_of)
            constraints = ",".join(["l", *(letter for _ in values), "~{memory}"])
            builder.asm(function, text, constraints, [args[0], *values], True)
            return context.get_dummy_value()

        return types.void(types.uint64, value_type), codegen

    return intrinsic(store)


def _atomic(operation: str, kind: str) -> Callable[..., Any]:
    def update(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, _ = _pointer(context, builder, args[0], kind)
            builder.atomic_rmw(operation, pointer, args[1], "monotonic")
            return context.get_dummy_value()

        return types.void(types.uint64, _KINDS[kind]), codegen

    return intrinsic(update)


def _caster(bits: Any, to: Any) -> Callable[..., Any]:
    def cast(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(to))

        return to(bits), codegen

    return intrinsic(cast)


def _swap_if(typingctx: Any, address: Any, old: Any, new: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, _ = _pointer(context, builder, args[0], "u8")
        pair = builder.cmpxchg(pointer, args[1], args[2], "monotonic", "monotonic")
        return builder.extract_value(pair, 0)

    return types.uint64(types.uint64, types.uint64, types.uint64), codegen


def _changer(operation: str) -> Callable[..., Any]:
    def change(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, _ = _pointer(context, builder, args[0], "u8")
            return builder.atomic_rmw(operation, pointer, args[1], "monotonic")

        return types.uint64(types.uint64, types.uint64), codegen

    return intrinsic(change)


@intrinsic
def F2_TO_F4(typingctx: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def F4_TO_F2(typingctx: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


LOAD = {kind: _loader(kind, True) for kind in (*_KINDS, "u16")}
READ = {kind: _loader(kind, False) for kind in (*_KINDS, "u16")}
STORE = {kind: _storer(kind) for kind in (*_KINDS, "u16")}
STREAM = {f"u{size}": _streamer(f"u{size}") for size in (1, 2, 4, 8, 16)}
SWAP_IF = intrinsic(_swap_if)
LOWER, COUNT = _changer("umin"), _changer("add")
AS_F4 = _caster(types.uint32, types.float32)
AS_F8 = _caster(types.uint64, types.float64)
F4_BITS = _caster(types.float32, types.uint32)
F8_BITS = _caster(types.float64, types.uint64)
ATOMIC_ADD = {kind: _atomic("add", kind) for kind in ("u4", "u8")}
ATOMIC_MAX = {kind: _atomic("umax", kind) for kind in ("u4", "u8")}
MULTIPLY, SUBTRACT, DIVIDE = libdevice.fmul_rn, libdevice.fsub_rn, libdevice.fdiv_rn
MULTIPLY_F8, DIVIDE_F8, ROOT_F8 = libdevice.dmul_rn, libdevice.ddiv_rn, libdevice.dsqrt_rn
INLINE = njit(inline="always")
