"""segment_reduce and gather_reduce inside compiled code."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils

from nbgather.kernels.cpu.folds import identity
from nbgather.numba_ext import arguments, emit
from nbgather.numba_ext.arguments import dtype_of, was_given
from nbgather.numba_ext.calls import Call, all_of, made_array, size_of
from nbgather.numba_ext.emit import I64
from nbgather.numba_ext.records import COUNTS, FUNCTIONS, WAYS
from nbgather.numba_ext.reducing import filler
from nbgather.numba_ext.scatters import kernel_of
from nbgather.numba_ext.segment_loops import (
    NOTHING,
    ROWS,
    SEGMENTS,
    counter,
    is_possible,
    row_reducer,
)
from nbgather.operations.reducing import REDUCES, Reduction
from nbgather.operations.segments import SegmentReduce

#: How many rows each segment has, while it is reduced.
_COUNTS = types.Array(types.int64, 1, "C")


class _RowReduce(Call):
    """A reduction of rows, for the types of a function's arguments by their names.

    ``index`` names the argument that has the segments of the rows or the rows of the bags, and
    ``where`` the one that has offsets or counts; None where there is none.
    """

    #: The arguments in the order of the function's.
    names: tuple[str, ...]
    #: Those that must be given, and be arrays.
    needs: tuple[str, ...] = ("x",)
    index: str | None
    where: str | None

    def __init__(self, kinds: tuple[Any, ...], how: Reduction | None) -> None:
        self.kinds = dict(zip(self.names, kinds, strict=True))
        x = self.kinds["x"]
        self.texts = {"reduce": self.kinds["reduce"].literal_value}
        self.result = types.Array(x.dtype, x.ndim, "C")
        self.arrays = (self.result,)
        self.item = dtype_of(x).itemsize
        self.how = how
        self.index, self.where = self._read()
        self.is_refused = how is None or not self._may_fit()
        self.is_refused = self.is_refused or arguments.is_refused(self.name, kinds)

    def _read(self) -> tuple[str | None, str | None]:
        """Which of the arguments are the index and the bounds."""
        raise NotImplementedError

    def _may_fit(self) -> bool:
        """Whether the arguments fit by their dimensions, and are not too many."""
        raise NotImplementedError

    def _size(self, builder: Any, number: Any) -> tuple[Any, Any]:
        """How many segments there are, and whether the sizes of the arguments fit."""
        raise NotImplementedError

    def _words(self, context: Any, builder: Any, what: str | None, values: Any) -> Any:
        if what is None:
            return I64(0)
        return emit.words_of(context, builder, self.kinds[what], values[self.names.index(what)])

    def check(self, context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        self.x = self._words(context, builder, "x", values)
        self.indices = self._words(context, builder, self.index, values)
        self.bounds = self._words(context, builder, self.where, values)
        self.rows = size_of(builder, self.x, 0)
        if self.index is not None:
            self.rows = emit.count_of(builder, self.kinds[self.index], self.indices)
        number = None
        if "num_segments" in self.names:
            at = self.names.index("num_segments")
            number = arguments.whole(context, builder, kinds[at], values[at])
        self.size, fits = self._size(builder, number)
        possible = is_possible.emit(context, builder, self.size, self.x, I64(self.item))
        return all_of(builder, fits, possible)

    def work(self, builder: Any) -> Any:
        row = I64(self.item)
        for d in range(1, self.kinds["x"].ndim):
            row = builder.mul(row, size_of(builder, self.x, d))
        return builder.mul(builder.add(self.rows, self.size), row)

    def asked(self, kinds: Any, values: Any) -> list[tuple[Any, Any]]:
        given = [(types.int64, I64(REDUCES.index(self.texts["reduce"])))]
        by = self.where or "ids"
        given.append((types.int64, I64(WAYS.index(by))))
        given.append((types.int64, self.size))
        named = dict(zip(self.names, zip(kinds, values, strict=True), strict=False))
        return [*given, *(named[k] for k in ("x", self.index, self.where) if k is not None)]

    def run(self, context: Any, builder: Any, kinds: Any, values: Any) -> list[Any]:
        assert self.how is not None
        x, (reduce, kind, _) = self.kinds["x"], self.how
        inner = [size_of(builder, self.x, d) for d in range(1, x.ndim)]
        made, rw = made_array(context, builder, self.result, self.size, *inner)
        counts, cw = made_array(context, builder, _COUNTS, self.size)
        says, each = NOTHING if self.index is None else SEGMENTS, I64(0)
        if self.name == "gather_reduce":
            says = ROWS
            if self.where is None:
                each = size_of(builder, self.indices, 1)
        filler(8).emit(context, builder, cw, emit.stored(context, builder, types.int64, each))
        bad = I64(0)
        if self.where is not None:
            function, by = FUNCTIONS.index(self.name), WAYS.index(self.where)
            count = counter(self.kinds[self.where].dtype)
            bad = count.emit(context, builder, I64(function), I64(by), self.bounds, self.rows, cw)
        bad = cgutils.alloca_once_value(builder, bad)
        with builder.if_then(cgutils.is_null(builder, builder.load(bad))):
            index = types.int64 if self.index is None else self.kinds[self.index].dtype
            dtype = dtype_of(x)
            empty = SegmentReduce(self.texts["reduce"], "ids").empty(dtype)
            first = identity(reduce, kind)
            numbers = emit.numbers(builder, dtype, first.astype(dtype), empty, 0)
            reduce_rows = row_reducer(x.dtype, reduce, kind, index)
            operands = I64(says), self.x, self.indices, rw, cw, numbers
            builder.store(reduce_rows.emit(context, builder, *operands), bad)
        context.nrt.decref(builder, _COUNTS, counts)
        emit.refuse_result(context, builder, self.result, made, builder.load(bad))
        return [made]


class _SegmentReduce(_RowReduce):
    """segment_reduce(x, reduce, ids, num_segments, offsets, counts)."""

    name = "segment_reduce"
    names = ("x", "reduce", "ids", "num_segments", "offsets", "counts")

    def _read(self) -> tuple[str | None, str | None]:
        given = [way for way in WAYS if was_given(self.kinds[way])]
        self.is_one = len(given) == 1
        by = given[0] if self.is_one else None
        return ("ids", None) if by == "ids" else (None, by)

    def _may_fit(self) -> bool:
        if not self.is_one or self.kinds["x"].ndim == 0:
            return False
        if was_given(self.kinds["num_segments"]) != (self.index is not None):
            return False
        return all(self.kinds[one].ndim == 1 for one in (self.index, self.where) if one)

    def _size(self, builder: Any, number: Any) -> tuple[Any, Any]:
        if self.index is not None:
            same = builder.icmp_signed("==", self.rows, size_of(builder, self.x, 0))
            return number, same
        return _segments(builder, self.where, self.bounds)


class _GatherReduce(_RowReduce):
    """gather_reduce(x, ids, reduce, offsets, counts)."""

    name = "gather_reduce"
    needs = ("x", "ids")
    names = ("x", "ids", "reduce", "offsets", "counts")

    def _read(self) -> tuple[str | None, str | None]:
        given = [way for way in WAYS[1:] if was_given(self.kinds[way])]
        self.is_one = len(given) < 2
        return "ids", given[0] if len(given) == 1 else None

    def _may_fit(self) -> bool:
        if not self.is_one or self.kinds["x"].ndim == 0:
            return False
        if self.where is None:
            return bool(self.kinds["ids"].ndim == 2)
        return bool(self.kinds["ids"].ndim == self.kinds[self.where].ndim == 1)

    def _size(self, builder: Any, number: Any) -> tuple[Any, Any]:
        if self.where is None:
            return size_of(builder, self.indices, 0), emit.I1(1)
        return _segments(builder, self.where, self.bounds)


def _segments(builder: Any, by: str | None, bounds: Any) -> tuple[Any, Any]:
    """How many segments offsets or counts say there are, and whether there are enough of them."""
    size = size_of(builder, bounds, 0)
    if by == WAYS[COUNTS]:
        return size, emit.I1(1)
    return builder.sub(size, I64(1)), builder.icmp_signed(">=", size, I64(1))


def _reduces(made: type[_RowReduce], kinds: tuple[Any, ...], backend: Any) -> Any:
    """The result's type and what writes the code, or why there is none."""
    name, named = made.name, dict(zip(made.names, kinds, strict=True))
    given = [way for way in WAYS if was_given(named[way])]
    arrays = {what: named[what] for what in (*made.needs, *given)}
    reason = arguments.why_not(name, arrays, kinds, backend)
    if reason is not None:
        return reason
    how = kernel_of(name, named["x"], named["reduce"])
    if isinstance(how, str):
        return how
    if "ids" in given and not was_given(named.get("num_segments", types.int64)):
        return (
            f"{name} by ids in compiled code takes num_segments=: give it, or {arguments.OUTSIDE}"
        )
    call = made(kinds, how)
    return call.result, call.write


def segment_reduce(x, reduce, ids=None, num_segments=None, offsets=None, counts=None, backend=None):
    return _reduces(_SegmentReduce, (x, reduce, ids, num_segments, offsets, counts), backend)


def gather_reduce(x, ids, reduce, offsets=None, counts=None, backend=None):
    return _reduces(_GatherReduce, (x, ids, reduce, offsets, counts), backend)
