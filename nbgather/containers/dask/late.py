"""Layers of a graph whose tasks are made when they are asked for.

To build a graph then takes no time for each chunk, and what is sent of it is how to make it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.highlevelgraph import HighLevelGraph, Layer


class LateLayer(Layer):
    """The tasks that a function gives, and how many there are where that is known.

    ``make`` goes where the graph goes, so it has names and sizes of chunks, and no arrays of Dask.
    """

    def __init__(self, make: Callable[[], dict[Any, Any]], count: int | None = None) -> None:
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
        return len(self.tasks) if self.count is None else self.count

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
    meta = meta_from_array(like._meta, ndim=len(chunks), dtype=np.dtype(dtype))
    return da.Array(graph, name, chunks, dtype=dtype, meta=meta)
