"""The graphs of a gather along a chunked dimension, by the plans of :mod:`plans`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from nbgather.containers.dask import blocks
from nbgather.containers.dask.gather_blocks import (
    Call,
    finish_parts,
    gather_concatenated,
    gather_list,
    join_parts,
    part_of,
    places_of,
    split_index,
    take_part,
)
from nbgather.containers.dask.plans import Choice, choose, facts_of, together
from nbgather.containers.dask.sides import chunked, index_beside, is_known, start_of
from nbgather.containers.numpy import describe
from nbgather.operations.base import Spec
from nbgather.operations.indexing import Gather, GatherTokens, TakeAlongAxis
from nbgather.operations.shapes import gather_shapes, needs_position

logger = logging.getLogger("nbgather.dask")

#: Partial results that are joined at once.
PARTS_PER_JOIN = 32
#: What gathers a block of the result from all its chunks.
_AT_ONCE = {"concatenate": gather_concatenated, "list": gather_list}


class GatherLayer(MaterializedLayer):
    """The tasks of a gather, and the choice of plan that they follow."""

    def __init__(self, mapping: Mapping[Any, Any], choice: Choice) -> None:
        super().__init__(mapping)
        self.choice = choice


def build(
    operation: Gather, x: Any, index: Any, plan: str | None = None, budget: int | str | None = None
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


def _graph(
    operation: Gather,
    dim: int,
    x: Any,
    i: Any,
    chunks: Any,
    plan: str | None,
    budget: int | str | None,
) -> Any:
    """The graph of a gather whose operands' chunks fit off the dimension."""
    fill = None
    if operation.mode == "fill":
        fill = blocks.item(x.dtype, operation.fill_value)
    call = Call(dim, operation.from_end, operation.mode_at_once, fill)
    needs_position(tuple(i.shape), x.shape[dim], dim, call.mode)
    tokens = isinstance(operation, GatherTokens)
    facts = facts_of(x, i, dim, chunks, tokens)
    pieces = i.chunks[dim]
    count = together(facts, len(pieces)) if all(map(is_known, pieces)) else 1
    if count > 1:
        larger = tuple(sum(pieces[k : k + count]) for k in range(0, len(pieces), count))
        wide = (*chunks[:dim], larger, *chunks[dim + 1 :])
        whole = _graph(operation, dim, x, i.rechunk({dim: larger}), wide, plan, budget)
        return whole.rechunk({dim: pieces})
    choice = choose(facts, dim, plan, budget)
    logger.info("gather by plan %r: %s", choice.plan, choice.reason)
    name = f"nbgather-{choice.plan}-" + tokenize(x, i, call, choice.plan)
    starts = [[start_of(c, b) for b in range(len(c))] for c in i.chunks]
    graph: dict[Any, Any] = {}
    for block in itertools.product(*(range(len(c)) for c in chunks)):
        sources = [(x.name, *block[:dim], j, *block[dim + 1 :]) for j in range(x.numblocks[dim])]
        index = (i.name, *block[: i.ndim])
        place = tuple(at[b] for at, b in zip(starts, block, strict=False))
        if choice.plan == "tree":
            inner = tuple(c[b] for c, b in zip(chunks[2:], block[2:], strict=True)) if tokens else ()
            graph |= _tree(name, block, sources, index, x, call, place, inner)
        else:
            graph[(name, *block)] = (_AT_ONCE[choice.plan], sources, index, call, place)
    layer = GatherLayer(graph, choice)
    layers = HighLevelGraph.from_collections(name, layer, dependencies=[x, i])
    meta = np.empty((0,) * len(chunks), x.dtype)
    return da.Array(layers, name, chunks=chunks, dtype=x.dtype, meta=meta)


def _tree(
    name: str, block: Any, sources: Any, index: Any, x: Any, call: Call, place: Any, inner: Any
) -> dict[Any, Any]:
    """Tasks that split an index block, visit one source each, and join what those give."""
    split, places = (f"{name}-split", *block), (f"{name}-places", *block)
    lengths = tuple(map(int, x.chunks[call.dim]))
    graph: dict[Any, Any] = {
        split: (split_index, index, lengths, call, place),
        places: (places_of, split),
    }
    keys = []
    for j, source in enumerate(sources):
        part, taken = (f"{name}-part-{j}", *block), (f"{name}-take-{j}", *block)
        # A task of its own: only what is asked of this chunk travels to it.
        graph[part] = (part_of, split, j)
        graph[taken] = (take_part, source, part, call)
        keys.append(taken)
    level = 0
    while len(keys) > PARTS_PER_JOIN:
        joined = []
        for k in range(0, len(keys), PARTS_PER_JOIN):
            part = (f"{name}-join-{level}-{k}", *block)
            graph[part] = (join_parts, keys[k : k + PARTS_PER_JOIN])
            joined.append(part)
        keys, level = joined, level + 1
    graph[(name, *block)] = (finish_parts, places, keys, x.dtype, inner, call)
    return graph
