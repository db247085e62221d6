"""Gather along a dimension that may be chunked."""

from __future__ import annotations

from typing import Any

from nbgather import dispatch
from nbgather.containers.dask import gather_graph
from nbgather.operations import checks
from nbgather.operations.indexing import Gather, GatherTokens, TakeAlongAxis


def gather(
    input: Any,
    dim: int,
    index: Any,
    *,
    mode: str = "raise",
    fill_value: Any = 0,
    plan: str | None = None,
    budget: int | str | None = None,
) -> Any:
    """Gather along a dimension; :func:`nbgather.gather` of chunked arrays.

    Parameters
    ----------
    input : dask.array.Array
        Chunked in any way, along ``dim`` too; any dtype of 1, 2, 4, 8 or 16 bytes.
    dim : int
        The dimension to gather along.
    index : dask.array.Array, numpy.ndarray or sequence
        Any integer dtype, any chunks; off ``dim`` no larger than input.
    mode : {"raise", "clip", "wrap", "fill"}
        What a value out of bounds does. ``raise`` is an IndexError when the result is computed.
    fill_value : scalar
        For ``mode="fill"``.
    plan : {"concatenate", "list", "tree"}, optional
        By default the cheapest, by the sizes of chunks and index, the workers' memory and what
        would travel; :func:`explain` says which and why. ``concatenate`` brings a few rows of an
        output block's source chunks together at a time, ``list`` reads them where they lie; in
        both a task has all of them. ``tree`` sends to each source chunk what is asked of it, and
        only what it gives comes back.
    budget : int or str, optional
        Bytes that the source chunks of an output block may have, or a text such as ``"512 MiB"``;
        above it the plan is ``tree``. By default a quarter of a worker's memory on a cluster, and
        512 MiB else.

    Returns
    -------
    dask.array.Array
        Shape and chunks of ``index``, dtype of ``input``. Input chunks that are read or made
        without others, as from a file, are read by the tasks that need them, if by one each.

    Raises
    ------
    TypeError, ValueError
        Shapes, dtypes or chunks that do not fit, when the graph is built.
    IndexError
        ``dim`` out of range; at compute, the first bad index of a block, by its global position.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from nbgather.dask import gather
    >>> x = da.from_array(np.arange(12).reshape(2, 6), chunks=(1, 2))
    >>> gather(x, 1, np.array([[5, 0], [1, 4]])).compute()
    array([[ 5,  0],
           [ 7, 10]])
    """
    operation = Gather(checks.integer(dim, "dim"), mode, dispatch.fill_value(mode, fill_value))
    return gather_graph.build(operation, input, index, plan, budget)


def take_along_axis(
    arr: Any,
    indices: Any,
    axis: int = -1,
    *,
    mode: str = "raise",
    fill_value: Any = 0,
    plan: str | None = None,
    budget: int | str | None = None,
) -> Any:
    """Take values along an axis; :func:`nbgather.take_along_axis` of chunked arrays.

    Parameters
    ----------
    arr : dask.array.Array
        Chunked in any way.
    indices : dask.array.Array, numpy.ndarray or sequence
        Any integer dtype; off ``axis`` it broadcasts against ``arr``. Negative values count from
        the end.
    axis : int
        The axis to take along.
    mode, fill_value, plan, budget
        As in :func:`gather`.

    Returns
    -------
    dask.array.Array

    Raises
    ------
    TypeError, ValueError, IndexError
        As :func:`gather`.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from nbgather.dask import take_along_axis
    >>> x = da.from_array(np.arange(12).reshape(2, 6), chunks=(1, 2))
    >>> take_along_axis(x, np.array([[-1, 0]]), 1).compute()
    array([[ 5,  0],
           [11,  6]])
    """
    value = dispatch.fill_value(mode, fill_value)
    operation = TakeAlongAxis(checks.integer(axis, "axis"), mode, value)
    return gather_graph.build(operation, arr, indices, plan, budget)


def gather_tokens(
    x: Any,
    ids: Any,
    *,
    mode: str = "raise",
    fill_value: Any = 0,
    plan: str | None = None,
    budget: int | str | None = None,
) -> Any:
    """Gather whole tokens; :func:`nbgather.gather_tokens` of chunked arrays.

    Parameters
    ----------
    x : dask.array.Array, shape [N, L, ...]
        Chunked in any way.
    ids : dask.array.Array, numpy.ndarray or sequence, shape [N, K]
        Which tokens.
    mode, fill_value, plan, budget
        As in :func:`gather`.

    Returns
    -------
    dask.array.Array, shape [N, K, ...]

    Raises
    ------
    TypeError, ValueError, IndexError
        As :func:`gather`.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from nbgather.dask import gather_tokens
    >>> x = da.from_array(np.arange(12).reshape(2, 3, 2), chunks=(1, 2, 1))
    >>> gather_tokens(x, np.array([[2], [0]])).compute().tolist()
    [[[4, 5]], [[6, 7]]]
    """
    operation = GatherTokens(1, mode, dispatch.fill_value(mode, fill_value))
    return gather_graph.build(operation, x, ids, plan, budget)
