"""What the backends share that know torch.gather's one rule only: modes, fills, 16-byte items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nbgather.kernels.plans import GatherPlan

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
    size = plan.size
    # Object arithmetic only where int64 cannot hold the values.
    values = index.astype(object) if index.dtype == np.uint64 else index.astype(np.int64)
    if plan.from_end:
        values = np.where(values < 0, values + size, values)
    if plan.mode == "clip":
        values = np.clip(values, 0, size - 1)
    elif plan.mode == "wrap":
        values = values % size
    inside = ((values >= 0) & (values < size)).astype(bool)
    bad = 0
    if plan.limit >= 0:
        bad = int(((values < 0) | (values >= plan.limit)).sum())
        if bad and plan.mode == "raise":
            return bad
    if size == 0:
        found = np.zeros(out.shape, out.dtype)
    else:
        positions = np.where(inside, values, 0).astype(np.int64)
        found = _by_words(run, x, positions, plan.dim)
    row = aux.reshape(out.shape[plan.dim + 1 :]) if aux.size > 1 else aux.reshape(())
    out[...] = np.where(inside, found, row) if plan.mode == "fill" else found
    return bad


def keep_counts(
    counts: np.ndarray | None, ids_keep: np.ndarray, ids_restore: np.ndarray, mask: np.ndarray
) -> None:
    """Cut a ranking that kept the same number everywhere down to each sample's own."""
    if counts is not None:
        ids_keep[np.arange(ids_keep.shape[1]) >= counts[:, None]] = -1
        mask[...] = ids_restore >= counts[:, None]


def _by_words(run: Run, x: np.ndarray, positions: np.ndarray, dim: int) -> np.ndarray:
    if x.itemsize <= 8:
        return run(x, positions, dim)
    words = np.ascontiguousarray(x).view(np.uint64).reshape(*x.shape, 2)
    both = np.repeat(positions[..., None], 2, axis=-1)
    return np.ascontiguousarray(run(words, both, dim)).view(x.dtype)[..., 0]
