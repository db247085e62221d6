"""Dask arrays in chunks of a library on a GPU: what comes out is of it, and nothing leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

import pretend_cupy
from cases import random_bits, rng, same
from simulator import Driver, simulated

import nbgather
from nbgather import dask as nd
from nbgather.containers import cuda_interface
from nbgather.containers.dask.plans import PLANS


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    monkeypatch.setitem(cuda_interface.LIBRARIES, "pretend_cupy", pretend_cupy.Library)
    with simulated(32) as driver, dask.config.set(scheduler="sync"):
        yield driver


def there(array: np.ndarray, chunks: Any) -> Any:
    """A Dask array with its chunks on the GPU."""
    return da.from_array(array, chunks).map_blocks(
        pretend_cupy.asarray,
        dtype=array.dtype,
        meta=pretend_cupy.asarray(np.empty((0,) * array.ndim, array.dtype)),
    )


def compare(lazy: Any, want: np.ndarray) -> None:
    """Every chunk and what stands for them are the GPU's, and the bits those of NumPy's arrays."""
    assert isinstance(lazy._meta, pretend_cupy.Ndarray)
    assert (lazy._meta.dtype, lazy._meta.ndim) == (want.dtype, want.ndim)
    # What brings a chunk to the host refuses any that is not on the GPU.
    same(lazy.map_blocks(pretend_cupy.asnumpy, meta=want[:0], dtype=want.dtype).compute(), want)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    "mode, dtype, index_dtype",
    [("raise", "float32", "int64"), ("fill", "int16", "int32"), ("wrap", "float32", "int64")],
)
def test_gathers_by_every_plan(
    gpu: Driver, plan: str, mode: str, dtype: str, index_dtype: str
) -> None:
    generator = rng(plan + mode + dtype)
    x, beyond = random_bits(generator, (3, 7, 2), dtype), 0 if mode == "raise" else 9
    options: dict[str, Any] = {"mode": mode, "fill_value": 7} if mode == "fill" else {"mode": mode}
    lazy = there(x, ((2, 1), (4, 1, 2), (2,)))
    for shape, pieces in (((2, 6, 2), (1, 4, 2)), ((2, 0, 2), -1)):
        index = generator.integers(-beyond, 7 + beyond, shape).astype(index_dtype)
        got = nd.gather(lazy, 1, there(index, pieces), plan=plan, **options)
        compare(got, nbgather.gather(x, 1, index, **options))
    index = generator.integers(-7 - beyond, 7 + beyond, (3, 5, 1)).astype(index_dtype)
    got = nd.take_along_axis(lazy, there(index, 3), 1, plan=plan, **options)
    compare(got, nbgather.take_along_axis(x, index, 1, **options))
    ids = generator.integers(-beyond, 7 + beyond, (3, 5)).astype(index_dtype)
    got = nd.gather_tokens(lazy, there(ids, 3), plan=plan, **options)
    compare(got, nbgather.gather_tokens(x, ids, **options))
    assert gpu.launches


@pytest.mark.parametrize("plan", PLANS)
def test_a_bad_index_is_told_of_by_its_place_in_the_whole(plan: str) -> None:
    x, index = np.zeros((6, 8), "f4"), np.zeros((6, 7), int)
    index[4, 5] = -9
    lazy = nd.gather(there(x, (2, 3)), 1, there(index, (3, 2)), plan=plan)
    with pytest.raises(IndexError, match=r"index -9 at \(4, 5\) is out of bounds for dimension 1"):
        lazy.compute()


@pytest.mark.parametrize("plan", PLANS)
def test_what_says_where_is_there_too_or_a_list(plan: str) -> None:
    x = random_bits(rng("where"), (4, 6), "f4")
    lazy, index = there(x, (2, 4)), [[5, 0]] * 4
    compare(nd.gather(lazy, 1, index, plan=plan), nbgather.gather(x, 1, np.array(index)))
    message = "input is a CUDA array and index a NumPy one: both must be of one library"
    for given in (np.array(index), da.from_array(np.array(index), 2)):
        with pytest.raises(TypeError, match=message):
            nd.gather(lazy, 1, given, plan=plan)
        with pytest.raises(TypeError, match="input is a NumPy array and index a CUDA one"):
            nd.gather(da.from_array(x, 2), 1, there(np.array(index), 2), plan=plan)
    # A Dask array may not know what its blocks are.
    hidden = da.Array(lazy.dask, lazy.name, lazy.chunks, meta=x[:0])
    lazy = nd.gather(hidden, 1, da.from_array(np.array(index), 2), plan=plan)
    with pytest.raises(TypeError, match=r"is a CUDA array and index a NumPy one|not allowed"):
        lazy.compute()


def test_masks_and_tokens() -> None:
    x, counts = random_bits(rng("mask"), (5, 9, 3), "f4"), [3, 0, 9, 2, 2]
    lazy = there(x, (2, 4, 3))
    ids = np.arange(5) * 1000 - 3
    noise = rng("mask").random((5, 9), np.float32)
    cases: list[Any] = [
        ({"seed": 3, "epoch": 4}, {"seed": 3, "epoch": 4}),
        ({"seed": 3, "sample_ids": there(ids, 3)}, {"seed": 3, "sample_ids": ids}),
        ({"seed": 3, "sample_ids": ids.tolist()}, {"seed": 3, "sample_ids": ids}),
        ({"noise": there(noise, (3, 4))}, {"noise": noise}),
        ({"seed": 1, "num_keep": counts}, {"seed": 1, "num_keep": counts}),
    ]
    for given, theirs in cases:
        for got, want in zip(
            nbgather.random_masking(lazy, **given),
            nbgather.random_masking(x, **theirs),
            strict=True,
        ):
            compare(got, want)
    with pytest.raises(TypeError, match="x is a CUDA array and noise a NumPy one"):
        nbgather.random_masking(lazy, noise=noise)
    masked, packed = (nbgather.random_masking(a, seed=2, packed=True) for a in (x, lazy))
    for got, want in zip(packed[:4], masked[:4], strict=True):
        compare(got, want)
    whole = nbgather.random_masking(x, seed=2)
    ranks, visible = there(whole.ids_restore, (3, 4)), there(whole.x_masked, 2)
    compare(
        nbgather.restore_tokens(visible, ranks, 2.5),
        nbgather.restore_tokens(whole.x_masked, whole.ids_restore, 2.5),
    )
    token = np.arange(3, dtype="f4")
    compare(
        nbgather.restore_tokens(visible, ranks, there(token, 2)),
        nbgather.restore_tokens(whole.x_masked, whole.ids_restore, token),
    )
    with pytest.raises(TypeError, match="x_visible is a CUDA array and mask_token a NumPy one"):
        nbgather.restore_tokens(visible, ranks, da.from_array(token, 2))
    for keep in (4, counts):
        got = nbgather.rank_tokens(there(noise, (2, 4)), keep)
        for one, want in zip(got, nbgather.rank_tokens(noise, keep), strict=True):
            compare(one, want)
    compare(nbgather.token_noise(1, there(ids, 2), 6), nbgather.token_noise(1, ids, 6))


def test_patches() -> None:
    images = random_bits(rng("patches"), (4, 3, 8, 6), "u1")
    lazy = there(images, (3, 2, 5, 6))
    compare(nbgather.patchify(lazy, 2), nbgather.patchify(images, 2))
    patches = nbgather.patchify(images, 2)
    compare(nbgather.unpatchify(there(patches, (3, 5, 4)), 2, (8, 6)), images)
    options = {"seed": 3, "scale": 1 / 255}
    for got, want in zip(
        nbgather.masked_patchify(lazy, 2, **options),
        nbgather.masked_patchify(images, 2, **options),
        strict=True,
    ):
        compare(got, want)


@pytest.mark.parametrize("dim", [0, 1])
def test_scatters(dim: int) -> None:
    generator = rng("scatter")
    x, src = random_bits(generator, (5, 6), "f4"), random_bits(generator, (5, 6), "f4")
    x, src = np.nan_to_num(x), np.nan_to_num(src)
    index = generator.integers(0, 5, (4, 5) if dim else (5, 5))
    lazy, lazy_index, values = there(x, (2, 4)), there(index, (3, 2)), there(src, 3)
    for given, theirs in ((values, src), (2.5, 2.5)):
        want = nbgather.scatter(x, dim, index, theirs)
        compare(nbgather.scatter(lazy, dim, lazy_index, given), want)
    index = generator.integers(0, 5, (5, 6))
    lazy_index = there(index, (3, 2))
    want = nbgather.scatter_add(x, dim, index, src)
    compare(nbgather.scatter_add(lazy, dim, lazy_index, values), want)
    want = nbgather.scatter_reduce(x, dim, index, src, "amax", include_self=False)
    compare(
        nbgather.scatter_reduce(lazy, dim, lazy_index, values, "amax", include_self=False), want
    )
    with pytest.raises(TypeError, match="input is a CUDA array and src a NumPy one"):
        nbgather.scatter(lazy, dim, lazy_index, da.from_array(src, 3))
    with pytest.raises(TypeError, match="input is a CUDA array and src a NumPy one"):
        nbgather.scatter_add(lazy, dim, lazy_index, da.from_array(src, 3))


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax"])
def test_segments_and_bags(reduce: Any) -> None:
    generator = rng("segments" + reduce)
    x, where = np.nan_to_num(random_bits(generator, (6, 3), "f4")), [0, 2, 2, 6]
    lazy, ids = there(x, (4, 2)), generator.integers(0, 3, 6)
    want = nbgather.segment_reduce(x, reduce, ids=ids, num_segments=4)
    for given in (ids.tolist(), there(ids, 4)):
        compare(nbgather.segment_reduce(lazy, reduce, ids=given, num_segments=4), want)
    want = nbgather.segment_reduce(x, reduce, offsets=where)
    for given in (where, there(np.array(where), 3)):
        compare(nbgather.segment_reduce(lazy, reduce, offsets=given), want)
    bags = generator.integers(0, 6, (4, 2))
    want = nbgather.gather_reduce(x, bags, reduce)
    for given in (bags.tolist(), there(bags, (3, 1))):
        compare(nbgather.gather_reduce(lazy, given, reduce), want)
    flat, counts = bags.reshape(-1) - 1, [3, 0, 4, 1]
    options: dict[str, Any] = {"mode": "fill", "fill_value": 2}
    want = nbgather.gather_reduce(x, flat, reduce, counts=counts, **options)
    got = nbgather.gather_reduce(lazy, there(flat, 5), reduce, counts=counts, **options)
    compare(got, want)


def test_segments_that_are_refused() -> None:
    x, bags = there(np.zeros((6, 3), "f4"), (4, 2)), np.array([[0, 1], [2, 6]])
    with pytest.raises(IndexError, match=r"index 6 at \(1, 1\) is out of bounds for dimension 0"):
        nbgather.gather_reduce(x, there(bags, 1), "sum").compute()
    with pytest.raises(IndexError, match=r"index 6 at \(1, 1\) is out of bounds for dimension 0"):
        nbgather.gather_reduce(x, bags.tolist(), "sum").compute()
    with pytest.raises(TypeError, match="x is a CUDA array and ids a NumPy one"):
        nbgather.gather_reduce(x, bags, "sum")
    with pytest.raises(ValueError, match="offsets go from 0 to 5"):
        nbgather.segment_reduce(x, "sum", offsets=there(np.array([0, 5]), 1))


def test_unknown_sizes() -> None:
    x, index = random_bits(rng("u"), (6, 8), "i4"), rng("u").integers(0, 8, (6, 7))
    lazy = there(x, (2, 3))
    sizes = (lazy.chunks[0], (float("nan"),) * 3)
    loose = da.Array(lazy.dask, lazy.name, sizes, dtype=lazy.dtype, meta=lazy._meta)
    compare(nd.gather(loose, 1, there(index, (3, 2))), nbgather.gather(x, 1, index))
