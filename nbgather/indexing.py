"""The gather family."""

from __future__ import annotations

from typing import Any

from nbgather import dispatch
from nbgather.operations import checks
from nbgather.operations.indexing import Gather, GatherTokens, TakeAlongAxis
from nbgather.operations.infer import GatherSolution, InferGather
from nbgather.operations.shapes import flat_indices
from nbgather.results import Array, Mode
from nbgather.scattering import scatter, scatter_add, scatter_reduce
from nbgather.segments import gather_reduce, segment_reduce

__all__ = [
    "gather",
    "gather_reduce",
    "gather_tokens",
    "infer_gather",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "segment_reduce",
    "take_along_axis",
]

_RAISE = "raise"


def _head(kind: type, dim: int, mode: Any, fill_value: Any) -> Any:
    """What a small gather is kept under."""
    return (
        (kind, dim, mode) if mode is _RAISE else dispatch.gather_head(kind, dim, mode, fill_value)
    )


def gather(
    input: Array,
    dim: int,
    index: Any,
    *,
    mode: Mode = "raise",
    fill_value: Any = 0,
    out: Any = None,
    backend: str | None = None,
) -> Array:
    """Gather values along a dimension: torch.gather on any array.

    For a 3-d input::

        out[i][j][k] = input[index[i][j][k]][j][k]  # dim 0
        out[i][j][k] = input[i][index[i][j][k]][k]  # dim 1
        out[i][j][k] = input[i][j][index[i][j][k]]  # dim 2

    Parameters
    ----------
    input : array
        The source, of any strides and any dtype of 1, 2, 4, 8 or 16 bytes. A 0-d input counts as
        1-d with one element.
    dim : int
        The dimension to gather along; negative values count from the end.
    index : array of int
        Any integer dtype, of as many dimensions as ``input``; off ``dim`` no larger than it. Not
        checked against the input's shape when it is empty, as in torch. A list will do, and a NumPy
        array beside torch, JAX or Dask on the CPU.
    mode : {"raise", "clip", "wrap", "fill", "defer"}
        What to do with an index that is negative or not below ``input.shape[dim]``: raise an
        IndexError, take the nearest position, take it modulo the size, or give ``fill_value``.
        ``"defer"`` gives ``fill_value`` on a GPU and raises the IndexError later, without waiting
        for the device: see :mod:`nbgather.cuda`. Elsewhere it is ``"raise"``.
    fill_value : scalar
        For the modes ``"fill"`` and ``"defer"``; it must fit the input's dtype. 0 is
        what `numpy.zeros` holds, in dtypes of text and of bytes as well.
    out : array, optional
        Where to write: the result's shape and dtype, writable, overlapping no operand. When an
        IndexError is raised, or an interrupt ends the call, its contents are unspecified.
    backend : str, optional
        A name from :func:`nbgather.backends.available`; by default the one that serves the input.

    Returns
    -------
    array
        Shape of ``index``, dtype and container of ``input``.

    Raises
    ------
    TypeError
        An index that is not of an integer dtype; operands of different libraries or devices.
    ValueError
        Shapes that do not fit, an unknown mode or backend, an unusable ``out``.
    IndexError
        ``dim`` out of range; with ``mode="raise"``, the first bad index in row-major order.

    Notes
    -----
    ``numpy.take_along_axis`` differs: it broadcasts off the axis, and takes negative indices.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.gather.html

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> x = np.arange(24).reshape(2, 3, 4)
    >>> index = np.array([[[0, 0, 0, 0], [2, 2, 2, 2]]] * 2)
    >>> nbgather.gather(x, 1, index)
    array([[[ 0,  1,  2,  3],
            [ 8,  9, 10, 11]],
    <BLANKLINE>
           [[12, 13, 14, 15],
            [20, 21, 22, 23]]])
    """
    if type(dim) is not int:
        dim = checks.integer(dim, "dim")
    if backend is None:
        head = (Gather, dim, mode) if mode is _RAISE else _head(Gather, dim, mode, fill_value)
        operands = (input, index) if out is None else (input, index, out)
        result = dispatch.recall(head, *operands)
        if result is not None:
            return result
    operation = Gather(dim, mode, dispatch.fill_value(mode, fill_value))
    return dispatch.execute(operation, input, index, out=out, backend=backend)


def take_along_axis(
    arr: Array,
    indices: Any,
    axis: int | None = -1,
    *,
    mode: Mode = "raise",
    fill_value: Any = 0,
    out: Any = None,
    backend: str | None = None,
) -> Array:
    """Take values along an axis: numpy.take_along_axis, of the Array API too, on any array.

    As :func:`gather`, but the other dimensions broadcast, and a negative index counts from the end.

    Parameters
    ----------
    arr : array
        The source, of any strides and any dtype of 1, 2, 4, 8 or 16 bytes.
    indices : array of int
        Any integer dtype, of as many dimensions as ``arr``; off the axis the sizes are equal, or
        one of them is 1.
    axis : int or None
        The axis to take along; negative values count from the end. None takes from the flattened
        array, and ``indices`` has one dimension.
    mode : {"raise", "clip", "wrap", "fill", "defer"}
        What to do with an index that is out of bounds, i.e. below ``-size`` or not below ``size``
        of the axis: see :func:`gather`. In every mode an index from ``-size`` on counts from the
        end.
    fill_value, out, backend
        As in :func:`gather`.

    Returns
    -------
    array
        The broadcast shape, with the size of ``indices`` along the axis; dtype and container of
        ``arr``.

    Raises
    ------
    TypeError, ValueError, IndexError
        As in :func:`gather`, but as in NumPy an index of bool or float is an IndexError, and an
        axis out of range ``numpy.exceptions.AxisError``, which is one too.

    Notes
    -----
    Source: https://numpy.org/doc/stable/reference/generated/numpy.take_along_axis.html

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> x = np.array([[3, 1, 2], [6, 5, 4]])
    >>> nbgather.take_along_axis(x, np.argsort(x))
    array([[1, 2, 3],
           [4, 5, 6]])
    >>> nbgather.take_along_axis(x, np.array([[-1]]))
    array([[2],
           [4]])
    """
    if axis is None:
        arr, indices = dispatch.flat(arr, "arr"), dispatch.beside(arr, "arr", indices, "indices")
        flat_indices(len(dispatch.shape_of(indices, "indices")))
        axis = 0
    elif type(axis) is not int:
        axis = checks.integer(axis, "axis")
    if backend is None:
        head = _head(TakeAlongAxis, axis, mode, fill_value)
        operands = (arr, indices) if out is None else (arr, indices, out)
        result = dispatch.recall(head, *operands)
        if result is not None:
            return result
    operation = TakeAlongAxis(axis, mode, dispatch.fill_value(mode, fill_value))
    return dispatch.execute(operation, arr, indices, out=out, backend=backend)


def gather_tokens(
    x: Array,
    ids: Any,
    *,
    mode: Mode = "raise",
    fill_value: Any = 0,
    out: Any = None,
    backend: str | None = None,
) -> Array:
    """Pick tokens of each sample: ``out[n, k] = x[n, ids[n, k]]``.

    The same as :func:`gather` along dim 1 with ``ids`` expanded over the token's dimensions, but
    nothing is expanded: whole tokens are copied.

    Parameters
    ----------
    x : array, shape [N, L, ...]
        Tokens, of any strides and any dtype of 1, 2, 4, 8 or 16 bytes.
    ids : array of int, shape [N, K]
        Which tokens of each sample.
    mode, fill_value, out, backend
        As in :func:`gather`.

    Returns
    -------
    array, shape [N, K, ...]
        Dtype and container of ``x``.

    Raises
    ------
    TypeError, ValueError, IndexError
        As in :func:`gather`.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> x = np.arange(12).reshape(2, 3, 2)
    >>> nbgather.gather_tokens(x, np.array([[2, 0], [1, 1]])).tolist()
    [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
    """
    if backend is None:
        head = _head(GatherTokens, 1, mode, fill_value)
        operands = (x, ids) if out is None else (x, ids, out)
        result = dispatch.recall(head, *operands)
        if result is not None:
            return result
    operation = GatherTokens(1, mode, dispatch.fill_value(mode, fill_value))
    return dispatch.execute(operation, x, ids, out=out, backend=backend)


def infer_gather(input: Any, output: Any) -> list[GatherSolution]:
    """Find every way to get ``output`` from ``input`` by one gather.

    Parameters
    ----------
    input, output : array
        Of one container, dtype and number of dimensions. Elements are equal when their bits are:
        a NaN equals a NaN of the same bits, and -0.0 is not 0.0.

    Returns
    -------
    list of GatherSolution
        One for each dimension that explains the output, with the lowest index where several
        would do, and whether it is the only one. Empty when no dimension does.

    Raises
    ------
    TypeError
        Different libraries, or different dtypes.
    ValueError
        Different numbers of dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> x = np.arange(6).reshape(2, 3)
    >>> nbgather.infer_gather(x, x[:, [2, 0]])
    [GatherSolution(dim=1, index=array([[2, 0],
           [2, 0]]), is_unique=True)]
    """
    return dispatch.execute(InferGather(), input, output)
