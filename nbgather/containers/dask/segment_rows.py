"""The index of segments or bags of rows: ids of rows, as an index of all items of these.

The tasks look at ids, or make them: what is in memory is in the graph once, in pieces that the
tasks of several chunks take their part of.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
from dask.base import tokenize

from nbgather.containers.dask import blocks, late
from nbgather.containers.dask.block_shapes import Call
from nbgather.containers.dask.gather_blocks import plain_index, refuse_bad
from nbgather.containers.dask.late import LateLayer
from nbgather.containers.dask.sides import rechunked, starts_of

#: How many numbers that are in memory are held together: 1 MiB of int64.
_TOGETHER = 1 << 17

#: Tasks, and for each chunk of rows what gives its ids: a task or a key.
_Rows = tuple[dict[Any, Any], list[Any]]


def of_ids(ids: Any, size: int | None, chunks: Any, like: Any) -> Any:
    """By ids in chunks, `[N]` or `[S, K]` with K in one: below ``size`` unless that is None.

    ``chunks`` are those of the index, but for the rows, which are in those of the ids.
    """
    ids = rechunked(ids, dict.fromkeys(range(1, ids.ndim), -1))
    behind = math.prod(ids.shape[1:])
    rows = tuple(n * behind for n in ids.chunks[0])
    of_rows = partial(_given, ids.name, ids.chunks[0], ids.ndim - 1, size)
    return _index(of_rows, 0, (rows, *chunks[1:]), [ids], ids, None, size)


def of_array(ids: np.ndarray, chunks: Any, like: Any) -> Any:
    """By ids in memory, which are known to be in bounds."""
    of_rows = partial(_sliced, ids, chunks[0])
    return _index(of_rows, len(ids), chunks, [], ids, like, ids)


def of_bounds(offsets: np.ndarray, chunks: Any, like: Any) -> Any:
    """By where each segment begins and the last ends."""
    of_rows = partial(_between, offsets, chunks[0])
    return _index(of_rows, len(offsets), chunks, [], offsets, like, offsets)


def of_size(size: int, chunks: Any, like: Any) -> Any:
    """Segments of one size."""
    return _index(
        partial(_every, size, chunks[0]), 0, chunks, [], np.empty(0, np.int64), like, size
    )


def _index(
    of_rows: partial[_Rows],
    held: int,
    chunks: Any,
    needed: list[Any],
    ids: Any,
    like: Any,
    token: Any,
) -> Any:
    """The index in such chunks, of which ``held`` numbers are in memory.

    It is of the library of ``like``; or of that of the ids, where these are in chunks.
    """
    meta = None if like is None or blocks.is_numpy(like._meta) else like._meta
    name = "nbgather-rows-" + tokenize(of_rows.func.__name__, needed, chunks, token, meta)
    count = math.prod(map(len, chunks)) + -(-held // _TOGETHER)
    layer = LateLayer(partial(_tasks, name, of_rows, chunks, meta), count)
    return late.array(name, layer, needed, chunks, ids if like is None else like, ids.dtype)


def _tasks(name: str, of_rows: partial[_Rows], chunks: Any, meta: Any) -> dict[Any, Any]:
    tasks, rows = of_rows(name)
    for block in itertools.product(*(range(len(sizes)) for sizes in chunks)):
        off = tuple(int(sizes[b]) for sizes, b in zip(chunks[1:], block[1:], strict=True))
        tasks[(name, *block)] = (_spread, rows[block[0]], off, meta)
    return tasks


def _spread(ids: Any, off: tuple[int, ...], meta: Any) -> Any:
    """Ids of rows, as an index of all their items."""
    ids = ids if meta is None else blocks.beside(ids, meta)
    xp = blocks.namespace(ids)
    return xp.broadcast_to(xp.reshape(ids, (-1, *(1,) * len(off))), (ids.shape[0], *off))


def _given(ids: str, chunks: Any, behind: int, size: int | None, name: str) -> _Rows:
    others = (0,) * behind
    return {}, [
        (_checked, (ids, n, *others), size, (start, *others))
        for n, start in enumerate(starts_of(chunks))
    ]


def _checked(ids: Any, size: int | None, starts: tuple[int, ...]) -> Any:
    """The ids in one dimension; a bad one is told of by its own place, not by that of an item."""
    ids = plain_index(ids)
    if size is not None:
        refuse_bad(ids, size, Call(0, False, "raise", None), starts)
    return ids.reshape(-1)


def _held(name: str, numbers: np.ndarray) -> dict[Any, Any]:
    """Numbers in memory as tasks: pieces of them."""
    starts = range(0, len(numbers), _TOGETHER)
    return {(f"{name}-held", k): numbers[at : at + _TOGETHER] for k, at in enumerate(starts)}


def _part(name: str, start: int, stop: int) -> Any:
    """What gives the numbers from ``start`` on, before ``stop``."""
    first = start // _TOGETHER
    pieces = [(f"{name}-held", k) for k in range(first, -(-stop // _TOGETHER))]
    return _taken, pieces, start - first * _TOGETHER, stop - first * _TOGETHER


def _taken(pieces: list[np.ndarray], start: int, stop: int) -> np.ndarray:
    numbers = pieces[0] if len(pieces) == 1 else np.concatenate([pieces[0][:0], *pieces])
    return numbers[start:stop]


def _sliced(ids: np.ndarray, chunks: Any, name: str) -> _Rows:
    starts: list[Any] = starts_of(chunks)
    rows = [_part(name, start, start + n) for start, n in zip(starts, chunks, strict=True)]
    return _held(name, ids), rows


def _between(offsets: np.ndarray, chunks: Any, name: str) -> _Rows:
    stops = np.cumsum(chunks)
    starts = stops - chunks
    # The segments of the first and the last row of each chunk.
    first = np.searchsorted(offsets, starts, "right") - 1
    last = np.searchsorted(offsets, np.maximum(stops - 1, starts), "right") - 1
    ends = np.minimum(last + 2, len(offsets))
    each = zip(*(numbers.tolist() for numbers in (first, ends, starts, stops)), strict=True)
    return _held(name, offsets), [
        (_ids_between, _part(name, k, end), k, start, stop) for k, end, start, stop in each
    ]


def _ids_between(offsets: np.ndarray, first: int, start: int, stop: int) -> np.ndarray:
    """The segment of each of some rows; ``first`` is that of the first of them."""
    lengths = np.diff(np.clip(offsets, start, stop))
    return np.repeat(np.arange(first, first + len(lengths)), lengths)


def _every(size: int, chunks: Any, name: str) -> _Rows:
    starts: list[Any] = starts_of(chunks)
    return {}, [
        (_ids_every, size, start, start + n) for start, n in zip(starts, chunks, strict=True)
    ]


def _ids_every(size: int, start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop) // size
