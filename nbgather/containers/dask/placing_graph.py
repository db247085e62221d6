"""The graph of a scatter that sets items: each chunk of input takes what is meant for it."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
from dask.base import tokenize

from nbgather.containers.dask import blocks, elsewhere, late
from nbgather.containers.dask.block_shapes import Call
from nbgather.containers.dask.gather_blocks import by_chunk, plain_index
from nbgather.containers.dask.late import LateLayer
from nbgather.containers.dask.sides import (
    chunked,
    index_beside,
    is_known,
    plain_block,
    rechunked,
    require_same,
    starts_of,
)
from nbgather.containers.numpy import describe
from nbgather.operations.base import Spec
from nbgather.operations.indexing import Scatter


def build(operation: Scatter, x: Any, index: Any, src: Any) -> Any:
    """The input in its own chunks, with the values of src where the index says.

    Index and src are brought together along the dimension, since the last of several values for one
    place in row-major order stays. The input is not.
    """
    x = chunked(x, "input")
    index = index_beside(index, "index", x, "input")
    is_number = not hasattr(src, "shape")
    given = [("input", x), ("index", index)]
    if is_number:
        value = blocks.item(x.dtype, src)
    else:
        src = chunked(src, "src")
        require_same(x, "input", src._meta, "src")
        given.append(("src", src))
    for name, array in given:
        if not all(map(is_known, array.shape)):
            raise ValueError(f"chunk sizes of {name} are unknown: call compute_chunk_sizes() first")
    specs = [Spec(a.shape, (), describe(a.dtype)) for _, a in given]
    operation.result(specs[0], specs[1], None if is_number else specs[2])
    if 0 in index.shape or x.ndim == 0:
        if x.ndim == 0 and 0 not in index.shape:
            one = src if is_number else src.reshape(1)
            return build(Scatter(0), x.reshape(1), index.reshape(1), one).reshape(())
        return x
    dim = operation.axis(x.ndim)
    # Off the dimension the index may end before the input does, within a chunk of it.
    chunks = [_up_to(x.chunks[d], index.shape[d]) for d in range(x.ndim)]
    chunks[dim] = (index.shape[dim],)
    index = rechunked(index, tuple(chunks))
    operands = [x, index]
    if not is_number:
        src = rechunked(src[tuple(map(slice, index.shape))], tuple(chunks))
        operands.append(src)
    name = "nbgather-set-" + tokenize(operation, *operands, src)
    values = value if is_number else src.name
    make = partial(_tasks, name, dim, (x.name, x.chunks), (index.name, index.chunks), values)
    return late.array(name, LateLayer(make, x.npartitions), operands, x.chunks, x)


def _tasks(
    name: str, dim: int, x: tuple[str, Any], index: tuple[str, Any], src: Any
) -> dict[Any, Any]:
    """All tasks; ``src`` is the name of an array, or a number."""
    (x_name, x_chunks), (i_name, i_chunks) = x, index
    lengths = tuple(map(int, x_chunks[dim]))
    all_starts = list(map(starts_of, i_chunks))
    graph: dict[Any, Any] = {}
    for block in itertools.product(*(range(len(sizes)) for sizes in x_chunks)):
        beside = (*block[:dim], 0, *block[dim + 1 :])
        if any(b >= len(sizes) for b, sizes in zip(beside, i_chunks, strict=True)):
            graph[(name, *block)] = (x_name, *block)  # the index has ended
            continue
        starts = tuple(at[b] for at, b in zip(all_starts, beside, strict=True))
        values = (src, *beside) if isinstance(src, str) else src
        graph[(name, *block)] = (
            _set, (x_name, *block), (i_name, *beside), values, dim, block[dim], lengths, starts,
        )  # fmt: skip
    return graph


def _up_to(chunks: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The chunks of a dimension up to ``size``, those of no items among them."""
    ends = np.minimum(np.cumsum(chunks), size)
    count = int(np.searchsorted(ends, size)) + 1
    return tuple(np.diff(ends[:count], prepend=0).tolist())


def _set(
    x: Any, index: Any, src: Any, dim: int, k: int, lengths: tuple[int, ...], starts: Any
) -> Any:
    """One chunk of input, on the calling thread."""
    out = blocks.copy(plain_block(x, "a chunk of input"))
    index, values = plain_index(index), plain_block(src, "a chunk of src")
    part = out[tuple(slice(None) if d == dim else slice(n) for d, n in enumerate(index.shape))]
    flat, values, is_number = part.reshape(-1), values.reshape(-1), values.shape != index.shape
    call = Call(dim, False, "raise", None)
    for chunk, places, rows in by_chunk(index, list(lengths), call, starts):
        if chunk == k:
            # In row-major order, so that the last value for a place stays.
            if not is_number:
                each = elsewhere.take(values, places)
            else:
                each = np.broadcast_to(values, len(places)) if blocks.is_numpy(x) else values.item()
            flat = blocks.execute(Scatter(0), flat, rows, each)
    part[...] = flat.reshape(part.shape)
    return out
