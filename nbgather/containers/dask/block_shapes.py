"""What the tasks of a gather are told, and how they look at a block, of any library.

Every block is looked at as `[A, length, B]`, with the dimension in the middle. What an index picks
is a row of the source as `[A * length * B, row]`: an item, or of tokens all B items of one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nbgather.operations.indexing import Gather, GatherTokens, TakeAlongAxis


class Call(NamedTuple):
    """What every task of a gather needs to know; ``fill`` is an array of one item, or None."""

    dim: int
    from_end: bool
    mode: str
    fill: Any


class Part(NamedTuple):
    """What an index block asks of one chunk: its rows, and the chunk's shape off the dimension."""

    rows: Any
    off: tuple[int, ...]


class Split(NamedTuple):
    """An index block by chunks: where each chunk's rows go, and which they are."""

    shape: tuple[int, ...]
    places: list[Any]
    parts: list[Part]


def off_of(index: Any, dim: int) -> tuple[int, ...]:
    """How much of each dimension but ``dim`` a block of index asks for."""
    return tuple(n for d, n in enumerate(index.shape) if d != dim)


def middle(chunk: Any, off: tuple[int, ...], dim: int) -> Any:
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


def along_middle(call: Call, tokens: bool) -> Gather:
    """The same gather along the middle of three dimensions."""
    kind = GatherTokens if tokens else TakeAlongAxis if call.from_end else Gather
    return kind(1, call.mode, 0 if call.fill is None else call.fill[0])


def as_rows(array: Any, inner: int) -> Any:
    """What an index picks along the first dimension: items, or what the last ``inner`` hold."""
    if not inner:
        return array.reshape(-1)
    behind = array.shape[array.ndim - inner :]
    return array.reshape(math.prod(array.shape[: array.ndim - inner]), math.prod(behind))
