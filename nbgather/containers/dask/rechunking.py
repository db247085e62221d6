"""Other chunks of an array, in a graph whose tasks are made later; much that moves is left to Dask.

Dask makes the tasks of a rechunk at once, which takes from 13 to 40 ms for each 1,000 chunks.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
from dask.array.core import concatenate3
from dask.base import tokenize

from nbgather.containers.dask import late

#: How many parts there may be for each chunk: of more, Dask plans steps between, or a shuffle.
_PARTS = 4


def rechunked(array: Any, chunks: Any) -> Any:
    """The array in chunks as :meth:`dask.array.Array.rechunk` takes them: -1, or all sizes."""
    new = _target(array, chunks)
    if new == array.chunks:
        return array
    if new is None or _count(array.chunks, new) > _PARTS * max(
        array.npartitions, math.prod(map(len, new))
    ):
        return array.rechunk(chunks)
    name = "nbgather-rechunk-" + tokenize(array, new)
    layer = late.LateLayer(partial(_tasks, name, array.name, array.chunks, new))
    return late.array(name, layer, [array], new, array)


def _target(array: Any, chunks: Any) -> Any:
    """The chunks of all dimensions; None where there are no items, or not known how many."""
    if not all(array.shape) or any(map(math.isnan, array.shape)):
        return None
    given = chunks if isinstance(chunks, dict) else None
    if given is None:
        each = chunks if isinstance(chunks, tuple) else (chunks,) * array.ndim
        given = dict(enumerate(each))
    new = tuple(
        (size,) if given.get(d) == -1 else given.get(d, array.chunks[d])
        for d, size in enumerate(array.shape)
    )
    fits = all(isinstance(sizes, tuple) for sizes in new) and tuple(map(sum, new)) == array.shape
    return new if fits else None


def _count(old: Any, new: Any) -> int:
    """How many parts of old chunks the new ones have."""
    return math.prod(
        len(np.union1d(np.cumsum(before), np.cumsum(after)))
        for before, after in zip(old, new, strict=True)
    )


def _tasks(name: str, source: str, old: Any, new: Any) -> dict[Any, Any]:
    """A task for each new chunk, and one for each part of an old one that it has with others."""
    parts = [_parts(before, after) for before, after in zip(old, new, strict=True)]
    graph: dict[Any, Any] = {}
    for block in itertools.product(*(range(len(sizes)) for sizes in new)):
        along = [parts[d][b] for d, b in enumerate(block)]
        alone = all(len(those) == 1 for those in along)
        found = []
        for number, which in enumerate(itertools.product(*along)):
            key = (source, *(k for k, _, _ in which))
            whole = all(stop - start == old[d][k] for d, (k, start, stop) in enumerate(which))
            if not whole:
                starts, stops = (tuple(those[end] for those in which) for end in (1, 2))
                task = (_part, key, starts, stops)
                key = (name, *block) if alone else (f"{name}-part-{number}", *block)
                graph[key] = task
            found.append(key)
        if not alone:
            graph[(name, *block)] = (concatenate3, _nested(found, [len(those) for those in along]))
        elif found[0] != (name, *block):
            graph[(name, *block)] = found[0]
    return graph


def _parts(old: tuple[int, ...], new: tuple[int, ...]) -> list[list[tuple[int, int, int]]]:
    """For each new chunk of a dimension: old ones, and where its part of each begins and ends."""
    parts, k, used = [], 0, 0
    for size in new:
        found = [] if size else [(k, 0, 0)]
        while size:
            if used == old[k]:
                k, used = k + 1, 0
                continue
            taken = min(size, old[k] - used)
            found.append((k, used, used + taken))
            size, used = size - taken, used + taken
        parts.append(found)
    return parts


def _nested(keys: list[Any], sizes: list[int]) -> list[Any]:
    """Keys in row-major order as lists of lists, of such lengths."""
    for size in reversed(sizes[1:]):
        keys = [keys[k : k + size] for k in range(0, len(keys), size)]
    return keys


def _part(block: Any, starts: tuple[int, ...], stops: tuple[int, ...]) -> Any:
    return block[tuple(map(slice, starts, stops))]
