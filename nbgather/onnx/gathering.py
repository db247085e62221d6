"""``torch.gather`` as a model."""

from __future__ import annotations

from typing import Any

from nbgather.onnx._build import (
    INDEX_TYPES,
    GraphBuilder,
    ModelProto,
    check_versions,
    dtype_name,
)
from nbgather.operations import checks
from nbgather.operations.indexing import Gather

__all__ = ["gather_model"]


def gather_model(
    dim: int,
    rank: int = 3,
    *,
    dtype: Any = "float32",
    index_dtype: Any = "int64",
    opset: int = 17,
    ir_version: int = 8,
) -> ModelProto:
    """``torch.gather`` as one GatherElements node.

    Inputs and output bear ONNX's names: ``data`` and ``indices`` of ``rank`` dimensions, and
    ``output`` with the shape of ``indices`` and the dtype of ``data``. Every size is dynamic.
    Unlike torch, the operator counts a negative index from the end; an index out of bounds fails.

    Parameters
    ----------
    dim : int
        The dimension to gather along, ``-rank`` to ``rank - 1``.
    rank : int
        The number of dimensions, at least 1.
    dtype : dtype
        Of the data: float16, bfloat16, float32, float64, any integer, bool.
    index_dtype : dtype
        int64 or int32.
    opset, ir_version : int
        Versions to write.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    IndexError
        ``dim`` is out of range.
    TypeError
        A dtype that cannot be gathered; a number that is not whole.
    ValueError
        A rank below 1; a version out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.onnx import gather_model, run
    >>> data = np.array([[1, 2], [3, 4]], np.float32)
    >>> run(gather_model(1, 2), data=data, indices=np.array([[0, 0], [1, 0]]))["output"].tolist()
    [[1.0, 1.0], [4.0, 3.0]]
    """
    ndim = checks.integer(rank, "rank")
    if ndim < 1:
        raise ValueError(f"rank is {ndim}: it must be at least 1")
    axis = checks.dim(checks.integer(dim, "dim"), ndim)
    data_type = dtype_name(dtype, "dtype")
    index_type = dtype_name(index_dtype, "index_dtype", INDEX_TYPES)
    check_versions(opset, ir_version)
    g = GraphBuilder(
        f"gather_dim{axis}", f"torch.gather along dim {axis}.", opset=opset, ir_version=ir_version
    )
    data, indices = ([f"{letter}{k}" for k in range(ndim)] for letter in "di")
    shape = list(Gather(axis).shape(tuple(data), tuple(indices)))
    g.input("data", data_type, data, "What is gathered from.")
    g.input("indices", index_type, indices, f"Positions along dim {axis}.")
    g.op("GatherElements", ["data", "indices"], "output", "The chosen elements.", axis=axis)
    g.output("output", data_type, shape, "The chosen elements.")
    return g.finish({"dim": str(axis)})
