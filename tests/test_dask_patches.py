"""Patches, strategies and what comes beside a chunked array: any chunks, the bits of NumPy."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from cases import random_bits, rng, same
from hypothesis import given, settings
from hypothesis import strategies as st

import nbgather
from nbgather import dask as nd
from nbgather import strategies


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
def problems(draw: Any) -> tuple[Any, ...]:
    """Images or video, their chunks and those of their patches, and a patch size."""
    sides = draw(st.sampled_from([2, 3]))
    sizes = tuple(draw(st.integers(1, 3)) for _ in range(sides))
    grid = tuple(draw(st.integers(0 if d == 0 else 1, 3)) for d in range(sides))
    shape = (
        draw(st.integers(0, 5)), draw(st.integers(1, 3)),
        *(g * p for g, p in zip(grid, sizes, strict=True)),
    )  # fmt: skip
    # Kernels are compiled for each size of item: tests/test_patches.py has the other sizes.
    dtype = draw(st.sampled_from([">f4", "u4", "S4"]))
    images = random_bits(np.random.default_rng(draw(st.integers(0, 2**32))), shape, dtype)
    tokens = shape[0], int(np.prod(grid)), int(np.prod(sizes)) * shape[1]
    chunks = tuple(draw(cut(n)) for n in shape)
    return images, sizes, chunks, tuple(draw(cut(n)) for n in tokens)


def grid_of(images: np.ndarray, sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(s // p for s, p in zip(images.shape[2:], sizes, strict=True))


def check_lazy(lazy: Any, want: np.ndarray, chunks: tuple[Any, ...]) -> None:
    """Dtype, chunks and meta as promised before anything is computed, and then the bits."""
    assert isinstance(lazy, da.Array)
    assert lazy.dtype == want.dtype
    assert lazy.chunks == chunks
    assert type(lazy._meta) is np.ndarray
    assert lazy._meta.dtype == want.dtype
    assert lazy._meta.ndim == want.ndim
    assert sum(lazy._meta.shape) == 0
    same(lazy.compute(scheduler="sync"), want)


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_patches_and_back_over_random_chunks(problem: tuple[Any, ...]) -> None:
    images, sizes, chunks, patch_chunks = problem
    want = nbgather.patchify(images, sizes)
    lazy = nbgather.patchify(da.from_array(images, chunks), sizes)
    check_lazy(lazy, want, (chunks[0], *((n,) for n in want.shape[1:])))
    if 0 in grid_of(images, sizes):
        return  # image_size has no 0
    back = nbgather.unpatchify(da.from_array(want, patch_chunks), sizes, images.shape[2:])
    whole = nbgather.unpatchify(want, sizes, images.shape[2:])
    check_lazy(back, whole, (patch_chunks[0], *((n,) for n in whole.shape[1:])))
    same(whole, images)


def unknown(array: np.ndarray, chunks: Any, axis: int = 0) -> da.Array:
    """The same values in chunks of unknown size along an axis."""
    lazy = da.from_array(array, chunks)
    sizes = [c if d != axis else (float("nan"),) * len(c) for d, c in enumerate(lazy.chunks)]
    return da.Array(lazy.dask, lazy.name, tuple(sizes), dtype=lazy.dtype, meta=lazy._meta)


def test_patches_of_unknown_numbers_of_samples() -> None:
    images = random_bits(rng("unknown"), (5, 3, 8, 12), "u1")
    lazy = nbgather.patchify(unknown(images, (2, 1, 5, 5)), (4, 3))
    want = nbgather.patchify(images, (4, 3))
    assert np.isnan(lazy.shape[0])
    assert lazy.shape[1:] == want.shape[1:]
    same(lazy.compute(), want)
    same(nbgather.unpatchify(lazy, (4, 3), (8, 12)).compute(), images)
    kept = images[:, 0, 0, 0] > 100
    some = nbgather.patchify(da.from_array(images, 2)[da.from_array(kept, 2)], 4)
    same(some.compute(), nbgather.patchify(images[kept], 4))
    with pytest.raises(ValueError, match="chunk sizes of images along dimension 2 are unknown"):
        nbgather.patchify(unknown(images, 4, 2), 4)
    with pytest.raises(ValueError, match="chunk sizes of patches along dimension 1 are unknown"):
        nbgather.unpatchify(unknown(want, 4, 1), (4, 3), (8, 12))


def burst(block: np.ndarray) -> np.ndarray:
    raise RuntimeError("computed")


def bursting(shape: tuple[int, ...], dtype: Any = "f4") -> da.Array:
    return da.zeros(shape, chunks=2, dtype=dtype).map_blocks(
        burst, meta=np.empty((0,) * len(shape), dtype)
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda: nbgather.patchify(bursting((4, 3, 4, 4)), 2),
        lambda: nbgather.unpatchify(bursting((4, 4, 12)), 2, 4),
        lambda: strategies.tube(0, bursting((4,), "i8"), (2, 3, 3)),
        lambda: strategies.block(0, bursting((4,), "i8"), (3, 3)),
        lambda: nbgather.random_masking(bursting((4, 5, 2)), num_keep=[1, 2, 3, 1], seed=0).valid,
    ],
)
def test_it_is_lazy(call: Callable[[], Any]) -> None:
    lazy = call()
    with pytest.raises(RuntimeError, match="computed"):
        lazy.compute()


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda x: nbgather.patchify(x, 3), "cannot be cut into patches"),
        (lambda x: nbgather.patchify(x, (1, 2, 2)), "2 numbers are needed"),
        (lambda x: nbgather.patchify(x[0], 2), r"\[N, C, H, W\]"),
        (lambda x: nbgather.unpatchify(x, 2, 4), "patches has shape"),
        (lambda x: nbgather.unpatchify(x[:, :, 0], 2, 6), "patches has shape"),
        (lambda x: nbgather.unpatchify(x[:, :, 0], 5, 4), "cannot be cut"),
    ],
)
def test_the_errors_are_those_of_numpy_and_come_early(
    call: Callable[[Any], Any], error: str
) -> None:
    x = np.zeros((2, 4, 4, 8), np.float32)
    with pytest.raises((ValueError, TypeError), match=error) as theirs:
        call(x)
    with pytest.raises(type(theirs.value)) as ours:
        call(da.from_array(x, (1, 1, 2, 3)))
    assert str(ours.value) == str(theirs.value)


def own_spatial(
    seed: int, sample_ids: Any, grid: Any, *, epoch: int = 0, backend: str | None = None
) -> np.ndarray:
    """A strategy of a user's own, written for NumPy, and of float64."""
    return np.outer(np.asarray(sample_ids) + seed, np.arange(np.prod(grid))).astype(np.float64)


GRID = (3, 4, 4)
STRATEGIES: dict[str, Callable[..., Any]] = {
    "random": functools.partial(strategies.random, grid=GRID),
    "block": functools.partial(strategies.block, grid=GRID[1:], wrap=True),
    "grid": functools.partial(strategies.grid, grid=GRID[1:], stride=3),
    "time_frequency": functools.partial(strategies.time_frequency, grid=GRID[1:], axes=(1,)),
    "tube": functools.partial(strategies.tube, grid=GRID),
    "tube of blocks": functools.partial(strategies.tube, grid=GRID, spatial=strategies.block),
    "tube of one's own": functools.partial(strategies.tube, grid=GRID, spatial=own_spatial),
}


@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("chunks", [1, 3, (2, 4, 1), 100])
def test_strategies_over_chunks(name: str, chunks: Any) -> None:
    ids = np.array([5, -3, 2**40, 0, 2**63 - 1, 17, 8])
    ids = ids % 1000 if name == "tube of one's own" else ids
    lazy_ids = da.from_array(ids, (chunks,))
    want = STRATEGIES[name](7, ids, epoch=3)
    lazy = STRATEGIES[name](7, lazy_ids, epoch=3)
    check_lazy(lazy, want, (lazy_ids.chunks[0], (want.shape[1],)))
    same(STRATEGIES[name](7, unknown(ids, (chunks,)), epoch=3).compute(), want)
    narrow = da.from_array((ids % 100).astype("u1"), (chunks,))
    same(STRATEGIES[name](7, narrow).compute(), STRATEGIES[name](7, ids % 100))
    assert STRATEGIES[name](7, lazy_ids, epoch=3).name == lazy.name  # the same call, the same tasks
    assert STRATEGIES[name](7, lazy_ids, epoch=4).name != lazy.name


def test_strategies_of_no_samples_and_through_a_masking() -> None:
    none = strategies.tube(0, da.zeros(0, dtype="i8", chunks=1), GRID)
    same(none.compute(), np.empty((0, 48), np.float32))
    x = random_bits(rng("tube"), (5, 48, 3), "f4")
    scores = strategies.tube(1, da.arange(5, chunks=2), GRID, spatial=strategies.grid)
    lazy = nbgather.random_masking(da.from_array(x, (3, 48, 3)), 0.5, noise=scores)
    want = nbgather.random_masking(
        x, 0.5, noise=strategies.tube(1, 5, GRID, spatial=strategies.grid)
    )
    for a, b in zip(lazy, want, strict=True):
        same(a.compute(), b)


def test_strategies_that_are_refused_when_the_graph_is_built() -> None:
    ids = da.arange(4, chunks=2)
    no_stride = functools.partial(strategies.grid, stride=0)
    for call, error, text in (
        (lambda: strategies.tube(2**64, ids, GRID), ValueError, "seed is"),
        (lambda: strategies.tube(0, ids, GRID, epoch=-1), ValueError, "epoch is -1"),
        (lambda: strategies.tube(0, ids, (3,)), ValueError, "at least one more side"),
        (lambda: strategies.block(0, ids, (3, 3), min_area=20), ValueError, "min_area is 20"),
        (lambda: strategies.tube(0, ids.astype("f4"), GRID), TypeError,
         "sample_ids has dtype float32"),
        (lambda: strategies.grid(0, ids.reshape(2, 2), (3, 3)), ValueError, r"\[N\] is needed"),
        (lambda: strategies.tube(0, ids, GRID, backend="cpu"), ValueError, "out= or backend="),
        (lambda: strategies.block(0, ids, (3, 3), backend="cpu"), ValueError, "out= or backend="),
        (lambda: strategies.tube(0, ids, GRID, spatial=lambda *a, **k: np.zeros((1, 2))),
         ValueError, r"gave shape \(1, 2\)"),
        (lambda: strategies.tube(0, ids, GRID, spatial=no_stride), ValueError, "stride is 0"),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            call()


def test_the_tasks_can_be_sent() -> None:
    arrays = (
        nbgather.patchify(da.zeros((4, 3, 4, 4), chunks=2), 2),
        strategies.tube(0, da.arange(4, chunks=2), GRID, spatial=strategies.block),
        strategies.block(0, da.arange(4, chunks=2), GRID),
    )
    for lazy in arrays:
        same(pickle.loads(pickle.dumps(lazy)).compute(), lazy.compute())


# What comes beside a chunked array


INDEX = np.array([[2, 0], [1, 3], [3, 3]])
SIDES: dict[str, Callable[[np.ndarray], Any]] = {
    "list": np.ndarray.tolist,
    "tuple": lambda a: tuple(a.tolist()),
    "NumPy": lambda a: a,
    "int8": lambda a: a.astype("i1"),
    "uint64": lambda a: a.astype("u8"),
    "swapped": lambda a: a.astype(">i4"),
    "Dask": lambda a: da.from_array(a, 2),
    "Dask uint16": lambda a: da.from_array(a.astype("u2"), 2),
}


@pytest.mark.parametrize("kind", list(SIDES))
def test_an_index_of_any_kind(kind: str) -> None:
    x = random_bits(rng(kind), (3, 4), "f4")
    lazy, index = da.from_array(x, (2, 3)), SIDES[kind](INDEX)
    tokens = random_bits(rng(kind), (3, 4, 2), "f4")
    # Kernels of unusual indices are compiled: one call each.
    only = {"Dask uint16": "gather", "uint64": "take_along_axis", "int8": "gather_tokens"}.get(kind)
    if only in (None, "gather"):
        same(nd.gather(lazy, 1, index).compute(), nbgather.gather(x, 1, INDEX))
    if only in (None, "take_along_axis"):
        same(nd.take_along_axis(lazy, index, 1).compute(), np.take_along_axis(x, INDEX, 1))
    if only in (None, "gather_tokens"):
        got = nd.gather_tokens(da.from_array(tokens, 2), index).compute()
        same(got, nbgather.gather_tokens(tokens, INDEX))


def test_an_index_that_is_a_range_or_empty_or_none_at_all() -> None:
    x = da.from_array(np.arange(5.0), 2)
    assert nd.gather(x, 0, range(4, 0, -2)).compute().tolist() == [4.0, 2.0]
    assert nd.gather(x, 0, []).compute().shape == (0,)
    with pytest.raises(TypeError, match="index has dtype float64: an integer dtype is needed"):
        nd.gather(x, 0, [0.5])
    with pytest.raises(TypeError, match="index has dtype bool: an integer dtype is needed"):
        nd.gather(x, 0, [True])
    with pytest.raises(ValueError, match="index is a list that is no array: rows of one length"):
        nd.gather(x, 0, [[1], [1, 2]])
    with pytest.raises(TypeError, match="index is a list of dtype <U1: numbers"):
        nd.gather(x, 0, ["a"])
    with pytest.raises(TypeError, match="index is of type str: a Dask or NumPy array, a list"):
        nd.gather(x, 0, "a")


@pytest.mark.parametrize("kind", list(SIDES))
def test_sample_ids_of_any_kind(kind: str) -> None:
    x = random_bits(rng(kind), (5, 8, 3), "f4")
    ids = np.array([7, 0, 100, 3, 3])
    want = nbgather.random_masking(x, 0.5, seed=1, sample_ids=ids)
    got = nd.random_masking(da.from_array(x, 2), 0.5, seed=1, sample_ids=SIDES[kind](ids))
    for a, b in zip(got, want, strict=True):
        same(a.compute(), b)
    same(nd.token_noise(1, SIDES[kind](ids), 8).compute(), nbgather.token_noise(1, ids, 8))


def test_sample_ids_that_are_counts_ranges_or_beyond_int64() -> None:
    x = random_bits(rng("count"), (5, 8, 3), "f4")
    lazy = da.from_array(x, 2)
    want = nbgather.random_masking(x, 0.5, seed=1)
    for ids in (5, np.int32(5), range(5)):
        same(nd.random_masking(lazy, 0.5, seed=1, sample_ids=ids).x_masked.compute(), want[0])
        noise = nd.token_noise(1, ids, 8)
        assert isinstance(noise, da.Array)
        same(noise.compute(), nbgather.token_noise(1, 5, 8))
    with pytest.raises(ValueError, match=r"sample_ids has shape \(4,\): one id for each of the 5"):
        nd.random_masking(lazy, seed=1, sample_ids=4)
    huge = np.array([2**64 - 1, 2**63, 1, 2, 3], np.uint64)
    got = nd.random_masking(lazy, 0.5, seed=1, sample_ids=huge).mask.compute()
    same(got, nbgather.random_masking(x, 0.5, seed=1, sample_ids=huge.view(np.int64)).mask)
    for ids in ([0.5] * 5, np.zeros(5, bool)):
        with pytest.raises(TypeError, match=r"sample_ids has dtype (float64|bool)"):
            nd.random_masking(lazy, seed=1, sample_ids=ids)


def test_noise_for_many_ids_is_cut_into_chunks() -> None:
    noise = nd.token_noise(0, 10**6, 196)
    assert noise.shape == (10**6, 196)
    assert max(noise.chunks[0]) * 196 * 4 <= 256 * 2**20
    same(noise[-3:].compute(), nbgather.token_noise(0, np.arange(10**6 - 3, 10**6), 196))


@pytest.mark.parametrize("kind", ["list", "NumPy", "float16", "swapped", "Dask"])
def test_noise_of_any_kind(kind: str) -> None:
    x = random_bits(rng(kind), (5, 8, 3), "f4")
    noise = (rng(kind).integers(0, 2**10, (5, 8)) / 2**10).astype("f8")
    value: Any = {
        "list": noise.tolist(), "NumPy": noise, "float16": noise.astype("f2"),
        "swapped": noise.astype(">f4"), "Dask": da.from_array(noise, 3),
    }[kind]  # fmt: skip
    got = nd.random_masking(da.from_array(x, 2), 0.5, noise=value)
    for a, b in zip(got, nbgather.random_masking(x, 0.5, noise=noise), strict=True):
        same(a.compute(), b)


def test_noise_that_is_refused_when_the_graph_is_built() -> None:
    x = da.zeros((5, 8, 3), chunks=2)
    with pytest.raises(ValueError, match=r"noise must be \[N, L\] = \(5, 8\)"):
        nd.random_masking(x, noise=np.zeros((5, 7)))
    with pytest.raises(TypeError, match="noise has dtype int64: one of float16"):
        nd.random_masking(x, noise=[[1] * 8] * 5)
    with pytest.raises(ValueError, match="sample_ids was given with noise"):
        nd.random_masking(x, noise=np.zeros((5, 8)), sample_ids=range(5))
    with pytest.raises(ValueError, match=r"noise must be \[N, L\] = \(5, 8\)"):
        nd.masked_patchify(da.zeros((5, 1, 4, 8), chunks=2), 2, noise=np.zeros((5, 9)))
    loose = unknown(np.zeros((5, 8, 3)), 2)
    with pytest.raises(ValueError, match=r"noise must be \[N, L\] = \(nan, 8\)"):
        nd.random_masking(loose, noise=da.zeros((5, 7), chunks=2))
    with pytest.raises(ValueError, match="x has 3 chunks there where noise has 1"):
        nd.random_masking(loose, noise=da.zeros((5, 8), chunks=5))


@pytest.mark.parametrize("kind", ["list", "tuple", "range", "NumPy", "int8", "uint64"])
@pytest.mark.parametrize("chunks", [1, (2, 3), 5])
def test_a_count_for_each_sample(kind: str, chunks: Any) -> None:
    counts = np.array([0, 1, 2, 3, 4]) if kind == "range" else np.array([5, 0, 2, 8, 1])
    keep = range(5) if kind == "range" else SIDES[kind](counts)
    x = random_bits(rng(kind), (5, 8, 3), "f4")
    got = nbgather.random_masking(da.from_array(x, (chunks, 8, 3)), seed=1, num_keep=keep)
    want = nbgather.random_masking(x, seed=1, num_keep=counts)
    assert type(got) is type(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        same(a.compute(), b)
    images = random_bits(rng(kind), (5, 3, 4, 8), "u1")
    options: Any = {"noise": rng(kind).random((5, 8)), "scale": 0.5, "mean": 3.0}
    lazy = da.from_array(images, (chunks, 2, 3, 3))
    padded = nbgather.masked_patchify(lazy, 2, num_keep=keep, **options)
    for a, b in zip(
        padded, nbgather.masked_patchify(images, 2, num_keep=counts, **options), strict=True
    ):
        same(a.compute(), b)


def test_one_count_for_all_of_any_kind() -> None:
    x = random_bits(rng("one"), (5, 8, 3), "f4")
    want = nbgather.random_masking(x, seed=1, num_keep=3).x_masked
    for count in (3, np.int8(3), np.array(3), np.uint64(3)):
        got = nd.random_masking(da.from_array(x, 2), seed=1, num_keep=count)
        same(got.x_masked.compute(), want)


def test_counts_that_are_refused() -> None:
    x = da.zeros((5, 8, 3), chunks=2)
    with pytest.raises(TypeError, match="num_keep is a Dask array: the largest count"):
        nd.random_masking(x, seed=0, num_keep=da.ones(5, dtype=int))
    with pytest.raises(ValueError, match="a number for each of the 5 samples"):
        nd.random_masking(x, seed=0, num_keep=[1, 2])
    with pytest.raises(ValueError, match=r"num_keep\[4\] is 9: it must be between 0 and L = 8"):
        nd.random_masking(x, seed=0, num_keep=[1, 2, 3, 4, 9])
    loose = unknown(np.zeros((5, 8, 3)), 2)
    ids = da.arange(5, chunks=2)
    with pytest.raises(ValueError, match="give one num_keep for all"):
        nd.random_masking(loose, seed=0, sample_ids=ids, num_keep=[1, 2, 3, 4, 5])
    got = nd.random_masking(loose, seed=0, sample_ids=ids, num_keep=2).mask.compute()
    same(got, nbgather.random_masking(np.zeros((5, 8, 3)), seed=0, num_keep=2).mask)


def test_masks_of_masked_arrays_are_not_lost() -> None:
    hidden = np.ma.masked_less(np.arange(24.0).reshape(2, 3, 4), 3)
    lazy = da.from_array(hidden, 2)
    for call in (
        lambda: nd.gather(lazy, 1, np.zeros((2, 1, 4), int)),
        lambda: nd.random_masking(lazy, seed=0),
        lambda: nd.unpatchify(lazy, 2, 2),
        lambda: nd.patchify(lazy[:, None], 2),
        lambda: nd.gather(da.zeros(4), 0, da.ma.masked_array(np.zeros(4, int))),
    ):
        with pytest.raises(TypeError, match="holds masked arrays: their masks would be lost"):
            call()
    quiet = da.zeros((2, 3, 4), chunks=2).map_blocks(np.ma.masked_equal, 0, meta=np.empty((0,) * 3))
    for lazy in (
        nd.gather(quiet, 1, np.zeros((2, 1, 4), int)),
        nd.gather(quiet, 1, np.zeros((2, 1, 4), int), plan="tree"),
        nd.random_masking(quiet, seed=0).x_masked,
        nd.unpatchify(quiet, (1, 1), (1, 3)),
    ):
        with pytest.raises(TypeError, match="holds masked arrays: their masks would be lost"):
            lazy.compute()


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_an_index_of_another_kind_is_an_index_error(dtype: type) -> None:
    """As NumPy's take_along_axis, and as the call on NumPy arrays."""
    index = np.zeros((2, 3), dtype)
    texts = []
    for x in (np.ones((2, 3)), da.ones((2, 3), chunks=2)):
        with pytest.raises(IndexError) as caught:
            nbgather.take_along_axis(x, index, 1)
        texts.append(str(caught.value))
        with pytest.raises(np.exceptions.AxisError):
            nbgather.take_along_axis(x, index.astype(int), 2)
    assert texts[0] == texts[1]
