"""Where an element lies: a number of the launch taken apart into positions, and those into offsets.

Kernels take addresses as uint64 and ``numbers``, a tuple of uint64. Strides are in bytes and may be
negative, modulo 2**64. An axis is five numbers, innermost axis first: its length, its strides in
input, index and output, and what stands for a division by the length, :func:`reciprocal`.

A GPU has no division of integers: one of 32 bits is a subroutine of some 20 instructions, with a
conversion to float and back. So the host divides once, and a position is a product: below 2**32
elements with ``2**64 / length`` rounded up, whose upper 64 bits are the quotient exactly (Lemire,
Kaser and Kurz, 2019); from there on (``wide``) with the float64 reciprocal, corrected by one.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from nbgather.kernels.cuda.deferred import njit

u32 = np.uint32
u64 = np.uint64

#: Numbers of an axis.
NUMBERS_PER_AXIS = 5


def reciprocal(length: int, wide: bool) -> int:
    """What a kernel multiplies by to divide by a length; of an axis of length 1 nobody asks it."""
    if wide:
        return int(struct.unpack("<Q", struct.pack("<d", 1.0 / length))[0])
    return -(-(1 << 64) // length) & 0xFFFFFFFFFFFFFFFF


@njit(inline="always")
def divide_narrow(n, d):
    """Quotient and remainder of numbers below 2**32."""
    q = u32(u32(n) // u32(d))
    return u64(q), u64(u32(u32(n) - u32(q * u32(d))))


@njit(inline="always")
def divide_by(n, d, reciprocal):
    """Quotient and remainder of numbers below 2**32, ``d`` above 1, by 2**64 / d rounded up."""
    low = (u64(u32(reciprocal)) * u64(u32(n))) >> u64(32)
    q = u64(u64((reciprocal >> u64(32)) * u64(u32(n))) + low) >> u64(32)
    return q, u64(u32(u32(n) - u32(u32(q) * u32(d))))


@njit(inline="always")
def divide_wide(n, d, reciprocal):
    """Quotient and remainder below 2**52; the product is off by one at most, which is corrected."""
    q = np.int64(np.float64(np.int64(n)) * reciprocal)
    r = np.int64(n) - q * np.int64(d)
    if r < 0:
        q -= 1
        r += np.int64(d)
    if r >= np.int64(d):
        q += 1
        r -= np.int64(d)
    return u64(q), u64(r)


def make_offsets(memory: Any, axes: int, first: int, wide: bool) -> Any:
    """The offsets of an element in input, index and output; axes begin at ``numbers[first]``."""
    walk: Any = None
    for d in reversed(range(axes)):
        walk = _make_walk(memory, first + NUMBERS_PER_AXIS * d, wide, walk)

    @memory.INLINE
    def offsets(element, numbers):
        return walk(u64(element), u64(0), u64(0), u64(0), numbers)

    return offsets


def _make_walk(memory: Any, axis: int, wide: bool, walk_outer: Any) -> Any:
    """Add the offsets along an axis, and those outside it, by a walk of these.

    A function for each axis: in a loop a compiler that did not unroll it would look the numbers up.
    """
    as_f8 = memory.AS_F8
    x_at, i_at, o_at, reciprocal_at = axis + 1, axis + 2, axis + 3, axis + 4
    if walk_outer is None:

        @memory.INLINE
        def walk(element, x, i, o, numbers):
            return (
                u64(x + element * u64(numbers[x_at])),
                u64(i + element * u64(numbers[i_at])),
                u64(o + element * u64(numbers[o_at])),
            )

    else:

        @memory.INLINE
        def walk(element, x, i, o, numbers):
            if wide:
                rest, position = divide_wide(
                    element, u64(numbers[axis]), as_f8(u64(numbers[reciprocal_at]))
                )
            else:
                rest, position = divide_by(element, u64(numbers[axis]), u64(numbers[reciprocal_at]))
            return walk_outer(
                rest,
                u64(x + position * u64(numbers[x_at])),
                u64(i + position * u64(numbers[i_at])),
                u64(o + position * u64(numbers[o_at])),
                numbers,
            )

    return walk
