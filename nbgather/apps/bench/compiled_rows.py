"""Rows of calls from within functions that numba compiles."""

from __future__ import annotations

from typing import Any

import numpy as np

import nbgather
from nbgather import numba_ext
from nbgather.apps.bench.contest import Contest, Row

__all__ = ["COMPILED_ROWS"]

#: Calls of a function that makes a thousand itself.
CALLS_PER_TURN, CALLS_INSIDE = 10, 1000


def _large() -> Contest:
    from numba import njit

    numba_ext.init()
    generator = np.random.default_rng(0)
    x = generator.integers(0, 1 << 40, (4096, 4096))
    index = generator.integers(0, 4096, x.shape)
    ours = njit(lambda x, index: nbgather.gather(x, 1, index))
    numbas = njit(lambda x, index: np.take_along_axis(x, index, 1))
    return Contest(
        lambda: ours(x, index),
        {
            "numba": lambda: numbas(x, index),
            "numpy": lambda: np.take_along_axis(x, index, 1),
            "nbgather from Python": lambda: nbgather.gather(x, 1, index),
        },
        x.nbytes + 2 * index.nbytes,
    )


def _by_hand() -> Any:
    from numba import njit

    @njit
    def gather(x: Any, index: Any) -> Any:
        result = np.empty(index.shape, x.dtype)
        for n in range(index.shape[0]):
            for k in range(index.shape[1]):
                j = index[n, k]
                if j < 0 or j >= x.shape[1]:
                    raise IndexError("out of bounds")
                result[n, k] = x[n, j]
        return result

    return gather


def _tiny() -> Contest:
    from numba import njit

    numba_ext.init()
    by_hand = _by_hand()
    x, index = np.arange(24.0).reshape(4, 6), np.array([[0, 5, 2]] * 4)

    @njit
    def ours(x: Any, index: Any) -> float:
        total = 0.0
        for _ in range(CALLS_INSIDE):
            total += nbgather.gather(x, 1, index)[0, 1]
        return total

    @njit
    def theirs(x: Any, index: Any) -> float:
        total = 0.0
        for _ in range(CALLS_INSIDE):
            total += by_hand(x, index)[0, 1]
        return total

    return Contest(
        lambda: ours(x, index),
        {"loop by hand": lambda: theirs(x, index)},
        CALLS_INSIDE * (x.nbytes + 2 * index.nbytes),
        batch=CALLS_PER_TURN,
        scales=False,
    )


COMPILED_ROWS: tuple[Row, ...] = (
    Row("inside njit", "compiled", "x[4096,4096] int64, last dim", _large,
        {"numba": 3.0, "nbgather from Python": 1 / 1.1}),
    Row("inside njit, tiny", "compiled", "1000 times x[4,6] by index[4,3]", _tiny,
        {"best": 0.5}),
)  # fmt: skip
