"""Layers of a graph whose tasks are made when they are asked for.

To build a graph then takes no time for each chunk, and what is sent of it is how to make it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dask.array as da
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, Layer

from nbgather.containers.dask.sides import meta_of, starts_of


class LateLayer(Layer):
    """The tasks that a function gives, and how many there are.

    ``make`` goes where the graph goes, so it has names and sizes of chunks, and no arrays of Dask.
    """

    def __init__(self, make: Callable[[], dict[Any, Any]], count: int) -> None:
        super().__init__()
        self.make, self.count = make, count
        self.made: dict[Any, Any] | None = None

    @property
    def tasks(self) -> dict[Any, Any]:
        if self.made is None:
            self.made = self.make()
        return self.made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "made": None}

    def __getitem__(self, key: Any) -> Any:
        return self.tasks[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return self.count

    def is_materialized(self) -> bool:
        return self.made is not None

    def get_output_keys(self) -> Any:
        return self.tasks.keys()


def array(
    name: str, layer: LateLayer, needed: list[Any], chunks: Any, like: Any, dtype: Any = None
) -> Any:
    """The array of a layer whose tasks need the chunks of some; blocks are of the library of one.

    The dtype is that of ``like`` where none is given.
    """
    graph = HighLevelGraph.from_collections(name, layer, dependencies=needed)
    dtype = like.dtype if dtype is None else dtype
    return da.Array(graph, name, chunks, dtype=dtype, meta=meta_of(like, len(chunks), dtype))


def cut(whole: Any, dim: int, pieces: tuple[int, ...], count: int) -> Any:
    """An array with ``count`` pieces for each of its chunks along the dimension, or what is left.

    It is what rechunking to known pieces gives.
    """
    name = "nbgather-cut-" + tokenize(whole, dim, pieces, count)
    chunks = (*whole.chunks[:dim], pieces, *whole.chunks[dim + 1 :])
    make = partial(_pieces, name, whole.name, whole.numblocks, dim, pieces, count)
    layer = LateLayer(make, whole.npartitions // whole.numblocks[dim] * len(pieces))
    return array(name, layer, [whole], chunks, whole)


def _pieces(
    name: str, whole: str, numblocks: Any, dim: int, pieces: tuple[int, ...], count: int
) -> dict[Any, Any]:
    starts: list[Any] = starts_of(pieces)
    tasks = {}
    for block in itertools.product(
        *map(range, (*numblocks[:dim], len(pieces), *numblocks[dim + 1 :]))
    ):
        k = block[dim]
        start = starts[k] - starts[k // count * count]
        source = (whole, *block[:dim], k // count, *block[dim + 1 :])
        tasks[(name, *block)] = (_piece, source, dim, start, start + pieces[k])
    return tasks


def _piece(whole: Any, dim: int, start: int, stop: int) -> Any:
    return whole[(slice(None),) * dim + (slice(start, stop),)]
