"""The graphs of ranks: a task for each chunk of samples, or a sort of chunks of their tokens."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from nbgather.containers.dask import blocks, plans, sides
from nbgather.containers.dask.late import LateLayer
from nbgather.containers.dask.masking_graph import fields, widened
from nbgather.containers.dask.sides import is_known, plain_block, starts_of
from nbgather.containers.numpy import describe
from nbgather.operations.base import Spec
from nbgather.operations.keep import Keep
from nbgather.operations.tokens import RankTokens

#: What ranking holds of a score beside it: two ranks of 8 bytes and a mask of 4.
_BESIDE_SCORE = 20


def build(operation: RankTokens, scores: Any) -> tuple[Any, ...]:
    """Ranks of chunked scores; where a row of chunks is above the budget, chunk by chunk."""
    scores = sides.chunked(scores, "scores")
    shape = tuple(int(n) if is_known(n) else None for n in scores.shape)
    results = operation.result(Spec(shape, (), describe(scores.dtype)))
    if shape[1] is None:
        raise ValueError(
            "chunk sizes of scores along dimension 1 are unknown: call compute_chunk_sizes() first"
        )
    if operation.keep.counts is not None and shape[0] is None:
        raise ValueError(
            "chunk sizes of scores along dimension 0 are unknown, so the samples have no positions:"
            " give one num_keep for all, or call compute_chunk_sizes() first"
        )
    samples = max((int(n) for n in scores.chunks[0] if is_known(n)), default=1)
    nbytes = samples * shape[1] * (scores.dtype.itemsize + _BESIDE_SCORE)
    # What sorts chunk by chunk is NumPy's.
    whole_rows = scores.numblocks[1] == 1 or not blocks.is_numpy(scores._meta)
    if whole_rows or nbytes <= plans.limit():
        scores = sides.rechunked(scores, {1: -1})
        token = tokenize(operation, scores)
        whole = f"nbgather-rank-{token}"
        make = partial(_whole_rows, whole, operation, scores.name, starts_of(scores.chunks[0]))
        layer = LateLayer(make, scores.numblocks[0])
        base = HighLevelGraph.from_collections(whole, layer, dependencies=[scores])
        return fields(base, scores, whole, scores.chunks[0], results)
    return _sorted_by_chunk(operation, scores, results)


def _whole_rows(
    whole: str, operation: RankTokens, scores: str, starts: list[int | None]
) -> dict[Any, Any]:
    return {
        (whole, n): (_rank_block, operation, (scores, n, 0), start)
        for n, start in enumerate(starts)
    }


def _keep_of(operation: RankTokens, start: int | None, samples: int) -> Keep:
    """How many tokens stay in a chunk's samples."""
    counts = operation.keep.counts
    if counts is None or start is None:
        return operation.keep
    return Keep(counts=counts[start : start + samples])


def _rank_block(operation: RankTokens, scores: Any, start: int | None) -> tuple[Any, ...]:
    """Rank a chunk of samples on the calling thread."""
    scores = plain_block(scores, "scores")
    chunk = replace(operation, keep=_keep_of(operation, start, len(scores)))
    ids_keep, ids_restore, mask = blocks.execute(chunk, scores)
    # The chunk's largest count may be below that of all samples.
    return widened(ids_keep, operation.keep.of(scores.shape[1]), -1), ids_restore, mask


# A sort of chunks: a token's rank is how many come before it, summed over the chunks. No task has
# more than two chunks of scores.


def _sorted_by_chunk(operation: RankTokens, scores: Any, results: Any) -> tuple[Any, ...]:
    token, (rows, columns) = tokenize(operation, scores), scores.numblocks
    name = f"nbgather-rank-{token}"
    kept, ranks, masks = (f"nbgather-{field}-{token}" for field in ("keep", "restore", "mask"))
    sort = partial(_sorting, name, operation, scores.name, scores.chunks)
    graph = LateLayer(sort, rows * columns * (columns + 2))
    layers = {
        kept: LateLayer(
            partial(_kept_ids, kept, name, operation, scores.name, scores.chunks), rows
        ),
        ranks: LateLayer(partial(_ranks, ranks, name, scores.chunks), rows * columns),
        masks: LateLayer(partial(_masks, masks, name, operation, scores.chunks), rows * columns),
    }
    base = HighLevelGraph.from_collections(name, graph, dependencies=[scores])
    chunks = {kept: (scores.chunks[0], (int(results[0].shape[1]),))}
    return tuple(
        da.Array(
            HighLevelGraph({**base.layers, part: layer}, {**base.dependencies, part: {name}}),
            part, chunks=chunks.get(part, scores.chunks), dtype=np.dtype(result.dtype.name),
            meta=np.empty((0, 0), result.dtype.name),
        )
        for (part, layer), result in zip(layers.items(), results, strict=True)
    )  # fmt: skip


def _sorting(
    name: str, operation: RankTokens, scores: str, chunks: tuple[tuple[Any, ...], tuple[Any, ...]]
) -> dict[Any, Any]:
    """Sorted chunks, what comes before the scores of each, and which tokens of it stay."""
    graph: dict[Any, Any] = {}
    firsts, starts = map(starts_of, chunks)
    length, columns = sum(map(int, chunks[1])), range(len(starts))
    for n, first in enumerate(firsts):
        for j in columns:
            graph[(f"{name}-sorted", n, j)] = (_sorted, (scores, n, j))
        for j in columns:
            before: Any = None
            for k in columns:
                key, side = (f"{name}-before-{k}", n, j), (k > j) - (k < j)
                graph[key] = (_before, before, (scores, n, j), (f"{name}-sorted", n, k), side)
                before = key
            graph[(f"{name}-chosen", n, j)] = (_chosen, operation, before, first, starts[j], length)
    return graph


def _kept_ids(
    kept: str, name: str, operation: RankTokens, scores: str, chunks: Any
) -> dict[Any, Any]:
    length, graph = sum(map(int, chunks[1])), {}
    for n in range(len(chunks[0])):
        chosen = [(f"{name}-chosen", n, j) for j in range(len(chunks[1]))]
        graph[(kept, n, 0)] = (_kept, operation, chosen, (scores, n, 0), length)
    return graph


def _ranks(ranks: str, name: str, chunks: Any) -> dict[Any, Any]:
    """What comes before the scores of each chunk, once all chunks were seen."""
    rows, columns = map(len, chunks)
    last = f"{name}-before-{columns - 1}"
    every = itertools.product(range(rows), range(columns))
    return {(ranks, *block): (last, *block) for block in every}


def _masks(masks: str, name: str, operation: RankTokens, chunks: Any) -> dict[Any, Any]:
    firsts, length = starts_of(chunks[0]), sum(map(int, chunks[1]))
    return {
        (masks, *block): (_mask, operation, ranks, firsts[block[0]], length)
        for (_, *block), ranks in _ranks(masks, name, chunks).items()
    }


def _comparable(scores: Any) -> np.ndarray:
    """Scores as NumPy orders them: NaN last, and -0 like 0."""
    scores = plain_block(scores, "scores")
    return scores if scores.dtype.kind in "biuf" else scores.astype(np.float32)


def _sorted(scores: Any) -> np.ndarray:
    return np.sort(_comparable(scores), axis=1)


def _before(before: Any, scores: Any, other: np.ndarray, side: int) -> np.ndarray:
    """How many come before each score, with those of another chunk: -1 is one to the left of it."""
    scores = _comparable(scores)
    counts = np.empty(scores.shape, np.int64)
    for count, row, those in zip(counts, scores, other, strict=True):
        if side:
            count[:] = np.searchsorted(those, row, "right" if side < 0 else "left")
        else:
            count[np.argsort(row, kind="stable")] = np.arange(len(row))
    return counts if before is None else counts + before


def _limits(operation: RankTokens, ranks: np.ndarray, first: int | None, length: int) -> Any:
    """From which rank on the tokens of each sample are removed."""
    keep = _keep_of(operation, first, len(ranks))
    return np.reshape(keep.of(length) if keep.counts is None else keep.counts, (-1, 1))


def _mask(operation: RankTokens, ranks: np.ndarray, first: int | None, length: int) -> np.ndarray:
    removed = ranks >= _limits(operation, ranks, first, length)
    return removed.astype(np.float32)


def _chosen(
    operation: RankTokens, ranks: np.ndarray, first: int | None, start: int, length: int
) -> tuple[np.ndarray, ...]:
    """The tokens of a chunk that stay: samples, ranks and ids."""
    samples, tokens = np.nonzero(ranks < _limits(operation, ranks, first, length))
    return samples, ranks[samples, tokens], tokens + start


def _kept(operation: RankTokens, chosen: list[Any], scores: Any, length: int) -> np.ndarray:
    ids = np.full((len(scores), operation.keep.of(length)), -1, np.int64)
    for samples, ranks, tokens in chosen:
        ids[samples, ranks] = tokens
    return ids
