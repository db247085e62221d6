"""Errors of compiled code: written down there as numbers, told by the functions of Python.

Compiled code sees that something is wrong, and writes a *record*: int64 in memory of its own, of
which the first says what it is about. The exception that it then raises has the record's address.
When Python makes the exception, the function itself is called with the same numbers, and with
arrays of the same shapes and dtypes that have no memory: what it says of them is raised instead. So
no check has a second text.

What numba has cached goes on to write the records of the version that compiled it. So what is here
never changes: another layout of a record is another kind of it, with a number of its own.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

import nbgather
from nbgather.containers import registry
from nbgather.engine import bad_index
from nbgather.engine.out import check_match, check_out
from nbgather.engine.plan import plan_gather
from nbgather.engine.segments import checked_out
from nbgather.kernels.constants import MODES
from nbgather.kernels.memory import view_memory
from nbgather.operations import checks, keep
from nbgather.operations.indexing import Gather, GatherTokens, TakeAlongAxis
from nbgather.operations.segments import GatherReduce, SegmentReduce, checked_bounds
from nbgather.operations.shapes import needs_position

#: What a record is about: the arguments of a call, a mode, an index that is out of bounds, one that
#: was, a scatter with an ``out``, a sample's number of tokens, a reduction with an ``out``, bad
#: offsets or counts of segments, a reduction of rows with an ``out``.
CALL, OUT, MODE, BAD_INDEX, GONE_INDEX, SCATTER_OUT, BAD_COUNT, REDUCE_OUT, BAD_SEGMENTS = range(9)
ROWS_OUT = 9
#: A flag of a record that was read before.
TOLD = 1 << 32
#: What an argument of a call is.
ABSENT, NONE, NUMBER, ARRAY, MODE_NUMBER, TUPLE, TEXT = range(7)
#: The kinds of numbers that a record has two words of.
INTEGER, UNSIGNED, REAL, BOOLEAN, COMPLEX = range(5)
#: The functions that a record may be about.
FUNCTIONS = (
    "gather", "take_along_axis", "gather_tokens", "scatter", "scatter_add", "token_noise",
    "rank_tokens", "random_masking", "restore_tokens", "patchify", "unpatchify", "scatter_reduce",
    "segment_reduce", "gather_reduce",
)  # fmt: skip
#: The kinds of gathers.
GATHER, ALONG, TOKENS, RESTORE = range(4)
#: The ways to say where segments are.
WAYS = ("ids", "offsets", "counts")
IDS, OFFSETS, COUNTS = range(3)

_OPERATIONS: dict[str, Any] = {
    "gather": Gather,
    "take_along_axis": TakeAlongAxis,
    "gather_tokens": GatherTokens,
}
_MISSING = object()

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

    def number(self) -> Any:
        kind, first, second = self.many(3)
        if kind == UNSIGNED:
            return first & (2**64 - 1)
        if kind in (REAL, COMPLEX):
            parts = struct.unpack("dd", struct.pack("qq", first, second))
            return complex(*parts) if kind == COMPLEX else parts[0]
        return bool(first) if kind == BOOLEAN else first

    def array(self, has_memory: bool = False) -> np.ndarray:
        """An array where it lies, or one like it that has no memory."""
        dtype = struct.pack("qq", *self.many(2)).rstrip(b"\0").decode()
        address, counted, ndim = self.many(3)
        numbers = self.many(2 * counted)
        shape, strides = numbers[:ndim], numbers[counted : counted + ndim]
        if has_memory:
            return view_memory(address, shape, strides, dtype, None)
        return _like(shape, np.dtype(dtype))

    def text(self) -> str:
        length = self.take()
        words = self.many(-(-length // 8))
        return struct.pack(f"{len(words)}q", *words)[:length].decode()

    def argument(self, has_memory: bool = False) -> Any:
        kind = self.take()
        if kind == TUPLE:
            return tuple(self.number() for _ in range(self.take()))
        readers = {
            ABSENT: lambda: _MISSING,
            NONE: lambda: None,
            NUMBER: self.number,
            ARRAY: lambda: self.array(has_memory),
            MODE_NUMBER: lambda: MODES[self.take()],
            TEXT: self.text,
        }
        return readers[kind]()


def _like(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of a shape whose items are one and the same, a zero."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def parameters(name: str) -> tuple[str, ...]:
    """The names of a function's parameters, in the order that a record has them in."""
    function = getattr(nbgather, name)
    return tuple(function.__code__.co_varnames[: _arity(function)])


def _arity(function: Any) -> int:
    return int(function.__code__.co_argcount + function.__code__.co_kwonlyargcount)


def _call(words: _Words) -> None:
    name = FUNCTIONS[words.take()]
    given = [words.argument() for _ in range(words.take())]
    named = dict(zip(parameters(name), given, strict=False))
    named = {key: value for key, value in named.items() if value is not _MISSING}
    getattr(nbgather, name)(**named)


def _out(words: _Words) -> None:
    """Nothing is read or written where the arrays are: they may be gone."""
    name, dim, mode = FUNCTIONS[words.take()], words.take(), MODES[words.take()]
    operation = _OPERATIONS[name](dim, mode)
    arrays = []
    for _ in range(3):
        words.take()
        arrays.append(words.array(has_memory=True))
    *operands, out = arrays
    if not words.take():
        out.flags.writeable = False
    container = registry.find(out, "out")
    specs = [container.spec(one) for one in operands]
    named = [*zip(operation.names[:2], operands, specs, strict=True)]
    out_spec = check_out(container, out, named)
    kind: Any = type(operation)
    plan = plan_gather(kind, dim, mode, *specs, out_spec)
    needs_position(plan.shape, plan.size, plan.dim, plan.mode)
    raise ValueError(_BETWEEN)


def _scatter_out(words: _Words) -> None:
    """As `_out`; what is wrong with the operands is told by the function itself."""
    _check_scatter_out(words, FUNCTIONS[words.take()], 4)


def _reduce_out(words: _Words) -> None:
    """As `_scatter_out`."""
    name = FUNCTIONS[words.take()]
    _check_scatter_out(words, name, words.take())


def _check_scatter_out(words: _Words, name: str, count: int) -> None:
    start = words.address
    *operands, out = (words.argument(has_memory=True) for _ in range(count + 1))
    if not words.take():
        out.flags.writeable = False
    container = registry.find(out, "out")
    named = [
        (what, one, container.spec(one))
        for what, one in zip(("input", "dim", "index", "src"), operands, strict=False)
        if isinstance(one, np.ndarray)
    ]
    check_match(check_out(container, out, named), named[0][2])
    words = _Words(start)
    given = dict(zip(parameters(name), (words.argument() for _ in range(count)), strict=False))
    getattr(nbgather, name)(**given)
    raise ValueError(_BETWEEN)


#: What is said of an ``out`` that Python would look at closer.
_BETWEEN = "out lies between the items of an operand: without the GIL that is taken for an overlap"


def _mode(words: _Words) -> None:
    length, width = words.take(), words.take()
    data = ctypes.string_at(words.address, length * width)
    checks.mode(np.frombuffer(data, f"u{width}").astype("u4").tobytes().decode("utf-32"))


def _bad_index(words: _Words) -> None:
    dim, size, unsigned, value = words.many(4)
    value += 2**64 if unsigned and value < 0 else 0
    raise IndexError(bad_index.message(value, str(words.many(words.take())), dim, size))


def _gone_index(words: _Words) -> None:
    dim, size = words.take(), words.take()
    bad_index.raise_bad_index(np.empty(0, np.int64), size, dim, False)


def _bad_count(words: _Words) -> None:
    sample, number, length = words.many(3)
    keep.between(number, length, f"num_keep[{sample}]")


def _bad_segments(words: _Words) -> None:
    name, by, rows, unsigned, count = words.many(5)
    values = np.array(words.many(count), np.int64)
    kind: Any = GatherReduce if FUNCTIONS[name] == "gather_reduce" else SegmentReduce
    given = values.view(np.uint64) if unsigned else values
    checked_bounds(kind("sum", WAYS[by]), given, rows)


def _rows_out(words: _Words) -> None:
    """As `_out`, of segments and bags."""
    name, count = FUNCTIONS[words.take()], words.take()
    given = zip(parameters(name), [words.argument(has_memory=True) for _ in range(count)])
    named = {key: value for key, value in given if value is not _MISSING and value is not None}
    out, x, ids = named["out"], named["x"], named.get("ids")
    if not words.take():
        out.flags.writeable = False
    where = next((named[way] for way in WAYS[1:] if way in named), None)
    by = next((way for way in WAYS[1:] if way in named), WAYS[IDS])
    operation: Any
    operands: tuple[Any, ...]
    if name == "gather_reduce":
        bags = "counts" if where is None else by
        operation = GatherReduce(named["reduce"], bags, mode=named.get("mode", MODES[0]))
        operands = (x, ids, where)
    else:
        size = checks.count(named.get("num_segments", 0), "num_segments")
        operation = SegmentReduce(named["reduce"], by, size)
        operands = (x, ids if where is None else where)
    container = registry.find(out, "out")
    specs = [None if one is None else container.spec(one) for one in operands]
    (result,) = operation.result(*specs)
    checked_out(container, operation, operands, result, out)
    mode = named.get("mode", MODES[0])
    if ids is not None:
        needs_position((ids.size,), x.shape[0], 0, mode)
    if mode == "fill":
        container.item_bits(named.get("fill_value", 0), x, "fill_value")
    raise ValueError(_BETWEEN)


_READERS = {
    CALL: _call,
    OUT: _out,
    MODE: _mode,
    BAD_INDEX: _bad_index,
    GONE_INDEX: _gone_index,
    SCATTER_OUT: _scatter_out,
    BAD_COUNT: _bad_count,
    REDUCE_OUT: _reduce_out,
    BAD_SEGMENTS: _bad_segments,
    ROWS_OUT: _rows_out,
}


def _told(check: Callable[[_Words], None], words: _Words) -> Exception:
    try:
        check(words)
    except Exception as error:
        return error.with_traceback(None)
    return RuntimeError("a call was refused in compiled code that is none to refuse")


class Refused(ValueError):
    """What a record says: makes an exception of another class than its own."""

    def __new__(cls, address: int) -> Any:
        words = _Words(address)
        kind = words.take()
        error = _told(_READERS[kind & ~TOLD], words)
        # numba asks twice: whether there is such an exception, and when it raises it.
        if kind & TOLD:
            _libc.free(address)
        else:
            ctypes.c_int64.from_address(address).value = kind | TOLD
        return error
