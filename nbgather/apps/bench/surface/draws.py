"""Random shapes, values and indices: the same for the same numbers, whatever is installed."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Generator = np.random.Generator

#: Items of the smallest and the largest operand.
FEWEST_ITEMS, MOST_ITEMS = 10, 20_000_000
#: What an index that repeats itself points at.
FEW_PLACES = 6


def generator_of(seed: int, function: str, case: int) -> Generator:
    """The numbers of one case, which depend on no other case and no other function."""
    return np.random.default_rng([seed, zlib.crc32(function.encode()), case])


def log_uniform(rng: Generator, low: float, high: float) -> int:
    """A whole number whose logarithm is spread evenly."""
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def choice(rng: Generator, weights: Mapping[Any, float]) -> Any:
    """One of the keys, as likely as its weight says."""
    keys = list(weights)
    shares = np.array([weights[key] for key in keys], float)
    return keys[int(rng.choice(len(keys), p=shares / shares.sum()))]


def cut(rng: Generator, items: int, dims: int) -> list[int]:
    """So many items cut among the dims, some of them long and some short."""
    shares = rng.dirichlet([0.7] * dims)
    return [max(1, round(items**share)) for share in shares]


def values(rng: Generator, shape: Sequence[int], dtype: str) -> np.ndarray:
    """Random numbers that every dtype holds."""
    if dtype.startswith("float"):
        return rng.standard_normal(tuple(shape), np.float32).astype(dtype, copy=False)
    return rng.integers(0, 100, tuple(shape), np.uint8).astype(dtype)


def indices(
    rng: Generator, shape: Sequence[int], dim: int, size: int, order: str, dtype: str
) -> np.ndarray:
    """Indices below a size, in an order: ``random``, ``sorted``, ``argsort`` or ``few``."""
    if order == "argsort" and shape[dim] <= size:
        lines = np.broadcast_to(np.arange(size), (*shape[:dim], *shape[dim + 1 :], size))
        shuffled = rng.permuted(lines, axis=-1)[..., : shape[dim]]
        index = np.moveaxis(shuffled, -1, dim)
    elif order == "few":
        places = rng.integers(0, size, FEW_PLACES)
        index = places[rng.integers(0, FEW_PLACES, tuple(shape))]
    else:
        index = rng.integers(0, size, tuple(shape))
        if order == "sorted":
            index.sort(axis=dim)
    return np.ascontiguousarray(index, dtype=dtype)
