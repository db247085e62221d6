"""The calls of a backend, made by the exported models on onnxruntime."""

from __future__ import annotations

import functools

import numpy as np

from nbgather.kernels.plans import GatherPlan
from nbgather.kernels.views import positions
from nbgather.kernels.views.reference import strategy, token_noise
from nbgather.onnx import Session, gather_model, masking_model

__all__ = ["DOES", "HOST_VIEWS", "gather", "rank_tokens", "strategy", "token_noise"]

#: What is asked of a backend; see nbgather.engine.backends.
HOST_VIEWS = True
DOES: frozenset[str] = frozenset()


@functools.lru_cache(maxsize=32)
def _gather_session(dim: int, rank: int, dtype: str) -> Session:
    return Session(gather_model(dim, rank, dtype=dtype))


@functools.lru_cache(maxsize=4)
def _ranking_session(dtype: str) -> Session:
    return Session(masking_model(ratio_input=True, with_x=False, ids_keep=True, noise_dtype=dtype))


def gather(
    plan: GatherPlan, out: np.ndarray, x: np.ndarray, index: np.ndarray, aux: np.ndarray
) -> int:
    """Gather views by the exported GatherElements model."""

    def take(data: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
        session = _gather_session(axis, data.ndim, data.dtype.name)
        return session.run(data=data, indices=indices)["output"]

    return positions.gather(take, plan, out, x, index, aux)


def rank_tokens(
    scores: np.ndarray,
    ids_keep: np.ndarray,
    ids_restore: np.ndarray,
    mask: np.ndarray,
    counts: np.ndarray | None = None,
) -> None:
    """Rank scores by the exported masking model."""
    tokens, kept = scores.shape[1], ids_keep.shape[1]
    # The model keeps int(L * (1 - ratio)): half a token more than `kept` allows for rounding.
    ratio = 0.0 if kept == tokens else 1 - (kept + 0.5) / tokens
    result = _ranking_session(scores.dtype.name).run(noise=scores, mask_ratio=np.float64(ratio))
    ids_keep[...] = result["ids_keep"]
    ids_restore[...] = result["ids_restore"]
    mask[...] = result["mask"]
    positions.keep_counts(counts, ids_keep, ids_restore, mask)
