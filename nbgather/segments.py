"""Reductions of rows: of segments that follow each other or have ids, and of bags of ids."""

from __future__ import annotations

from typing import Any

from nbgather import dispatch
from nbgather.operations import checks
from nbgather.operations.segments import GatherReduce, SegmentReduce
from nbgather.results import Array, Mode, Reduce

__all__ = ["gather_reduce", "segment_reduce"]


def segment_reduce(
    x: Array,
    reduce: Reduce,
    *,
    ids: Any = None,
    num_segments: int | None = None,
    offsets: Any = None,
    counts: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Array:
    """Reduce segments of rows along the first dimension: a row for each segment.

    Parameters
    ----------
    x : array, shape [N, ...]
        The rows: bool, integers, floating or complex numbers.
    reduce : {"sum", "prod", "mean", "amax", "amin"}
        What the rows of a segment become, as in :func:`scatter_reduce`; they come in their order.
    ids : array of int, shape [N], optional
        The segment of each row, in any order.
    num_segments : int, optional
        How many segments there are, with ``ids``; by default as many as the largest of them says.
    offsets : array of int, shape [S + 1], optional
        Instead of ids, where segments follow each other: where each begins, and the last ends, N.
    counts : array of int, shape [S], optional
        Or how many rows each has, N in all.
    out : array, optional
        Where to write: the result's shape and dtype, writable, overlapping no operand. Nothing is
        written there when an error is raised at once; when an interrupt ends the call, its
        contents are unspecified.
    backend : str, optional
        ``cpu``, ``reference`` or ``torch``.

    Returns
    -------
    array, shape [S, ...]
        Of x's dtype and container. A segment of no rows is what the reduction begins with: 0, 1,
        the least or the largest number; its mean is NaN, and 0 of integers.

    Raises
    ------
    TypeError
        A dtype that cannot be reduced so, segments that are not of an integer dtype.
    ValueError
        Shapes that do not fit; not one of ids, offsets and counts; offsets that fall or do not go
        from 0 to N, counts that are not N in all; an unusable ``out``.
    IndexError
        An id that is negative or not below ``num_segments``.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> x = np.array([1.0, 2.0, 3.0, 4.0])
    >>> nbgather.segment_reduce(x, "sum", offsets=[0, 1, 1, 4])
    array([1., 0., 9.])
    >>> nbgather.segment_reduce(x, "amax", ids=[1, 0, 1, 0])
    array([4., 3.])
    """
    ways = {"ids": ids, "offsets": offsets, "counts": counts}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        came = " and ".join(given) or "none"
        raise ValueError(f"one of ids, offsets and counts is needed: {came} came")
    (by,) = given
    if num_segments is not None:
        if by != "ids":
            raise ValueError(f"num_segments was given with {by}, which says how many there are")
        num_segments = checks.count(num_segments, "num_segments")
    elif by == "ids":
        num_segments = dispatch.one_more_than(ids, "ids")
    operation = SegmentReduce(reduce, by, num_segments)
    return dispatch.execute(operation, x, ways[by], out=out, backend=backend)


def gather_reduce(
    x: Array,
    ids: Any,
    reduce: Reduce,
    *,
    offsets: Any = None,
    counts: Any = None,
    mode: Mode = "raise",
    fill_value: Any = 0,
    out: Any = None,
    backend: str | None = None,
) -> Array:
    """Reduce bags of rows that ids name: a row for each bag.

    It is :func:`segment_reduce` of ``x[ids]``, with the same bits, and on the CPU without these
    rows in memory: the sum of a node's neighbours, a bag of embeddings.

    Parameters
    ----------
    x : array, shape [L, ...]
        The rows: bool, integers, floating or complex numbers.
    ids : array of int, shape [S, K] or [T]
        The rows of each bag, in the order in which they are reduced: K of each, or one bag's behind
        the other's.
    reduce : {"sum", "prod", "mean", "amax", "amin"}
        What the rows of a bag become, as in :func:`scatter_reduce`.
    offsets : array of int, shape [S + 1], optional
        With ids `[T]`, where each bag begins, and the last ends, T.
    counts : array of int, shape [S], optional
        Or how many ids each has, T in all.
    mode : {"raise", "clip", "wrap", "fill", "defer"}
        What an id that is negative or not below L is: an IndexError, the nearest row, the one at
        the id modulo L, or a row of ``fill_value``, which counts as any other. ``"defer"`` is as in
        :func:`gather`.
    fill_value : scalar
        For the modes ``"fill"`` and ``"defer"``; it must fit x's dtype.
    out : array, optional
        As in :func:`segment_reduce`.
    backend : str, optional
        ``cpu``, ``reference`` or ``torch``.

    Returns
    -------
    array, shape [S, ...]
        Of x's dtype and container. A bag of no ids is what a segment of no rows is.

    Raises
    ------
    TypeError
        A dtype that cannot be reduced so, ids or bags that are not of an integer dtype.
    ValueError
        Shapes that do not fit; both offsets and counts; offsets that fall or do not go from 0 to T,
        counts that are not T in all; an unknown mode, an unusable ``out``.
    IndexError
        With ``mode="raise"``, the first id in row-major order that is negative or not below L.

    Notes
    -----
    It has the bits of ``gather_tokens(x[None], ids.reshape(1, -1), mode=mode)[0]`` as segments. A
    row that is filled adds nothing to a sum, but counts in a mean: ids of which some stand for
    none, as -1, are told of by counts, ``ids[ids >= 0]`` with ``counts=(ids >= 0).sum(1)``.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> x = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    >>> nbgather.gather_reduce(x, [[0, 1], [2, 2]], "sum")
    array([[ 4.,  6.],
           [10.,  0.]])
    >>> nbgather.gather_reduce(x, [2, 0, 1], "amax", counts=[1, 2])
    array([[5., 0.],
           [3., 4.]])
    >>> nbgather.gather_reduce(x, [[0, -1], [2, 1]], "sum", mode="fill")
    array([[1., 2.],
           [8., 4.]])
    """
    if backend is None and counts is None and out is None:
        result = dispatch.recall((GatherReduce, reduce, "offsets", mode), x, ids, offsets)
        if result is not None:
            return result
    if offsets is not None and counts is not None:
        raise ValueError("one of offsets and counts is needed: offsets and counts came")
    by, where = ("offsets", offsets) if counts is None else ("counts", counts)
    operation = GatherReduce(
        reduce, by, mode=mode, fill_value=dispatch.fill_value(mode, fill_value)
    )
    return dispatch.execute(operation, x, ids, where, out=out, backend=backend)
