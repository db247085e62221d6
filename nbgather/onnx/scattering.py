"""``torch.scatter_reduce`` as a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbgather.onnx._build import (
    INDEX_TYPES,
    TENSOR_TYPES,
    GraphBuilder,
    ModelProto,
    check_versions,
    dtype_name,
)
from nbgather.operations import checks
from nbgather.operations.reducing import checked_reduce

__all__ = ["scatter_reduce_model"]

#: ONNX's names of reductions, and the first opset that has them.
REDUCTIONS = {"sum": ("add", 16), "prod": ("mul", 16), "amax": ("max", 18), "amin": ("min", 18)}
#: What is summed and multiplied in float32 and rounded once.
_WIDENED = ("float16", "bfloat16")
NUMBERS = tuple(name for name in TENSOR_TYPES if name != "bool")


def scatter_reduce_model(
    dim: int,
    rank: int = 3,
    reduce: str = "sum",
    *,
    include_self: bool = True,
    rows: bool = False,
    dtype: Any = "float32",
    index_dtype: Any = "int64",
    opset: int = 18,
    ir_version: int = 8,
) -> ModelProto:
    """``torch.scatter_reduce`` as ScatterElements, or of whole rows as ScatterND.

    Inputs bear ONNX's names: ``data`` of ``rank`` dimensions, ``indices`` and ``updates`` of one
    shape, and ``output`` is like ``data``. With ``rows`` the indices are int64 `[N]` and the
    updates `[N, ...]`, each with a row for the first dimension. Every size is dynamic. Unlike
    torch, the operators count a negative index from the end; an index out of bounds fails.

    Parameters
    ----------
    dim : int
        The dimension to scatter along, ``-rank`` to ``rank - 1``; 0 with ``rows``.
    rank : int
        The number of dimensions, at least 1.
    reduce : {"sum", "prod", "mean", "amax", "amin"}
        What values of one place become, as in :func:`nbgather.scatter_reduce`.
    include_self : bool
        Whether the data counts where a value comes.
    rows : bool
        Whether an index stands for a whole row.
    dtype : dtype
        Of the data: float16, bfloat16, float32, float64 or any integer.
    index_dtype : dtype
        int64 or int32; int64 with ``rows``.
    opset, ir_version : int
        Versions to write; opset 18 for the largest and the smallest, 16 for the others.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    IndexError
        ``dim`` is out of range.
    TypeError
        A dtype that cannot be reduced; a number that is not whole.
    ValueError
        A rank below 1; another ``reduce``; a version out of range.

    Notes
    -----
    ONNX does not say in which order values are added, nor what the largest of NaN and a number is.
    onnxruntime 1.32 on the CPU and onnx's reference add in row-major order, and so have the bits of
    :func:`nbgather.scatter_reduce`; a NaN stays or is lost by the largest and the smallest there.
    onnxruntime does not round a mean's sum and count to float16 before it divides; it has no
    largest and smallest of bfloat16 and of rows of float16, and no mean of bfloat16.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.onnx import run, scatter_reduce_model
    >>> model = scatter_reduce_model(0, 1, "mean", include_self=False)
    >>> x, index, src = np.zeros(3, "f4"), np.array([2, 0, 2]), np.array([1, 2, 3], "f4")
    >>> run(model, data=x, indices=index, updates=src)["output"].tolist()
    [2.0, 0.0, 2.0]
    """
    ndim = checks.integer(rank, "rank")
    if ndim < 1:
        raise ValueError(f"rank is {ndim}: it must be at least 1")
    axis = checks.dim(checks.integer(dim, "dim"), ndim)
    if rows and axis:
        raise ValueError(f"dim is {axis}: with rows it must be 0")
    reduce, own = checked_reduce(reduce), checks.flag(include_self, "include_self")
    data_type = dtype_name(dtype, "dtype", NUMBERS)
    index_type = dtype_name(index_dtype, "index_dtype", INDEX_TYPES[:1] if rows else INDEX_TYPES)
    kind, oldest = REDUCTIONS["sum" if reduce == "mean" else reduce]
    check_versions(opset, ir_version, oldest)
    g = GraphBuilder(
        f"scatter_{reduce}_dim{axis}", f"torch.scatter_reduce by {reduce!r} along dim {axis}.",
        opset=opset, ir_version=ir_version,
    )  # fmt: skip
    data, places = ([f"{letter}{k}" for k in range(ndim)] for letter in "di")
    if rows:
        places[1:] = data[1:]
    g.input("data", data_type, data, "What is scattered into.")
    g.input("indices", index_type, places[:1] if rows else places, f"Places along dim {axis}.")
    g.input("updates", data_type, places, "The values.")
    where = "indices"
    if rows:
        where = g.op("Unsqueeze", ["indices", g.int64([1])], "where", "indices as [N, 1].")

    def scatter(into: str, values: str, output: str, doc: str, **how: Any) -> str:
        if rows:
            return g.op("ScatterND", [into, where, values], output, doc, **how)
        return g.op("ScatterElements", [into, where, values], output, doc, axis=axis, **how)

    Reduction(g, scatter, reduce, kind, own, data_type, "data", "updates").write()
    g.output("output", data_type, data, "The reduced values.")
    return g.finish({"dim": str(axis), "reduce": reduce})


class Reduction:
    """The nodes of a reduction: from what is scattered into, and the values, to the output."""

    def __init__(
        self,
        g: GraphBuilder,
        scatter: Callable[..., str],
        reduce: str,
        kind: str,
        own: bool,
        dtype: str,
        data: str,
        updates: str,
    ) -> None:
        self.g, self.scatter, self.data, self.updates = g, scatter, data, updates
        self.reduce, self.kind, self.own, self.dtype = reduce, kind, own, dtype
        is_wide = dtype in _WIDENED and reduce not in ("amax", "amin")
        #: What is reduced in.
        self.type = "float32" if is_wide else dtype

    def write(self) -> None:
        g = self.g
        names = self.data, self.updates
        into, values = (self._cast(name, f"{name}_wide", self.type) for name in names)
        if not self.own:
            begun = self._filled(self.updates, _identity(self.reduce, self.type), "begun")
            into = self.scatter(into, begun, "cleared", "The data, but for what values come to.")
        last = "output" if self.type == self.dtype and self.reduce != "mean" else "reduced"
        doc = "The reduced values."
        result = self.scatter(into, values, last, doc, reduction=self.kind)
        if self.reduce == "mean":
            self._divide(result)
        elif result != "output":
            g.op("Cast", [result], "output", "Rounded once.", to=TENSOR_TYPES[self.dtype])

    def _divide(self, total: str) -> None:
        g, doc = self.g, "How many values."
        counts = self._filled(self.data, int(self.own), "counts_begin")
        ones = self._filled(self.updates, 1, "ones")
        count = self.scatter(counts, ones, "how_many", doc, reduction="add")
        if not self.own:
            wide = g.op("Cast", [count], "counts_wide", "As int64.", to=TENSOR_TYPES["int64"])
            is_none = g.op("Equal", [wide, g.int64(0)], "is_none", "Whether no value came.")
            none = g.op("Cast", [is_none], "none", "1 if so.", to=TENSOR_TYPES[self.type])
            count = g.op("Add", [count, none], "counts_or_1", "1 where no value came.")
        total, count = (
            self._cast(v, f"{v}_rounded", self.dtype, self.type) for v in (total, count)
        )
        if "int" not in self.dtype:
            g.op("Div", [total, count], "output", "The mean.")
            return
        quotient = g.op("Div", [total, count], "quotient", "Rounded toward 0.")
        whole = g.op("Mul", [quotient, count], "whole", "What the quotient stands for.")
        is_less = g.op("Less", [total, whole], "is_less", "Whether that is too much.")
        less = g.op("Cast", [is_less], "less", "1 if it is.", to=TENSOR_TYPES[self.dtype])
        g.op("Sub", [quotient, less], "output", "The mean, rounded down.")

    def _cast(self, name: str, output: str, to: str, of: str = "") -> str:
        if to == (of or self.dtype):
            return name
        return self.g.op("Cast", [name], output, f"As {to}.", to=TENSOR_TYPES[to])

    def _filled(self, like: str, value: Any, output: str) -> str:
        """An array of one value, of the shape of another."""
        g = self.g
        shape = g.op("Shape", [like], f"{output}_shape", f"The shape of {like}.")
        one = g.constant(np.array(value, np.dtype(self.type)))
        return g.op("Expand", [one, shape], output, f"{value} everywhere.")


def _identity(reduce: str, dtype: str) -> Any:
    """What a reduction begins with."""
    if reduce not in ("amax", "amin"):
        return int(reduce == "prod")
    if "float" in dtype:
        return np.inf if reduce == "amin" else -np.inf
    limits = np.iinfo(dtype)
    return limits.max if reduce == "amin" else limits.min
