"""The graphs of segments and bags of rows: those of the gather and the scatter they are made of."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat.dask.array as xp
import dask.array as da
import numpy as np

from nbgather.containers.dask import gather_graph, scatter_graph
from nbgather.containers.dask.block_shapes import Call
from nbgather.containers.dask.gather_blocks import refuse_bad
from nbgather.containers.dask.sides import beside, brought, chunked, is_known, plain_block
from nbgather.containers.numpy import describe
from nbgather.engine.bad_index import first_bad_index, raise_bad_index
from nbgather.operations.base import Apply, Operation, Spec
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
    *rows, where = arrays
    if isinstance(operation, GatherReduce):
        gather = Gather(0, operation.mode_at_once, operation.fill_value)
        if gather.mode == "raise":
            _refuse_bad(given[0], x.shape[0])
            rows[-1] = _checked(given[0], x.shape[0])
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
        offsets = checked_bounds(operation, _on_host(where), total)
        size = len(offsets) - 1
        ids = np.repeat(np.arange(size), np.diff(offsets))
    if is_bags:
        x = _run(gather, *_index_beside(x, rows[-1]))
    segments = SegmentReduce(operation.reduce, "ids", size)
    return segments.lower(Apply(_run, lambda: _Functions(x)), x, _chunked(ids, x.chunks[0], x))


def _refuse_bad(ids: Any, size: Any) -> None:
    """Tell of a bad id at once, by its own place, where the ids are known."""
    if isinstance(ids, np.ndarray) and first_bad_index(ids, size, False) is not None:
        raise_bad_index(ids, size, 0, False)


def _checked(ids: Any, size: int) -> Any:
    """The same ids, of which a bad one is told of by its own place, not by that of an item."""
    if not isinstance(ids, da.Array):
        return ids
    return ids.map_blocks(_check_block, size, dtype=ids.dtype, meta=ids._meta)


def _check_block(ids: Any, size: int, block_info: Any = None) -> Any:
    ids = plain_block(ids, "a chunk of ids")
    starts = tuple(start for start, _ in block_info[0]["array-location"])
    refuse_bad(ids, size, Call(0, False, "raise", None), starts)
    return ids


def _side(values: Any, what: str, x: Any) -> Any:
    """What says where: in the library of x, or of NumPy where only the host looks at it."""
    if what in ("offsets", "counts") and isinstance(values, (list, tuple, range)):
        return beside(values, what)
    return beside(values, what, x)


def _on_host(where: Any) -> np.ndarray:
    """Where segments begin, as an array of NumPy's."""
    return np.asarray(where.to_backend("numpy") if isinstance(where, da.Array) else where)


class _Functions:
    """The functions of Dask's arrays; what they make of nothing is in the library of ``like``."""

    def __init__(self, like: Any) -> None:
        self.like = like

    def __getattr__(self, name: str) -> Any:
        function = getattr(xp, name)
        if name not in ("full", "arange"):
            return function
        return lambda *given, **options: brought(function(*given, **options), self.like)


def _chunked(ids: Any, chunks: Any, like: Any) -> Any:
    if isinstance(ids, da.Array):
        return ids
    return brought(da.from_array(ids, chunks=(chunks,)), like)


def _index_beside(x: Any, ids: Any) -> tuple[Any, Any]:
    """Rows, and the ids of some as an index of all their items."""
    ids = _chunked(ids, "auto", x)
    index = ids.reshape(-1, *(1,) * (x.ndim - 1))
    return x, da.broadcast_to(index, (len(ids), *x.shape[1:]), chunks=(*ids.chunks, *x.chunks[1:]))


def _run(operation: Operation, *operands: Any) -> Any:
    build: Any = gather_graph.build if isinstance(operation, Gather) else scatter_graph.build
    return build(operation, *operands)
