"""``segment_reduce`` and ``gather_reduce`` as models."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.onnx._build import (
    INDEX_TYPES,
    GraphBuilder,
    ModelProto,
    TensorProto,
    check_versions,
    dtype_name,
)
from nbgather.onnx._nodes import check_choice
from nbgather.onnx.scattering import NUMBERS, REDUCTIONS, Reduction
from nbgather.operations import checks
from nbgather.operations.reducing import checked_reduce
from nbgather.operations.segments import SegmentReduce

__all__ = ["gather_reduce_model", "segment_reduce_model"]


def segment_reduce_model(
    reduce: str = "sum",
    rank: int = 2,
    *,
    by: str = "offsets",
    dtype: Any = "float32",
    index_dtype: Any = "int64",
    opset: int = 18,
    ir_version: int = 8,
) -> ModelProto:
    """:func:`nbgather.segment_reduce` as a ScatterND of the rows.

    Inputs: ``x`` of ``rank`` dimensions, and ``offsets`` `[S + 1]`, ``counts`` `[S]`, or ``ids``
    `[N]` with ``num_segments``, a scalar. ``output`` has S rows. Every size is dynamic. Offsets or
    counts that are not of N rows fail, and an id that is not below the number of segments; a
    negative id counts from the end, and that offsets rise from 0 is not looked at.

    Parameters
    ----------
    reduce : {"sum", "prod", "mean", "amax", "amin"}
        What the rows of a segment become.
    rank : int
        The number of dimensions of x, at least 1.
    by : {"offsets", "counts", "ids"}
        How the segments are told.
    dtype : dtype
        Of x: float16, bfloat16, float32, float64 or any integer.
    index_dtype : dtype
        Of what tells the segments: int64 or int32.
    opset, ir_version : int
        Versions to write; opset 18 for the largest and the smallest, 16 for the others.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    TypeError
        A dtype that cannot be reduced; a number that is not whole.
    ValueError
        A rank below 1; another ``reduce`` or ``by``; a version out of range.

    Notes
    -----
    The rows of a segment come in their order where the runtime's ScatterND takes them so: what is
    said of :func:`scatter_reduce_model` holds here.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.onnx import run, segment_reduce_model
    >>> x, offsets = np.array([1, 2, 3, 4], np.float32), np.array([0, 1, 1, 4])
    >>> run(segment_reduce_model("sum", 1), x=x, offsets=offsets)["output"].tolist()
    [1.0, 0.0, 9.0]
    """
    check_choice(by, "by", ("offsets", "counts", "ids"))
    rows = _Rows("segment_reduce", reduce, rank, dtype, index_dtype, opset, ir_version)
    rows.input_x("N")
    if by == "ids":
        rows.g.input("ids", rows.index_type, ["N"], "The segment of each row.")
        rows.g.input("num_segments", "int64", [], "How many segments there are.")
        return rows.reduced("x", rows.wide("ids"), rows.shaped("num_segments", []))
    return rows.reduced("x", *rows.told(by, "x"))


def gather_reduce_model(
    reduce: str = "sum",
    rank: int = 2,
    *,
    by: str | None = None,
    dtype: Any = "float32",
    index_dtype: Any = "int64",
    opset: int = 18,
    ir_version: int = 8,
) -> ModelProto:
    """:func:`nbgather.gather_reduce` as Gather, and a ScatterND of the rows.

    Inputs: ``x`` of ``rank`` dimensions, and ``ids`` `[S, K]`; or ``ids`` `[T]` with ``offsets``
    `[S + 1]` or ``counts`` `[S]`. ``output`` has S rows. Every size is dynamic. Unlike the call,
    the operators count a negative id from the end; an id out of bounds fails.

    Parameters
    ----------
    reduce, rank, dtype, index_dtype, opset, ir_version
        As in :func:`segment_reduce_model`.
    by : {"offsets", "counts"}, optional
        How bags of several sizes are told; by default all have K ids.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    TypeError, ValueError
        As :func:`segment_reduce_model`.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.onnx import gather_reduce_model, run
    >>> x, ids = np.array([[1, 2], [3, 4], [5, 0]], np.float32), np.array([[0, 1], [2, 2]])
    >>> run(gather_reduce_model("mean"), x=x, ids=ids)["output"].tolist()
    [[2.0, 3.0], [5.0, 0.0]]
    """
    if by is not None:
        check_choice(by, "by", ("offsets", "counts"))
    rows = _Rows("gather_reduce", reduce, rank, dtype, index_dtype, opset, ir_version)
    g = rows.g
    rows.input_x("L")
    shape = ["S", "K"] if by is None else ["T"]
    g.input("ids", rows.index_type, shape, "The rows of each bag.")
    flat = "ids" if by else g.op("Reshape", ["ids", g.int64([-1])], "ids_flat", "One by one.")
    g.op("Gather", ["x", flat], "rows", "The rows of the bags.", axis=0)
    if by is not None:
        return rows.reduced("rows", *rows.told(by, "rows"))
    sizes = g.op("Shape", ["ids"], "ids_shape", "S and K.")
    count = g.op("Gather", [sizes, g.int64(0)], "bags", "S.", axis=0)
    numbers = g.op("Range", [g.int64(0), count, g.int64(1)], "numbers", "0 to S-1.")
    column = g.op("Unsqueeze", [numbers, g.int64([1])], "number_column", "As [S, 1].")
    spread = g.op("Expand", [column, sizes], "bag_of_each", "The bag of each id.")
    return rows.reduced("rows", rows.shaped(spread, [-1]), count)


class _Rows:
    """The graph of a reduction of rows."""

    def __init__(
        self, name: str, reduce: Any, rank: Any, dtype: Any, index: Any, opset: Any, ir: Any
    ) -> None:
        self.rank = checks.integer(rank, "rank")
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}: it must be at least 1")
        self.reduce = checked_reduce(reduce)
        self.data_type = dtype_name(dtype, "dtype", NUMBERS)
        self.index_type = dtype_name(index, "index_dtype", INDEX_TYPES)
        self.kind, oldest = REDUCTIONS["sum" if self.reduce == "mean" else self.reduce]
        check_versions(opset, ir, oldest)
        doc = f"nbgather.{name} by {self.reduce!r}."
        self.g = GraphBuilder(f"{name}_{self.reduce}", doc, opset=opset, ir_version=ir)
        self.inner = [f"d{k}" for k in range(1, self.rank)]

    def input_x(self, rows: str) -> None:
        self.g.input("x", self.data_type, [rows, *self.inner], "The rows.")

    def shaped(self, value: str, shape: list[int]) -> str:
        return self.g.op("Reshape", [value, self.g.int64(shape)], f"{value}_shaped", "Reshaped.")

    def wide(self, value: str) -> str:
        """An input as int64."""
        if self.index_type == "int64":
            return value
        return self.g.op("Cast", [value], f"{value}_wide", "As int64.", to=TensorProto.INT64)

    def told(self, by: str, rows: str) -> tuple[str, str]:
        """The segment of each row by offsets or counts, and how many segments there are.

        As many ends of segments are before a row as segments: a sum of ones, one at each end.
        """
        g = self.g
        g.input(by, self.index_type, ["S" if by == "counts" else "S1"], "Where the rows belong.")
        where = self.wide(by)
        if by == "counts":
            ends = g.op("CumSum", [where, g.int64(0)], "ends", "Where each segment ends.")
        else:
            last = g.int64([np.iinfo(np.int64).max])
            ends = g.op("Slice", [where, g.int64([1]), last], "ends", "Where each segment ends.")
        shape = g.op("Shape", [ends], "ends_shape", "How many segments there are, as [1].")
        ones = g.op("Expand", [g.int64(1), shape], "ones_of_ends", "1 for each of them.")
        sizes = g.op("Shape", [rows], f"{rows}_sizes", "The shape of the rows.")
        total = g.op("Slice", [sizes, g.int64([0]), g.int64([1])], "total", "How many, as [1].")
        more = g.op("Add", [total, g.int64([1])], "total_and_1", "One more.")
        zeros = g.op("Expand", [g.int64(0), more], "zeros", "0 for each of them.")
        ended = g.op(
            "ScatterElements", [zeros, ends, ones], "ended", "How many end before each.",
            axis=0, reduction="add",
        )  # fmt: skip
        before = g.op("CumSum", [ended, g.int64(0)], "before", "And before the others.")
        segment = g.op("Slice", [before, g.int64([0]), total], "segment_of_each", "Of each row.")
        return segment, self.shaped(shape, [])

    def reduced(self, rows: str, segment: str, count: str) -> ModelProto:
        """The model, once it is known of which segment each row is and how many there are."""
        g = self.g
        sizes = g.op("Shape", [rows], "rows_shape", "The shape of the rows.")
        last = g.int64([np.iinfo(np.int64).max])
        inner = g.op("Slice", [sizes, g.int64([1]), last], "row_shape", "Of one row.")
        first = self.shaped(count, [1])
        shape = g.op("Concat", [first, inner], "output_shape", "Of the result.", axis=0)
        empty = SegmentReduce(self.reduce, "ids").empty(self.data_type)
        value = g.constant(_number(empty, self.data_type))
        into = g.op("Expand", [value, shape], "empty", "What stands for no rows.")
        where = g.op("Unsqueeze", [segment, g.int64([1])], "where", "Segments as [N, 1].")

        def scatter(into: str, values: str, output: str, doc: str, **how: Any) -> str:
            return g.op("ScatterND", [into, where, values], output, doc, **how)

        # What a mean of no rows is has no part in one.
        own = self.reduce != "mean"
        Reduction(g, scatter, self.reduce, self.kind, own, self.data_type, into, rows).write()
        g.output("output", self.data_type, ["S", *self.inner], "A row for each segment.")
        return g.finish({"reduce": self.reduce})


def _number(value: Any, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        from ml_dtypes import bfloat16

        return np.array(value, bfloat16)
    return np.array(value, np.dtype(dtype))
