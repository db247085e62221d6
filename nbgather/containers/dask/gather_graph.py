"""The graphs of a gather along a chunked dimension: two plans, by what an output block reads."""

from __future__ import annotations

import itertools
import logging
import math
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.utils import parse_bytes

from nbgather.containers.dask import blocks
from nbgather.containers.dask.gather_blocks import (
    Call,
    find_hits,
    finish_parts,
    gather_list,
    join_parts,
)
from nbgather.containers.dask.sides import chunked, index_beside, is_known, start_of
from nbgather.containers.numpy import describe
from nbgather.operations.base import Spec
from nbgather.operations.indexing import Gather, GatherTokens, TakeAlongAxis
from nbgather.operations.shapes import gather_shapes, needs_position

logger = logging.getLogger("nbgather.dask")

#: Bytes of the sources of one output block from which they are not brought together.
BUDGET = "512 MiB"
#: Partial results that are joined at once.
PARTS_PER_JOIN = 8
PLANS = ("list", "tree")


def build(
    operation: Gather, x: Any, index: Any, plan: str | None = None, budget: int | str = BUDGET
) -> Any:
    """The graph of a gather; ``plan`` and ``budget`` as in :func:`nbgather.dask.gather`."""
    x_name, i_name = operation.names[:2]
    x, i = chunked(x, x_name), index_beside(index, i_name)
    x_spec, i_spec = _spec(x), _spec(i)
    operation.check_dtypes(x_spec, i_spec)
    if isinstance(operation, GatherTokens):
        operation.result(x_spec, i_spec)
        if _differ(x, i, 0):
            i = i.rechunk({0: x.chunks[0]})
        return _graph(operation, 1, x, i, (*i.chunks, *x.chunks[2:]), plan, budget)
    axis = operation.axis(x.ndim)
    if isinstance(operation, TakeAlongAxis):
        x, i = _broadcast(operation, axis, x, i)
    else:
        _known_off(x, i, axis)
        operation.result(x_spec, i_spec)
        cut = tuple(slice(None) if d == axis else _crop(x, i, d) for d in range(x.ndim))
        x = x[cut]
    i = i.rechunk({d: x.chunks[d] for d in range(x.ndim) if d != axis and _differ(x, i, d)})
    return _graph(operation, axis, x, i, i.chunks, plan, budget)


def _spec(array: Any) -> Spec:
    """What is known of a chunked array, whose sizes may be unknown."""
    shape = tuple(int(n) if is_known(n) else None for n in array.shape)
    return Spec(shape, (), describe(array.dtype))


def _broadcast(operation: TakeAlongAxis, axis: int, x: Any, i: Any) -> tuple[Any, Any]:
    """Both at the shape of the result but for the axis."""
    for d in range(min(x.ndim, i.ndim)):
        if d != axis and not (is_known(x.shape[d]) and is_known(i.shape[d])):
            raise ValueError(
                f"chunk sizes along dimension {d} are unknown: call compute_chunk_sizes() first"
            )
    shape = operation.shape(_spec(x).shape, _spec(i).shape)
    for d in range(x.ndim):
        if d == axis:
            continue
        if x.shape[d] != shape[d]:
            x = _spread(x, d, shape[d], i.chunks[d])
        if i.shape[d] != shape[d]:
            i = _spread(i, d, shape[d], x.chunks[d])
    return x, i


def _known_off(x: Any, i: Any, dim: int) -> None:
    if x.ndim != i.ndim:
        gather_shapes(x.shape, i.shape, dim)
    for d in range(x.ndim):
        unknown = not (is_known(x.shape[d]) and is_known(i.shape[d]))
        if d != dim and unknown and len(x.chunks[d]) != len(i.chunks[d]):
            raise ValueError(
                f"chunk sizes along dimension {d} are unknown, and input has"
                f" {len(x.chunks[d])} chunks there where index has {len(i.chunks[d])}: call"
                " compute_chunk_sizes() first"
            )


def _differ(x: Any, i: Any, d: int) -> bool:
    """Whether the chunks along ``d`` are known to differ."""
    return is_known(x.shape[d]) and is_known(i.shape[d]) and x.chunks[d] != i.chunks[d]


def _crop(x: Any, i: Any, d: int) -> slice:
    if is_known(x.shape[d]) and is_known(i.shape[d]) and i.shape[d] < x.shape[d]:
        return slice(0, int(i.shape[d]))
    return slice(None)


def _spread(array: Any, d: int, size: int, chunks: tuple[int, ...]) -> Any:
    """Broadcast one dimension, in chunks that the other operand has."""
    shape = (*array.shape[:d], size, *array.shape[d + 1 :])
    return da.broadcast_to(array, shape, chunks=(*array.chunks[:d], chunks, *array.chunks[d + 1 :]))


def _choose(x: Any, dim: int, plan: str | None, budget: int | str) -> str:
    """Which plan, and why, for the log."""
    if plan is not None and plan not in PLANS:
        raise ValueError(f"plan is {plan!r}: it must be one of {', '.join(map(repr, PLANS))}")
    limit = parse_bytes(budget)
    all_known = all(map(is_known, x.chunks[dim]))
    if plan == "tree" and not all_known:
        raise ValueError(
            f"chunk sizes along dimension {dim} are unknown: plan 'tree' must know them; call"
            " compute_chunk_sizes() first, or use plan 'list'"
        )
    if plan is not None:
        return plan
    sides = [max((c for c in x.chunks[d] if is_known(c)), default=1) for d in range(x.ndim)]
    sides[dim] = sum(c for c in x.chunks[dim] if is_known(c))
    nbytes = math.prod(int(s) for s in sides) * x.dtype.itemsize
    chosen = "tree" if all_known and nbytes > limit else "list"
    sign = "above" if nbytes > limit else "within"
    logger.info(
        "gather by plan %r: the sources of an output block are %d bytes, %s the budget of %d",
        chosen, nbytes, sign, limit,
    )  # fmt: skip
    return chosen


def _graph(
    operation: Gather, dim: int, x: Any, i: Any, chunks: Any, plan: str | None, budget: int | str
) -> Any:
    """The graph of a gather whose operands' chunks fit off the dimension."""
    fill = None
    if operation.mode == "fill":
        fill = blocks.item(x.dtype, operation.fill_value)
    call = Call(dim, operation.from_end, operation.mode_at_once, fill)
    needs_position(tuple(i.shape), x.shape[dim], dim, call.mode)
    chosen = _choose(x, dim, plan, budget)
    name = f"nbgather-{chosen}-" + tokenize(x, i, call, chosen)
    graph: dict[Any, Any] = {}
    for block in itertools.product(*(range(len(c)) for c in chunks)):
        sources = [(x.name, *block[:dim], j, *block[dim + 1 :]) for j in range(x.numblocks[dim])]
        indices = (i.name, *block[: i.ndim])
        starts = tuple(start_of(i.chunks[d], block[d]) for d in range(i.ndim))
        key = (name, *block)
        if chosen == "list":
            graph[key] = (gather_list, sources, indices, call, starts)
        else:
            graph |= _tree(name, block, key, sources, indices, x, call, starts)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[x, i])
    meta = np.empty((0,) * len(chunks), x.dtype)
    return da.Array(layers, name, chunks=chunks, dtype=x.dtype, meta=meta)


def _tree(
    name: str, block: Any, key: Any, sources: Any, indices: Any, x: Any, call: Call, starts: Any
) -> dict[Any, Any]:
    """Tasks that visit one source each, and join what they give, a few at a time."""
    graph: dict[Any, Any] = {}
    size = int(x.shape[call.dim])
    keys = []
    for j, source in enumerate(sources):
        part = (f"{name}-part-{j}", *block)
        start = sum(x.chunks[call.dim][:j])
        graph[part] = (find_hits, source, indices, call, starts, int(start), size)
        keys.append(part)
    level = 0
    while len(keys) > PARTS_PER_JOIN:
        joined = []
        for k in range(0, len(keys), PARTS_PER_JOIN):
            part = (f"{name}-join-{level}-{k}", *block)
            graph[part] = (join_parts, keys[k : k + PARTS_PER_JOIN])
            joined.append(part)
        keys, level = joined, level + 1
    graph[key] = (finish_parts, keys, x.dtype, call)
    return graph
