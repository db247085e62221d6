"""The graphs of a gather along a chunked dimension, by the plans of :mod:`plans`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
from dask.base import tokenize

from nbgather.containers.dask import blocks
from nbgather.containers.dask.block_shapes import Call
from nbgather.containers.dask.expectations import Choice, Operand, expected, where_it_lies
from nbgather.containers.dask.fusion import Joined, graph_with, joined, reads_of
from nbgather.containers.dask.gather_blocks import (
    finish_parts,
    gather_concatenated,
    gather_list,
    join_parts,
    part_of,
    places_of,
    split_index,
    take_part,
)
from nbgather.containers.dask.late import LateLayer
from nbgather.containers.dask.plans import (
    Facts,
    cheaper,
    choose,
    facts_of,
    limit,
    read_apart,
    together,
)
from nbgather.containers.dask.sides import (
    chunked,
    index_beside,
    is_known,
    meta_of,
    rechunked,
    starts_of,
)
from nbgather.containers.numpy import describe
from nbgather.operations.base import Spec
from nbgather.operations.indexing import Gather, GatherTokens, TakeAlongAxis
from nbgather.operations.shapes import gather_shapes, needs_position

logger = logging.getLogger("nbgather.dask")

#: Partial results that are joined at once.
PARTS_PER_JOIN = 32
#: What gathers a block of the result from all its chunks.
_AT_ONCE = {"concatenate": gather_concatenated, "list": gather_list}


class GatherLayer(LateLayer):
    """The tasks of a gather, and the choice of plan they follow.

    ``expect`` is what tells, of the layers of a graph, what is expected as chunks lie now.
    """

    def __init__(
        self, make: Callable[[], dict[Any, Any]], choice: Choice, expect: Callable[[Any], Choice]
    ) -> None:
        super().__init__(make, choice.tasks)
        self.choice, self.expect = choice, expect


def build(
    operation: Gather, x: Any, index: Any, plan: str | None = None, budget: int | str | None = None
) -> Any:
    """The graph of a gather; ``plan`` and ``budget`` as in :func:`nbgather.dask.gather`."""
    x_name, i_name = operation.names[:2]
    x = chunked(x, x_name)
    i = index_beside(index, i_name, x, x_name)
    if x.ndim == i.ndim == 0 and not isinstance(operation, GatherTokens):
        # As an array of one item.
        return build(operation, x.reshape(1), i.reshape(1), plan, budget).reshape(())
    x_spec, i_spec = _spec(x), _spec(i)
    operation.check_dtypes(x_spec, i_spec)
    if isinstance(operation, GatherTokens):
        operation.result(x_spec, i_spec)
        if _differ(x, i, 0):
            i = rechunked(i, {0: x.chunks[0]})
        return _graph(operation, 1, x, i, (*i.chunks, *x.chunks[2:]), plan, budget)
    axis = operation.axis(x.ndim)
    if isinstance(operation, TakeAlongAxis):
        x, i = _broadcast(operation, axis, x, i)
    else:
        _known_off(x, i, axis)
        operation.result(x_spec, i_spec)
        cut = tuple(slice(None) if d == axis else _crop(x, i, d) for d in range(x.ndim))
        x = x[cut]
    i = rechunked(i, {d: x.chunks[d] for d in range(x.ndim) if d != axis and _differ(x, i, d)})
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
    reads = reads_of(x)
    facts = facts_of(x, i, dim, chunks, tokens, reads is not None)
    chosen, reason = choose(facts, dim, plan, budget)
    pieces = i.chunks[dim]
    count = together(facts, chosen, budget) if all(map(is_known, pieces)) else 1
    if count > 1:
        several = joined(i, dim, count)
        i = several.array
        wide = (*chunks[:dim], i.chunks[dim], *chunks[dim + 1 :])
        facts = facts_of(x, i, dim, wide, tokens, reads is not None)._replace(cut=count)
        if plan is None and chosen != "tree" and facts.sources <= limit(budget):
            chosen = cheaper(facts)  # for what is together it may be the other one
        choice = expected(facts, chosen, reason)
        found = _array(call, x, i, wide, choice, reads, facts, several)
        return rechunked(found, {dim: pieces})
    return _array(call, x, i, chunks, expected(facts, chosen, reason), reads, facts)


def _array(
    call: Call,
    x: Any,
    i: Any,
    chunks: Any,
    choice: Choice,
    reads: Any,
    facts: Facts,
    several: Joined | None = None,
) -> Any:
    """The array that a choice of plan gives; ``several`` is of what the index is joined."""
    logger.info("gather by plan %r: %s", choice.plan, choice.reason)
    name = f"nbgather-{choice.plan}-" + tokenize(x, i, call, choice.plan)
    reads = reads if facts.fused(choice.plan) else None
    apart = 0 if reads is None or choice.plan == "tree" else read_apart(facts)
    # A task takes the pieces as they are where each block of index is for one task.
    if several and (choice.plan == "tree" or not several.cheap or len(chunks) != i.ndim):
        several = None
    pieces = several.pieces if several else None
    make = partial(
        _tasks, name, choice.plan, call, reads and reads.layer, chunks,
        (x.name, x.chunks, x.dtype), (i.name, i.chunks, pieces), apart,
    )  # fmt: skip
    needed = [] if reads and not apart else [x]
    needed = [*needed, *(several.needed if several else [i])]
    operands = Operand.of(x), Operand.of(i)
    expect = partial(where_it_lies, choice, facts, operands, call.dim)
    layer = GatherLayer(make, choice, expect)
    layers = graph_with(name, layer, needed, reads, several and several.reads)
    meta = meta_of(x, len(chunks), x.dtype)
    return da.Array(layers, name, chunks=chunks, dtype=x.dtype, meta=meta)


def _tasks(
    name: str, plan: str, call: Call, reads: Any, chunks: Any, x: Any, index: Any, apart: int = 0
) -> dict[Any, Any]:
    """All tasks of a gather, of which the last ``apart`` do not read their sources themselves."""
    (x_name, x_chunks, dtype), (i_name, i_chunks, pieces) = x, index
    dim = call.dim
    starts = [starts_of(c) for c in i_chunks]
    in_pieces = {} if pieces is None else pieces()
    found = {} if reads is None else dict(reads)
    graph: dict[Any, Any] = {}
    every = list(itertools.product(*(range(len(c)) for c in chunks)))
    for number, block in enumerate(every):
        if number == len(every) - apart:
            found = {}
        keys = [(x_name, *block[:dim], j, *block[dim + 1 :]) for j in range(len(x_chunks[dim]))]
        sources = [found.get(key, key) for key in keys]
        of_index: Any = (i_name, *block[: len(i_chunks)])
        of_index = in_pieces.get(of_index[1:], of_index)
        place = tuple(at[b] for at, b in zip(starts, block, strict=False))
        if plan == "tree":
            behind = range(len(i_chunks), len(chunks))
            inner = tuple(chunks[d][block[d]] for d in behind)
            lengths = tuple(map(int, x_chunks[dim]))
            graph |= _tree(name, block, sources, of_index, lengths, dtype, call, place, inner)
        else:
            graph[(name, *block)] = (_AT_ONCE[plan], sources, of_index, call, place)
    return graph


def _tree(
    name: str, block: Any, sources: Any, index: Any, lengths: Any, dtype: Any, call: Call,
    place: Any, inner: Any,
) -> dict[Any, Any]:  # fmt: skip
    """Tasks that split an index block, visit one source each, and join what those give."""
    split, places = (f"{name}-split", *block), (f"{name}-places", *block)
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
    graph[(name, *block)] = (finish_parts, places, keys, dtype, inner, call)
    return graph
