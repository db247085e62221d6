"""gather_reduce: segments of gathered rows, with the same bits, on every container."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import rng
from test_reduce import REDUCES, at_the_end_of_a_page, dtype_of, equal, special

import nbgather
from nbgather.engine import memo
from nbgather.kernels.cpu import launch, limits
from nbgather.operations.segments import GatherReduce

#: Columns, by the forms of the kernel that they take.
COLUMNS = ((), (1,), (3,), (16,), (5, 7), (509,), (256,))
COUNTS = [3, 0, 40, 1, 9, 0, 17]


def by_segments(x: np.ndarray, ids: np.ndarray, reduce: str, counts: Any) -> np.ndarray:
    return nbgather.segment_reduce(x[ids.reshape(-1)], reduce, counts=counts)


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    bag_reduce = launch.bag_reduce

    def noting(how: Any, *args: Any, **options: Any) -> Any:
        if not options:  # else it is written down, not made
            seen.append(how)
        return bag_reduce(how, *args, **options)

    monkeypatch.setattr(launch, "bag_reduce", noting)
    return seen


def _kinds() -> list[Any]:
    params = []
    for reduce in REDUCES:
        for name in ("float32", "float64", "int16", "uint8", "bool"):
            chosen = (reduce, name) in {
                ("sum", "float32"), ("mean", "float32"), ("amax", "float32"), ("amin", "int16"),
            }  # fmt: skip
            marks = () if chosen else pytest.mark.large
            if (reduce, name) != ("mean", "bool"):
                params.append(pytest.param(reduce, name, marks=marks))
    return params


@pytest.mark.parametrize("reduce, name", _kinds())
def test_the_kernel_has_the_bits_of_segments(
    reduce: str, name: str, kernel_calls: list[Any]
) -> None:
    generator = rng(f"bags {reduce} {name}")
    for columns in COLUMNS:
        x = special(generator, (60, *columns), name)
        ids = generator.integers(0, 60, sum(COUNTS)).astype("i4")
        want = by_segments(x, ids, reduce, COUNTS)
        offsets = np.cumsum([0, *COUNTS])
        for threads in (1, 3):
            with limits.limit_threads(threads):
                equal(nbgather.gather_reduce(x, ids, reduce, counts=COUNTS), want)
                equal(nbgather.gather_reduce(x, ids[::-1][::-1], reduce, offsets=offsets), want)
        wide = generator.integers(0, 60, (9, 8))
        want = by_segments(x, wide, reduce, [8] * 9)
        for given in (x, np.repeat(x, 2, 0)[::2], x[::-1].copy()[::-1]):
            equal(nbgather.gather_reduce(given, wide, reduce), want)
        equal(nbgather.gather_reduce(x, np.asfortranarray(wide), reduce), want)
        if columns == (3,):
            equal(nbgather.gather_reduce(x, wide.tolist(), reduce, backend="reference"), want)
    assert len(kernel_calls) == 8 * len(COLUMNS)


def test_every_width_of_a_row_and_length_of_a_bag() -> None:
    generator = rng("widths of bags")
    widths = (*range(1, 36), 63, 64, 65, 100, *range(120, 264, 17), 256, 257, 300, 511, 1000)
    for columns in widths:
        x = generator.standard_normal((40, columns)).astype(np.float32)
        for longest in (3, 40):
            counts = generator.integers(0, longest, 70 if columns < 36 else 9)
            ids = generator.integers(0, 40, counts.sum())
            want = by_segments(x, ids, "sum", counts)
            equal(nbgather.gather_reduce(x, ids, "sum", counts=counts), want)
            even = ids[: len(ids) // 3 * 3].reshape(-1, 3)
            want = by_segments(x, even, "sum", [3] * len(even))
            equal(nbgather.gather_reduce(x, even, "sum"), want)


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_a_repeated_call_looks_at_its_ids_and_offsets(library: Any, kind: str) -> None:
    x = rng("repeated bags").standard_normal((50, 5)).astype(np.float32)
    ids, offsets = (
        rng("ids of repeated bags").integers(0, 50, 30).astype(kind),
        np.array([0, 3, 3, 10, 30], kind),
    )

    def call(ids: np.ndarray = ids, offsets: np.ndarray = offsets) -> np.ndarray:
        operands = library(x), library(ids)
        return np.asarray(nbgather.gather_reduce(*operands, "sum", offsets=library(offsets)))

    want = by_segments(x, ids, "sum", np.diff(offsets))
    for _ in range(4):
        equal(call(), want)
    assert (GatherReduce, "sum", "offsets", "raise") in memo.entries
    for wrong, words in (
        ([0, 3, 2, 10, 30], r"offsets\[2\] is 2, less than offsets\[1\], 3"),
        ([1, 3, 3, 10, 30], "offsets go from 1 to 30"),
        ([0, 3, 3, 10, 29], "offsets go from 0 to 29"),
        ([0, 3, 3, 40, 30], r"offsets\[3\] is 40"),
        ([0, -1, 3, 10, 30], r"offsets\[1\] is -1"),
        ([0, 3, 3, 10, 31], r"offsets\[4\] is 31"),
    ):
        with pytest.raises(ValueError, match=words):
            call(offsets=np.array(wrong, kind))
    for value in (50, -1):
        bad = ids.copy()
        bad[7] = value
        with pytest.raises(IndexError, match=rf"index {value} at \(7,\) is out of bounds"):
            call(bad)
    equal(call(), want)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "complex64"])
@pytest.mark.parametrize("reduce", ["sum", "prod", "mean", "amax"])
def test_what_has_no_kernel_is_gathered_first(reduce: str, name: str) -> None:
    if (reduce, name) == ("amax", "complex64"):
        pytest.skip("complex numbers have no largest")
    generator = rng(name)
    x = special(generator, (20, 6), "float32").astype(dtype_of(name))
    x = np.where(np.isfinite(x), x, x.dtype.type(1))
    ids = generator.integers(0, 20, (5, 4))
    got = nbgather.gather_reduce(x, ids, reduce)
    assert got.tobytes() == by_segments(x, ids, reduce, [4] * 5).tobytes()
    with pytest.raises(IndexError, match=r"index 20 at \(0, 1\) is out of bounds for dimension 0"):
        nbgather.gather_reduce(x, [[0, 20], [1, 1]], reduce)


def test_all_bags_or_rows_may_be_empty() -> None:
    x = np.ones((4, 3), np.float32)
    for reduce, empty in (("sum", 0), ("prod", 1), ("amax", -np.inf), ("mean", np.nan)):
        for got in (
            nbgather.gather_reduce(x, np.empty((2, 0), int), reduce),
            nbgather.gather_reduce(x, [], reduce, counts=[0, 0]),
            nbgather.gather_reduce(x[:0], [], reduce, offsets=[0, 0, 0]),
        ):
            equal(got, np.full((2, 3), empty, np.float32))
    assert nbgather.gather_reduce(x, np.empty((0, 5), int), "sum").shape == (0, 3)
    assert nbgather.gather_reduce(x[:, :0], [[0, 1]], "sum").shape == (1, 0)


@pytest.mark.parametrize("columns", [1, 100])
def test_a_bad_id_is_one_error_with_its_place(columns: int) -> None:
    x, good = np.ones((6, columns), np.float32), rng("bad").integers(0, 6, (40, 11))
    for bad in (-1, 6, 2**40):
        ids = good.copy()
        ids[30, 10], ids[33, 0] = bad, -7
        for given in (x, torch.from_numpy(x), torch.from_numpy(x).requires_grad_()):
            with limits.limit_threads(2), pytest.raises(IndexError) as raised:
                nbgather.gather_reduce(given, ids, "mean")
            expected = f"index {bad} at (30, 10) is out of bounds for dimension 0 with size 6"
            assert str(raised.value) == expected


X, IDS = np.zeros((4, 2)), [[0, 1], [2, 2]]
REFUSED = {
    "reduce": (lambda: nbgather.gather_reduce(X, IDS, "max"), ValueError, "'amax'"),
    "0-d": (lambda: nbgather.gather_reduce(np.ones(()), IDS, "sum"), ValueError, "shape ()"),
    "flat ids alone": (
        lambda: nbgather.gather_reduce(X, [0, 1], "sum"), ValueError, "ids has shape (2,): [S, K]"
    ),
    "wide ids with counts": (
        lambda: nbgather.gather_reduce(X, IDS, "sum", counts=[2, 2]), ValueError, "with counts one"
    ),
    "both": (
        lambda: nbgather.gather_reduce(X, [0], "sum", counts=[1], offsets=[0, 1]),
        ValueError,
        "offsets and counts came",
    ),
    "float ids": (
        lambda: nbgather.gather_reduce(X, np.ones((2, 2)), "sum"), TypeError, "ids has dtype"
    ),
    "float counts": (
        lambda: nbgather.gather_reduce(X, [0], "sum", counts=[1.0]), TypeError, "counts has dtype"
    ),
    "counts": (
        lambda: nbgather.gather_reduce(X, [0, 1], "sum", counts=[1]), ValueError, "counts sum to 1"
    ),
    "offsets": (
        lambda: nbgather.gather_reduce(X, [0, 1], "sum", offsets=[0, 3]),
        ValueError,
        "offsets[1] is 3: it must be between 0 and the number of ids = 2",
    ),
    "dates": (lambda: nbgather.gather_reduce(X.astype("M8[s]"), IDS, "sum"), TypeError, "datetime"),
    "bools": (lambda: nbgather.gather_reduce(X > 0, IDS, "mean"), TypeError, "gather_reduce by"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, kind, text = REFUSED[name]
    with pytest.raises(kind) as raised:
        call()
    assert text in str(raised.value), str(raised.value)


def test_nothing_beyond_the_operands_is_touched() -> None:
    generator = rng("guard")
    for columns in (1, 5, 64, 130):
        x = at_the_end_of_a_page(generator.standard_normal((9, columns)).astype(np.float32))
        ids = at_the_end_of_a_page(generator.integers(0, 9, sum(COUNTS)))
        offsets = at_the_end_of_a_page(np.cumsum([0, *COUNTS]))
        ids[-1] = 8
        got = nbgather.gather_reduce(x, ids, "sum", offsets=offsets)
        equal(got, by_segments(x.copy(), ids, "sum", COUNTS))


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax"])
def test_tensors_have_the_gradients_of_embedding_bags(reduce: str) -> None:
    mode = {"amax": "max"}.get(reduce, reduce)
    x = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    ids, offsets = torch.tensor([1, 4, 1, 8, 0, 0, 2]), torch.tensor([0, 3, 5, 7])

    def ours(a: torch.Tensor) -> torch.Tensor:
        return nbgather.gather_reduce(a, ids, reduce, offsets=offsets)

    theirs = torch.nn.functional.embedding_bag(ids, x, offsets[:-1], mode=mode)
    assert torch.allclose(ours(x), theirs)
    if reduce != "amax":  # torch gives it to one of those that are equal, and has no second one
        weights = torch.randn(3, 3, dtype=torch.float64)
        (want,) = torch.autograd.grad((theirs * weights).sum(), x)
        assert torch.allclose(torch.autograd.grad((ours(x) * weights).sum(), x)[0], want)
    assert torch.autograd.gradcheck(ours, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ours, x)


@pytest.mark.parametrize("reduce", ["sum", "amin"])
def test_dask_has_the_same_bits_in_any_chunks(reduce: str) -> None:
    da = pytest.importorskip("dask.array")
    generator = rng("dask")
    x = generator.standard_normal((50, 4)).astype(np.float32)
    ids, of = generator.integers(0, 50, (7, 9)), generator.integers(0, 8, 50)
    chunked = da.from_array(x, chunks=(13, 3))
    for given in (ids, da.from_array(ids, chunks=(3, 4))):
        got = nbgather.gather_reduce(chunked, given, reduce)
        equal(got.compute(), nbgather.gather_reduce(x, ids, reduce))
    segments = nbgather.segment_reduce(chunked, reduce, ids=of, num_segments=9)
    equal(segments.compute(), nbgather.segment_reduce(x, reduce, ids=of, num_segments=9))
    counted = nbgather.segment_reduce(chunked, reduce, counts=[20, 0, 30])
    equal(counted.compute(), nbgather.segment_reduce(x, reduce, counts=[20, 0, 30]))
    with pytest.raises(IndexError, match=r"index 50 at \(0, 1\)"):
        nbgather.gather_reduce(chunked, [[0, 50]], reduce)
    ids[5, 7] = 50
    for rows in (chunked, chunked[:, 0]):  # by the place of the id, whatever its chunk
        lazy = nbgather.gather_reduce(rows, da.from_array(ids, chunks=(3, 4)), reduce)
        with pytest.raises(IndexError, match=r"index 50 at \(5, 7\) is out of bounds"):
            lazy.compute()


def test_jax_has_the_same_bits_also_where_it_is_traced() -> None:
    jax = pytest.importorskip("jax")
    generator = rng("jax")
    x = generator.standard_normal((9, 3)).astype(np.float32)
    ids = generator.integers(0, 9, (4, 5))
    want = nbgather.gather_reduce(x, ids, "sum")

    def call(a: Any, i: Any) -> Any:
        return nbgather.gather_reduce(a, i, "sum")

    equal(np.asarray(call(jax.numpy.asarray(x), jax.numpy.asarray(ids))), want)
    equal(np.asarray(jax.jit(call)(x, ids)), want)
    (moved,) = jax.vjp(lambda a: call(a, jax.numpy.asarray(ids)), jax.numpy.asarray(x))[1](want)
    tensor = torch.from_numpy(x).requires_grad_()
    call(tensor, ids).backward(torch.from_numpy(want))
    assert np.allclose(moved, tensor.grad)
