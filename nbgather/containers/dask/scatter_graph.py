"""The graphs of sums and reductions that are scattered: the input is whole along the dimension."""

from __future__ import annotations

import itertools
import logging
from functools import partial
from typing import Any

from dask.base import tokenize

from nbgather.containers.dask import blocks, late, scatter_parts
from nbgather.containers.dask.block_shapes import Call
from nbgather.containers.dask.gather_blocks import refuse_bad
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

logger = logging.getLogger("nbgather.dask")


def build(operation: Scatter, x: Any, index: Any, src: Any) -> Any:
    """The graph of a scatter into blocks that have all of the dimension.

    The index has the input's size off the dimension, and may be in chunks along it, see
    :mod:`nbgather.containers.dask.scatter_parts`. The bits are those of one call, whatever the
    chunks.
    """
    x, src = chunked(x, "input"), chunked(src, "src")
    operands = [x, index_beside(index, "index", x, "input"), src]
    require_same(x, "input", src._meta, "src")
    for name, array in zip(operation.names, operands, strict=True):
        if not all(map(is_known, array.shape)):
            raise ValueError(f"chunk sizes of {name} are unknown: call compute_chunk_sizes() first")
    x, index, src = operands
    operation.result(*(Spec(a.shape, (), describe(a.dtype)) for a in operands))
    if x.ndim == 0 or 0 in index.shape:
        return x
    dim = operation.axis(x.ndim)
    off = [d for d in range(x.ndim) if d != dim]
    if any(index.shape[d] != x.shape[d] for d in off):
        raise ValueError(
            f"index has shape {index.shape} and input {x.shape}: off dim {dim} both must be of the"
            " same size where input is a Dask array"
        )
    src = src[tuple(map(slice, index.shape))]
    if x.numblocks[dim] != 1:
        logger.info("input is rechunked: all along dimension %d is needed", dim)
    x = rechunked(x, {dim: -1})
    if not blocks.is_numpy(x._meta):
        index = rechunked(index, {dim: -1})  # what puts the parts of one together is NumPy's
    along = index.chunks[dim]
    cut = {dim: along, **{d: x.chunks[d] for d in off}}
    index, src = rechunked(index, cut), rechunked(src, cut)
    name = "nbgather-scatter-" + tokenize(operation, x, index, src)
    how = scatter_parts.reducing(operation, dim)
    make = partial(
        _tasks, name, operation, how, (x.name, x.chunks, x.dtype), index.name, src.name, along
    )
    layer = LateLayer(make, x.npartitions * scatter_parts.count(how, x.dtype, len(along)))
    return late.array(name, layer, [x, index, src], x.chunks, x)


def _tasks(
    name: str,
    operation: Scatter,
    how: scatter_parts.Reducing,
    x: tuple[str, Any, Any],
    index: str,
    src: str,
    along: tuple[int, ...],
) -> dict[Any, Any]:
    """All tasks, of an index that is in chunks ``along`` the dimension."""
    (x_name, x_chunks, dtype), dim = x, how.dim
    starts, all_starts = starts_of(along), list(map(starts_of, x_chunks))
    graph: dict[Any, Any] = {}
    for block in itertools.product(*(range(len(sizes)) for sizes in x_chunks)):
        places = [all_starts[d][b] for d, b in enumerate(block)]
        chunks = [
            ((*block[:dim], k, *block[dim + 1 :]), (*places[:dim], starts[k], *places[dim + 1 :]))
            for k in range(len(along))
        ]
        pairs = [((index, *at), (src, *at), place) for at, place in chunks]
        if len(pairs) == 1:
            ((i, values, place),) = pairs
            graph[(name, *block)] = (_scatter, operation, dim, place, (x_name, *block), i, values)
            continue
        shape = tuple(x_chunks[d][b] for d, b in enumerate(block))
        graph |= _in_parts(how, name, block, (x_name, *block), (shape, dtype), pairs)
    return graph


def _in_parts(
    how: scatter_parts.Reducing,
    name: str,
    block: tuple[int, ...],
    x: tuple[Any, ...],
    like: tuple[tuple[int, ...], Any],
    pairs: list[Any],
) -> dict[Any, Any]:
    """The tasks of one block whose index is in chunks: a tree of them, or one after the other."""
    graph: dict[Any, Any] = {}

    def add(task: Any) -> tuple[Any, ...]:
        key = (f"{name}-part", *block, len(graph))
        graph[key] = task
        return key

    if scatter_parts.has_any_order(how, like[1]):
        parts = [add((scatter_parts.part, how, like, i, src, place)) for i, src, place in pairs]
        while len(parts) > 1:
            merged = [add((scatter_parts.merge, how, *two)) for two in zip(parts[::2], parts[1::2])]
            parts = [*merged, *parts[len(parts) // 2 * 2 :]]
        graph[(name, *block)] = (scatter_parts.join, how, x, parts[0])
        return graph
    last = add((scatter_parts.begin, how, x))
    for i, src, place in pairs:
        last = add((scatter_parts.step, how, last, i, src, place))
    graph[(name, *block)] = (scatter_parts.end, like[1], last)
    return graph


def _scatter(
    operation: Scatter, dim: int, starts: tuple[int | None, ...], x: Any, index: Any, src: Any
) -> Any:
    """One block, on the calling thread."""
    x, index, src = (
        plain_block(a, f"a chunk of {name}")
        for a, name in zip((x, index, src), operation.names, strict=True)
    )
    try:
        return blocks.execute(operation, x, index, src)
    except IndexError:
        refuse_bad(index, x.shape[dim], Call(dim, False, "raise", None), starts)
        raise
