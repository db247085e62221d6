"""What the tasks of a gather's graph do with the blocks that they were given.

What is here is for NumPy's blocks; those of other libraries go to :mod:`elsewhere`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import array_api_compat.numpy as namespace
import numpy as np

from nbgather.containers.dask import blocks, elsewhere
from nbgather.containers.dask.block_shapes import (
    Call,
    Part,
    Split,
    along_middle,
    as_rows,
    middle,
    off_of,
)
from nbgather.containers.dask.sides import plain_block
from nbgather.engine.bad_index import first_bad_index, message
from nbgather.operations.positions import resolve_positions
from nbgather.operations.shapes import no_position

#: Bytes of the rows that are brought together at once: they are in a cache when they are read.
PANEL_BYTES = 1 << 20
#: Bytes of neighbours that are copied together in any case: what a cache line holds.
_LINE_BYTES = 64
#: Indices that are sorted by chunk at once: what that needs stays in a cache, and is below the
#: 128 KiB an array from which glibc maps memory anew on the workers of a cluster (these set
#: MALLOC_TRIM_THRESHOLD_, which ends its own choice of that limit): twice to three times slower.
SORTED_AT_ONCE = 16_000


def refuse_bad(index: Any, size: int, call: Call, starts: tuple[int | None, ...]) -> None:
    """Raise the IndexError of the first bad index of a block, by its place in the whole."""
    find = first_bad_index if blocks.is_numpy(index) else elsewhere.first_bad_index
    bad = find(index, size, call.from_end)
    if bad is None:
        return
    position, value = bad
    place = np.unravel_index(position, index.shape)
    whole = ["?" if s is None else str(s + int(p)) for s, p in zip(starts, place, strict=True)]
    where = f"({whole[0]},)" if len(whole) == 1 else f"({', '.join(whole)})"
    raise IndexError(message(value, where, call.dim, size))


def _flat(nested: Any) -> Iterator[Any]:
    for one in nested if isinstance(nested, list) else [nested]:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield plain_block(one, "a chunk of input")


def plain_index(index: Any) -> Any:
    index = plain_block(index, "a chunk of index")
    if not blocks.is_numpy(index):
        return index
    index = np.ascontiguousarray(index)
    if not index.dtype.isnative:
        index = index.astype(index.dtype.newbyteorder("="))
    return index


def join(pieces: list[Any], dim: int) -> Any:
    """Pieces of an index along the dimension as one."""
    pieces = [plain_index(piece) for piece in pieces]
    return blocks.namespace(pieces[0]).concat(pieces, axis=dim)


def _whole(index: Any, dim: int) -> Any:
    """A block of index that came as one, or as a list of its pieces."""
    return join(index, dim) if isinstance(index, list) else plain_index(index)


def _result(index: np.ndarray, inner: tuple[int, ...], dtype: np.dtype[Any], call: Call) -> Any:
    """What will be the block of the result: as the index, with a token's dimensions behind."""
    shape = (*index.shape, *inner)
    return np.empty(shape, dtype) if call.fill is None else np.full(shape, call.fill[0], dtype)


def gather_concatenated(
    sources: list[Any], index: Any, call: Call, starts: tuple[int | None, ...]
) -> Any:
    """One output block: a few rows of all its chunks at a time are brought together and read.

    The whole is never copied, and what is read has just been written and lies in a cache.
    """
    d, chunks = call.dim, list(_flat(sources))
    if not blocks.is_numpy(chunks[0]):
        return _concatenated_elsewhere(chunks, _whole(index, d), call, starts)
    pieces = [plain_index(piece) for piece in (index if isinstance(index, list) else [index])]
    index, tokens = pieces[0], pieces[0].ndim < chunks[0].ndim
    thirds = [middle(chunk, off_of(index, d), d) for chunk in chunks]
    first, size = thirds[0], sum(part.shape[1] for part in thirds)
    ends = [0, *itertools.accumulate(p.shape[d] if p.ndim else 1 for p in pieces)]
    _refuse_nothing(size, call, sum(piece.size for piece in pieces))
    inner = chunks[0].shape[2:] if tokens else ()
    shape = (*index.shape[:d], ends[-1], *index.shape[d + 1 :], *inner) if index.ndim else ()
    count, width = first.shape[0], first.shape[2]
    out = np.empty(shape, first.dtype)
    to, asked = out.reshape(count, ends[-1], width), pieces
    if not tokens:
        asked = [piece.reshape(count, -1 if piece.size else 0, width) for piece in pieces]
    room, operation = np.empty(0, np.uint8), along_middle(call, tokens)
    try:
        for rows, columns in _panels(count, size, width, first.itemsize, tokens):
            joined, room = _joined_along([part[rows, :, columns] for part in thirds], room)
            for wanted, begin, end in zip(asked, ends, ends[1:], strict=False):
                some = wanted[rows] if tokens else wanted[rows, :, columns]
                place = to[rows, begin:end, columns]
                blocks.execute(operation, joined, some, out=place)
    except IndexError:
        for piece, begin in zip(pieces, ends, strict=False):
            refuse_bad(piece, size, call, _moved(starts, d, begin))
        raise
    return out


def _concatenated_elsewhere(chunks: list[Any], index: Any, call: Call, starts: Any) -> Any:
    """One output block of another library: its chunks are brought together, and read."""
    d, tokens = call.dim, index.ndim < chunks[0].ndim
    thirds = [middle(chunk, off_of(index, d), d) for chunk in chunks]
    size = sum(part.shape[1] for part in thirds)
    _refuse_nothing(size, call, index.size)
    lines = (thirds[0].shape[0], index.shape[d] if index.ndim else 1, thirds[0].shape[2])
    wanted = index if tokens else index.reshape(lines)
    try:
        joined = elsewhere.joined(thirds, 1)
        picked = blocks.execute(along_middle(call, tokens), joined, wanted)
    except IndexError:
        refuse_bad(index, size, call, starts)
        raise
    return picked.reshape((*index.shape, *(chunks[0].shape[2:] if tokens else ())))


def _refuse_nothing(size: int, call: Call, asked: int) -> None:
    """Raise the error of indices that are asked of nothing."""
    if size == 0 and asked and call.mode in ("clip", "wrap"):
        no_position(call.dim, call.mode)


def _moved(starts: tuple[int | None, ...], dim: int, by: int) -> tuple[int | None, ...]:
    """Where a piece begins that lies so far into its block."""
    return tuple(s if d != dim or s is None else s + by for d, s in enumerate(starts))


def _joined_along(panel: list[np.ndarray], room: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parts `[A, length, B]` side by side, of the byte order that they had, and where they are.

    It is one piece of memory for all panels: a worker of a cluster is told to give back what it
    frees, and would have the pages of each made anew.
    """
    if len(panel) == 1:
        return panel[0], room
    rows, columns = panel[0].shape[::2]
    nbytes = sum(part.nbytes for part in panel)
    room = room if nbytes <= room.nbytes else np.empty(nbytes, np.uint8)
    shape = (rows, sum(part.shape[1] for part in panel), columns)
    joined = room[:nbytes].view(panel[0].dtype).reshape(shape)
    return np.concatenate(panel, axis=1, out=joined), room


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


def gather_list(sources: list[Any], index: Any, call: Call, starts: tuple[int | None, ...]) -> Any:
    """One output block, from its chunks where they lie: the indices are sorted by chunk."""
    d, chunks = call.dim, list(_flat(sources))
    index = _whole(index, d)
    tokens = index.ndim < chunks[0].ndim
    off = off_of(index, d)
    lengths = [chunk.shape[d] for chunk in chunks]
    inner = chunks[0].shape[2:] if tokens else ()
    flat = [as_rows(middle(chunk, off, d), 1 if tokens else 0) for chunk in chunks]
    picked = by_chunk(index, lengths, call, starts)
    if not blocks.is_numpy(chunks[0]):
        found = [(places, elsewhere.take(flat[k], rows)) for k, places, rows in picked]
        return elsewhere.placed(found, index.shape, inner, call, chunks[0])
    out = _result(index, inner, chunks[0].dtype, call)
    to = as_rows(out, len(inner))
    for k, places, rows in picked:
        to[places] = flat[k][rows]
    return out


def by_chunk(
    index: Any, lengths: list[int], call: Call, starts: Any
) -> Iterator[tuple[int, Any, Any]]:
    """Some places of the result at a time, with the chunk that they are of and its rows.

    What is out of bounds is in none of them, or an error.
    """
    ends = np.cumsum(lengths)
    size = int(ends[-1])
    _refuse_nothing(size, call, index.size)
    if call.mode == "raise":
        refuse_bad(index, size, call, starts)
    behind = math.prod(index.shape[call.dim + 1 :])
    along = behind * (index.shape[call.dim] if index.ndim else 1)
    if not blocks.is_numpy(index):
        yield from elsewhere.by_chunk(index, lengths, call, behind, along)
        return
    flat, kind = index.reshape(-1), np.min_scalar_type(len(lengths))
    even = len(set(lengths[:-1])) <= 1 and 0 < lengths[-1] <= lengths[0]
    for begin in range(0, flat.size, SORTED_AT_ONCE):
        position, inside = resolve_positions(
            namespace, flat[begin : begin + SORTED_AT_ONCE], size, call.mode, call.from_end
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
    index: Any, lengths: tuple[int, ...], call: Call, starts: tuple[int | None, ...]
) -> Split:
    """What an output block asks of each chunk along the dimension."""
    index = plain_index(index)
    if not blocks.is_numpy(index):
        return elsewhere.split(
            index, len(lengths), by_chunk(index, list(lengths), call, starts), call
        )
    places: list[list[np.ndarray]] = [[] for _ in lengths]
    rows: list[list[np.ndarray]] = [[] for _ in lengths]
    off = off_of(index, call.dim)
    # These travel, and wait: in four bytes where they fit.
    place_kind = np.uint32 if index.size < 2**32 else np.int64
    for k, where, which in by_chunk(index, list(lengths), call, starts):
        kind = np.uint32 if math.prod(off) * lengths[k] < 2**32 else np.int64
        places[k].append(where.astype(place_kind))
        rows[k].append(which.astype(kind))
    return Split(index.shape, list(map(_joined, places)), [Part(_joined(r), off) for r in rows])


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint32)


def places_of(split: Split) -> tuple[tuple[int, ...], list[Any]]:
    """What waits where the result will be, while the rest travels."""
    return split.shape, split.places


def part_of(split: Split, k: int) -> Part:
    """What travels to a chunk."""
    return split.parts[k]


def take_part(source: Any, part: Part, call: Call) -> Any:
    """The rows of a chunk that are asked for: `[M]`, or `[M, row]` of tokens."""
    chunk = plain_block(source, "a chunk of input")
    tokens = len(part.off) + 1 < chunk.ndim
    if blocks.is_numpy(chunk) and not part.rows.size:  # nothing is looked at
        return np.empty((0,), chunk.dtype)
    rows = as_rows(middle(chunk, part.off, call.dim), 1 if tokens else 0)
    return rows[part.rows] if blocks.is_numpy(chunk) else elsewhere.take(rows, part.rows)


def join_parts(parts: list[Any]) -> list[Any]:
    """What several chunks gave, one behind the other."""
    return [one for part in parts for one in (part if isinstance(part, list) else [part])]


def finish_parts(
    places: tuple[tuple[int, ...], list[Any]],
    parts: list[Any],
    dtype: np.dtype[Any],
    inner: tuple[int, ...],
    call: Call,
) -> Any:
    """An output block of what its chunks gave."""
    shape, where = places
    if not blocks.is_numpy(where[0]):
        values = join_parts(parts)
        found = [(rows, given) for rows, given in zip(where, values, strict=True) if len(rows)]
        return elsewhere.placed(found, shape, inner, call, values[0])
    out = _result(np.empty(shape, np.bool_), inner, dtype, call)
    to = as_rows(out, len(inner))
    for rows, values in zip(where, join_parts(parts), strict=True):
        if rows.size:
            to[rows] = values
    return out
