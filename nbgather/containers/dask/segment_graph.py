"""The graphs of segments and bags of rows: those of the gather and the scatter they are made of."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from nbgather.containers.dask import gather_graph, scatter_graph, segment_rows
from nbgather.containers.dask.sides import beside, brought, chunked, is_known, rechunked
from nbgather.containers.numpy import describe
from nbgather.engine.bad_index import first_bad_index, raise_bad_index
from nbgather.operations.base import Spec
from nbgather.operations.indexing import Gather
from nbgather.operations.segments import GatherReduce, SegmentReduce, checked_bounds


def build(operation: SegmentReduce, x: Any, *sides: Any) -> Any:
    """The graph of segments, whose rows may be in chunks: their bits are those of one call.

    Where segments begin, or how many rows they have, is computed at once, and brought to the host;
    the rows and their ids stay in the library that the chunks are of.
    """
    x = chunked(x, "x")
    is_bags = isinstance(operation, GatherReduce)
    names = ("ids", operation.by) if is_bags else (operation.by,)
    given = [None if s is None else _side(s, n, x) for s, n in zip(sides, names, strict=True)]
    for name, array in (("x", x), *zip(names, given, strict=True)):
        if array is not None and not all(map(is_known, array.shape)):
            raise ValueError(f"chunk sizes of {name} are unknown: call compute_chunk_sizes() first")
    arrays = [x, *given]
    specs: list[Any] = [None if a is None else Spec(a.shape, (), describe(a.dtype)) for a in arrays]
    operation.check(*specs)
    if isinstance(operation, GatherReduce):
        return _bags(operation, *arrays)
    where = arrays[1]
    if operation.by == "ids":
        size = operation.num_segments
        _refuse_bad(where, size)
        if isinstance(where, da.Array):
            where = rechunked(where, {0: x.chunks[0]})
            return _reduced(operation, x, size, partial(segment_rows.of_ids, where, size))
        return _reduced(operation, x, size, partial(segment_rows.of_array, where))
    offsets = checked_bounds(operation, _on_host(where), x.shape[0])
    return _reduced(operation, x, len(offsets) - 1, partial(segment_rows.of_bounds, offsets))


def _bags(operation: GatherReduce, x: Any, ids: Any, where: Any) -> Any:
    """The rows of ids `[S, K]`, or of `[T]` and where bags begin, as segments."""
    gather = Gather(0, operation.mode_at_once, operation.fill_value)
    size = None
    if gather.mode == "raise":
        size = x.shape[0]
        _refuse_bad(ids, size)
    if where is None:
        bags, each = ids.shape
        index: Any = partial(segment_rows.of_size, each)
    else:
        offsets = checked_bounds(operation, _on_host(where), ids.shape[0])
        bags, index = len(offsets) - 1, partial(segment_rows.of_bounds, offsets)
    if 0 in ids.shape:
        return _of_none(operation, x, bags)
    if not isinstance(ids, da.Array):
        ids = brought(da.from_array(ids.reshape(-1), chunks="auto"), x)
    rows = gather_graph.build(gather, x, segment_rows.of_ids(ids, size, x.chunks, x))
    return _reduced(operation, rows, bags, index)


def _reduced(operation: SegmentReduce, x: Any, size: int, index: Any) -> Any:
    """Rows scattered to their segments, which an index of such chunks tells of."""
    none = _of_none(operation, x, size)
    if x.shape[0] == 0:
        return none
    index = index((x.chunks[0], *none.chunks[1:]), x)
    return scatter_graph.build(operation.scatter, none, index, x)


def _of_none(operation: SegmentReduce, x: Any, size: int) -> Any:
    """What segments of no rows are."""
    none = da.full((size, *x.shape[1:]), operation.empty(x.dtype), dtype=x.dtype)
    return brought(none, x)


def _refuse_bad(ids: Any, size: Any) -> None:
    """Tell of a bad id at once, by its own place, where the ids are known."""
    if isinstance(ids, np.ndarray) and first_bad_index(ids, size, False) is not None:
        raise_bad_index(ids, size, 0, False)


def _side(values: Any, what: str, x: Any) -> Any:
    """What says where: in the library of x, or of NumPy where only the host looks at it."""
    if what in ("offsets", "counts") and isinstance(values, (list, tuple, range)):
        return beside(values, what)
    return beside(values, what, x)


def _on_host(where: Any) -> np.ndarray:
    """Where segments begin, as an array of NumPy's."""
    return np.asarray(where.to_backend("numpy") if isinstance(where, da.Array) else where)
