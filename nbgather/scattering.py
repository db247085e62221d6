"""Scatters, and what several values for one place become."""

from __future__ import annotations

from typing import Any

from nbgather import dispatch
from nbgather.operations import checks
from nbgather.operations.indexing import Scatter, ScatterAdd
from nbgather.operations.reducing import ScatterReduce, checked_reduce
from nbgather.results import Array, Reduce, WriteMode

__all__ = ["scatter", "scatter_add", "scatter_reduce"]

_RAISE = "raise"


def scatter(
    input: Array,
    dim: int,
    index: Any,
    src: Any,
    *,
    mode: WriteMode = "raise",
    out: Any = None,
    backend: str | None = None,
) -> Array:
    """Write values along a dimension into a copy: torch.scatter on any array.

    For a 3-d input and dim 1: ``out[i][index[i][j][k]][k] = src[i][j][k]``; everything else is
    ``input``. Where several values go to one place, the last in row-major order of ``index`` stays.

    Parameters
    ----------
    input : array
        What is copied, of any strides and any dtype of 1, 2, 4, 8 or 16 bytes.
    dim : int
        The dimension to scatter along; negative values count from the end.
    index : array of int
        Any integer dtype, of as many dimensions as ``input``; no larger than ``src``, and off
        ``dim`` no larger than ``input``.
    src : array or scalar
        The values, of input's dtype and container; a Python number stands for all of them.
    mode : {"raise", "defer"}
        What to do with an index that is out of bounds: raise an IndexError, or on a GPU leave it
        out and raise the IndexError later, without waiting for the device: see
        :mod:`nbgather.cuda`. Elsewhere ``"defer"`` is ``"raise"``.
    out : array, optional
        Where to write: input's shape and dtype, writable, overlapping no operand. Nothing is
        written there when an error is raised at once; when an interrupt ends the call, its
        contents are unspecified.
    backend : str, optional
        ``cpu``, ``reference`` or ``torch``.

    Returns
    -------
    array
        Shape, dtype and container of ``input``.

    Raises
    ------
    TypeError
        An index that is not of an integer dtype; different dtypes, libraries or devices.
    ValueError
        Shapes that do not fit, an unusable ``out`` or backend.
    IndexError
        ``dim`` out of range; the first bad index in row-major order.

    Notes
    -----
    Source: `torch.Tensor.scatter
    <https://docs.pytorch.org/docs/stable/generated/torch.Tensor.scatter_.html>`__

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> nbgather.scatter(np.zeros((2, 3), int), 1, np.array([[2], [0]]), np.array([[5], [6]]))
    array([[0, 0, 5],
           [6, 0, 0]])
    """
    if type(dim) is not int:
        dim = checks.integer(dim, "dim")
    if backend is None and mode is _RAISE:
        kind = type(src)
        into = () if out is None else (out,)
        if kind is int or kind is float:
            result = dispatch.recall(dispatch.head(Scatter, dim, src), input, index, *into)
        else:
            result = dispatch.recall((Scatter, dim), input, index, src, *into)
        if result is not None:
            return result
    operation = Scatter(dim, mode=mode)
    return dispatch.execute(operation, input, index, src, out=out, backend=backend)


def scatter_add(
    input: Array,
    dim: int,
    index: Any,
    src: Any,
    *,
    mode: WriteMode = "raise",
    out: Any = None,
    backend: str | None = None,
) -> Array:
    """Add values along a dimension into a copy: torch.scatter_add on any array.

    For a 3-d input and dim 1: ``out[i][index[i][j][k]][k] += src[i][j][k]``. The values of one
    place are added in row-major order of ``index``, so the bits do not depend on the number of
    threads. float16 and bfloat16 are summed in float32 and rounded once; bools are or-ed; integers
    wrap. All of it as torch does on one thread.

    Parameters
    ----------
    input, dim, index, mode, out, backend
        As in :func:`scatter`; input is bool, integer, floating or complex.
    src : array
        The values, of input's dtype and container.

    Returns
    -------
    array
        Shape, dtype and container of ``input``.

    Raises
    ------
    TypeError
        Also a dtype that has no sum, e.g. datetime64 or float8.
    ValueError, IndexError
        As in :func:`scatter`.

    Notes
    -----
    It is the gradient of :func:`gather`.
    Source: `torch.Tensor.scatter_add
    <https://docs.pytorch.org/docs/stable/generated/torch.Tensor.scatter_add_.html>`__

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> nbgather.scatter_add(np.zeros(3), 0, np.array([2, 0, 2]), np.array([1.0, 2.0, 3.0]))
    array([2., 0., 4.])
    """
    if type(dim) is not int:
        dim = checks.integer(dim, "dim")
    if backend is None and mode is _RAISE:
        into = () if out is None else (out,)
        result = dispatch.recall((ScatterAdd, dim), input, index, src, *into)
        if result is not None:
            return result
    operation = ScatterAdd(dim, mode=mode)
    return dispatch.execute(operation, input, index, src, out=out, backend=backend)


def scatter_reduce(
    input: Array,
    dim: int,
    index: Any,
    src: Any,
    reduce: Reduce,
    *,
    include_self: bool = True,
    out: Any = None,
    backend: str | None = None,
) -> Array:
    """Reduce values along a dimension into a copy: torch.scatter_reduce on any array.

    For a 3-d input and dim 1 ``out[i][index[i][j][k]][k]`` is the reduction of all ``src[i][j][k]``
    that have this place and, with ``include_self``, of ``input`` there. The values of one place
    come in row-major order of ``index``, so the bits do not depend on the number of threads, and a
    sum is that of :func:`scatter_add`.

    Parameters
    ----------
    input, dim, index, out, backend
        As in :func:`scatter`; input is bool, integer, floating or complex.
    src : array
        The values, of input's dtype and container.
    reduce : {"sum", "prod", "mean", "amax", "amin"}
        What they become. A NaN is the largest and the smallest number; of equal ones the first
        stays, which tells 0.0 from -0.0. A mean of integers is rounded down. float16 and bfloat16
        are summed and multiplied in float32 and rounded once, a mean's sum and count before they
        are divided. The sum, the product and the count of integers wrap.
    include_self : bool
        Whether the input counts. Where no value comes it stays in any case.

    Returns
    -------
    array
        Shape, dtype and container of ``input``.

    Raises
    ------
    TypeError
        Also a dtype that cannot be reduced so, e.g. the mean of bools or the largest of complex
        numbers.
    ValueError, IndexError
        As in :func:`scatter`; another ``reduce``.

    Notes
    -----
    Of the largest and the smallest all that are equal to it share the gradient alike. Where
    ``include_self`` is false the input is not one of these; torch's backward pass counts it, its
    forward mode does not. The second derivative of a product is NaN for zeros of which two or more
    come to one place.
    Source: `torch.Tensor.scatter_reduce
    <https://docs.pytorch.org/docs/stable/generated/torch.Tensor.scatter_reduce_.html>`__

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> x, index, src = np.zeros(3), np.array([2, 0, 2]), np.array([1.0, 2.0, 3.0])
    >>> nbgather.scatter_reduce(x, 0, index, src, "amax")
    array([2., 0., 3.])
    >>> nbgather.scatter_reduce(x, 0, index, src, "mean", include_self=False)
    array([2., 0., 2.])
    """
    if type(dim) is not int:
        dim = checks.integer(dim, "dim")
    include_self = checks.flag(include_self, "include_self")
    reduce = checked_reduce(reduce)
    if include_self and reduce == "sum":
        return scatter_add(input, dim, index, src, out=out, backend=backend)
    if backend is None:
        into = () if out is None else (out,)
        head = ScatterReduce, dim, reduce, include_self
        result = dispatch.recall(head, input, index, src, *into)
        if result is not None:
            return result
    operation = ScatterReduce(dim, reduce, include_self)
    return dispatch.execute(operation, input, index, src, out=out, backend=backend)
