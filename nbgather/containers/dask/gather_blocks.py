"""What the tasks of a gather's graph do with the blocks that they were given.

Every block is looked at as `[A, length, B]`, with the dimension in the middle. What an index picks
is a row of the source as `[A * length * B, row]`: an item, or of tokens all B items of one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import array_api_compat.numpy as namespace
import numpy as np

from nbgather.containers.dask import blocks
from nbgather.containers.dask.sides import plain_block
from nbgather.engine.bad_index import first_bad_index, message
from nbgather.operations.indexing import Gather, GatherTokens, TakeAlongAxis
from nbgather.operations.positions import resolve_positions
from nbgather.operations.shapes import no_position

#: Bytes of the rows that are brought together at once: they are in a cache when they are read.
PANEL_BYTES = 1 << 20
#: Bytes of neighbours that are copied together in any case: what a cache line holds.
_LINE_BYTES = 64
#: Indices that are sorted by chunk at once: what that needs stays in a cache.
_SORTED_AT_ONCE = 1 << 16


class Call(NamedTuple):
    """What every task of a gather needs to know; ``fill`` is an array of one item, or None."""

    dim: int
    from_end: bool
    mode: str
    fill: Any


class Part(NamedTuple):
    """What an index block asks of one chunk: its rows, and the chunk's shape off the dimension."""

    rows: np.ndarray
    off: tuple[int, ...]


class Split(NamedTuple):
    """An index block by chunks: where each chunk's rows go, and which they are."""

    shape: tuple[int, ...]
    places: list[np.ndarray]
    parts: list[Part]


def refuse_bad(index: np.ndarray, size: int, call: Call, starts: tuple[int | None, ...]) -> None:
    """Raise the IndexError of the first bad index of a block, by its place in the whole."""
    bad = first_bad_index(index, size, call.from_end)
    if bad is None:
        return
    position, value = bad
    place = np.unravel_index(position, index.shape)
    whole = ["?" if s is None else str(s + int(p)) for s, p in zip(starts, place, strict=True)]
    where = f"({whole[0]},)" if len(whole) == 1 else f"({', '.join(whole)})"
    raise IndexError(message(value, where, call.dim, size))


def _flat(nested: Any) -> Iterator[np.ndarray]:
    for one in nested if isinstance(nested, list) else [nested]:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield plain_block(one, "a chunk of input")


def plain_index(index: Any) -> np.ndarray:
    index = np.ascontiguousarray(plain_block(index, "a chunk of index"))
    if not index.dtype.isnative:
        index = index.astype(index.dtype.newbyteorder("="))
    return index


def _off(index: np.ndarray, dim: int) -> tuple[int, ...]:
    """How much of each dimension but ``dim`` a block of index asks for."""
    return tuple(n for d, n in enumerate(index.shape) if d != dim)


def _middle(chunk: np.ndarray, off: tuple[int, ...], dim: int) -> np.ndarray:
    """A chunk as `[A, length, B]`, cut to what an index block asks for off the dimension."""
    sizes = (*off[:dim], chunk.shape[dim], *off[dim:])
    for d, n in enumerate(sizes):
        if chunk.shape[d] < n:
            raise ValueError(
                f"a chunk of index has {n} items along dimension {d} and the one of input"
                f" {chunk.shape[d]}: the unknown chunk sizes do not fit"
            )
    part = chunk[tuple(map(slice, sizes))]
    shape = part.shape
    return part.reshape(math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :]))


def _result(index: np.ndarray, inner: tuple[int, ...], dtype: np.dtype[Any], call: Call) -> Any:
    """What will be the block of the result: as the index, with a token's dimensions behind."""
    shape = (*index.shape, *inner)
    return np.empty(shape, dtype) if call.fill is None else np.full(shape, call.fill[0], dtype)


def gather_concatenated(
    sources: list[Any], index: np.ndarray, call: Call, starts: tuple[int | None, ...]
) -> np.ndarray:
    """One output block: a few rows of all its chunks at a time are brought together and read.

    The whole is never copied, and what is read has just been written and lies in a cache.
    """
    d, index = call.dim, plain_index(index)
    chunks = list(_flat(sources))
    tokens = index.ndim < chunks[0].ndim
    thirds = [_middle(chunk, _off(index, d), d) for chunk in chunks]
    first, size = thirds[0], sum(part.shape[1] for part in thirds)
    if size == 0 and index.size and call.mode in ("clip", "wrap"):
        no_position(d, call.mode)
    inner = chunks[0].shape[2:] if tokens else ()
    out = np.empty((*index.shape, *inner), first.dtype)
    count, width = first.shape[0], first.shape[2]
    wanted = index if tokens else index.reshape(count, index.shape[d] if index.ndim else 1, width)
    to = out.reshape(*wanted.shape[:2], width)
    with _by_place(index, size, call, starts):
        for rows, columns in _panels(count, size, width, first.itemsize, tokens):
            joined = _joined_along([part[rows, :, columns] for part in thirds])
            asked = wanted[rows] if tokens else wanted[rows, :, columns]
            blocks.execute(_operation(call, tokens), joined, asked, out=to[rows, :, columns])
    return out


def _joined_along(panel: list[np.ndarray]) -> np.ndarray:
    """Parts `[A, length, B]` side by side; unlike NumPy's, of the byte order that they had."""
    if len(panel) == 1:
        return panel[0]
    rows, columns = panel[0].shape[::2]
    joined = np.empty((rows, sum(p.shape[1] for p in panel), columns), panel[0].dtype)
    return np.concatenate(panel, axis=1, out=joined)


def _operation(call: Call, tokens: bool) -> Gather:
    """The same gather along the middle of three dimensions."""
    kind = GatherTokens if tokens else TakeAlongAxis if call.from_end else Gather
    return kind(1, call.mode, 0 if call.fill is None else call.fill[0])


def _panels(
    count: int, size: int, width: int, itemsize: int, tokens: bool
) -> Iterator[tuple[slice, slice]]:
    """Which rows and columns of `[A, size, B]` are brought together at once."""
    columns = _columns(size, width, itemsize, tokens)
    rows = max(PANEL_BYTES // max(size * itemsize * columns, 1), 1)
    for row in range(0, count, rows):
        for column in range(0, width, columns):
            yield slice(row, row + rows), slice(column, column + columns)


def _columns(size: int, width: int, itemsize: int, tokens: bool) -> int:
    """How many columns of a row are brought together at once: all those of tokens."""
    columns = max(PANEL_BYTES // max(size * itemsize, 1), _LINE_BYTES // itemsize, 1)
    return max(width, 1) if tokens else max(min(columns, width), 1)


def panel_bytes(size: int, width: int, itemsize: int, tokens: bool) -> int:
    """The most bytes that are brought together at once, for more than one row of `[A, size, B]`."""
    return max(size * itemsize * _columns(size, width, itemsize, tokens), PANEL_BYTES)


@contextlib.contextmanager
def _by_place(index: np.ndarray, size: int, call: Call, starts: Any) -> Iterator[None]:
    """Tell of a bad index by its place in the whole."""
    try:
        yield
    except IndexError:
        refuse_bad(index, size, call, starts)
        raise


def gather_list(
    sources: list[Any], index: np.ndarray, call: Call, starts: tuple[int | None, ...]
) -> np.ndarray:
    """One output block, from its chunks where they lie: the indices are sorted by chunk."""
    d, index = call.dim, plain_index(index)
    chunks = list(_flat(sources))
    tokens = index.ndim < chunks[0].ndim
    off = _off(index, d)
    lengths = [chunk.shape[d] for chunk in chunks]
    inner = chunks[0].shape[2:] if tokens else ()
    out = _result(index, inner, chunks[0].dtype, call)
    to = _as_rows(out, len(inner))
    flat = [_as_rows(_middle(chunk, off, d), 1 if tokens else 0) for chunk in chunks]
    for k, places, rows in by_chunk(index, lengths, call, starts):
        to[places] = flat[k][rows]
    return out


def _as_rows(array: np.ndarray, inner: int) -> np.ndarray:
    """What an index picks along the first dimension: items, or what the last ``inner`` hold."""
    if not inner:
        return array.reshape(-1)
    behind = array.shape[array.ndim - inner :]
    return array.reshape(math.prod(array.shape[: array.ndim - inner]), math.prod(behind))


def by_chunk(
    index: np.ndarray, lengths: list[int], call: Call, starts: Any
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Some places of the result at a time, with the chunk that they are of and its rows.

    What is out of bounds is in none of them, or an error.
    """
    ends = np.cumsum(lengths)
    size = int(ends[-1])
    if size == 0 and index.size and call.mode in ("clip", "wrap"):
        no_position(call.dim, call.mode)
    if call.mode == "raise":
        refuse_bad(index, size, call, starts)
    behind = math.prod(index.shape[call.dim + 1 :])
    along = behind * (index.shape[call.dim] if index.ndim else 1)
    flat, kind = index.reshape(-1), np.min_scalar_type(len(lengths))
    even = len(set(lengths[:-1])) <= 1 and 0 < lengths[-1] <= lengths[0]
    for begin in range(0, flat.size, _SORTED_AT_ONCE):
        position, inside = resolve_positions(
            namespace, flat[begin : begin + _SORTED_AT_ONCE], size, call.mode, call.from_end
        )
        # Most chunks are of one length: a division by a constant is faster than a search.
        which = position // lengths[0] if even else np.searchsorted(ends, position, "right")
        which = which.astype(kind)  # small numbers are sorted by their digits
        which[~inside] = len(lengths)
        order = np.argsort(which, kind="stable")
        bounds = np.cumsum(np.bincount(which, minlength=len(lengths)))
        position, places = position[order], order + begin
        rows = position * behind + places % behind if behind != 1 else position
        before = places // along
        for k in np.flatnonzero(np.diff(bounds, prepend=0)[: len(lengths)]):
            part = slice(bounds[k - 1] if k else 0, bounds[k])
            start = int(ends[k]) - lengths[k]
            yield int(k), places[part], rows[part] + (before[part] * lengths[k] - start) * behind


def split_index(
    index: np.ndarray, lengths: tuple[int, ...], call: Call, starts: tuple[int | None, ...]
) -> Split:
    """What an output block asks of each chunk along the dimension."""
    index = plain_index(index)
    places: list[list[np.ndarray]] = [[] for _ in lengths]
    rows: list[list[np.ndarray]] = [[] for _ in lengths]
    off = _off(index, call.dim)
    # These travel, and wait: in four bytes where they fit.
    place_kind = np.uint32 if index.size < 2**32 else np.int64
    for k, where, which in by_chunk(index, list(lengths), call, starts):
        kind = np.uint32 if math.prod(off) * lengths[k] < 2**32 else np.int64
        places[k].append(where.astype(place_kind))
        rows[k].append(which.astype(kind))
    return Split(index.shape, list(map(_joined, places)), [Part(_joined(r), off) for r in rows])


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint32)


def places_of(split: Split) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """What waits where the result will be, while the rest travels."""
    return split.shape, split.places


def part_of(split: Split, k: int) -> Part:
    """What travels to a chunk."""
    return split.parts[k]


def take_part(source: Any, part: Part, call: Call) -> np.ndarray:
    """The rows of a chunk that are asked for: `[M]`, or `[M, row]` of tokens."""
    chunk = plain_block(source, "a chunk of input")
    if not part.rows.size:  # nothing is looked at
        return np.empty((0,), chunk.dtype)
    tokens = len(part.off) + 1 < chunk.ndim
    return _as_rows(_middle(chunk, part.off, call.dim), 1 if tokens else 0)[part.rows]


def join_parts(parts: list[Any]) -> list[np.ndarray]:
    """What several chunks gave, one behind the other."""
    return [one for part in parts for one in (part if isinstance(part, list) else [part])]


def finish_parts(
    places: tuple[tuple[int, ...], list[np.ndarray]],
    parts: list[Any],
    dtype: np.dtype[Any],
    inner: tuple[int, ...],
    call: Call,
) -> np.ndarray:
    """An output block of what its chunks gave."""
    shape, where = places
    out = _result(np.empty(shape, np.bool_), inner, dtype, call)
    to = _as_rows(out, len(inner))
    for rows, values in zip(where, join_parts(parts), strict=True):
        if rows.size:
            to[rows] = values
    return out
