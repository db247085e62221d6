"""The same calls through torch: the oracle of the tests."""

from __future__ import annotations

import numpy as np
import torch

from nbgather._plan import GatherPlan
from nbgather.backends import _host
from nbgather.backends.reference import token_noise

__all__ = ["HOST_VIEWS", "gather", "rank_tokens", "token_noise"]

HOST_VIEWS = True


def _tensor(array: np.ndarray) -> torch.Tensor:
    # torch has no negative strides and no unsigned gather: signed words of the same bits, copied.
    return torch.from_numpy(np.ascontiguousarray(array).view(f"i{array.itemsize}"))


def gather(
    plan: GatherPlan, out: np.ndarray, x: np.ndarray, index: np.ndarray, aux: np.ndarray
) -> int:
    def run(data: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
        found = torch.gather(_tensor(data), axis, torch.from_numpy(positions))
        return found.numpy().view(data.dtype)

    return _host.gather(run, plan, out, x, index, aux)


def rank_tokens(
    scores: np.ndarray, ids_keep: np.ndarray, ids_restore: np.ndarray, mask: np.ndarray
) -> None:
    """The paper's recipe, with the sort made stable."""
    noise = torch.from_numpy(np.ascontiguousarray(scores))
    ids_shuffle = torch.argsort(noise, dim=1, stable=True)
    restore = torch.argsort(ids_shuffle, dim=1, stable=True)
    kept = ids_keep.shape[1]
    ordered = torch.ones(noise.shape, dtype=torch.float32)
    ordered[:, :kept] = 0
    ids_keep[...] = ids_shuffle[:, :kept].numpy()
    ids_restore[...] = restore.numpy()
    mask[...] = torch.gather(ordered, 1, restore).numpy()
