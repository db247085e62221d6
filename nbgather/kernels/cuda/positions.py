"""Where an element lies: a number of the launch taken apart into positions, and those into offsets.

Kernels take addresses as uint64 and ``numbers``, a tuple of uint64. Strides are in bytes and may be
negative, modulo 2**64. An axis is four numbers, innermost axis first: its length and its strides in
input, index and output. From 2**32 elements on (``wide``) it is five: the fifth has the bits of
the float64 reciprocal of the length.

A GPU has no 64-bit division. Below 2**32 elements 32-bit divisions are used, above the product with
the reciprocal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.kernels.cuda.deferred import njit

u32 = np.uint32
u64 = np.uint64

#: Numbers of an axis.
NUMBERS_PER_AXIS = 4
NUMBERS_PER_WIDE_AXIS = 5


@njit(inline="always")
def divide_narrow(n, d):
    """Quotient and remainder of numbers below 2**32."""
    q = u32(u32(n) // u32(d))
    return u64(q), u64(u32(u32(n) - u32(q * u32(d))))


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
    numbers_per_axis = NUMBERS_PER_WIDE_AXIS if wide else NUMBERS_PER_AXIS
    as_f8 = memory.AS_F8

    @memory.INLINE
    def offsets(element, numbers):
        in_input = u64(0)
        in_index = u64(0)
        in_output = u64(0)
        for d in range(axes):
            axis = first + numbers_per_axis * d
            if d == axes - 1:
                position = u64(element)
            elif wide:
                element, position = divide_wide(
                    element, u64(numbers[axis]), as_f8(u64(numbers[axis + 4]))
                )
            else:
                element, position = divide_narrow(element, u64(numbers[axis]))
            in_input += position * u64(numbers[axis + 1])
            in_index += position * u64(numbers[axis + 2])
            in_output += position * u64(numbers[axis + 3])
        return in_input, in_index, in_output

    return offsets
