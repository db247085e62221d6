"""What the tasks of a gather's graph do with the blocks that they were given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import array_api_compat.numpy as namespace
import numpy as np

from nbgather.containers.dask.sides import plain_block
from nbgather.engine.bad_index import first_bad_index, message
from nbgather.kernels.cpu import launch
from nbgather.kernels.memory import memory_address
from nbgather.operations.positions import resolve_positions
from nbgather.operations.shapes import no_position


class Call(NamedTuple):
    """What every task of a gather needs to know; ``fill`` is an array of one item, or None."""

    dim: int
    from_end: bool
    mode: str
    fill: Any


def _flat(nested: Any) -> Iterator[np.ndarray]:
    for one in nested if isinstance(nested, list) else [nested]:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield plain_block(one, "a chunk of input")


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


def gather_list(
    sources: list[Any], index: np.ndarray, call: Call, starts: tuple[int | None, ...]
) -> np.ndarray:
    """One output block, from all its source chunks, on the calling thread."""
    d = call.dim
    index = np.ascontiguousarray(plain_block(index, "a chunk of index"))
    if not index.dtype.isnative:
        index = index.astype(index.dtype.newbyteorder("="))
    chunks = list(_flat(sources))
    tokens = index.ndim < chunks[0].ndim
    off = index.shape[:d] if tokens else (*index.shape[:d], 0, *index.shape[d + 1 :])
    trimmed = []
    for chunk in chunks:
        for e, n in enumerate(off):
            if e != d and chunk.shape[e] < n:
                raise ValueError(
                    f"a chunk of index has {n} items along dimension {e} and the one of input"
                    f" {chunk.shape[e]}: the unknown chunk sizes do not fit"
                )
        cut = tuple(slice(None) if e == d else slice(0, n) for e, n in enumerate(off))
        part = np.ascontiguousarray(chunk[cut])
        trimmed.append(part if part.ctypes.data % part.itemsize == 0 else part.copy())
    first = trimmed[0]
    size = sum(c.shape[d] for c in trimmed)
    if size == 0 and index.size and call.mode in ("clip", "wrap"):
        no_position(d, call.mode)
    inner = math.prod(first.shape[d + 1 :])
    shape = (*index.shape, *first.shape[2:]) if tokens else index.shape
    out = np.empty(shape, first.dtype)
    table = [
        size,
        len(trimmed),
        inner,
        max(index.shape[d] if index.ndim else 1, 1),
        0 if tokens else 1,
    ]
    end, item = 0, first.itemsize
    base = memory_address(first)
    for chunk in trimmed:
        end += chunk.shape[d]
        table += [end, chunk.shape[d], (memory_address(chunk) - base) // item]
    fill = np.zeros(1, first.dtype) if call.fill is None else call.fill
    if out.size:
        code = f"{index.dtype.kind}{index.dtype.itemsize}"
        addresses = tuple(memory_address(a) for a in (out, first, index, fill))
        bad = launch.gather_chunks(
            item, code, call.mode, call.from_end, addresses,  # type: ignore[arg-type]
            np.array(table, np.int64), out.size // max(inner, 1),
        )  # fmt: skip
        if bad:
            refuse_bad(index, size, call, starts)
    return out


class _Part(NamedTuple):
    """What one source gave to an output block: the block's shape, where, and what."""

    shape: tuple[int, ...]
    places: np.ndarray
    values: np.ndarray


def find_hits(
    source: Any, index: np.ndarray, call: Call, starts: Any, start: int, size: int
) -> _Part:
    """The items of one source that an output block asks for."""
    d = call.dim
    source = plain_block(source, "a chunk of input")
    index = plain_block(index, "a chunk of index")
    if call.mode == "raise":
        refuse_bad(index, size, call, starts)
    position, valid = resolve_positions(namespace, index, size, call.mode, call.from_end)
    tokens = index.ndim < source.ndim
    here = valid & (position >= start) & (position < start + source.shape[d])
    places = np.flatnonzero(here)
    where = list(np.unravel_index(places, index.shape)) if index.ndim else []
    where[d] = position.reshape(-1)[places] - start
    shape = (*index.shape, *source.shape[2:]) if tokens else index.shape
    return _Part(shape, places, source[tuple(where)])


def join_parts(parts: list[_Part]) -> _Part:
    return _Part(
        parts[0].shape,
        np.concatenate([p.places for p in parts]),
        np.concatenate([p.values for p in parts]),
    )


def finish_parts(parts: list[_Part], dtype: np.dtype[Any], call: Call) -> np.ndarray:
    out = np.zeros(parts[0].shape, dtype) if call.fill is None else None
    if out is None:
        out = np.full(parts[0].shape, call.fill[0], dtype)
    for part in parts:
        rows = out.reshape(-1, *part.values.shape[1:])
        rows[part.places] = part.values
    return out
