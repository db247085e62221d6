"""The cases of bad arguments, of which the error's kind and whole text count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import nbgather
from nbgather.apps.selftest.cases import Case, Make


def errors() -> Iterator[Case]:
    """Bad arguments: the kind of the error and its whole text."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    i = np.zeros((3, 2), np.int64)
    bad, last = i.copy(), np.full((3, 2), 4)
    bad[2, 1] = -1
    unknown: Any = "nearest"
    calls: dict[str, Make] = {
        "gather, index -1": lambda to, g: nbgather.gather(to(x), 1, to(bad), **g),
        "gather, index 4 of 4": lambda to, g: nbgather.gather(to(x), 1, to(last), **g),
        "gather, dim 2": lambda to, g: nbgather.gather(to(x), 2, to(i), **g),
        "gather, index of float32": lambda to, g: nbgather.gather(to(x), 1, to(x), **g),
        "gather, index too long": lambda to, g: nbgather.gather(
            to(x), 1, to(np.zeros((4, 2), np.int64)), **g
        ),
        "gather, index of 1 dimension": lambda to, g: nbgather.gather(to(x), 1, to(i[0]), **g),
        "gather, mode 'nearest'": lambda to, g: nbgather.gather(to(x), 1, to(i), mode=unknown, **g),
        "take_along_axis, index -5 of 4": lambda to, g: nbgather.take_along_axis(
            to(x), to(i - 5), 1, **g
        ),
        "gather_tokens, id 3 of 3": lambda to, g: nbgather.gather_tokens(
            to(x[None]), to(np.array([[0, 3]])), **g
        ),
        "scatter, index 4 of 4": lambda to, g: nbgather.scatter(
            to(x), 1, to(last), to(x[:, :2].copy()), **g
        ),
        "scatter_add, src of float64": lambda to, g: nbgather.scatter_add(
            to(x), 1, to(i), to(x.astype(np.float64)), **g
        ),
        "scatter_reduce, mean of bool": lambda to, g: nbgather.scatter_reduce(
            to(x > 0), 1, to(i), to(x[:, :2] > 0), "mean", **g
        ),
        "segment_reduce, counts of 4": lambda to, g: nbgather.segment_reduce(
            to(x), "sum", counts=to(np.array([1, 3])), **g
        ),
        "gather_reduce, id -1": lambda to, g: nbgather.gather_reduce(to(x), to(bad), "amax", **g),
        "rank_tokens, 5 of 4": lambda to, g: nbgather.rank_tokens(to(x), 5, **g),
        "rank_tokens of int64": lambda to, g: nbgather.rank_tokens(to(i), 1, **g),
        "random_masking, ratio 1.5": lambda to, g: nbgather.random_masking(
            to(x[None]), 1.5, seed=0, **g
        ),
        "random_masking, ratio NaN": lambda to, g: nbgather.random_masking(
            to(x[None]), float("nan"), seed=0, **g
        ),
        "random_masking, noise and seed": lambda to, g: nbgather.random_masking(
            to(x[None]), noise=to(x[None, :, 0].copy()), seed=0, **g
        ),
        "token_noise, seed 2**64": lambda to, g: nbgather.token_noise(2**64, to(i[0]), 4, **g),
        "token_noise, epoch -1": lambda to, g: nbgather.token_noise(0, to(i[0]), 4, epoch=-1, **g),
        "restore_tokens, rank 9 of 4": lambda to, g: nbgather.restore_tokens(
            to(x[None, :2]), to(np.array([[0, 1, 9, 2]])), to(x[0]), **g
        ),
        "patchify, 5 of 4": lambda to, g: nbgather.patchify(to(x[None, None]), 5),
        "strategies.grid, stride 0": lambda to, g: nbgather.strategies.grid(
            0, to(i[0]), (4, 4), stride=0, **g
        ),
        "strategies.block, a grid of 0": lambda to, g: nbgather.strategies.block(
            0, to(i[0]), (4, 0), **g
        ),
    }
    for text, make in calls.items():
        yield Case(text, make)
