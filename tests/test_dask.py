"""nbgather.dask: any chunks, plan and scheduler, the same bits; masks of a dataset on disk."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import pytest
import xarray
import zarr
from cases import CASES, DTYPES, random_bits, rng, same
from hypothesis import given, settings
from hypothesis import strategies as st

import nbgather
from nbgather import dask as nd
from nbgather.apps import cli
from nbgather.containers.dask import blocks

PLANS = ("concatenate", "list", "tree")

_ANY = list(
    itertools.product(
        ["bool", "int8", "float16", "float32", "datetime64[ms]", "complex128"],
        ["int64", "int8", "int32"],
    )
)
#: Dtypes of input and index in random problems. What reads rows that were brought together is
#: compiled where it is not shipped: few are drawn. The other plans compile nothing.
DRAWN = {
    "concatenate": [("float32", "int64")],
    "list": _ANY,
    "tree": _ANY,
}


@pytest.fixture(autouse=True)
def _one_process() -> Any:
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@st.composite
def cut(draw: Any, size: int) -> tuple[int, ...]:
    """Chunk sizes of a dimension."""
    if size == 0:
        return (0,)
    chunks: list[int] = []
    while sum(chunks) < size:
        chunks.append(draw(st.integers(1, size - sum(chunks))))
    return tuple(chunks)


@st.composite
def problems(draw: Any, along: bool, plan: str) -> tuple[Any, ...]:
    ndim = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(1, 7)) for _ in range(ndim))
    dim = draw(st.integers(-ndim, ndim - 1))
    if along:
        index_shape = [draw(st.sampled_from([1, n])) for n in shape]
        shape = tuple(draw(st.sampled_from([1, n])) if d != dim % ndim else n
                      for d, n in enumerate(shape))  # fmt: skip
    else:
        index_shape = [draw(st.integers(0, n)) for n in shape]
    index_shape[dim] = draw(st.integers(0, 9))
    size = shape[dim]
    mode = draw(st.sampled_from(["raise", "clip", "wrap", "fill"]))
    low, high = (-size if along else 0, size - 1) if mode == "raise" else (-20, 20)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype, index_dtype = draw(st.sampled_from(DRAWN[plan]))
    index = generator.integers(low, high + 1, index_shape).astype(index_dtype)
    x = random_bits(generator, shape, dtype)
    chunks = tuple(draw(cut(n)) for n in shape)
    index_chunks = tuple(draw(cut(n)) for n in index_shape)
    return x, dim, index, mode, chunks, index_chunks


@pytest.mark.parametrize("plan", PLANS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_gather_over_random_chunks(plan: str, data: st.DataObject) -> None:
    x, dim, index, mode, chunks, index_chunks = data.draw(problems(along=False, plan=plan))
    lazy = nd.gather(
        da.from_array(x, chunks), dim, da.from_array(index, index_chunks), mode=mode, plan=plan
    )
    want = nbgather.gather(x, dim, index, mode=mode, backend="reference")
    assert lazy.dtype == x.dtype
    assert lazy.shape == want.shape
    assert lazy.chunks[dim] == index_chunks[dim]
    same(lazy.compute(scheduler="sync"), want)


@pytest.mark.parametrize("plan", PLANS)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_take_along_axis_over_random_chunks(plan: str, data: st.DataObject) -> None:
    x, axis, index, mode, chunks, index_chunks = data.draw(problems(along=True, plan=plan))
    arr, indices = da.from_array(x, chunks), da.from_array(index, index_chunks)
    lazy = nd.take_along_axis(arr, indices, axis, mode=mode, plan=plan)
    want = nbgather.take_along_axis(x, index, axis, mode=mode, backend="reference")
    same(lazy.compute(scheduler="sync"), want)


KINDS = ("bool", "float16", "float32", "datetime64[ms]", "complex128")  # one of each item size
INDEX_KINDS = ("int64", "int8", "int32")
MODES = ("raise", "clip", "wrap", "fill")
CALLS = ("gather", "take_along_axis")


def kernels() -> Iterator[Any]:
    """Every combination; without ``large`` ones, every pair of two of the four is there."""
    for (d, dtype), (m, mode), (c, call) in itertools.product(
        enumerate(KINDS), enumerate(MODES), enumerate(CALLS)
    ):
        for n, index_dtype in enumerate(INDEX_KINDS):
            chosen = c == (d + m) % 2 and n == (d + m // 2 + c) % 3
            marks = () if chosen else pytest.mark.large
            yield pytest.param(dtype, index_dtype, mode, call, marks=marks)


@pytest.mark.parametrize("dtype, index_dtype, mode, call", list(kernels()))
def test_gather_of_every_kernel(dtype: str, index_dtype: str, mode: str, call: str) -> None:
    generator = rng(dtype + index_dtype + mode + call)
    x = random_bits(generator, (4, 11, 5), DTYPES[dtype])
    low, high = (-11 if call == "take_along_axis" else 0, 10) if mode == "raise" else (-30, 30)
    index = generator.integers(low, high + 1, (4, 9, 5)).astype(index_dtype)
    lazy, indices = (
        da.from_array(x, ((3, 1), (2, 5, 1, 3), (4, 1))),
        da.from_array(index, (2, 4, 5)),
    )
    for inner in (slice(None), slice(0, 1)):  # items of five and of one
        a, i, lazy_a, lazy_i = (v[..., inner] for v in (x, index, lazy, indices))
        if call == "gather":
            got = nd.gather(lazy_a, 1, lazy_i, mode=mode, plan="list")
            want = nbgather.gather(a, 1, i, mode=mode, backend="reference")
        else:
            got = nd.take_along_axis(lazy_a, lazy_i, 1, mode=mode, plan="list")
            want = nbgather.take_along_axis(a, i, 1, mode=mode, backend="reference")
        same(got.compute(scheduler="sync"), want)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_gather_tokens_of_any_dtype(plan: str, dtype: str) -> None:
    x = random_bits(rng(dtype), (6, 9, 4), DTYPES[dtype])
    ids = rng(dtype).integers(0, 9, (6, 5))
    lazy = da.from_array(x, (4, 2, 3))
    want = nbgather.gather_tokens(x, ids, backend="reference")
    for array in (ids, da.from_array(ids, (5, 2))):
        same(nd.gather_tokens(lazy, array, plan=plan).compute(), want)
    got = nd.gather_tokens(lazy, ids + 7, mode="fill", plan=plan).compute()
    same(got, nbgather.gather_tokens(x, ids + 7, mode="fill", backend="reference"))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    "name", ["index_uint64", "index_uint8", "transposed", "read_only", "swapped_index"]
)
def test_shared_cases(plan: str, name: str) -> None:
    x, dim, index = CASES[name]()
    got = nd.gather(da.from_array(x, 2), dim, da.from_array(index, 3), plan=plan)
    same(got.compute(), nbgather.gather(x, dim, index, backend="reference"))


@pytest.mark.parametrize("plan", PLANS)
def test_huge_unsigned_indices(plan: str) -> None:
    x = np.arange(10.0)
    index = np.array([0, 9, 10, 2**63, 2**64 - 1, 2**63 + 7], np.uint64)
    for mode in ("clip", "wrap", "fill"):
        got = nd.gather(da.from_array(x, 3), 0, da.from_array(index, 2), mode=mode, plan=plan)
        same(got.compute(), nbgather.gather(x, 0, index, mode=mode, backend="reference"))


@pytest.mark.parametrize("plan", PLANS)
def test_bad_indices_are_told_of_by_their_place_in_the_whole(plan: str) -> None:
    x, index = np.zeros((6, 8)), np.zeros((6, 7), int)
    index[4, 5] = 8
    lazy = nd.gather(da.from_array(x, (2, 3)), 1, da.from_array(index, (3, 2)), plan=plan)
    with pytest.raises(IndexError) as ours:
        lazy.compute()
    with pytest.raises(IndexError) as theirs:
        nbgather.gather(x, 1, index, backend="reference")
    assert str(ours.value) == str(theirs.value)


def test_what_is_refused_when_the_graph_is_built() -> None:
    x, index = da.zeros((4, 5), chunks=2), da.zeros((4, 5), chunks=2, dtype=int)
    with pytest.raises(ValueError, match="index"):
        nd.gather(x, 1, da.zeros((5, 5), chunks=2, dtype=int))
    with pytest.raises(TypeError, match="index has dtype float64"):
        nd.gather(x, 1, x)
    with pytest.raises(IndexError, match="dim 2 is out of range"):
        nd.gather(x, 2, index)
    with pytest.raises(ValueError, match="plan is 'best'"):
        nd.gather(x, 1, index, plan="best")
    with pytest.raises(TypeError, match="a Dask array is needed"):
        nd.gather(np.zeros((4, 5)), 1, index)
    with pytest.raises(ValueError, match="fill_value 1000 cannot be held in dtype int8"):
        nd.gather(x.astype("i1"), 1, index, mode="fill", fill_value=1000)
    with pytest.raises(TypeError, match="holds Python objects"):
        nd.gather(x.astype(object), 1, index)


def unknown(array: np.ndarray, chunks: Any, axis: int) -> da.Array:
    """The same values in chunks of unknown size along an axis."""
    lazy = da.from_array(array, chunks)
    sizes = [c if d != axis else (float("nan"),) * len(c) for d, c in enumerate(lazy.chunks)]
    return da.Array(lazy.dask, lazy.name, tuple(sizes), dtype=lazy.dtype, meta=lazy._meta)


def test_unknown_chunk_sizes() -> None:
    x, index = random_bits(rng("u"), (6, 8), "i4"), rng("u").integers(0, 8, (6, 7))
    want = nbgather.gather(x, 1, index)
    for lazy, lazy_index in (
        (unknown(x, (2, 3), 1), da.from_array(index, (3, 2))),
        (da.from_array(x, (2, 3)), unknown(index, (2, 2), 1)),
        (unknown(x, (2, 3), 0), unknown(index, (2, 4), 0)),
    ):
        same(nd.gather(lazy, 1, lazy_index).compute(), want)
    with pytest.raises(ValueError, match="plan 'tree' must know them"):
        nd.gather(unknown(x, (2, 3), 1), 1, da.from_array(index, 3), plan="tree")
    with pytest.raises(ValueError, match="chunk sizes along dimension 0 are unknown"):
        nd.gather(unknown(x, (2, 3), 0), 1, da.from_array(index, (3, 2)))
    index[5, 6] = 8
    bad = nd.gather(unknown(x, (2, 3), 0), 1, unknown(index, (2, 4), 0))
    with pytest.raises(IndexError, match=r"index 8 at \(\?, 6\) is out of bounds"):
        bad.compute()


def test_the_plan_follows_the_budget_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    x, index = da.zeros((100, 1000), chunks=50), da.zeros((100, 10), chunks=50, dtype=int)
    with caplog.at_level(logging.INFO, "nbgather.dask"):
        assert "list" in nd.gather(x, 1, index).name
        assert "tree" in nd.gather(x, 1, index, budget="100 kiB").name
    assert "400000 bytes, within the budget of 536870912" in caplog.text
    assert "400000 bytes, above the budget of 102400" in caplog.text


def test_it_is_lazy_and_keeps_to_one_thread() -> None:
    def burst(block: np.ndarray) -> np.ndarray:
        raise RuntimeError("computed")

    x = da.zeros((4, 4), chunks=2).map_blocks(burst, meta=np.empty((0, 0)))
    lazy = nd.gather(x, 1, np.zeros((4, 3), int))
    with pytest.raises(RuntimeError, match="computed"):
        lazy.compute()


def test_the_top_level_functions_take_dask_arrays() -> None:
    x, index = random_bits(rng("top"), (6, 8, 3), "f4"), rng("top").integers(0, 8, (6, 5, 3))
    lazy = da.from_array(x, (2, 3, 2))
    got = nbgather.gather(lazy, 1, da.from_array(index, 2))
    assert isinstance(got, da.Array)
    same(got.compute(), nbgather.gather(x, 1, index))
    same(nbgather.gather(lazy, 1, index).compute(), nbgather.gather(x, 1, index))
    same(nbgather.take_along_axis(lazy, index, 1).compute(), np.take_along_axis(x, index, 1))
    ids = index[..., 0]
    same(nbgather.gather_tokens(lazy, ids).compute(), nbgather.gather_tokens(x, ids))
    got = nbgather.random_masking(lazy, 0.5, seed=2).x_masked.compute()
    same(got, nbgather.random_masking(x, 0.5, seed=2).x_masked)
    noise = nbgather.token_noise(3, da.arange(6, chunks=4), 9)
    same(noise.compute(), nbgather.token_noise(3, 6, 9))
    images = random_bits(rng("top"), (4, 3, 8, 8), "u1")
    got = nbgather.masked_patchify(da.from_array(images, (3, 2, 5, 5)), 4, 0.5, seed=2)
    same(got.x_masked.compute(), nbgather.masked_patchify(images, 4, 0.5, seed=2).x_masked)
    with pytest.raises(TypeError, match="infer_gather does not take Dask arrays"):
        nbgather.infer_gather(lazy, lazy)
    with pytest.raises(ValueError, match=r"out= or backend= was given for Dask arrays"):
        nbgather.gather(lazy, 1, da.from_array(index, 2), backend="cpu")


@pytest.mark.parametrize("chunks", [1, 3, 7, (2, 4, 1), 100])
def test_masks_do_not_depend_on_chunks(chunks: Any) -> None:
    x = random_bits(rng("m"), (7, 12, 5), "f4")
    lazy = da.from_array(x, (chunks, 5, 2))
    ids = np.arange(7) * 1000 - 3
    noise = rng("m").random((7, 12), np.float32)
    for options, theirs in (
        ({"seed": 3, "epoch": 4}, {"seed": 3, "epoch": 4}),
        ({"seed": -3, "sample_ids": ids}, {"seed": -3, "sample_ids": ids}),
        ({"noise": da.from_array(noise, (3, 4))}, {"noise": noise}),
        ({"seed": 1, "num_keep": 5}, {"seed": 1, "num_keep": 5}),
    ):
        got = nd.random_masking(lazy, 0.6, **options)
        for a, b in zip(dask.compute(*got), nbgather.random_masking(x, 0.6, **theirs), strict=True):
            same(a, b)
        assert got.x_masked.chunks[0] == lazy.chunks[0]


def test_masked_patches() -> None:
    images = random_bits(rng("p"), (5, 3, 8, 12), "u1")
    lazy = da.from_array(images, (2, 1, 4, 12))
    options: dict[str, Any] = {"seed": 3, "scale": 1 / 255, "mean": 0.5, "std": (0.1, 0.2, 0.3)}
    got = nd.masked_patchify(lazy, (4, 3), 0.5, **options)
    for a, b in zip(got, nbgather.masked_patchify(images, (4, 3), 0.5, **options), strict=True):
        same(a.compute(), b)


def test_maskings_that_are_refused() -> None:
    x = da.zeros((6, 8, 3), chunks=2)
    with pytest.raises(ValueError, match="neither noise nor seed"):
        nd.random_masking(x)
    with pytest.raises(ValueError, match="both noise and seed"):
        nd.random_masking(x, seed=0, noise=da.zeros((6, 8)))
    with pytest.raises(ValueError, match="a number for each of the 6 samples"):
        nd.random_masking(x, seed=0, num_keep=[1] * 5)
    with pytest.raises(ValueError, match="sample_ids"):
        nd.random_masking(x, seed=0, sample_ids=np.arange(5))
    loose = unknown(np.zeros((6, 8, 3)), 2, 0)
    with pytest.raises(ValueError, match="the samples have no positions: give sample_ids"):
        nd.random_masking(loose, seed=0)
    got = nd.random_masking(loose, seed=0, sample_ids=da.arange(6, chunks=2)).mask.compute()
    same(got, nbgather.random_masking(np.zeros((6, 8, 3)), seed=0).mask)
    with pytest.raises(ValueError, match="chunk sizes of x along dimension 1 are unknown"):
        nd.random_masking(unknown(np.zeros((6, 8, 3)), 2, 1), seed=0)


def test_xarray_through_apply_ufunc() -> None:
    x = random_bits(rng("x"), (4, 9, 3), "f4")
    index = rng("x").integers(0, 9, (4, 5, 3))
    data = xarray.DataArray(da.from_array(x, (2, 4, 3)), dims=("n", "token", "c"))
    picks = xarray.DataArray(da.from_array(index, (2, 5, 3)), dims=("n", "pick", "c"))
    got = xarray.apply_ufunc(
        lambda a, i: nd.take_along_axis(a, i, -1), data, picks,
        input_core_dims=[["token"], ["pick"]], output_core_dims=[["pick"]], dask="allowed",
    )  # fmt: skip
    assert isinstance(got.data, da.Array)
    want = np.take_along_axis(x.transpose(0, 2, 1), index.transpose(0, 2, 1), -1)
    assert got.transpose("n", "c", "pick").values.tobytes() == want.tobytes()


CLUSTER = """
import os, sys, time
import dask.array as da, numpy as np
from dask.distributed import Client, LocalCluster
import nbgather
from nbgather import dask as nd

def slow(block, marker):
    # The first worker that comes here dies, with what it had computed.
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), 9)
    time.sleep(0.01)
    return block

if __name__ == "__main__":
    marker = sys.argv[1]
    x = np.random.default_rng(0).random((16, 40, 6), np.float32)
    index = np.random.default_rng(1).integers(0, 40, (16, 30, 6))
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster):
            cut = da.from_array(x, (4, 10, 6)), da.from_array(index, (4, 8, 6))
            for plan in ("concatenate", "list", "tree", None):
                lazy = nd.gather(cut[0], 1, cut[1], plan=plan)
                assert lazy.compute().tobytes() == nbgather.gather(x, 1, index).tobytes()
                assert nd.explain(lazy)[0].moved >= 0
            lazy = nbgather.scatter(cut[0], 1, cut[1], 1.0)
            assert lazy.compute().tobytes() == nbgather.scatter(x, 1, index, 1.0).tobytes()
            lazy = nbgather.rank_tokens(cut[0][..., 0], 9).ids_restore
            want = nbgather.rank_tokens(x[..., 0], 9).ids_restore
            assert lazy.compute().tobytes() == want.tobytes()
            lazy = nd.random_masking(da.from_array(x, (3, 40, 6)), 0.75, seed=5)
            want = nbgather.random_masking(x, 0.75, seed=5)
            assert lazy.x_masked.compute().tobytes() == want.x_masked.tobytes()
            dying = da.from_array(x, (2, 10, 6)).map_blocks(slow, marker, meta=x[:0])
            lazy = nd.gather(dying, 1, da.from_array(index, (2, 30, 6)))
            assert lazy.compute().tobytes() == nbgather.gather(x, 1, index).tobytes()
            assert os.path.exists(marker)
    print("done")
"""


def test_two_processes_and_a_worker_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "marker")],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr[-3000:]


FAULTS = """
import sys, time
import dask, dask.array as da, numpy as np
from dask.distributed import Client, LocalCluster, wait
import nbgather
from nbgather import dask as nd

def slow(block):
    time.sleep(0.2)
    return block

if __name__ == "__main__":
    # A worker has less memory than the array: what waits is spilled to disk.
    memory = {"target": 0.4, "spill": 0.5, "pause": 0.9}
    dask.config.set({f"distributed.worker.memory.{k}": part for k, part in memory.items()})
    dask.config.set({"temporary-directory": sys.argv[1]})
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    x = np.random.default_rng(0).random((512, 131072), np.float32)
    index = np.random.default_rng(1).integers(0, 131072, (512, 4096))
    want = nbgather.gather(x, 1, index)
    with LocalCluster(**options, memory_limit="640 MiB") as cluster, Client(cluster) as client:
        parts = da.random.default_rng(0).random((512, 131072), np.float32, chunks=(64, 16384))
        kept = parts.persist()
        wait(kept)
        whole = [kept[n : n + 64].compute() for n in range(0, 512, 64)]
        want_of_parts = nbgather.gather(np.concatenate(whole), 1, index)
        for plan in ("concatenate", "list", "tree"):
            got = nd.gather(kept, 1, da.from_array(index, (64, 2048)), plan=plan).compute()
            assert got.tobytes() == want_of_parts.tobytes(), plan
        del kept
        # Workers that come while it is computed take a part of it.
        made = da.from_array(x[:, :16384], (32, 4096)).map_blocks(slow, meta=x[:0])
        few = da.from_array(index % 16384, (32, -1))
        lazy = nd.gather(made.persist(), 1, few, plan="tree")
        future = client.compute(lazy)
        cluster.scale(3)
        got = future.result()
        assert got.tobytes() == nbgather.gather(x[:, :16384], 1, index % 16384).tobytes()
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 3
    print("done")
"""


@pytest.mark.large
def test_a_worker_that_spills_and_workers_that_come_late(tmp_path: Path) -> None:
    script = tmp_path / "faults.py"
    script.write_text(FAULTS)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=500
    )
    assert done.stdout == "done\n", done.stderr[-3000:]


def test_a_task_runs_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's threads are as many as there are cores: ours beside them would be too many."""
    seen = []
    run = blocks._NUMPY.execute

    def execute(*arguments: Any) -> Any:
        seen.append(nbgather.get_num_threads())
        return run(*arguments)

    monkeypatch.setattr(blocks._NUMPY, "execute", execute)
    x, index = da.zeros((8, 400), chunks=(4, 50)), da.zeros((8, 300), chunks=(4, 100), dtype=int)
    nd.gather(x, 1, index, plan="concatenate").compute()
    nbgather.rank_tokens(x, 3).mask.compute()
    nbgather.scatter(x, 1, index, 1.0).compute()
    nd.random_masking(x, seed=0).mask.compute()
    assert len(seen) > 8
    assert set(seen) == {1}


# Larger than memory may be

LARGE = """
import re, sys
import dask, dask.array as da, numpy as np, zarr
from nbgather import dask as nd

def peak():
    # Not ru_maxrss, which a process inherits from the one that started it.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

source, target, kind, length, piece, held = sys.argv[1:]
with dask.config.set(scheduler="threads", num_workers=2):
    x = da.from_zarr(source)
    if held == "whole":
        x = da.from_array(x.compute(), x.chunks)
    if kind == "gather":
        # The dimension that is gathered along is chunked.
        shape, cut = (x.shape[0], int(length)), (x.chunks[0][0], int(piece))
        index = da.random.default_rng(0).integers(0, x.shape[1], shape, chunks=cut)
        lazy = nd.gather(x, 1, index, budget="64 MiB")
    else:
        lazy = nd.masked_patchify(x, 16, 0.75, seed=0).x_masked
    da.to_zarr(lazy, target)
print(peak())
"""


class Sizes(NamedTuple):
    """An input on disk, and for a gather how long its index is and the index's chunks."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    length: int = 0
    piece: int = 0

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * 4


@contextlib.contextmanager
def room_for(folder: Path, gibibytes: int) -> Iterator[None]:
    """A folder for gigabytes, which are gone after the test."""
    free = shutil.disk_usage(folder).free >> 30
    if free < gibibytes:
        pytest.skip(f"{free} GiB of disk are free, and {gibibytes} are needed")
    try:
        yield
    finally:
        shutil.rmtree(folder)


def write_source(folder: Path, sizes: Sizes) -> None:
    shape, chunks = sizes.shape, sizes.chunks
    source = zarr.create_array(
        str(folder / "x.zarr"), shape=shape, chunks=chunks, dtype="f4", compressors=None
    )
    block = np.arange(math.prod(chunks), dtype=np.float32).reshape(chunks)
    for n in range(0, shape[0], chunks[0]):
        for m in range(0, shape[1], chunks[1]):
            block[:, 0] = n + m
            source[n : n + chunks[0], m : m + chunks[1]] = block


def peak_of(folder: Path, kind: str, sizes: Sizes, held: str = "chunks") -> float:
    """The MiB at most in use where a gather or masking runs from disk to disk; a few are compared.

    ``held`` is ``whole`` where the input is to be read as one array first.
    """
    script, target = folder / "large.py", folder / f"{held}.zarr"
    script.write_text(LARGE)
    arguments = (folder / "x.zarr", target, kind, sizes.length, sizes.piece, held)
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = slice(96, 98)
    x = zarr.open_array(str(folder / "x.zarr"), mode="r")[rows]
    if kind == "gather":
        shape, pieces = (sizes.shape[0], sizes.length), (sizes.chunks[0], sizes.piece)
        index = da.random.default_rng(0).integers(0, sizes.shape[1], shape, chunks=pieces)
        want = nbgather.gather(x, 1, index[rows].compute())
    else:
        ids = np.array([96, 97])
        want = nbgather.masked_patchify(x, 16, 0.75, seed=0, sample_ids=ids).x_masked
    same(np.ascontiguousarray(zarr.open_array(str(target), mode="r")[rows]), want)
    return float(done.stdout)


#: Half a gibibyte, of which a process holds some 340 MiB at most, libraries and all; read as one
#: array it holds 1400.
HALF = {
    "gather": Sizes((4096, 32768), (128, 8192), 8192, 1024),
    "patches": Sizes((176, 3, 512, 512), (4, 3, 512, 512)),
}
FOUR_GIGABYTES = {
    "gather": Sizes((16384, 65536), (512, 16384), 16384, 2048),
    "patches": Sizes((1344, 3, 512, 512), (16, 3, 512, 512)),
}
HALF_PEAK_MIB = 450


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.large if k == "patches" else ()) for k in HALF]
)
def test_half_a_gibibyte_in_less(tmp_path: Path, kind: str) -> None:
    assert HALF[kind].nbytes >= 2**29
    with room_for(tmp_path, 2):
        write_source(tmp_path, HALF[kind])
        assert peak_of(tmp_path, kind, HALF[kind]) < HALF_PEAK_MIB
        if kind == "patches":  # and the limit notices the whole
            assert peak_of(tmp_path, kind, HALF[kind], "whole") > HALF_PEAK_MIB + 200


@pytest.mark.large
@pytest.mark.parametrize("kind, peak", [("gather", 800), ("patches", 800)])
def test_four_gigabytes_in_800_mebibytes(tmp_path: Path, kind: str, peak: int) -> None:
    assert FOUR_GIGABYTES[kind].nbytes >= 4 * 10**9
    with room_for(tmp_path, 8):
        write_source(tmp_path, FOUR_GIGABYTES[kind])
        assert peak_of(tmp_path, kind, FOUR_GIGABYTES[kind]) < peak


# The command


def command(*arguments: Any) -> list[str]:
    code = "from nbgather.apps.cli import main; main()"
    return [sys.executable, "-c", code, "mask-dataset", *map(str, arguments)]


class Ended(NamedTuple):
    """How a command ended."""

    returncode: Any
    stdout: str
    stderr: str


def in_process(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: Any) -> Ended:
    """The same command in this process, where dask is loaded already."""
    monkeypatch.setattr(sys, "argv", ["nbgather", "mask-dataset", *map(str, arguments)])
    code: Any = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    return Ended(code, *capsys.readouterr())


def result(path: Path) -> tuple[np.ndarray, ...]:
    group = zarr.open_group(str(path), mode="r")
    return tuple(np.asarray(group[name]) for name in ("x_masked", "mask", "ids_restore"))


@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_mask_dataset(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    images = random_bits(rng("ds"), (23, 3, 8, 8), "u1")
    source = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(source, images)
    else:
        zarr.save_array(str(source), images)
    arguments = (
        source, tmp_path / "y.zarr", "--seed", 5, "--ratio", 0.5, "--patch", 4, "--chunk", 4,
        "--scale", 0.5,
    )  # fmt: skip
    done: Any
    if kind == "npy":
        done = subprocess.run(command(*arguments), capture_output=True, text=True)
    else:
        done = in_process(monkeypatch, capsys, *arguments)
    assert done.returncode == 0, done.stderr
    want = nbgather.masked_patchify(images, 4, 0.5, seed=5, scale=0.5)
    for a, b in zip(result(tmp_path / "y.zarr"), want, strict=True):
        same(a, b)


def test_mask_dataset_goes_on_after_a_kill(tmp_path: Path) -> None:
    tokens = random_bits(rng("kill"), (2000, 16, 64), "f4")
    np.save(tmp_path / "x.npy", tokens)
    target = tmp_path / "y.zarr"
    run = command(tmp_path / "x.npy", target, "--seed", 9, "--chunk", 10)
    journal = target / ".nbgather" / "done"
    killed = 0
    for chunks in (3, 30, 75):
        with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            until = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < until:
                if sum(p.name.isdigit() for p in journal.glob("*")) >= chunks:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.002)
            process.wait()
            killed += process.returncode == -signal.SIGKILL
    assert killed == 3
    complete = {p.name for p in journal.iterdir() if p.name.isdigit()}
    assert 75 <= len(complete) < 200
    parts = {n: target / "ids_restore" / "c" / n / "0" for n in complete}
    before = {n: part.stat().st_mtime_ns for n, part in parts.items()}
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not journal.exists()  # all is done
    after = {n: part.stat().st_mtime_ns for n, part in parts.items()}
    assert after == before  # nothing was done twice
    for a, b in zip(result(target), nbgather.random_masking(tokens, seed=9), strict=True):
        same(a, b)


def test_mask_dataset_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((6, 8, 2), np.float32))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    good = in_process(monkeypatch, capsys, tmp_path / "x.npy", tmp_path / "y.zarr", "--seed", 1)
    assert good.returncode == 0, good.stderr
    run = command(tmp_path / "no.npy", tmp_path / "z", "--seed", 1)
    alone = subprocess.run(run, capture_output=True, text=True)
    for arguments, text in (
        ((tmp_path / "no.npy", tmp_path / "z"), "there is no"),
        ((tmp_path / "text.npy", tmp_path / "z"), "no array of numbers"),
        ((tmp_path / "other", tmp_path / "z"), "is no zarr array"),
        ((tmp_path / "x.npy", tmp_path / "other"), "holds something else"),
        ((tmp_path / "x.npy", tmp_path / "y.zarr", "--ratio", 0.5), "begun with other settings"),
        ((tmp_path / "x.npy", tmp_path / "z", "--ratio", 2), "mask_ratio"),
        ((tmp_path / "x.npy", tmp_path / "z", "--patch", 4), "images"),
        ((tmp_path / "x.npy", tmp_path / "z", "--chunk", 0), "chunk is 0"),
    ):  # fmt: skip
        done = in_process(monkeypatch, capsys, *arguments, "--seed", 1)
        assert done.returncode == 2, (arguments, done.stderr)
        assert text in done.stderr.replace("\n", " "), done.stderr
        assert done.stderr.count("\n") == 1
        if text == "there is no":  # a process of its own ends with the same words
            assert (alone.returncode, alone.stdout, alone.stderr) == done
    assert (tmp_path / "other" / "letter.txt").read_text() == "dear"
    assert not (tmp_path / "z").exists()


def test_ray_data_by_an_id_column() -> None:
    """The recipe of the documentation, where ray is installed; it is in no extra of ours."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        images = random_bits(rng("ray"), (20, 3, 8, 8), "u1")
        want = nbgather.masked_patchify(images, 4, 0.5, seed=0, epoch=3)

        def mask(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            masked = nbgather.masked_patchify(
                batch["image"], 4, 0.5, seed=0, epoch=3, sample_ids=batch["id"]
            )
            return {"id": batch["id"], "visible": masked.x_masked, "ranks": masked.ids_restore}

        for blocks in (3, 7):
            rows = [{"id": n, "image": image} for n, image in enumerate(images)]
            data = ray.data.from_items(rows).repartition(blocks)
            rows = sorted(data.map_batches(mask, batch_size=6).take_all(), key=lambda r: r["id"])
            same(np.stack([row["visible"] for row in rows]), want.x_masked)
            same(np.stack([row["ranks"] for row in rows]), want.ids_restore)
    finally:
        ray.shutdown()


@pytest.mark.parametrize(
    ("name", "reduce"),
    [("float32", "sum"), ("float32", "mean"), ("float32", "amax"), ("float16", "mean"),
     ("int8", "mean")],
)  # fmt: skip
def test_an_index_in_chunks_is_reduced_chunk_by_chunk(name: str, reduce: str) -> None:
    """With the bits of one call: floats in row-major order of the whole, others as a tree."""
    generator = np.random.default_rng(4)
    x, src = (generator.standard_normal((6, n)) * 9 for n in (7, 23))
    x, src, index = x.astype(name), src.astype(name), generator.integers(0, 5, (6, 23))
    index[:, -1] = 6
    for own, chunks in itertools.product((True, False), (4, 5)):
        want = nbgather.scatter_reduce(
            x, 1, index, src, reduce, include_self=own, backend="reference"
        )
        lazy = da.from_array(index, chunks=chunks)
        given = da.from_array(x, chunks=3), 1, lazy, da.from_array(src, chunks=7)
        got = nbgather.scatter_reduce(*given, reduce, include_self=own)
        tasks = [key for key in got.dask if "nbgather" in str(key[0])]
        assert len(tasks) >= len(lazy.chunks[1]) * got.npartitions
        result = got.compute(scheduler="sync")
        assert (result.dtype, result.tobytes()) == (want.dtype, want.tobytes())
    bad = index.copy()
    bad[3, 17] = 7
    lazy = da.from_array(bad, chunks=5)
    with pytest.raises(IndexError, match=r"index 7 at \(3, 17\) is out of bounds"):
        nbgather.scatter_reduce(given[0], 1, lazy, given[3], reduce).compute(scheduler="sync")


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax"])
def test_reductions_have_the_bits_of_one_call_for_any_chunks(reduce: str) -> None:
    generator = np.random.default_rng(3)
    x, src = (generator.standard_normal((6, n, 5)).astype(np.float32) for n in (7, 9))
    index = generator.integers(0, 7, src.shape)
    for own in (True, False):
        want = nbgather.scatter_reduce(x, 1, index, src, reduce, include_self=own)
        for chunks in (-1, (2, 7, 3), (4, 3, 5)):
            given = da.from_array(x, chunks=chunks), index, da.from_array(src, chunks=3)
            got = nbgather.scatter_reduce(given[0], 1, *given[1:], reduce, include_self=own)
            assert isinstance(got, da.Array)
            result = got.compute()
            assert (result.dtype, result.tobytes()) == (want.dtype, want.tobytes())
    index[5, 8, 4] = 7
    with pytest.raises(
        IndexError, match=r"index 7 at \(5, 8, 4\) is out of bounds for dimension 1"
    ):
        nbgather.scatter_add(given[0], 1, index, given[2]).compute()
    with pytest.raises(ValueError, match="off dim 1 both must be of the same size"):
        nbgather.scatter_add(given[0], 1, index[:3], given[2])
