"""segment_reduce and gather_reduce inside compiled code."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils

from nbgather.kernels.constants import FILL, RAISE
from nbgather.kernels.cpu.folds import identity
from nbgather.numba_ext import arguments, emit, outs
from nbgather.numba_ext.arguments import dtype_of, was_given
from nbgather.numba_ext.calls import Call, all_of, made_array, size_of
from nbgather.numba_ext.emit import I64
from nbgather.numba_ext.large import LARGE_BYTES
from nbgather.numba_ext.moving import copier
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
        self.made = types.Array(x.dtype, x.ndim, "C")
        self.out = self.kinds["out"] if was_given(self.kinds["out"]) else None
        self.result = self.out or self.made
        self.arrays = (self.result,)
        self.item = dtype_of(x).itemsize
        self.how = how
        self.index, self.where = self._read()
        self.is_refused = how is None or not self._may_fit()
        mode = self.kinds.get("mode", "")
        self.is_refused = self.is_refused or not arguments.is_mode(mode)
        self.is_refused = self.is_refused or arguments.is_refused(self.name, kinds)
        #: The mode, where it is no constant, and whether ``out`` is where an operand is.
        self.mode, self.meets = I64(RAISE), emit.I1(0)

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
        fits = all_of(builder, fits, possible, self._mode(context, builder, kinds, values))
        return all_of(builder, fits, self._out(context, builder, values))

    def _mode(self, context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        """Whether ids out of bounds can be brought within bounds, or filled for."""
        self.fill = I64(0)
        if "mode" not in self.names or not was_given(self.kinds["mode"]):
            return emit.I1(1)
        at, dtype = self.names.index("mode"), self.kinds["x"].dtype
        self.mode = arguments.mode(context, builder, kinds[at], values[at])
        holds, self.fill = arguments.item(context, builder, dtype, kinds[at + 1], values[at + 1])
        fills, raises = (builder.icmp_signed("==", self.mode, I64(mode)) for mode in (FILL, RAISE))
        found = cgutils.is_not_null(builder, size_of(builder, self.x, 0))
        found = builder.or_(found, cgutils.is_null(builder, self.rows))
        return builder.or_(raises, builder.select(fills, holds, found))

    def _out(self, context: Any, builder: Any, values: Any) -> Any:
        """Whether ``out`` will do; it may still meet an operand."""
        if self.out is None:
            return emit.I1(1)
        x = self.kinds["x"]
        self.to = emit.words_of(context, builder, self.out, values[self.names.index("out")])
        if not (self.out.mutable and self.out.dtype == x.dtype and self.out.ndim == x.ndim):
            return emit.I1(0)
        sizes = emit.result_words(builder, x.ndim)
        emit.copy_sizes(builder, x.ndim, self.x, sizes)
        builder.store(self.size, emit.word(builder, sizes, emit.SIZES))
        does = emit.I1(1)
        for what, words in ((self.index, self.indices), (self.where, self.bounds)):
            if what is not None:
                step = I64(dtype_of(self.kinds[what]).itemsize)
                operands = self.to, sizes, self.x, words, I64(self.item), step
                said = outs.check_out.emit(context, builder, *operands)
                does = builder.and_(does, builder.icmp_signed("!=", said, I64(outs.DOES_NOT)))
                meets = builder.icmp_signed("==", said, I64(outs.MEETS))
                self.meets = builder.or_(self.meets, meets)
        return does

    def refuse(self, context: Any, builder: Any, kinds: Any, values: Any) -> None:
        how = self.mode if was_given(self.kinds.get("mode")) else None
        emit.refuse_call(
            context, builder, self.name, kinds, values, how, out=self.out, **self.texts
        )

    def work(self, builder: Any) -> Any:
        row = I64(self.item)
        for d in range(1, self.kinds["x"].ndim):
            row = builder.mul(row, size_of(builder, self.x, d))
        work = builder.mul(builder.add(self.rows, self.size), row)
        return builder.select(self.meets, I64(LARGE_BYTES), work)  # which Python can tell

    def asked(self, kinds: Any, values: Any) -> list[tuple[Any, Any]]:
        given = [(types.int64, I64(REDUCES.index(self.texts["reduce"])))]
        by = self.where or "ids"
        given.append((types.int64, I64(WAYS.index(by))))
        given.append((types.int64, self.size))
        named = dict(zip(self.names, zip(kinds, values, strict=True), strict=False))
        out = None if self.out is None else "out"
        rows = [named[k] for k in ("x", self.index) if k is not None]
        if was_given(self.kinds.get("mode")) or (out and "mode" in self.names):
            self.asked_name = "gather_reduce_with"
            kind, value = named["fill_value"]
            is_fixed = isinstance(kind, types.Omitted)
            fill = (types.int64, I64(kind.value)) if is_fixed else (kind, value)
            rows += [(types.int64, self.mode), fill]
        elif out:
            self.asked_name = "segment_reduce_into"
        return [*given, *rows, *(named[k] for k in (self.where, out) if k is not None)]

    def run(self, context: Any, builder: Any, kinds: Any, values: Any) -> list[Any]:
        assert self.how is not None
        x, (reduce, kind, _) = self.kinds["x"], self.how
        inner = [size_of(builder, self.x, d) for d in range(1, x.ndim)]
        with emit.unless(builder, builder.not_(self.meets)):
            self.refuse(context, builder, kinds, values)
        made, rw = made_array(context, builder, self.made, self.size, *inner)
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
            operands = I64(says), self.x, self.indices, rw, cw, numbers, self.mode, self.fill
            builder.store(reduce_rows.emit(context, builder, *operands), bad)
        context.nrt.decref(builder, _COUNTS, counts)
        emit.refuse_result(context, builder, self.made, made, builder.load(bad))
        if self.out is None:
            return [made]
        # Nothing is written to it before all has gone well.
        copier(self.item).emit(context, builder, self.to, rw)
        context.nrt.decref(builder, self.made, made)
        out = values[self.names.index("out")]
        context.nrt.incref(builder, self.out, out)
        return [out]


class _SegmentReduce(_RowReduce):
    """segment_reduce(x, reduce, ids, num_segments, offsets, counts, out)."""

    name = "segment_reduce"
    names = ("x", "reduce", "ids", "num_segments", "offsets", "counts", "out")

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
    """gather_reduce(x, ids, reduce, offsets, counts, mode, fill_value, out)."""

    name = "gather_reduce"
    needs = ("x", "ids")
    names = ("x", "ids", "reduce", "offsets", "counts", "mode", "fill_value", "out")

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
    given += ["out"] if was_given(named["out"]) else []
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


def segment_reduce(
    x, reduce, ids=None, num_segments=None, offsets=None, counts=None, out=None, backend=None
):
    return _reduces(_SegmentReduce, (x, reduce, ids, num_segments, offsets, counts, out), backend)


def gather_reduce(
    x, ids, reduce, offsets=None, counts=None, mode="raise", fill_value=0, out=None, backend=None
):
    kinds = (x, ids, reduce, offsets, counts, mode, fill_value, out)
    return _reduces(_GatherReduce, kinds, backend)
