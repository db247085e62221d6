"""The graph of restoring: a task for each chunk of samples."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from nbgather.containers.dask import blocks, late, sides
from nbgather.containers.dask.block_shapes import Call
from nbgather.containers.dask.gather_blocks import refuse_bad
from nbgather.containers.dask.late import LateLayer
from nbgather.containers.dask.sides import is_known, plain_block, starts_of
from nbgather.containers.numpy import describe
from nbgather.operations.base import Spec
from nbgather.operations.tokens import RestoreTokens, RestoreValidTokens

logger = logging.getLogger("nbgather.dask")


def build(
    operation: RestoreTokens | RestoreValidTokens, x: Any, ids: Any, token: Any, *valid: Any
) -> Any:
    """Restored tokens `[N, L, ...]`, chunked over N as ``x`` is."""
    x = sides.samples(x, "x_visible", 2)
    beside = [sides.index_beside(ids, "ids_restore", x, "x_visible")]
    beside += [sides.index_beside(array, "valid", x, "x_visible") for array in valid]
    if isinstance(token, da.Array):
        sides.require_same(x, "x_visible", token._meta, "mask_token")
    fixed = token if not isinstance(token, da.Array) else np.zeros(token.shape, token.dtype)
    specs = [Spec(_shape(a), (), describe(a.dtype)) for a in (x, *beside)]
    token_spec = Spec(fixed.shape, (), describe(fixed.dtype)) if np.ndim(fixed) else None
    operation.result(specs[0], specs[1], token_spec, *specs[2:])
    beside = [
        _with_samples(x, a, n) for a, n in zip(beside, ("ids_restore", "valid"), strict=False)
    ]
    # What is wrong with the token is told of now: of no samples, nothing else can be.
    nothing = [np.empty((0, *_shape(a)[1:]), a.dtype) for a in (x, *beside)]
    blocks.execute(operation, *nothing[:2], fixed, *nothing[2:])
    length = int(beside[0].shape[1])
    operands = [x, *beside]
    given = token
    if isinstance(token, da.Array):
        token = sides.rechunked(token, -1)
        operands.append(token)
        given = (token.name, *(0,) * token.ndim)
    name = "nbgather-restore-" + tokenize(operation, *operands, token)
    names = [a.name for a in (x, *beside)]
    make = partial(_tasks, name, operation, x.ndim, starts_of(x.chunks[0]), names, given)
    chunks = (x.chunks[0], (length,), *x.chunks[2:])
    return late.array(name, LateLayer(make, x.numblocks[0]), operands, chunks, x)


def _tasks(
    name: str, operation: Any, ndim: int, starts: list[int | None], names: list[str], token: Any
) -> dict[Any, Any]:
    """A task for each chunk of samples; ``names`` are of the chunks that it has."""
    x, ids, *valid = names
    behind = (0,) * (ndim - 1)
    return {
        (name, n, *behind): (
            _restore, operation, start, (x, n, *behind), (ids, n, 0), token,
            *((array, n, 0) for array in valid),
        )
        for n, start in enumerate(starts)
    }  # fmt: skip


def _shape(array: Any) -> tuple[Any, ...]:
    return tuple(int(n) if is_known(n) else None for n in array.shape)


def _with_samples(x: Any, array: Any, what: str) -> Any:
    """What says where, in the chunks of samples that ``x`` has."""
    array = sides.whole_samples(array, what, logger)
    if is_known(x.shape[0]) and is_known(array.shape[0]):
        return sides.rechunked(array, {0: x.chunks[0]})
    if x.numblocks[0] != array.numblocks[0]:
        raise ValueError(
            f"chunk sizes along N are unknown, and x_visible has {x.numblocks[0]} chunks there"
            f" where {what} has {array.numblocks[0]}: call compute_chunk_sizes() first"
        )
    return array


def _restore(operation: Any, start: int | None, x: Any, ids: Any, token: Any, *valid: Any) -> Any:
    """Restore a chunk of samples on the calling thread."""
    x, ids = plain_block(x, "x_visible"), plain_block(ids, "ids_restore")
    marks = [plain_block(array, "valid") for array in valid]
    try:
        return blocks.execute(operation, x, ids, token, *marks)
    except IndexError:
        refuse_bad(ids, ids.shape[1], Call(1, False, "raise", None), (start, 0))
        raise
