"""What the tasks of a gather do with blocks that are not NumPy's, as those of CuPy on a GPU.

The functions of the blocks' library say where things are, and our own operations move them: its
container knows their kernels. Nothing is brought to the host but the place of a bad index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from nbgather.containers.dask import blocks
from nbgather.containers.dask.block_shapes import Call, Part, Split, off_of
from nbgather.operations.base import device_of
from nbgather.operations.indexing import Gather, GatherTokens, Scatter
from nbgather.operations.positions import resolve_positions


def first_bad_index(index: Any, size: int, from_end: bool) -> tuple[int, int] | None:
    """The flat row-major position and value of the first index that is out of bounds."""
    xp = blocks.namespace(index)
    flat = xp.reshape(index, (-1,))
    _, inside = resolve_positions(xp, flat, size, "raise", from_end)
    if bool(xp.all(inside)):
        return None
    position = int(xp.argmin(xp.astype(inside, xp.int8)))
    return position, int(flat[position])


def joined(arrays: list[Any], axis: int) -> Any:
    """Some arrays side by side."""
    return arrays[0] if len(arrays) == 1 else blocks.namespace(arrays[0]).concat(arrays, axis=axis)


def by_chunk(
    index: Any, lengths: list[int], call: Call, behind: int, along: int
) -> Iterator[tuple[int, Any, Any]]:
    """The places of the result that each chunk has something for, and the chunk's rows for them.

    ``behind`` items of the index lie behind the dimension, and ``along`` in it and behind it.
    """
    xp = blocks.namespace(index)
    flat = xp.reshape(index, (-1,))
    position, inside = resolve_positions(xp, flat, sum(lengths), call.mode, call.from_end)
    start = 0
    for k, length in enumerate(lengths):
        (places,) = xp.nonzero(inside & (position >= start) & (position < start + length))
        if len(places):
            row = take(position, places) - start + places // along * length
            yield k, places, row * behind + places % behind
        start += length


def take(rows: Any, which: Any) -> Any:
    """Some of the rows `[M]` or `[M, row]` of a block."""
    if rows.ndim == 1:
        return blocks.execute(Gather(0), rows, which)
    return blocks.execute(GatherTokens(1), rows[None], which[None])[0]


def split(index: Any, count: int, picked: Iterator[tuple[int, Any, Any]], call: Call) -> Split:
    """An index block by chunks, of which there are ``count``."""
    xp, off = blocks.namespace(index), off_of(index, call.dim)
    nothing = xp.astype(xp.reshape(index, (-1,))[:0], xp.int64)
    places, parts = [nothing] * count, [Part(nothing, off)] * count
    for k, where, rows in picked:
        places[k], parts[k] = where, Part(rows, off)
    return Split(tuple(index.shape), places, parts)


def placed(
    found: list[tuple[Any, Any]],
    shape: tuple[int, ...],
    inner: tuple[int, ...],
    call: Call,
    like: Any,
) -> Any:
    """A block of the result of places and what goes there; elsewhere it is as the mode fills it."""
    xp, size = blocks.namespace(like), math.prod(shape)
    places = [where for where, _ in found]
    row = math.prod(inner)
    given = [xp.reshape(values, (1, -1, row)) for _, values in found]
    values = joined(given, 1) if given else xp.reshape(like, (-1,))[:0].reshape((1, 0, row))
    # Each place asks for the value that was found for it, or for none.
    options = {"dtype": xp.int64, "device": device_of(like)}
    asked = xp.full((size,), -1, **options)
    if places:
        order = xp.arange(values.shape[1], **options)
        asked = blocks.execute(Scatter(0), asked, joined(places, 0), order)
    fill = 0 if call.fill is None else call.fill[0]
    result = blocks.execute(GatherTokens(1, "fill", fill), values, asked[None])
    return xp.reshape(result, (*shape, *inner))
