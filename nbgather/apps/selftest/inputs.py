"""Inputs of the self-test, made by counters, so that every machine makes the same.

The words are Philox4x32-10's, written here in NumPy alone: no kernel has a part in what kernels are
tested with.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_STEPS = 0x9E3779B9, 0xBB67AE85


def words(stream: int, count: int) -> np.ndarray:
    """``count`` words of 32 bits; each stream has its own."""
    blocks = -(-count // 4)
    c0 = np.arange(blocks, dtype=np.uint64)
    c1, c2, c3 = (np.full(blocks, stream >> 32 * n & 0xFFFFFFFF, np.uint64) for n in range(3))
    k0 = k1 = 0
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _LOW
        c2, c3 = (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _STEPS[0]) & 0xFFFFFFFF, (k1 + _STEPS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], 1).reshape(-1)[:count].astype(np.uint32)


def bits(stream: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Random bits of any dtype, NaN with payloads and denormals among them; bools stay bools."""
    kind = np.dtype(dtype)
    count = math.prod(shape)
    if kind == np.bool_:
        return (words(stream, count) & 1).astype(bool).reshape(shape)
    nbytes = count * kind.itemsize
    little = words(stream, -(-nbytes // 4)).astype("<u4").view(np.uint8)[:nbytes]
    return little.copy().view(kind.newbyteorder("<")).astype(kind).reshape(shape)


def integers(
    stream: int, low: int, high: int, shape: tuple[int, ...], dtype: Any = np.int64
) -> np.ndarray:
    """Integers from ``low`` on below ``high``."""
    drawn = words(stream, math.prod(shape)).astype(np.int64) % (high - low) + low
    return drawn.astype(dtype).reshape(shape)


def floats(stream: int, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Numbers in [0, 1) of 11 bits, which every float holds exactly: with ties, where many."""
    drawn = (words(stream, math.prod(shape)) >> 21).astype(np.float64) / 2048
    return drawn.astype(dtype).reshape(shape)


SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, 2.0**-14)


def scores(stream: int, shape: tuple[int, ...], kind: str, dtype: Any) -> np.ndarray:
    """Scores to rank: ``random``, ``ties``, ``special``, ``sorted`` or ``equal``."""
    if kind == "special":
        values = np.array(SPECIAL, dtype)[integers(stream, 0, len(SPECIAL), shape)]
        return np.where(
            integers(stream + 1, 0, 2, shape) == 1, values, floats(stream, shape, dtype)
        )
    if kind == "ties":
        return (integers(stream, 0, 5, shape) / 4).astype(dtype)
    if kind == "equal":
        return np.full(shape, 0.25, dtype)
    drawn = floats(stream, shape, np.float64) + floats(stream + 1, shape, np.float64) / 2048
    values = drawn.astype(dtype)
    return np.sort(values, -1) if kind == "sorted" else values


#: Ways that an array may lie in memory, from an array of the shape that is wanted.
LAYOUTS = ("C", "F", "sliced", "reversed", "broadcast")


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same values in another layout; to broadcast, those of the first axis' first."""
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "sliced":
        wide = np.repeat(array, 2, -1)
        return wide[..., ::2]
    if layout == "reversed":
        return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    if layout == "broadcast" and array.shape[0]:
        return np.broadcast_to(array[:1], array.shape)
    return array
