"""The same calls through the exported models."""

from __future__ import annotations

import functools

import numpy as np

from nbgather.kernels.plans import GatherPlan
from nbgather.kernels.views import positions
from nbgather.kernels.views.reference import strategy, token_noise
from nbgather.onnx import Session, gather_model, masking_model

__all__ = ["HOST_VIEWS", "gather", "rank_tokens", "strategy", "token_noise"]

HOST_VIEWS = True


@functools.lru_cache(maxsize=32)
def _gatherer(dim: int, rank: int, dtype: str) -> Session:
    return Session(gather_model(dim, rank, dtype=dtype))


@functools.lru_cache(maxsize=4)
def _ranker(dtype: str) -> Session:
    return Session(masking_model(ratio_input=True, with_x=False, ids_keep=True, noise_dtype=dtype))


def gather(
    plan: GatherPlan, out: np.ndarray, x: np.ndarray, index: np.ndarray, aux: np.ndarray
) -> int:
    """Gather views by the exported GatherElements model."""

    def run(data: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
        session = _gatherer(axis, data.ndim, data.dtype.name)
        return session.run(data=data, indices=positions)["output"]

    return positions.gather(run, plan, out, x, index, aux)


def rank_tokens(
    scores: np.ndarray,
    ids_keep: np.ndarray,
    ids_restore: np.ndarray,
    mask: np.ndarray,
    counts: np.ndarray | None = None,
) -> None:
    """Rank scores by the exported masking model."""
    tokens, kept = scores.shape[1], ids_keep.shape[1]
    # Half a token of room on either side: the model's int(L * (1 - ratio)) is `kept`.
    ratio = 0.0 if kept == tokens else 1 - (kept + 0.5) / tokens
    made = _ranker(scores.dtype.name).run(noise=scores, mask_ratio=np.float64(ratio))
    ids_keep[...] = made["ids_keep"]
    ids_restore[...] = made["ids_restore"]
    mask[...] = made["mask"]
    positions.keep_counts(counts, ids_keep, ids_restore, mask)
