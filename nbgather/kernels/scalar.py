"""What one element needs: one source for the kernels of every device.

Each function is valid in ``numba.njit`` and in ``numba.cuda``. Products are taken in uint64 and
masked before they are narrowed, so nothing overflows anywhere. The reference backend does not use
this module: it is the specification that this one is checked against.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels.constants import CLIP, WRAP

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
# Philox's multipliers of the counter, and what is added to the key in each round.
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@njit(inline="always")
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 (Salmon et al., SC 2011): four words from a counter and a key, as uint64."""
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0 = (p1 >> _32) ^ c1 ^ k0
        c1 = p1 & _LOW
        c2 = (p0 >> _32) ^ c3 ^ k1
        c3 = p0 & _LOW
        k0 = (k0 + _W0) & _LOW
        k1 = (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@njit(inline="always")
def unit_float(word):
    """The top 24 bits of a 32-bit word as a float32 in [0, 1): exact."""
    return np.float32(word >> np.uint64(8)) * np.float32(2.0**-24)


@njit(inline="always")
def key_f4(bits):
    """Sort key of a float32 given as uint32: -0 equals 0, every NaN equal and last."""
    if (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
        return np.uint32(0xFFFFFFFF)
    if bits == np.uint32(0x80000000):
        return np.uint32(0x80000000)
    if bits >> np.uint32(31):
        return np.uint32(~bits)
    return np.uint32(bits | np.uint32(0x80000000))


@njit(inline="always")
def key_f8(bits):
    """Sort key of a float64 given as uint64: -0 equals 0, every NaN equal and last."""
    if (bits & np.uint64(0x7FFFFFFFFFFFFFFF)) > np.uint64(0x7FF0000000000000):
        return np.uint64(0xFFFFFFFFFFFFFFFF)
    if bits == np.uint64(0x8000000000000000):
        return np.uint64(0x8000000000000000)
    if bits >> np.uint64(63):
        return np.uint64(~bits)
    return np.uint64(bits | np.uint64(0x8000000000000000))


@njit(inline="always")
def resolve(value, size, mode, from_end):
    """Where an index points: a position below ``size``, or a value that is not below it.

    ``value`` is the index as it came, ``size`` a uint64. With ``from_end`` a negative value counts
    from the end. In the modes ``raise`` and ``fill`` a result ``>= size`` means out of bounds; the
    single unsigned comparison covers negative values too.
    """
    position = np.uint64(value)
    if from_end and value < 0:
        position = position + size
    if mode == CLIP and position >= size:
        # A negative value is at least 2**63 here, also after `size` was added.
        position = np.uint64(0) if value < 0 else size - np.uint64(1)
    if mode == WRAP and position >= size:
        if value < 0:
            # -v - 1 cannot overflow, and (S - 1) - ((-v - 1) mod S) is v modulo S.
            position = size - np.uint64(1) - np.uint64(-(value + 1)) % size
        else:
            position = position % size
    return position
