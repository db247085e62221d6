"""What the tests of ONNX models share: the paper's recipe in torch, noises, words of seeds."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import torch
from cases import same

SPECIAL_SCORES = [0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 1e-45, 0.5, 0.5, 1.0, -1.0]


def dtype_of(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def recipe(x: np.ndarray, noise: np.ndarray, ratio: float) -> dict[str, np.ndarray]:
    """The paper's recipe in torch on given noise, with a stable sort; x as integers."""
    scores = torch.from_numpy(noise.astype(np.float64))
    bits = torch.from_numpy(x.view(f"i{x.dtype.itemsize}"))
    n, length, width = x.shape
    keep = int(length * (1 - ratio))
    ids_shuffle = torch.argsort(scores, dim=1, stable=True)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    ids_keep = ids_shuffle[:, :keep]
    mask = torch.ones([n, length])
    mask[:, :keep] = 0
    return {
        "x_masked": torch.gather(bits, 1, ids_keep.unsqueeze(-1).expand(-1, -1, width))
        .numpy()
        .view(x.dtype),
        "mask": torch.gather(mask, 1, ids_restore).numpy(),
        "ids_restore": ids_restore.numpy(),
        "ids_keep": ids_keep.contiguous().numpy(),
    }


def assert_same(result: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert set(result) <= set(want)
    for name, array in result.items():
        same(array, want[name])


def noises(generator: np.random.Generator, n: int, length: int, dtype: str) -> list[np.ndarray]:
    arrays = [
        generator.random((n, length)),
        generator.choice(np.array(SPECIAL_SCORES), (n, length)),
        np.full((n, length), 0.25),
        generator.integers(0, 3, (n, length)) / 4,
    ]
    return [noise.astype(dtype_of(dtype)) for noise in arrays]


def words(*numbers: int) -> np.ndarray:
    """Numbers of 64 bits as words of 32, the low one first."""
    return np.array([int(n) & 2**64 - 1 for n in numbers], np.uint64).view(np.int32).reshape(-1, 2)
