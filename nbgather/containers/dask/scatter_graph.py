"""The graphs of sums and reductions that are scattered: each block along the dimension is whole."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from nbgather.containers.dask import blocks
from nbgather.containers.dask.gather_blocks import Call, refuse_bad
from nbgather.containers.dask.sides import chunked, index_beside, is_known, plain_block, start_of
from nbgather.containers.numpy import describe
from nbgather.operations.base import Spec
from nbgather.operations.indexing import Scatter

logger = logging.getLogger("nbgather.dask")


def build(operation: Scatter, x: Any, index: Any, src: Any) -> Any:
    """The graph of a scatter into blocks that have all of the dimension.

    The index has the input's size off the dimension. The values of a place come in row-major order
    of the whole index, so that the bits are those of one call, whatever the chunks.
    """
    operands = [chunked(x, "input"), index_beside(index, "index"), chunked(src, "src")]
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
    if any(a.numblocks[dim] != 1 for a in operands):
        logger.info("input, index and src are rechunked: all along dimension %d is needed", dim)
    x = x.rechunk({dim: -1})
    whole = {dim: -1, **{d: x.chunks[d] for d in off}}
    index, src = index.rechunk(whole), src.rechunk(whole)
    name = "nbgather-scatter-" + tokenize(operation, x, index, src)
    graph = {
        (name, *block): (
            _scatter, operation, dim, tuple(start_of(x.chunks[d], b) for d, b in enumerate(block)),
            *((a.name, *block) for a in (x, index, src)),
        )
        for block in itertools.product(*map(range, x.numblocks))
    }  # fmt: skip
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[x, index, src])
    meta = np.empty((0,) * x.ndim, x.dtype)
    return da.Array(layers, name, chunks=x.chunks, dtype=x.dtype, meta=meta)


def _scatter(
    operation: Scatter, dim: int, starts: tuple[int | None, ...], x: Any, index: Any, src: Any
) -> np.ndarray:
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
