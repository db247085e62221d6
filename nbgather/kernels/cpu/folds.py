"""What the kernels of reductions do with two numbers, without a branch: one instruction each.

A *kind* is that of the numbers, as NumPy writes dtypes; ``half`` and ``brain`` are the bits of
float16 and bfloat16, which are compared as they are, and summed in float32.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from nbgather.kernels.cpu.intrinsics import address, allocate, float32_at

U = np.uint64

#: Numbers from which on a run of them is compared in any order.
RUN_ITEMS = U(32)
_I16, _I32, _F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()

#: By kind: the bits of infinity.
INFINITY = {"half": 0x7C00, "brain": 0x7F80}
_SIGN, _MAGNITUDE = 0x8000, 0x7FFF


def is_half(kind: str) -> bool:
    return kind in INFINITY


def number_type(kind: str) -> Any:
    """NumPy's type of a kind's numbers, or of their bits."""
    return np.uint16 if is_half(kind) else np.dtype(kind).type


def identity(reduce: str, kind: str) -> Any:
    """The number that a reduction begins with where the input does not count."""
    of = number_type(kind)
    if reduce in ("sum", "mean"):
        return of(0)
    if reduce == "prod":
        return of(1)
    largest = reduce == "amin"
    if is_half(kind):
        return of(INFINITY[kind] | (0 if largest else _SIGN))
    if kind[0] == "f":
        return of(np.inf if largest else -np.inf)
    limits = np.iinfo(of)
    return of(limits.max if largest else limits.min)


def _order(builder: Any, bits: Any) -> Any:
    """Floats of 16 bits as integers of the same order, of which -0 is 0; and their size."""
    wide = builder.zext(bits, _I32)
    size = builder.and_(wide, _I32(_MAGNITUDE))
    is_negative = builder.icmp_unsigned("!=", builder.and_(wide, _I32(_SIGN)), _I32(0))
    return builder.select(is_negative, builder.neg(size), size), size


def _takes_place(builder: Any, old: Any, new: Any, reduce: str, kind: str) -> Any:
    """Whether a number takes the place of another: a NaN does, an equal one does not."""
    sign = ">" if reduce == "amax" else "<"
    if is_half(kind):
        (one, _), (other, size) = (_order(builder, v) for v in (old, new))
        (_, before) = _order(builder, old)
        limit = _I32(INFINITY[kind])
        is_nan = builder.icmp_unsigned(">", size, limit)
        # What is a NaN is beyond every number in one order or the other: none takes its place.
        was_nan = builder.icmp_unsigned(">", before, limit)
        wins = builder.and_(builder.icmp_signed(sign, other, one), builder.not_(was_nan))
        return builder.or_(wins, is_nan)
    if kind[0] == "f":
        is_nan = builder.fcmp_unordered("uno", new, new)
        return builder.or_(builder.fcmp_ordered(sign, new, old), is_nan)
    compare = builder.icmp_signed if kind[0] == "i" else builder.icmp_unsigned
    return compare(sign, new, old)


def widen(kind: str) -> Any:
    """``wide(value)``: a number as what it is summed in; float32 of 16 bits."""
    if not is_half(kind):
        return njit(inline="always")(lambda value: value)

    @intrinsic
    def wide(typingctx, value):
        def codegen(context, builder, sig, values):
            return _widened(builder, values[0], kind)

        return types.float32(types.uint16), codegen

    return wide


def _widened(builder: Any, bits: Any, kind: str) -> Any:
    if kind == "half":
        return builder.fpext(builder.bitcast(bits, ir.HalfType()), _F32)
    return builder.bitcast(builder.shl(builder.zext(bits, _I32), _I32(16)), _F32)


def _narrowed(builder: Any, value: Any, kind: str) -> Any:
    """A float32 rounded to the bits of 16, to even where it is halfway."""
    if kind == "half":
        return builder.bitcast(builder.fptrunc(value, ir.HalfType()), _I16)
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, _I32(16)), _I32(1))
    rounded = builder.add(bits, builder.add(odd, _I32(0x7FFF)))
    quiet = builder.or_(bits, _I32(0x400000))
    is_nan = builder.fcmp_unordered("uno", value, value)
    rounded = builder.select(is_nan, quiet, rounded)
    return builder.trunc(builder.lshr(rounded, _I32(16)), _I16)


@functools.cache
def folder(reduce: str, kind: str) -> Any:
    """``fold(old, new)``: what two numbers become."""
    if is_half(kind) and reduce not in ("amax", "amin"):
        wide = widen(kind)
        return njit(inline="always")(lambda old, new: old + wide(new))
    if kind[0] == "c":
        if reduce == "prod":
            return njit(inline="always")(lambda old, new: old * new)
        return njit(inline="always")(lambda old, new: old + new)

    @intrinsic
    def fold(typingctx, old, new):
        def codegen(context, builder, sig, values):
            return folded(builder, *values, reduce, kind)

        return old(old, old), codegen

    return fold


def folded(builder: Any, old: Any, new: Any, reduce: str, kind: str) -> Any:
    """What `folder` gives, of values of LLVM."""
    if reduce in ("amax", "amin"):
        return builder.select(_takes_place(builder, old, new, reduce, kind), new, old)
    if kind[0] == "f":
        return (builder.fmul if reduce == "prod" else builder.fadd)(old, new)
    return (builder.mul if reduce == "prod" else builder.add)(old, new)


def _key(builder: Any, bits: Any) -> Any:
    """The bits of a float as a signed integer of the same order; its own inverse."""
    kind = bits.type
    sign = builder.ashr(bits, kind(kind.width - 1))
    return builder.xor(bits, builder.lshr(sign, kind(1)))


@intrinsic
def key_at(typingctx, src, s):
    """A float in memory, or its 16 bits, as a signed integer of the same order."""
    integer = _integer_of(src.dtype)

    def codegen(context, builder, sig, values):
        kind = context.get_value_type(sig.return_type)
        at = builder.bitcast(builder.gep(values[0], [values[1]]), kind.as_pointer())
        return _key(builder, builder.load(at))

    return integer(src, types.uint64), codegen


@intrinsic
def larger_of(typingctx, one, other):
    """Of two signed integers the larger."""

    def codegen(context, builder, sig, values):
        return builder.select(builder.icmp_signed(">", *values), *values)

    return one(one, one), codegen


@intrinsic
def smaller_of(typingctx, one, other):
    """Of two signed integers the smaller."""

    def codegen(context, builder, sig, values):
        return builder.select(builder.icmp_signed("<", *values), *values)

    return one(one, one), codegen


def _integer_of(kind: Any) -> Any:
    return {16: types.int16, 32: types.int32, 64: types.int64}[kind.bitwidth]


@intrinsic
def number_of(typingctx, key, like):
    """What `key_at` was given, as the type of ``like``."""

    def codegen(context, builder, sig, values):
        bits = _key(builder, values[0])
        return builder.bitcast(bits, context.get_value_type(sig.return_type))

    return like(key, like), codegen


@functools.cache
def run_folder(reduce: str, kind: str) -> Any:
    """``fold_run(old, src, s, n)``: what a number and ``n`` others that follow each other become.

    In their order; but the largest and the smallest are found in any order, as integers, and again
    in order where that tells one from another: NaNs, and zeros.
    """
    fold = folder(reduce, kind)

    @njit(inline="always")
    def in_order(old, src, s, n):
        for k in range(n):
            old = fold(old, src[s + k])
        return old

    if reduce not in ("amax", "amin"):
        return in_order
    if kind[0] in "iu":
        # Compilers make vectors of it.
        return in_order

    pick = larger_of if reduce == "amax" else smaller_of
    integer = np.dtype(f"i{2 if is_half(kind) else kind[1]}").type
    infinity = INFINITY.get(kind) or int(np.array(np.inf, kind).view(integer))
    low, high = integer(-infinity - 1), integer(infinity)

    @njit(inline="always")
    def by_fours(old, src, s, n):
        # However they are put together, the first of the largest is left, or the last NaN.
        k = U(0)
        while k + U(4) <= n:
            one = fold(src[s + k], src[s + k + U(1)])
            other = fold(src[s + k + U(2)], src[s + k + U(3)])
            old = fold(old, fold(one, other))
            k += U(4)
        return in_order(old, src, s + k, n - k)

    @njit(inline="always")
    def extreme(old, src, s, n):
        if n < RUN_ITEMS:
            return by_fours(old, src, s, n)
        best, least, most = key_at(src, s), key_at(src, s), key_at(src, s)
        for k in range(U(1), n):
            key = key_at(src, s + k)
            best = pick(best, key)
            least, most = smaller_of(least, key), larger_of(most, key)
        if least < low or most > high or best == integer(0) or best == integer(-1):
            return by_fours(old, src, s, n)
        return fold(old, number_of(best, old))

    return extreme


@intrinsic
def add_pair(typingctx, pairs, p, value, one):
    """Add to the sum and to the count of a place, which lie side by side, at once."""
    signature = types.void(pairs, types.uint64, value, value)

    def codegen(context, builder, sig, values):
        pointer, p, value, one = values
        pair = ir.VectorType(value.type, 2)
        at = builder.gep(pointer, [builder.shl(p, p.type(1))])
        at = builder.bitcast(at, pair.as_pointer())
        old = builder.load(at)
        new = ir.Constant(pair, ir.Undefined)
        for k, part in enumerate((value, one)):
            new = builder.insert_element(new, part, _I32(k))
        add = builder.fadd if isinstance(value.type, (ir.FloatType, ir.DoubleType)) else builder.add
        store = builder.store(add(old, new), at)
        old.align = store.align = value.type.get_abi_size(context.target_data)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def pointer_like(typingctx, pointer, address):
    """An address as a pointer of the type of another."""

    def codegen(context, builder, sig, values):
        return builder.inttoptr(values[1], values[0].type)

    return pointer(pointer, types.uint64), codegen


@functools.cache
def pair_memory(kind: str) -> Any:
    """``memory(like, places)``: a sum and a count for each place; null if there is no memory."""
    if is_half(kind):
        return njit(inline="always")(
            lambda like, places: float32_at(address(allocate(like, np.uint64(8) * places)))
        )
    nbytes = np.uint64(2 * np.dtype(kind).itemsize)
    return njit(inline="always")(lambda like, places: allocate(like, nbytes * places))


@functools.cache
def divider(kind: str) -> Any:
    """``divide(total, count)``: the quotient, of integers the floor; the total where count is 0.

    Of float32 for floats of 16 bits, all three are rounded.
    """
    if is_half(kind):
        return _half_divider(kind)

    @intrinsic
    def divide(typingctx, total, count):
        def codegen(context, builder, sig, values):
            return divided(builder, *values, kind)

        return total(total, total), codegen

    return divide


def divided(builder: Any, total: Any, count: Any, kind: str) -> Any:
    """What `divider` gives, of values of LLVM."""
    one = count.type(1)
    if kind[0] == "f":
        is_zero = builder.fcmp_ordered("==", count, count.type(0.0))
        count = builder.select(is_zero, count.type(1.0), count)
        return builder.select(is_zero, total, builder.fdiv(total, count))
    is_zero = builder.icmp_unsigned("==", count, count.type(0))
    if kind[0] == "u":
        count = builder.select(is_zero, one, count)
        return builder.select(is_zero, total, builder.udiv(total, count))
    # By -1 the least number has no quotient, which the processor would trap.
    is_minus = builder.icmp_signed("==", count, count.type(-1))
    divisor = builder.select(builder.or_(is_zero, is_minus), one, count)
    quotient = builder.sdiv(total, divisor)
    rest = builder.sub(total, builder.mul(quotient, divisor))
    differ = builder.icmp_signed("<", builder.xor(total, divisor), total.type(0))
    lower = builder.and_(builder.icmp_unsigned("!=", rest, total.type(0)), differ)
    floor = builder.sub(quotient, builder.zext(lower, total.type))
    floor = builder.select(is_minus, builder.neg(total), floor)
    return builder.select(is_zero, total, floor)


def _half_divider(kind: str) -> Any:
    @intrinsic
    def divide(typingctx, total, count):
        def codegen(context, builder, sig, values):
            one, other = (_widened(builder, _narrowed(builder, v, kind), kind) for v in values)
            return _narrowed(builder, builder.fdiv(one, other), kind)

        return types.uint16(types.float32, types.float32), codegen

    return divide
