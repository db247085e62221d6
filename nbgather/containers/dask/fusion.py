"""What may be done within another task: reading or making the chunks that a graph begins with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import dask.array as da
from dask.base import tokenize
from dask.blockwise import Blockwise, fuse_roots, optimize_blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from nbgather.containers.dask.gather_blocks import join
from nbgather.containers.dask.late import LateLayer


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
    if not isinstance(array.dask.layers.get(array.name), Blockwise):
        return None
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


def graph_with(name: str, layer: Any, arrays: list[Any], *reads: Reads | None) -> HighLevelGraph:
    """The graph of a layer that has reads in its tasks: the arrays they are of are left out."""
    graph = HighLevelGraph.from_collections(name, layer, dependencies=arrays)
    before = {one: task for each in reads if each for one, task in each.before.items()}
    if not before:
        return graph
    needed = {name: graph.dependencies[name] | set(before)}
    nothing: dict[str, set[str]] = {one: set() for one in before}
    return HighLevelGraph({**before, **graph.layers}, {**nothing, **graph.dependencies, **needed})


class Joined(NamedTuple):
    """An index with several of its blocks along the dimension in one.

    ``pieces`` gives, when it is called, for each block what a task takes to have it: a list of keys
    or of tasks. ``array`` is the index with a task for each block that joins them. ``needed`` and
    ``reads`` are those of a graph that takes the pieces, and ``cheap`` whether that may be done
    many times: they are keys, or are read and not computed.
    """

    array: Any
    pieces: Callable[[], dict[Any, list[Any]]]
    needed: list[Any]
    reads: Reads | None
    cheap: bool


def joined(array: Any, dim: int, count: int) -> Joined:
    """An index with ``count`` of its blocks along the dimension in one."""
    sizes, given = array.chunks[dim], reads_of(array)
    larger = tuple(sum(sizes[k : k + count]) for k in range(0, len(sizes), count))
    chunks = (*array.chunks[:dim], larger, *array.chunks[dim + 1 :])
    name = "nbgather-index-" + tokenize(array, dim, count)
    reads = None if given is None else given.layer
    pieces = partial(_pieces, array.name, reads, array.numblocks, dim, count)
    needed = [] if given else [array]
    layer = LateLayer(partial(_joining, name, pieces, dim), math.prod(map(len, chunks)))
    layers = graph_with(name, layer, needed, given)
    whole = da.Array(layers, name, chunks=chunks, meta=array._meta)
    cheap = given is None or len(array.dask.layers) == 1 + len(given.before)
    return Joined(whole, pieces, needed, given, cheap)


def _pieces(
    array: str, reads: Blockwise | None, numblocks: tuple[int, ...], dim: int, count: int
) -> dict[Any, list[Any]]:
    found = {} if reads is None else dict(reads)
    ranges = [range(numblocks[dim])[k : k + count] for k in range(0, numblocks[dim], count)]
    pieces = {}
    counts = (*numblocks[:dim], len(ranges), *numblocks[dim + 1 :])
    for block in itertools.product(*map(range, counts)):
        keys = [(array, *block[:dim], k, *block[dim + 1 :]) for k in ranges[block[dim]]]
        pieces[block] = [found.get(key, key) for key in keys]
    return pieces


def _joining(name: str, pieces: Callable[[], dict[Any, list[Any]]], dim: int) -> dict[Any, Any]:
    return {(name, *block): (join, tasks, dim) for block, tasks in pieces().items()}
