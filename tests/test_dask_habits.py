"""Every operation on Dask beside what Dask's users do with any array."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import rng

import nbgather
from nbgather import dask as nd

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

X = rng("habits").standard_normal((12, 40)).astype("f4")
TOKENS = rng("habits of tokens").standard_normal((12, 40, 6)).astype("f4")
IMAGES = rng("habits of images").integers(0, 256, (12, 3, 16, 16), np.uint8)
INDEX = rng("habits of an index").integers(0, 40, (12, 20))
SRC = rng("habits of values").standard_normal((12, 20)).astype("f4")
BAGS, ORDER = INDEX % 12, np.argsort(X, 1)
OFFSETS, ZERO = np.array([0, 3, 12]), np.float32(0)


def cut(array: Any) -> Any:
    return da.from_array(array, (5, 7))


#: Of each operation: the array and its chunks, what Dask gives, and what NumPy does.
OPERATIONS: dict[str, tuple[Any, Any, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "gather": (
        X, (5, 13), lambda x: nd.gather(x, 1, cut(INDEX)), lambda x: nbgather.gather(x, 1, INDEX),
    ),
    "take_along_axis": (
        X, (5, 13), lambda x: nd.take_along_axis(x, cut(INDEX), 1),
        lambda x: nbgather.take_along_axis(x, INDEX, 1),
    ),
    "gather_tokens": (
        TOKENS, (5, 13, 6), lambda x: nd.gather_tokens(x, cut(INDEX)),
        lambda x: nbgather.gather_tokens(x, INDEX),
    ),
    "scatter": (
        X, (5, 13), lambda x: nbgather.scatter(x, 1, cut(INDEX), cut(SRC)),
        lambda x: nbgather.scatter(x, 1, INDEX, SRC),
    ),
    "scatter_add": (
        X, (5, 13), lambda x: nbgather.scatter_add(x, 1, cut(INDEX), cut(SRC)),
        lambda x: nbgather.scatter_add(x, 1, INDEX, SRC),
    ),
    "scatter_reduce": (
        X, (5, 13), lambda x: nbgather.scatter_reduce(x, 1, cut(INDEX), cut(SRC), "mean"),
        lambda x: nbgather.scatter_reduce(x, 1, INDEX, SRC, "mean"),
    ),
    "segment_reduce": (
        X, (5, 13), lambda x: nbgather.segment_reduce(x, "sum", offsets=OFFSETS),
        lambda x: nbgather.segment_reduce(x, "sum", offsets=OFFSETS),
    ),
    "gather_reduce": (
        X, (5, 40), lambda x: nbgather.gather_reduce(x, cut(BAGS), "mean"),
        lambda x: nbgather.gather_reduce(x, BAGS, "mean"),
    ),
    "restore_tokens": (
        TOKENS[:, :10], (5, 10, 6), lambda x: nbgather.restore_tokens(x, cut(ORDER), ZERO),
        lambda x: nbgather.restore_tokens(x, ORDER, ZERO),
    ),
    "rank_tokens": (
        X, (5, 13), lambda x: nbgather.rank_tokens(x, 7), lambda x: nbgather.rank_tokens(x, 7),
    ),
    "random_masking": (
        TOKENS, (5, 40, 6), lambda x: nd.random_masking(x, 0.75, seed=3),
        lambda x: nbgather.random_masking(x, 0.75, seed=3),
    ),
    "patchify": (
        IMAGES, (5, 3, 16, 16), lambda x: nd.patchify(x, 4), lambda x: nbgather.patchify(x, 4),
    ),
    "masked_patchify": (
        IMAGES, (5, 3, 16, 16), lambda x: nd.masked_patchify(x, 4, 0.75, seed=3),
        lambda x: nbgather.masked_patchify(x, 4, 0.75, seed=3),
    ),
}  # fmt: skip


def arrays_of(result: Any) -> list[Any]:
    several = result if isinstance(result, tuple) else (result,)
    return [array for array in several if array is not None]


def lazy_of(name: str) -> list[Any]:
    values, chunks, build, _ = OPERATIONS[name]
    return arrays_of(build(da.from_array(values, chunks)))


def same(given: Any, expected: list[Any]) -> None:
    given = list(given)
    assert [a.dtype for a in given] == [a.dtype for a in expected]
    assert [a.shape for a in given] == [a.shape for a in expected]
    assert [a.tobytes() for a in given] == [a.tobytes() for a in expected]


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_go_through_what_users_of_dask_do(name: str) -> None:
    values, _, _, numpy = OPERATIONS[name]
    lazy, expected = lazy_of(name), arrays_of(numpy(values))
    assert [(a.dtype, a.shape) for a in lazy] == [(a.dtype, a.shape) for a in expected]
    same(dask.compute(*lazy), expected)
    same(dask.compute(*dask.persist(*lazy)), expected)
    same(dask.compute(*dask.optimize(*lazy)), expected)
    same(dask.compute(*pickle.loads(pickle.dumps(lazy))), expected)
    same(dask.compute(*(a[1:3] for a in lazy)), [a[1:3] for a in expected])
    blocks = [a.map_blocks(np.ascontiguousarray, dtype=a.dtype) for a in lazy]
    same(dask.compute(*blocks), expected)


#: What works where the count of samples is unknown; the others say what to do.
LAZY_SHAPES = ("gather", "gather_tokens", "patchify", "rank_tokens", "restore_tokens")


@pytest.mark.parametrize("name", OPERATIONS)
def test_sizes_that_are_unknown_work_or_are_an_error_that_names_the_way_out(name: str) -> None:
    values, chunks, build, numpy = OPERATIONS[name]
    x = da.from_array(values, chunks)
    unknown = x[da.from_array(np.ones(len(values), bool), chunks[0])]
    if name in LAZY_SHAPES:
        same(dask.compute(*arrays_of(build(unknown))), arrays_of(numpy(values)))
        return
    with pytest.raises(ValueError, match=r"unknown.*compute_chunk_sizes\(\)"):
        build(unknown)
    same(dask.compute(*arrays_of(build(unknown.compute_chunk_sizes()))), arrays_of(numpy(values)))


def test_names_do_not_depend_on_the_process() -> None:
    code = (
        "import test_dask_habits as t; print(*(a.name for n in t.OPERATIONS for a in t.lazy_of(n)))"
    )
    there = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(there), "PYTHONHASHSEED": "7"}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    names = [array.name for name in OPERATIONS for array in lazy_of(name)]
    assert done.stdout.split() == names, done.stderr
