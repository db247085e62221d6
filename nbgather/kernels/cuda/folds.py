"""What a scatter makes of the values of one place: a sum, a product, a mean, or an extreme.

*How* is a tuple: the reduction's name, the kind of its numbers, and whether the input counts. A
kind says what bits are taken for: ``u1`` ... ``u8`` and ``i1`` ... ``i8`` integers, which wrap,
``f4`` and ``f8`` floats, ``c8`` and ``c16`` complex numbers; ``f2`` and ``b2`` float16 and
bfloat16, which are computed with as float32 and rounded once; ``half`` and ``brain`` the same, only
compared. The values of a place come one after the other, so that the bits are those of the CPU.

A mean is a sum and a count, both rounded to the kind, as on the CPU: a count wraps as integers do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.kernels.cuda.positions import u32, u64

#: The reduction, the kind of its numbers, and whether the input counts.
How = tuple[str, str, bool]

#: The bytes of an item of each kind.
ITEM_BYTES = {
    **{f"{sign}{size}": size for sign in "ui" for size in (1, 2, 4, 8)},
    "f2": 2, "b2": 2, "half": 2, "brain": 2, "f4": 4, "f8": 8, "c8": 8, "c16": 16,
}  # fmt: skip
#: Kinds whose items are narrower than what they are reduced in.
HALVES = ("f2", "b2")
#: By the kinds that are only compared: what they are computed with as.
_COMPARED = {"half": "f2", "brain": "b2"}
#: Bits of the numbers that reductions begin with, by kind.
_INFINITY = {"half": 0x7C00, "brain": 0x7F80, "f4": 0x7F800000, "f8": 0x7FF0000000000000}
_ONE = {"f2": 0x3C00, "b2": 0x3F80, "f4": 0x3F800000, "f8": 0x3FF0000000000000}
_ONE |= {"c8": _ONE["f4"], "c16": _ONE["f8"]}
#: The largest number that counting by one reaches in float32.
LAST_COUNT = 1 << 24

_LOW, _32 = u64(0xFFFFFFFF), u64(32)


def sum_of(kind: str) -> How:
    """How items of a kind are added to those of the input."""
    return "sum", kind, True


def is_counted(how: How) -> bool:
    """Whether it matters how many values a place has."""
    return how[0] == "mean" or not how[2]


def identity(how: How) -> int:
    """The bits of the item that a place begins with where the input does not count.

    Of complex numbers of 16 bytes the first half; the other one is 0.
    """
    reduce, kind, _ = how
    if reduce in ("sum", "mean"):
        return 0
    if reduce == "prod":
        return _ONE.get(kind, 1)
    bits, largest = 8 * ITEM_BYTES[kind], reduce == "amin"
    if kind in _INFINITY:
        return _INFINITY[kind] | (0 if largest else 1 << (bits - 1))
    if kind[0] == "u":
        return (1 << bits) - 1 if largest else 0
    return (1 << (bits - 1)) - largest


def make_halves(memory: Any, kind: str) -> tuple[Any, Any]:
    """Two bytes as the float32 that they are, and a float32 rounded to the nearest, ties to even.

    The second gives uint64.
    """
    as_f4, f4_bits = memory.AS_F4, memory.F4_BITS
    f2_to_f4, f4_to_f2 = memory.F2_TO_F4, memory.F4_TO_F2
    if kind == "f2":

        @memory.INLINE
        def widen(bits):
            return f2_to_f4(np.uint16(bits))

        @memory.INLINE
        def narrow(value):
            return u64(f4_to_f2(value))

    else:

        @memory.INLINE
        def widen(bits):
            return as_f4(u32(u32(bits) << u32(16)))

        @memory.INLINE
        def narrow(value):
            bits = u64(f4_bits(value))
            if (bits & u64(0x7FFFFFFF)) > u64(0x7F800000):  # a NaN stays one
                return (bits >> u64(16)) | u64(0x40)
            return (bits + u64(0x7FFF) + ((bits >> u64(16)) & u64(1))) >> u64(16)

    return widen, narrow


def make_fold(memory: Any, how: How) -> Any:
    """``fold(a, a_high, b, b_high)``: what two numbers become, by their halves.

    Of what is computed in float32 these are the bits of it.
    """
    reduce, kind, _ = how
    if reduce in ("sum", "mean"):
        return _make_plus(memory, kind)
    if reduce == "prod":
        return _make_times(memory, kind)
    takes = _make_takes(memory, kind, reduce == "amax")

    @memory.INLINE
    def fold(a, a_high, b, b_high):
        return (u64(b) if takes(a, b) else u64(a)), u64(0)

    return fold


def _make_plus(memory: Any, kind: str) -> Any:
    as_f4, as_f8 = memory.AS_F4, memory.AS_F8
    f4_bits, f8_bits = memory.F4_BITS, memory.F8_BITS
    if kind == "f4" or kind in HALVES:

        @memory.INLINE
        def plus(a, a_high, b, b_high):
            return u64(f4_bits(np.float32(as_f4(u32(a)) + as_f4(u32(b))))), u64(0)

    elif kind == "f8":

        @memory.INLINE
        def plus(a, a_high, b, b_high):
            return f8_bits(as_f8(a) + as_f8(b)), u64(0)

    elif kind == "c8":

        @memory.INLINE
        def plus(a, a_high, b, b_high):
            real = f4_bits(np.float32(as_f4(u32(a & _LOW)) + as_f4(u32(b & _LOW))))
            imaginary = f4_bits(np.float32(as_f4(u32(a >> _32)) + as_f4(u32(b >> _32))))
            return u64(real) | (u64(imaginary) << _32), u64(0)

    elif kind == "c16":

        @memory.INLINE
        def plus(a, a_high, b, b_high):
            return f8_bits(as_f8(a) + as_f8(b)), f8_bits(as_f8(a_high) + as_f8(b_high))

    else:

        @memory.INLINE
        def plus(a, a_high, b, b_high):
            return u64(a + b), u64(0)

    return plus


def _make_times(memory: Any, kind: str) -> Any:
    """Products; each is rounded by itself, no multiply-add."""
    as_f4, as_f8 = memory.AS_F4, memory.AS_F8
    f4_bits, f8_bits = memory.F4_BITS, memory.F8_BITS
    times, times_f8 = memory.MULTIPLY, memory.MULTIPLY_F8
    if kind == "f4" or kind in HALVES:

        @memory.INLINE
        def product(a, a_high, b, b_high):
            return u64(f4_bits(times(as_f4(u32(a)), as_f4(u32(b))))), u64(0)

    elif kind == "f8":

        @memory.INLINE
        def product(a, a_high, b, b_high):
            return f8_bits(times_f8(as_f8(a), as_f8(b))), u64(0)

    elif kind == "c8":

        @memory.INLINE
        def product(a, a_high, b, b_high):
            x, y = as_f4(u32(a & _LOW)), as_f4(u32(a >> _32))
            v, w = as_f4(u32(b & _LOW)), as_f4(u32(b >> _32))
            real = f4_bits(np.float32(times(x, v) - times(y, w)))
            imaginary = f4_bits(np.float32(times(x, w) + times(y, v)))
            return u64(real) | (u64(imaginary) << _32), u64(0)

    elif kind == "c16":

        @memory.INLINE
        def product(a, a_high, b, b_high):
            x, y, v, w = as_f8(a), as_f8(a_high), as_f8(b), as_f8(b_high)
            real = f8_bits(times_f8(x, v) - times_f8(y, w))
            return real, f8_bits(times_f8(x, w) + times_f8(y, v))

    else:

        @memory.INLINE
        def product(a, a_high, b, b_high):
            return u64(a * b), u64(0)

    return product


def _make_takes(memory: Any, kind: str, largest: bool) -> Any:
    """Whether an item takes the place of another: a NaN does, an equal one does not."""
    if kind[0] in "ui":
        # Integers with a sign have the order of others once the sign is turned.
        turned = u64(1 << (8 * ITEM_BYTES[kind] - 1) if kind[0] == "i" else 0)

        @memory.INLINE
        def beyond(a, b):
            one, other = u64(u64(a) ^ turned), u64(u64(b) ^ turned)
            return other > one if largest else other < one

        return beyond
    as_f4, as_f8 = memory.AS_F4, memory.AS_F8
    if kind in _COMPARED:
        number, _ = make_halves(memory, _COMPARED[kind])
    elif kind == "f4":

        @memory.INLINE
        def number(bits):
            return as_f4(u32(bits))

    else:

        @memory.INLINE
        def number(bits):
            return as_f8(u64(bits))

    @memory.INLINE
    def takes(a, b):
        one, other = number(a), number(b)
        wins = other > one if largest else other < one
        return wins or other != other

    return takes


def make_divide(memory: Any, kind: str) -> Any:
    """``divide(total, n)``: the bits of a mean's item, of those of the sum; ``n`` is not 0."""
    as_f4, as_f8 = memory.AS_F4, memory.AS_F8
    f4_bits, f8_bits = memory.F4_BITS, memory.F8_BITS
    over, over_f8 = memory.DIVIDE, memory.DIVIDE_F8
    last = u64(LAST_COUNT)
    if kind in HALVES:
        widen, narrow = make_halves(memory, kind)

        @memory.INLINE
        def divide(total, n):
            count = widen(narrow(np.float32(min(u64(n), last))))
            return narrow(over(widen(total), count))

        return divide
    if kind == "f4":

        @memory.INLINE
        def divide(total, n):
            return u64(f4_bits(over(as_f4(u32(total)), np.float32(min(u64(n), last)))))

        return divide
    if kind == "f8":

        @memory.INLINE
        def divide(total, n):
            return f8_bits(over_f8(as_f8(total), np.float64(u64(n))))

        return divide
    return _make_floor_divide(memory, kind)


def _make_floor_divide(memory: Any, kind: str) -> Any:
    """Quotients of integers, rounded down, of what both are without their signs."""
    bits = 8 * ITEM_BYTES[kind]
    mask, sign = u64((1 << bits) - 1), u64(1 << (bits - 1))
    signed, narrow = kind[0] == "i", bits <= 32

    @memory.INLINE
    def size(value):
        return u64(u64(u64(0) - value) & mask) if signed and value & sign else u64(value)

    @memory.INLINE
    def divide(total, n):
        total, n = u64(u64(total) & mask), u64(u64(n) & mask)
        a, b = size(total), size(n)
        q = u64(u32(a) // u32(b)) if narrow else u64(a // b)
        if signed and (total ^ n) & sign:
            rest = u64(a - u64(q * b))
            q = u64(u64(0) - q)
            if rest != u64(0):
                q = u64(q - u64(1))
        return u64(q & mask)

    return divide


def make_finish(memory: Any, how: How) -> Any:
    """``finish(low, high, x_low, x_high, n)``: an item of the result, of what was folded.

    ``n`` counts the values, with the input where that counts; ``x`` is the input's item.
    """
    reduce, kind, own = how
    if reduce != "mean":

        @memory.INLINE
        def finish(low, high, x_low, x_high, n):
            if not own and n == u64(0):
                return u64(x_low), u64(x_high)
            return u64(low), u64(high)

        return finish
    divide = make_divide(memory, kind)
    mask = u64((1 << 8 * ITEM_BYTES[kind]) - 1) if kind[0] in "ui" else ~u64(0)

    @memory.INLINE
    def mean(low, high, x_low, x_high, n):
        if n == u64(0):
            return u64(x_low), u64(0)
        if (n & mask) == u64(0):  # as many as wrap
            return u64(low), u64(0)
        return divide(low, n), u64(0)

    return mean
