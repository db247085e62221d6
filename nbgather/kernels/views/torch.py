"""The backend that calls torch, for comparison in the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nbgather.kernels.plans import GatherPlan, ScatterPlan
from nbgather.kernels.views import positions
from nbgather.kernels.views.reference import strategy, token_noise

__all__ = ["DOES", "HOST_VIEWS", "gather", "rank_tokens", "scatter", "strategy", "token_noise"]

#: What is asked of a backend; see nbgather.engine.backends.
HOST_VIEWS = True
DOES = frozenset(("reduce", "scatter"))


def _copied(array: np.ndarray) -> np.ndarray:
    # torch refuses negative strides, also of an axis of length 1.
    return np.array(array, order="C", copy=True)


def _tensor(array: np.ndarray) -> torch.Tensor:
    # torch has no unsigned gather: signed words of the same bits.
    return torch.from_numpy(_copied(array).view(f"i{array.itemsize}"))


def gather(
    plan: GatherPlan, out: np.ndarray, x: np.ndarray, index: np.ndarray, aux: np.ndarray
) -> int:
    def run(data: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
        items = torch.gather(_tensor(data), axis, torch.from_numpy(_copied(positions)))
        return items.numpy().view(data.dtype)

    return positions.gather(run, plan, out, x, index, aux)


def scatter(
    plan: ScatterPlan, out: np.ndarray, index: np.ndarray, src: np.ndarray, add: Any
) -> int:
    # Compared as objects only where int64 does not hold the values.
    values = index.astype(object) if index.dtype == np.uint64 else index.astype(np.int64)
    bad = int(((values < 0) | (values >= plan.size)).sum())
    if bad:
        return bad
    positions = torch.from_numpy(_copied(values.astype(np.int64)))
    if isinstance(add, tuple):
        _reduce(plan.dim, out, positions, src, *add)
        return 0
    kind = "c16" if out.itemsize == 16 else out.dtype
    if add is None or out.dtype.kind == "u":
        # torch has few unsigned operations: signed words of the same bits have the same sums.
        kind = "c16" if out.itemsize == 16 else f"i{out.itemsize}"
    target = torch.from_numpy(out.view(kind))
    source = torch.from_numpy(_copied(src).view(kind))
    if add is None:
        target.scatter_(plan.dim, positions, source)
    else:
        target.scatter_add_(plan.dim, positions, source)
    return 0


#: What torch reduces unsigned integers as: those that hold them, and keep their order.
_WIDER = {"u2": "i4", "u4": "i8"}
_HALVES = {"half": torch.float16, "brain": torch.bfloat16}


def _reduce(
    dim: int, out: np.ndarray, index: torch.Tensor, src: np.ndarray, reduce: str, kind: str,
    include_self: bool,
) -> None:  # fmt: skip
    if kind in _HALVES:
        target, source = (
            torch.from_numpy(_copied(a).view("i2")).view(_HALVES[kind]) for a in (out, src)
        )
    else:
        top = np.uint64(1 << 63)
        held = [_copied(a) for a in (out, src)]
        if kind == "u8":  # less 2**63, which keeps the order
            held = [(a ^ top if reduce in ("amax", "amin") else a).view("i8") for a in held]
        elif kind in _WIDER:
            held = [a.astype(_WIDER[kind]) for a in held]
        target, source = map(torch.from_numpy, held)
    result = torch.scatter_reduce(target, dim, index, source, reduce, include_self=include_self)
    if kind in _HALVES:
        out[...] = result.view(torch.int16).numpy().view("u2")
        return
    array = result.numpy()
    if kind == "u8":
        array = array.view("u8") ^ (top if reduce in ("amax", "amin") else np.uint64(0))
    out[...] = array.astype(out.dtype)


def rank_tokens(
    scores: np.ndarray,
    ids_keep: np.ndarray,
    ids_restore: np.ndarray,
    mask: np.ndarray,
    counts: np.ndarray | None = None,
) -> None:
    """The recipe of the MAE paper, with a stable sort."""
    noise = torch.from_numpy(_copied(scores))
    ids_shuffle = torch.argsort(noise, dim=1, stable=True)
    restore = torch.argsort(ids_shuffle, dim=1, stable=True)
    kept = ids_keep.shape[1]
    ordered = torch.ones(noise.shape, dtype=torch.float32)
    ordered[:, :kept] = 0
    ids_keep[...] = ids_shuffle[:, :kept].numpy()
    ids_restore[...] = restore.numpy()
    mask[...] = torch.gather(ordered, 1, restore).numpy()
    positions.keep_counts(counts, ids_keep, ids_restore, mask)
