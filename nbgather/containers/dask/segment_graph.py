"""The graphs of segments and bags of rows: those of the gather and the scatter they are made of."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat.dask.array as xp
import dask.array as da
import numpy as np

from nbgather.containers.dask import blocks, gather_graph, scatter_graph
from nbgather.containers.dask.sides import beside, chunked, is_known
from nbgather.containers.numpy import describe
from nbgather.engine.bad_index import first_bad_index, raise_bad_index
from nbgather.operations.base import Apply, Operation, Spec
from nbgather.operations.indexing import Gather
from nbgather.operations.segments import GatherReduce, SegmentReduce, checked_bounds


def build(operation: SegmentReduce, x: Any, *sides: Any) -> Any:
    """The graph of segments, whose rows may be in chunks: their bits are those of one call.

    Where segments begin, or how many rows they have, is computed at once.
    """
    x = chunked(x, "x")
    if not blocks.is_numpy(x._meta):
        kind = type(x._meta)
        raise TypeError(
            f"x is in chunks of {kind.__module__}.{kind.__qualname__}: segments are reduced in"
            " chunks of NumPy alone, since where they begin is looked at on the host"
        )
    is_bags = isinstance(operation, GatherReduce)
    names = ("ids", operation.by) if is_bags else (operation.by,)
    given = [None if s is None else beside(s, n) for s, n in zip(sides, names, strict=True)]
    for name, array in (("x", x), *zip(names, given, strict=True)):
        if array is not None and not all(map(is_known, array.shape)):
            raise ValueError(f"chunk sizes of {name} are unknown: call compute_chunk_sizes() first")
    arrays = [x, *given]
    specs: list[Any] = [None if a is None else Spec(a.shape, (), describe(a.dtype)) for a in arrays]
    operation.check(*specs)
    *rows, where = arrays
    if isinstance(operation, GatherReduce):
        gather = Gather(0, operation.mode_at_once, operation.fill_value)
        if gather.mode == "raise":
            _refuse_bad(given[0], x.shape[0])
    elif operation.by == "ids":
        _refuse_bad(given[0], operation.num_segments)
    total = math.prod(rows[-1].shape) if is_bags else x.shape[0]
    if is_bags and where is None:
        where = np.full(rows[-1].shape[0], rows[-1].shape[1])
        operation = GatherReduce(operation.reduce, "counts")
        rows[-1] = rows[-1].reshape(-1)
    if operation.by == "ids":
        ids, size = where, operation.num_segments
    else:
        offsets = checked_bounds(operation, np.asarray(where), total)
        size = len(offsets) - 1
        ids = np.repeat(np.arange(size), np.diff(offsets))
    if is_bags:
        x = _run(gather, *_index_beside(x, rows[-1]))
    segments = SegmentReduce(operation.reduce, "ids", size)
    return segments.lower(Apply(_run, lambda: xp), x, _chunked(ids, x.chunks[0]))


def _refuse_bad(ids: Any, size: Any) -> None:
    """Tell of a bad id at once, by its own place, where the ids are known."""
    if isinstance(ids, np.ndarray) and first_bad_index(ids, size, False) is not None:
        raise_bad_index(ids, size, 0, False)


def _chunked(ids: Any, chunks: Any) -> Any:
    return ids if isinstance(ids, da.Array) else da.from_array(ids, chunks=(chunks,))


def _index_beside(x: Any, ids: Any) -> tuple[Any, Any]:
    """Rows, and the ids of some as an index of all their items."""
    ids = _chunked(ids, "auto")
    index = ids.reshape(-1, *(1,) * (x.ndim - 1))
    return x, da.broadcast_to(index, (len(ids), *x.shape[1:]), chunks=(*ids.chunks, *x.chunks[1:]))


def _run(operation: Operation, *operands: Any) -> Any:
    build: Any = gather_graph.build if isinstance(operation, Gather) else scatter_graph.build
    return build(operation, *operands)
