"""What may be done within another task: reading or making the chunks that a graph begins with."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import dask.array as da
from dask.base import tokenize
from dask.blockwise import Blockwise, fuse_roots, optimize_blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from nbgather.containers.dask import blocks
from nbgather.containers.dask.sides import plain_block


class Reads(NamedTuple):
    """The layer whose tasks give the chunks of an array, and what those need, which is no chunk."""

    layer: Blockwise
    before: dict[str, Any]


def reads_of(array: Any) -> Reads | None:
    """The tasks that give the chunks and need no other chunk; None where any of them does.

    Such chunks come from a file or are made of nothing, and whatever is done to each by itself. A
    task that does this where they are needed keeps them from travelling. Dask does the same between
    layers that work block by block, but not where several blocks meet.
    """
    keys = list(flatten(array.__dask_keys__()))
    graph = fuse_roots(optimize_blockwise(array.__dask_graph__(), keys=keys), keys=keys)
    layer = graph.layers.get(array.name)
    if not isinstance(layer, Blockwise):
        return None
    before = {name: graph.layers[name] for name in graph.dependencies[array.name]}
    # What is opened once for all chunks, as a file, is no chunk.
    if any(graph.dependencies[name] or len(layer) > 1 for name, layer in before.items()):
        return None
    return Reads(layer, before)


def graph_with(name: str, layer: Any, arrays: list[Any], reads: Reads | None) -> HighLevelGraph:
    """The graph of a layer that has reads in its tasks: the array they are of is left out."""
    graph = HighLevelGraph.from_collections(name, layer, dependencies=arrays)
    if reads is None:
        return graph
    needed = {name: graph.dependencies[name] | set(reads.before)}
    before = {one: set() for one in reads.before}  # type: ignore[var-annotated]
    return HighLevelGraph(
        {**reads.before, **graph.layers}, {**before, **graph.dependencies, **needed}
    )


def joined(array: Any, dim: int, count: int) -> Any:
    """An index with ``count`` of its blocks along the dimension in one.

    What dask.array's rechunk gives, in one task for each block that reads or makes its pieces.
    """
    sizes, given = array.chunks[dim], reads_of(array)
    reads = {} if given is None else dict(given.layer)
    pieces = [range(len(sizes))[k : k + count] for k in range(0, len(sizes), count)]
    larger = tuple(sum(sizes[k] for k in piece) for piece in pieces)
    chunks = (*array.chunks[:dim], larger, *array.chunks[dim + 1 :])
    name = "nbgather-index-" + tokenize(array, dim, count)
    graph = {}
    for block in itertools.product(*(range(len(c)) for c in chunks)):
        keys = [(array.name, *block[:dim], k, *block[dim + 1 :]) for k in pieces[block[dim]]]
        graph[(name, *block)] = (_join, [reads.get(key, key) for key in keys], dim)
    layers = graph_with(name, graph, [] if given else [array], given)
    return da.Array(layers, name, chunks=chunks, meta=array._meta)


def _join(pieces: list[Any], dim: int) -> Any:
    pieces = [plain_block(piece, "a chunk of index") for piece in pieces]
    return blocks.namespace(pieces[0]).concat(pieces, axis=dim)
