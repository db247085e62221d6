"""Ranks, restored tokens and scatters on Dask, over chunks of any size along any dimension."""

from __future__ import annotations

import pickle
import time
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from cases import random_bits, rng, same
from test_dask import unknown

import nbgather
from nbgather import dask as nd
from nbgather.containers.dask import plans, rechunking, segment_rows
from nbgather.containers.dask.late import LateLayer


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    with dask.config.set(scheduler="sync"):
        yield


def counted(*arrays: Any) -> None:
    """How many tasks a layer has is known before they are."""
    for layer in {id(v): v for a in arrays for v in a.dask.layers.values()}.values():
        assert len(layer) == len(list(layer))


def scores_of(dtype: str) -> np.ndarray:
    """Scores with ties, both zeros and, among floats, NaN of either sign and infinities."""
    generator = rng("scores" + dtype)
    scores = generator.integers(-3, 4, (5, 23)).astype(dtype)
    if scores.dtype.kind == "f":
        scores[generator.random(scores.shape) < 0.2] = np.nan
        scores[generator.random(scores.shape) < 0.1] = -np.nan
        scores[generator.random(scores.shape) < 0.2] = -0.0
        scores[generator.random(scores.shape) < 0.1] = -np.inf
    return scores


@pytest.mark.parametrize("budget", ["1 MiB", "1 B"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int64"])
@pytest.mark.parametrize("keep", [7, 0, 23, (3, 0, 23, 9, 1)])
def test_ranks_are_those_of_one_call_whatever_the_chunks(
    monkeypatch: pytest.MonkeyPatch, budget: str, dtype: str, keep: Any
) -> None:
    monkeypatch.setattr(plans, "BUDGET", budget)
    try:
        scores = scores_of(dtype)
        want = nbgather.rank_tokens(scores, keep, backend="reference")
    except TypeError:
        with pytest.raises(TypeError, match=f"scores has dtype {dtype}"):
            nbgather.rank_tokens(da.from_array(scores, 4), keep)
        return
    for chunks in ((2, 23), ((1, 4), (9, 1, 0, 13)), (5, 4)):
        got = nbgather.rank_tokens(da.from_array(scores, chunks), keep)
        for ours, theirs in zip(dask.compute(*got), want, strict=True):
            same(ours, theirs)
        assert all(a.shape == w.shape for a, w in zip(got, want, strict=True))
        counted(*got)
        if budget == "1 B":  # chunk by chunk: ranks lie as the scores do
            assert got.ids_restore.chunks == da.from_array(scores, chunks).chunks


def test_ranks_that_are_refused() -> None:
    scores = np.zeros((6, 8), np.float32)
    with pytest.raises(ValueError, match="num_keep is 9"):
        nbgather.rank_tokens(da.from_array(scores, 2), 9)
    with pytest.raises(ValueError, match="scores has shape"):
        nbgather.rank_tokens(da.zeros((6, 8, 2)), 3)
    with pytest.raises(ValueError, match="chunk sizes of scores along dimension 1 are unknown"):
        nbgather.rank_tokens(unknown(scores, 2, 1), 3)
    with pytest.raises(ValueError, match="give one num_keep for all"):
        nbgather.rank_tokens(unknown(scores, 2, 0), [3] * 6)
    got = nbgather.rank_tokens(unknown(scores, 2, 0), 3)
    same(got.ids_restore.compute(), nbgather.rank_tokens(scores, 3).ids_restore)


@pytest.mark.parametrize("token", ["number", "array", "dask"])
def test_restored_tokens(token: str) -> None:
    x = random_bits(rng("restore"), (7, 12, 6), "f4")
    masked = nbgather.random_masking(x, 0.5, seed=1)
    given: Any = {
        "number": 2.5,
        "array": np.arange(6, dtype="f4"),
        "dask": np.arange(6, dtype="f4"),
    }
    want = nbgather.restore_tokens(masked.x_masked, masked.ids_restore, given[token])
    given["dask"] = da.from_array(given["dask"], 2)
    for chunks in ((7, 6, 6), (2, 4, 5), ((1, 6), 3, 1)):
        visible = da.from_array(masked.x_masked, chunks)
        for ids in (masked.ids_restore, da.from_array(masked.ids_restore, (3, 5))):
            if token == "array":
                with pytest.raises(TypeError, match="mask_token"):
                    nbgather.restore_tokens(visible, ids, given[token])
                continue
            got = nbgather.restore_tokens(visible, ids, given[token])
            assert got.chunks[0] == visible.chunks[0]
            same(got.compute(), want)


def test_restored_tokens_of_samples_that_keep_different_numbers() -> None:
    x = random_bits(rng("padded"), (6, 10, 3), "f4")
    counts = [3, 0, 10, 5, 5, 1]
    lazy = nbgather.random_masking(da.from_array(x, (4, 5, 3)), seed=2, num_keep=counts)
    masked = nbgather.random_masking(x, seed=2, num_keep=counts)
    got = nbgather.restore_tokens(lazy.x_masked, lazy.ids_restore, 0.5, valid=lazy.valid)
    want = nbgather.restore_tokens(masked.x_masked, masked.ids_restore, 0.5, valid=masked.valid)
    same(got.compute(), want)


def test_restoring_that_is_refused() -> None:
    x, ids = np.zeros((6, 3, 2), "f4"), np.tile(np.arange(5), (6, 1))
    lazy = da.from_array(x, (2, 3, 2))
    with pytest.raises(ValueError, match="no more can be visible than there are"):
        nbgather.restore_tokens(lazy, ids[:, :2], 0.0)
    with pytest.raises(ValueError, match="chunk sizes of x_visible along dimension 1 are unknown"):
        nbgather.restore_tokens(unknown(x, (2, 3, 2), 1), ids, 0.0)
    with pytest.raises(ValueError, match="mask_token"):
        nbgather.restore_tokens(lazy, ids, da.zeros(3, dtype="f4"))
    with pytest.raises(TypeError, match="mask_token"):
        nbgather.restore_tokens(lazy, ids, "a")
    loose = nbgather.restore_tokens(unknown(x, (2, 3, 2), 0), unknown(ids, (2, 5), 0), 0.0)
    same(loose.compute(), nbgather.restore_tokens(x, ids, 0.0))
    ids[4, 3] = 5
    with pytest.raises(IndexError) as theirs:
        nbgather.restore_tokens(x, ids, 0.0)
    with pytest.raises(IndexError) as ours:
        nbgather.restore_tokens(lazy, ids, 0.0).compute()
    assert str(ours.value) == str(theirs.value)
    assert "(4, 3)" in str(ours.value)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_scatter_in_the_chunks_that_the_input_has(dim: int) -> None:
    x = random_bits(rng("set"), (6, 9, 5), "f4")
    src = random_bits(rng("src"), (6, 12, 5), "f4")[:, :9]
    shape = [5, 7, 4]
    shape[dim] = 9 if dim == 1 else shape[dim]
    index = rng("at").integers(0, x.shape[dim], shape)  # many a place more than once
    for chunks in (
        (6, 9, 5),
        ((2, 4), (3, 1, 5), (2, 2, 1)),
        ((0, 4, 0, 2), (3, 0, 6), 5),
        (1, 2, 3),
    ):
        lazy = da.from_array(x, chunks)
        got = nbgather.scatter(lazy, dim, da.from_array(index, (2, 4, 3)), da.from_array(src, 3))
        same(got.compute(), nbgather.scatter(x, dim, index, src, backend="reference"))
        assert got.chunks == lazy.chunks
        got = nbgather.scatter(lazy, dim, index, 2.0)
        same(got.compute(), nbgather.scatter(x, dim, index, 2.0, backend="reference"))
    same(lazy.compute(), x)  # what was given is as it was
    index[4, 3, 2] = 99
    for values in (da.from_array(src, 3), 1.0):
        with pytest.raises(IndexError) as theirs:
            nbgather.scatter(x, dim, index, src)
        with pytest.raises(IndexError) as ours:
            nbgather.scatter(lazy, dim, da.from_array(index, (2, 4, 3)), values).compute()
        assert str(ours.value) == str(theirs.value)


def test_scatter_of_nothing_and_what_is_refused() -> None:
    x, index = da.zeros((4, 6), chunks=(2, 3), dtype="f4"), np.zeros((4, 0), int)
    same(nbgather.scatter(x, 1, index, 1.0).compute(), np.zeros((4, 6), "f4"))
    point = nbgather.scatter(da.zeros((), dtype="f4"), 0, da.zeros((), dtype=int), 2.0)
    same(np.asarray(point.compute()), np.asarray(np.float32(2)))
    ones = np.zeros((4, 2), int)
    with pytest.raises(TypeError, match="src"):
        nbgather.scatter(x, 1, ones, np.zeros((4, 2), "f4"))
    with pytest.raises(TypeError, match="input has dtype float32 and src float64"):
        nbgather.scatter(x, 1, ones, da.zeros((4, 2)))
    with pytest.raises(ValueError, match="index has size 5 at dimension 0"):
        nbgather.scatter(x, 1, np.zeros((5, 2), int), 1.0)
    with pytest.raises(ValueError, match="chunk sizes of input are unknown"):
        nbgather.scatter(unknown(np.zeros((4, 6), "f4"), (2, 3), 1), 1, ones, 1.0)
    with pytest.raises(ValueError, match="cannot be held in dtype int8"):
        nbgather.scatter(x.astype("i1"), 1, ones, 1000)


#: In as many chunks as the operands of the graphs below, and in one.
IDS, FEW = da.zeros(4000, chunks=1, dtype="i8"), da.zeros((9, 8), dtype="f4")


@pytest.mark.parametrize(
    "call",
    [
        lambda x, i: nbgather.scatter(x, 1, i, 1.0),
        lambda x, i: nbgather.scatter_add(x, 1, i, x),
        lambda x, i: nbgather.rank_tokens(x, 3),
        lambda x, i: nbgather.random_masking(x, 0.5, seed=0),
        lambda x, i: nbgather.restore_tokens(x, i, 0.0),
        lambda x, i: nbgather.gather(FEW, 0, i),
        lambda x, i: nbgather.segment_reduce(x, "sum", ids=IDS, num_segments=5),
        lambda x, i: nbgather.segment_reduce(x, "amax", offsets=range(0, 4001, 2)),
        lambda x, i: nbgather.gather_reduce(FEW, i, "mean"),
    ],
)
def test_graphs_take_time_in_proportion_to_their_chunks(call: Any) -> None:
    """Less than 1 ms for each 1,000, and twice that on a slow machine: tasks are made later."""
    x, i = (da.zeros((4000, 8), chunks=(1, 8), dtype=dtype) for dtype in ("f4", "i8"))
    took = []
    for _ in range(6):
        begun = time.process_time()
        got = call(x, i)
        took.append(time.process_time() - begun)
    assert min(took) < 4 * 0.002
    fields = got if isinstance(got, tuple) else [got]
    assert all(len(pickle.dumps(a)) < 4000 * 40 for a in fields)
    for layer in {id(v): v for a in fields for v in a.dask.layers.values()}.values():
        if isinstance(layer, LateLayer):
            assert not layer.is_materialized()
    counted(*fields)


def test_graphs_of_an_index_in_many_pieces_take_no_time_for_each() -> None:
    x = da.zeros((100, 100_000), chunks=(10, 10_000), dtype="f4")
    index = da.zeros((100, 4000), chunks=(10, 10), dtype="i8")
    took = []
    for _ in range(6):
        begun = time.process_time()
        lazy = nd.gather(x, 1, index)
        took.append(time.process_time() - begun)
    assert min(took) < 4 * 0.002
    [choice] = nd.explain(lazy)
    assert choice.tasks <= 20  # several pieces in one
    assert len(pickle.dumps(lazy)) < 4000 * 40


@pytest.mark.parametrize(
    ("old", "new", "ours"),
    [
        (((2, 0, 5), (3, 1, 2)), {0: (3, 0, 4), 1: -1}, True),
        ((4, 2), -1, True),
        ((7, 6), {0: (1,) * 7}, True),
        ((1, 1), {0: -1}, True),
        (((1,) * 7, (6,)), ((7,), (1,) * 6), False),
    ],
)
def test_other_chunks_have_the_same_items_and_read_what_they_need(
    old: Any, new: Any, ours: bool
) -> None:
    x = np.arange(42).reshape(7, 6)
    lazy = da.from_array(x, old)
    got, want = rechunking.rechunked(lazy, new), lazy.rechunk(new)
    assert got.chunks == want.chunks
    assert got.name.startswith("nbgather-rechunk") == ours
    assert got.name == rechunking.rechunked(lazy, new).name != rechunking.rechunked(lazy, 7).name
    same(pickle.loads(pickle.dumps(got)).compute(), x)
    for ours_of, theirs in zip(got.to_delayed().ravel(), want.to_delayed().ravel(), strict=True):
        same(*dask.compute(ours_of, theirs))
    ours_read, theirs_read = (
        {key for key in a.dask.cull([(a.name, 0, 0)]).to_dict() if key[0] == lazy.name}
        for a in (got, want)
    )
    assert ours_read == theirs_read


@pytest.mark.parametrize("by", ["ids", "offsets", "chunks of ids"])
def test_what_is_in_memory_is_in_the_graph_once(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """In pieces, of which several tasks take their part: here of three numbers."""
    monkeypatch.setattr(segment_rows, "_TOGETHER", 3)
    x = random_bits(rng("rows"), (23, 2), "f4")
    lazy = da.from_array(x, ((1, 9, 0, 13), 1))
    offsets = np.array([0, 0, 4, 4, 5, 6, 7, 8, 9, 17, 23, 23])
    ids = np.repeat(np.arange(11), np.diff(offsets))
    options: dict[str, Any] = {"offsets": offsets} if by == "offsets" else {"ids": ids}
    if by != "offsets":
        options["num_segments"] = 11
    wants = {reduce: nbgather.segment_reduce(x, reduce, **options) for reduce in ("sum", "amax")}
    if by == "chunks of ids":
        options["ids"] = da.from_array(ids, 4)
    for reduce, want in wants.items():
        got = nbgather.segment_reduce(lazy, reduce, **options)
        same(got.compute(), want)
        counted(got)
    held = [v for k, v in dict(got.dask).items() if k[0].endswith("-held")]
    assert sum(map(len, held)) == {"ids": 23, "offsets": 12}.get(by, 0)
