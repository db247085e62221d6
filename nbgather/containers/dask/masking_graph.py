"""The graphs of noise, strategies and masks: a task for each chunk of samples.

The bits depend on the samples' ids, not on the chunks.
"""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import replace
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from nbgather.containers.dask import blocks, sides
from nbgather.containers.dask.late import LateLayer
from nbgather.containers.dask.sides import is_known, starts_of
from nbgather.containers.numpy import describe
from nbgather.operations import checks
from nbgather.operations.base import Spec, device_of
from nbgather.operations.keep import Keep, keep_of
from nbgather.operations.packing import PackedMasking, PackedPatchify, ends
from nbgather.operations.patches import MaskedPatchify
from nbgather.operations.scores import Score, Tube, check_frame
from nbgather.operations.tokens import RandomMasking, TokenNoise, noise_shape, one_source

_FLOAT32 = np.dtype(np.float32)


def by_id(operation: TokenNoise | Score | Tube, sample_ids: Any) -> Any:
    """What is a function of sample ids, chunk by chunk: float32 `[N, L]`."""
    ids, dtype = _chunked_ids(sample_ids, operation.num_tokens), _FLOAT32
    if isinstance(operation, Tube) and operation.spatial is not None:
        # What is called within a frame may be somebody's own: its mistakes are told of now, and it
        # may give another dtype.
        trial = operation.spatial(
            operation.seed, np.zeros(1, np.int64), operation.grid[1:], epoch=operation.epoch,
            backend=None,
        )  # fmt: skip
        if not isinstance(trial, np.ndarray):
            raise TypeError(
                f"the spatial strategy gave {type(trial).__name__} for NumPy ids: a NumPy array is"
                " needed where the ids are chunked"
            )
        check_frame(trial, math.prod(operation.grid[1:]))
        dtype = trial.dtype
    return ids.map_blocks(
        functools.partial(_block_by_id, operation), dtype=dtype, meta=sides.meta_of(ids, 2, dtype),
        chunks=(ids.chunks[0], (operation.num_tokens,)), new_axis=1,
    )  # fmt: skip


def _chunked_ids(sample_ids: Any, tokens: int) -> Any:
    if isinstance(sample_ids, (int, np.integer)):
        sample_ids = range(checks.count(sample_ids, "sample_ids"))
    ids = sides.int64_ids(sides.beside(sample_ids, "sample_ids"))
    if isinstance(ids, da.Array):
        return ids
    shape = len(ids), tokens
    chunks = da.core.normalize_chunks(("auto", -1), shape, dtype=_FLOAT32)
    return da.from_array(ids, chunks=(chunks[0],))


def _block_by_id(operation: TokenNoise | Score | Tube, ids: Any) -> Any:
    return blocks.execute(operation, sides.plain_block(ids, "sample_ids"))


def keep(samples: Any, tokens: int, mask_ratio: Any, num_keep: Any) -> Keep:
    """How many tokens stay, where the number of samples may be unknown."""
    if isinstance(num_keep, da.Array):
        raise TypeError(
            "num_keep is a Dask array: the largest count is a size of the result, so a NumPy array"
            " or a sequence is needed"
        )
    if not is_known(samples) and num_keep is not None and np.ndim(num_keep):
        raise ValueError(
            "chunk sizes along N are unknown, so the samples have no positions: give one"
            " num_keep for all, or call compute_chunk_sizes() first"
        )
    return keep_of(mask_ratio, num_keep, samples, tokens)


def build(operation: RandomMasking, x: Any, noise: Any, sample_ids: Any) -> tuple[Any, ...]:
    """A task for each chunk of samples, and one for each of its results."""
    what = operation.names[0]
    x = sides.samples(x, what, 4 if isinstance(operation, MaskedPatchify) else 2)
    length = x.shape[1]
    if isinstance(operation, MaskedPatchify):
        length = operation.tokens(tuple(x.shape))
    side = _side(operation, x, int(length), noise, sample_ids)
    extra, name = (None, "") if side is None else side
    chunks = rows = x.chunks[0]
    starts = starts_of(chunks)
    places = _places(operation, x, int(length))
    results = _results(operation, x, int(length))
    if places is not None:
        first = [places[start or 0] for start in starts] + places[-1:]
        rows = tuple(np.diff(first).tolist())
    token = tokenize(operation, x, extra)
    whole = f"nbgather-{type(operation).__name__}-{token}"
    others = None if extra is None else (extra.name, extra.ndim)
    make = functools.partial(_tasks, whole, operation, (x.name, x.ndim), others, name, starts)
    operands = [x] if extra is None else [x, extra]
    layer = LateLayer(make, len(starts))
    base = HighLevelGraph.from_collections(whole, layer, dependencies=operands)
    if places is None:
        return fields(base, x, whole, chunks, results)
    packed = fields(base, x, whole, chunks, results[:3], rows)
    return *packed, sides.brought(da.from_array(np.array(places, np.int32)), x)


def _tasks(
    whole: str, operation: RandomMasking, x: Any, extra: Any, name: str, starts: list[int | None]
) -> dict[Any, Any]:
    """A task for each chunk of samples, and what goes with it: both by name and dimensions."""

    def of(array: tuple[str, int], n: int) -> tuple[Any, ...]:
        return (array[0], n, *(0,) * (array[1] - 1))

    return {
        (whole, n): (_mask_block, operation, of(x, n), extra and of(extra, n), name, start)
        for n, start in enumerate(starts)
    }


def _places(operation: RandomMasking, x: Any, length: int) -> list[int] | None:
    """Where the samples begin that are packed, and the last ends; None where they are not."""
    if not isinstance(operation, (PackedMasking, PackedPatchify)):
        return None
    if not is_known(x.shape[0]):
        raise ValueError(
            "chunk sizes along N are unknown, so where packed samples begin is too: call"
            " compute_chunk_sizes() first"
        )
    counts = operation.keep.counts
    return ends((operation.keep.of(length),) * int(x.shape[0]) if counts is None else counts)


def _results(operation: RandomMasking, x: Any, length: int) -> tuple[Spec, ...]:
    """What the operation gives for all samples, of which there may be an unknown number."""
    shape = (x.shape[0] if is_known(x.shape[0]) else None, *map(int, x.shape[1:]))
    # Noise and ids were looked at in `_side`.
    return operation.result(Spec(shape, (), describe(x.dtype)), None, None)


def fields(
    base: Any, like: Any, whole: str, chunks: Any, results: Any, first: Any = None
) -> tuple[Any, ...]:
    """The results of every task ``whole`` as arrays, chunked over N; or the first as ``first``.

    Blocks are of the library that those of ``like`` are of.
    """
    first = chunks if first is None else first
    return tuple(
        _field(base, like, whole, chunks if k else first, k, result)
        for k, result in enumerate(results)
    )


def _field(base: Any, like: Any, whole: str, chunks: Any, k: int, result: Spec) -> Any:
    """One of the results of every task as an array."""
    name = f"getitem-{k}-{whole}"
    inner = tuple(int(n) for n in result.shape[1:])
    dtype = np.dtype(result.dtype.name)
    make = functools.partial(_taken, name, whole, len(chunks), k, len(inner))
    layer = LateLayer(make, len(chunks))
    graph = HighLevelGraph({**base.layers, name: layer}, {**base.dependencies, name: {whole}})
    return da.Array(
        graph, name, chunks=(chunks, *((n,) for n in inner)), dtype=dtype,
        meta=sides.meta_of(like, 1 + len(inner), dtype),
    )  # fmt: skip


def _taken(name: str, whole: str, chunks: int, k: int, inner: int) -> dict[Any, Any]:
    return {(name, n, *(0,) * inner): (operator.getitem, (whole, n), k) for n in range(chunks)}


class _Side(NamedTuple):
    """Scores or ids that go with each chunk of samples, and the operand that they are."""

    array: Any
    name: str


def _side(
    operation: RandomMasking, x: Any, length: int, noise: Any, sample_ids: Any
) -> _Side | None:
    """What goes with the chunks of ``x``, in the same chunks; None for global positions."""
    one_source(noise, operation.seed, sample_ids)
    if noise is None and operation.seed is None:
        raise ValueError("neither noise nor seed was given: a chunked masking needs one of them")
    what, samples = operation.names[0], x.shape[0]
    side = None
    if noise is not None:
        side = _Side(_scores_beside(noise, x, what, length), "noise")
    elif sample_ids is not None:
        ids = sides.ids_beside(sample_ids, x, what)
        side = None if ids is None else _Side(ids, "sample_ids")
    if side is None:
        if not is_known(samples):
            raise ValueError(
                "chunk sizes along N are unknown, so the samples have no positions: give"
                " sample_ids, or call compute_chunk_sizes() first"
            )
        return None
    array, name = side
    if is_known(samples) and is_known(array.shape[0]):
        if array.chunks[0] != x.chunks[0]:
            array = sides.rechunked(array, {0: x.chunks[0]})
    elif array.numblocks[0] != x.numblocks[0]:
        raise ValueError(
            f"chunk sizes along N are unknown, and {what} has {x.numblocks[0]} chunks there where"
            f" {name} has {array.numblocks[0]}: call compute_chunk_sizes() first"
        )
    return _Side(array, name)


def _scores_beside(noise: Any, x: Any, what: str, length: int) -> Any:
    noise = sides.beside(noise, "noise", x, what)
    noise_shape(tuple(noise.shape), (x.shape[0], length), tuple(x.shape), what)
    checks.scores(Spec(tuple(noise.shape), (), describe(noise.dtype)), "noise")
    if not isinstance(noise, da.Array):
        return da.from_array(noise, chunks=-1)
    return sides.rechunked(noise, {1: -1})


def _mask_block(
    operation: RandomMasking, x: Any, extra: Any, name: str, start: int | None
) -> tuple[Any, ...]:
    """Mask a chunk of samples on the calling thread."""
    x = sides.plain_block(x, "a chunk")
    noise = ids = None
    if name == "noise":
        noise = sides.plain_block(extra, name)
    elif name:
        ids = sides.plain_block(extra, name)
    elif start is not None:
        ids = blocks.beside(np.arange(start, start + len(x), dtype=np.int64), x)
    counts = operation.keep.counts
    if counts is None or start is None:
        return tuple(blocks.execute(operation, x, noise, ids))
    chunk = replace(operation, keep=Keep(counts=counts[start : start + len(x)]))
    x_masked, mask, ids_restore, valid = blocks.execute(chunk, x, noise, ids)
    if not operation.may_pad:
        return x_masked, mask, ids_restore
    # The chunk's largest count may be below that of all samples.
    most = max(counts, default=0)
    return widened(x_masked, most), mask, ids_restore, widened(valid, most)


def widened(array: Any, size: int, filler: int = 0) -> Any:
    """The array with ``filler`` at the end of dimension 1, up to ``size``."""
    if array.shape[1] == size:
        return array
    shape = (array.shape[0], size - array.shape[1], *array.shape[2:])
    xp = blocks.namespace(array)
    end = xp.full(shape, filler, dtype=array.dtype, device=device_of(array))
    return xp.concat([array, end], axis=1)
