"""Rows of calls so small that only the way to the kernel counts."""

from __future__ import annotations

import numpy as np

import nbgather
from nbgather.apps.bench.contest import Contest, Row

__all__ = ["SMALL_ROWS"]

#: Calls in a turn: one is too short to be timed.
CALLS_PER_TURN = 2000


def _operands() -> tuple[np.ndarray, np.ndarray]:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return x, np.array([[[0] * 4, [2] * 4]] * 2)


def _tiny_numpy() -> Contest:
    x, index = _operands()
    return Contest(
        lambda: nbgather.gather(x, 1, index),
        {"numpy": lambda: np.take_along_axis(x, index, 1)},
        x.nbytes + index.nbytes,
        batch=CALLS_PER_TURN,
    )


def _tiny_torch(requires_grad: bool) -> Contest:
    import torch

    x, index = _operands()
    tx, ti = torch.from_numpy(x).requires_grad_(requires_grad), torch.from_numpy(index)
    return Contest(
        lambda: nbgather.gather(tx, 1, ti),
        {"torch": lambda: torch.gather(tx, 1, ti)},
        x.nbytes + index.nbytes,
        batch=CALLS_PER_TURN,
    )


SMALL_ROWS: tuple[Row, ...] = (
    Row("tiny, NumPy", "gather", "x[2,3,4]", _tiny_numpy),
    Row("tiny, torch", "gather", "x[2,3,4]", lambda: _tiny_torch(False), {"best": 0.5}),
    Row("tiny, torch, gradient", "gather", "x[2,3,4] that requires grad",
        lambda: _tiny_torch(True), {"best": 1 / 3}),
)  # fmt: skip
