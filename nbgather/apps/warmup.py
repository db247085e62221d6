"""Calls that compile the common kernels into their cache."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import nbgather
from nbgather.kernels.cpu import variants

Step = tuple[str, Callable[[], Any]]


def steps() -> list[Step]:
    """The calls and their names: small arrays, so shaped that each kernel is used."""
    result: list[Step] = [("the fastest way to move items", _variants)]
    for dtype in ("uint8", "float16", "float32", "float64", "complex128"):
        for index in ("int64", "int32"):
            result.append((f"gather {dtype}, {index}", functools.partial(_gathers, dtype, index)))
    result += [
        ("masking", _masking),
        ("patches", _patches),
        ("scatter", _scatter),
        ("strategies", _strategies),
    ]
    return result


def _variants() -> None:
    for itemsize in variants.MEASURED_ITEMS:
        variants.measured(itemsize)


def _gathers(dtype: str, index_dtype: str) -> None:
    x = np.zeros((8, 16, 80), dtype)
    ids = np.zeros((8, 4), index_dtype)
    for dim, shape in ((2, (8, 16, 20)), (1, (8, 4, 80)), (0, (2, 16, 80))):
        nbgather.gather(x, dim, np.zeros(shape, index_dtype))
    nbgather.gather(x.transpose(2, 1, 0), 1, np.zeros((80, 4, 8), index_dtype))
    nbgather.take_along_axis(x, np.zeros((8, 16, 20), index_dtype), 2)
    nbgather.gather_tokens(x, ids)
    nbgather.gather_tokens(x, ids, mode="fill")
    square = np.zeros((600, 600), dtype)
    nbgather.gather(square, 0, np.zeros((600, 600), index_dtype))


def _masking() -> None:
    x = np.zeros((64, 196, 96), np.float32)
    for part in (x[:1], x):  # on one thread and on several
        masked = nbgather.random_masking(part, 0.75, seed=0)
        nbgather.restore_tokens(masked.x_masked, masked.ids_restore, 0.0)
    for dtype in ("float32", "float64"):
        nbgather.random_masking(x[:2], 0.75, noise=np.zeros((2, 196), dtype))
    nbgather.token_noise(0, 2, 8)


def _patches() -> None:
    for dtype in ("uint8", "float32"):
        images = np.zeros((2, 3, 32, 32), dtype)
        nbgather.masked_patchify(images, 16, seed=0)
        nbgather.masked_patchify(images, 16, seed=0, scale=1 / 255)


def _scatter() -> None:
    for dtype in ("float32", "float64", "int64"):
        x, index = np.zeros((4, 8), dtype), np.zeros((4, 8), np.int64)
        for dim in (0, 1):
            nbgather.scatter(x, dim, index % 4, x)
            nbgather.scatter_add(x, dim, index % 4, x)


def _strategies() -> None:
    grid = (4, 4)
    nbgather.strategies.block(0, 1, grid)
    nbgather.strategies.grid(0, 1, grid)
    nbgather.strategies.time_frequency(0, 1, grid)
    nbgather.strategies.tube(0, 1, (2, *grid))
