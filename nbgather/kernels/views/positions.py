"""Modes, fills and 16-byte items for backends that only gather at positions in bounds."""

from __future__ import annotations

from collections.abc import Callable

import array_api_compat.numpy as namespace
import numpy as np

from nbgather.kernels.plans import GatherPlan
from nbgather.operations.positions import resolve_positions

Run = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def gather(
    run: Run,
    plan: GatherPlan,
    out: np.ndarray,
    x: np.ndarray,
    index: np.ndarray,
    aux: np.ndarray,
) -> int:
    """Gather by ``run(data, positions, axis)``, whose int64 positions are all in bounds."""
    positions, inside = resolve_positions(namespace, index, plan.size, plan.mode, plan.from_end)
    bad = 0
    if plan.limit >= 0:
        bad = int((~inside & ((index < 0) | (index >= plan.limit))).sum())
        if bad and plan.mode == "raise":
            return bad
    if plan.size == 0:
        items = np.zeros(out.shape, out.dtype)
    else:
        items = _by_words(run, x, positions, plan.dim)
    row = aux.reshape(out.shape[plan.dim + 1 :]) if aux.size > 1 else aux.reshape(())
    out[...] = np.where(inside, items, row) if plan.mode == "fill" else items
    return bad


def keep_counts(
    counts: np.ndarray | None, ids_keep: np.ndarray, ids_restore: np.ndarray, mask: np.ndarray
) -> None:
    """Reduce a ranking that kept equally many tokens of all samples to each sample's count."""
    if counts is not None:
        ids_keep[np.arange(ids_keep.shape[1]) >= counts[:, None]] = -1
        mask[...] = ids_restore >= counts[:, None]


def _by_words(run: Run, x: np.ndarray, positions: np.ndarray, dim: int) -> np.ndarray:
    if x.itemsize <= 8:
        return run(x, positions, dim)
    words = np.ascontiguousarray(x).view(np.uint64).reshape(*x.shape, 2)
    word_positions = np.repeat(positions[..., None], 2, axis=-1)
    return np.ascontiguousarray(run(words, word_positions, dim)).view(x.dtype)[..., 0]
