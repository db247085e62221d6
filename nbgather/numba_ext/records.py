"""Errors of compiled code: written down there as numbers, told by the operations here.

Compiled code sees that something is wrong, and writes a *record*: int64 in memory of its own, of
which the first says what it is about. The exception that it then raises has the record's address;
when Python makes the exception, the very checks of the operations are asked again, and theirs is
raised instead. So no text is written twice.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from nbgather.engine import bad_index
from nbgather.kernels import constants

#: What a record is about.
SHAPES, MODE, BAD_INDEX, GONE_INDEX, WHOLE, NO_MODE, NO_FILL = range(7)
#: A flag of a record that was read before.
TOLD = 1 << 32
#: The kinds of numbers that a record has two words of.
INTEGER, UNSIGNED, REAL, BOOLEAN, COMPLEX = range(5)
#: What numbers are called in a message.
NAMES = ("dim", "axis", "seed", "epoch", "num_tokens", "num_keep", "mask_ratio")
#: The kinds of gathers.
GATHER, ALONG, TOKENS, RESTORE = range(4)

_libc = ctypes.CDLL(None)
_libc.free.argtypes = [ctypes.c_void_p]


class _Words:
    """Reads a record."""

    def __init__(self, address: int) -> None:
        self.address = address

    def take(self) -> int:
        value = ctypes.c_int64.from_address(self.address).value
        self.address += 8
        return value

    def many(self, count: int) -> tuple[int, ...]:
        return tuple(self.take() for _ in range(count))

    def shape(self) -> tuple[int, ...]:
        """Of the words of an array."""
        _, counted, ndim = self.many(3)
        return self.many(2 * counted)[:ndim]

    def number(self) -> Any:
        kind, first, second = self.many(3)
        if kind == UNSIGNED:
            return first & (2**64 - 1)
        if kind in (REAL, COMPLEX):
            parts = struct.unpack("dd", struct.pack("qq", first, second))
            return complex(*parts) if kind == COMPLEX else parts[0]
        return bool(first) if kind == BOOLEAN else first

    def text(self) -> str:
        return struct.pack("q", self.take()).rstrip(b"\0").decode()


def _shapes(words: _Words) -> None:
    from nbgather.operations import indexing, shapes, tokens

    kinds: tuple[Callable[..., Any], ...] = (
        indexing.Gather, indexing.TakeAlongAxis, indexing.GatherTokens, tokens.RestoreTokens,
    )  # fmt: skip
    kind, dim, mode = words.take(), words.take(), words.take()
    x, index = words.shape(), words.shape()
    operation = kinds[kind](dim, constants.MODES[mode])
    result = operation.shape(x, index)
    axis = operation.axis(len(x))
    shapes.needs_position(result, x[axis] if x else 1, axis, operation.mode)


def _mode(words: _Words) -> None:
    from nbgather.operations import checks

    length, width = words.take(), words.take()
    data = ctypes.string_at(words.address, length * width)
    checks.mode(np.frombuffer(data, f"u{width}").astype("u4").tobytes().decode("utf-32"))


def _bad_index(words: _Words) -> None:
    dim, size, unsigned, value = (words.take() for _ in range(4))
    value += 2**64 if unsigned and value < 0 else 0
    raise IndexError(bad_index.message(value, str(words.many(words.take())), dim, size))


def _gone_index(words: _Words) -> None:
    dim, size = words.take(), words.take()
    bad_index.raise_bad_index(np.empty(0, np.int64), size, dim, False)


def _whole(words: _Words) -> None:
    from nbgather.operations import checks

    what = NAMES[words.take()]
    checks.integer(words.number(), what)


def _no_mode(words: _Words) -> None:
    from nbgather.operations import checks

    checks.mode(words.number())


def _no_fill(words: _Words) -> None:
    from nbgather.containers.numpy import item_bits

    dtype, value = words.text(), words.number()
    item_bits(np.dtype(dtype), value, "fill_value")
    raise TypeError(
        f"fill_value {value!r} for dtype {dtype}: compiled code fills integers, bool, float32,"
        " float64, complex, datetime64 and timedelta64 alone"
    )


_READERS = {
    SHAPES: _shapes,
    MODE: _mode,
    BAD_INDEX: _bad_index,
    GONE_INDEX: _gone_index,
    WHOLE: _whole,
    NO_MODE: _no_mode,
    NO_FILL: _no_fill,
}


def told(check: Callable[..., Any], *arguments: Any) -> Exception:
    try:
        check(*arguments)
    except Exception as error:
        return error.with_traceback(None)
    return RuntimeError(f"{check.__name__} refused {arguments} in compiled code alone")


class Refused(ValueError):
    """What a record says: makes an exception of another class than its own."""

    def __new__(cls, address: int) -> Any:
        words = _Words(address)
        kind = words.take()
        error = told(_READERS[kind & ~TOLD], words)
        # numba asks twice: whether there is such an exception, and when it raises it.
        if kind & TOLD:
            _libc.free(address)
        else:
            ctypes.c_int64.from_address(address).value = kind | TOLD
        return error
