"""The operations inside functions that numba compiles: as from Python, wherever they run.

Functions without the GIL never ask Python, so that they run the loops of `nbgather.numba_ext`.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES, LARGE, random_bits, rng, same
from numba import carray, cfunc, guvectorize, njit, prange, typeof, types
from numba.core.errors import NumbaError

import nbgather
import nbgather.numba_ext
from nbgather.numba_ext import large

ROOT = Path(__file__).resolve().parents[1]
free = functools.partial(njit, nogil=True)


@pytest.fixture(autouse=True, scope="module")
def known() -> None:
    """numba learns of the package, also where it is not installed."""
    nbgather.numba_ext.init()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Python was asked for."""
    names: list[str] = []

    def answer(name: str, *arguments: Any, answer: Callable[..., Any] = large.answer) -> Any:
        names.append(name)
        return answer(name, *arguments)

    monkeypatch.setattr(large, "answer", answer)
    return names


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, or the type and text of what it raises."""
    try:
        return call(*arguments)
    except Exception as error:
        return type(error), str(error)


def agree(compiled: Callable[..., Any], plain: Callable[..., Any], *arguments: Any) -> None:
    """Both give the same bits, or raise the same."""
    got, want = attempt(compiled, *arguments), attempt(plain, *arguments)
    if isinstance(want, np.ndarray):
        assert isinstance(got, np.ndarray), got
        same(got, want)
    elif hasattr(want, "_fields"):
        assert type(got) is type(want), got
        for one, other in zip(got, want, strict=True):
            same(one, other)
    else:
        assert got == want


# The gather family and scatters, by the table of cases


@free
def gather(x, dim, index):
    return nbgather.gather(x, dim, index)


@free
def along(x, dim, index):
    return nbgather.take_along_axis(x, index, dim)


@free
def tokens(x, dim, index):
    return nbgather.gather_tokens(x, index)


@free
def scatter(x, dim, index):
    return nbgather.scatter(x, dim, index, x)


@free
def add(x, dim, index):
    return nbgather.scatter_add(x, dim, index, x)


FUNCTIONS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "gather": (gather, gather.py_func),
    "along": (along, along.py_func),
    "tokens": (tokens, tokens.py_func),
    "scatter": (scatter, scatter.py_func),
    "add": (add, add.py_func),
}
#: Arrays of these are unknown to numba on the CPU.
UNKNOWN = ("bfloat16", "float16", "float8_e4m3fn", ">f4", "swapped_index")
#: A case of each kind of layout, and some dtypes, by the functions that they are tried with.
SOME = {
    "gather": (
        "1d", "2d_dim0", "3d_dim1", "negative_dim", "smaller_index", "5d", "index_0d", "input_0d",
        "both_0d", "empty_index", "empty_index_unlike", "empty_input", "transposed", "sliced",
        "negative_strides", "broadcast_input", "index_reversed", "read_only", "unaligned",
        "unaligned_index", "tokens_expanded", "dtype_complex128", "dtype_datetime64[ms]",
        "dtype_S4", "index_int8",
    ),
    "along": ("3d_dim1", "negative_dim", "empty_input", "both_0d", "3d_dim2", "2d_dim1"),
    "tokens": ("2d_dim1", "3d_dim1", "1d"),
    "scatter": ("2d_dim1", "smaller_index", "3d_dim1", "transposed", "both_0d"),
    "add": ("2d_dim1", "worked", "dtype_bool", "dtype_complex64", "dtype_S4"),
}  # fmt: skip


def compare(name: str, function: str) -> None:
    compiled, plain = FUNCTIONS[function]
    case = {**CASES, **LARGE}[name]()
    if function == "add" and case.input.dtype.kind in "fc":
        # Sums of any bits are NaN and lose which.
        whole = np.round(rng(name).random(case.input.shape) * 100).astype(case.input.dtype)
        case = case._replace(input=np.asarray(whole))
    for dim in (case.dim, -1 - case.dim, 7):
        agree(compiled, plain, case.input, dim, case.index)


@pytest.mark.parametrize(
    "function, name", [(function, name) for function, names in SOME.items() for name in names]
)
def test_a_case_as_from_python(function: str, name: str) -> None:
    compare(name, function)


@pytest.mark.large
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", [*CASES, *LARGE])
def test_every_case_as_from_python(function: str, name: str) -> None:
    if name.endswith(UNKNOWN):
        pytest.skip(f"{name}: numba knows no such array")
    if name == "index_0d" and function == "along":
        pytest.skip("index_0d: take_along_axis has no result of a 0-d index")
    compare(name, function)


@pytest.mark.parametrize("name", ["last", "dim0", "rows_expanded"])
def test_large_cases_without_python(name: str, asked: list[str]) -> None:
    compare(name, "gather")
    assert not asked


def test_numpys_own_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """TestTakeAlongAxis of NumPy, with every call from within a compiled function."""
    from numpy.lib.tests import test_shape_base as numpys

    flat = free(lambda arr, indices: nbgather.take_along_axis(arr, indices, None))

    def take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Any:
        if axis is None:
            return flat(arr, indices)
        return along(arr, axis, indices)

    monkeypatch.setattr(numpys, "take_along_axis", take_along_axis)
    tests = numpys.TestTakeAlongAxis()
    names = [name for name in dir(tests) if name.startswith("test_")]
    assert "test_invalid" in names
    for name in names:
        getattr(tests, name)()


# Arguments, and what is said of bad ones

X = np.arange(12.0).reshape(3, 4)
INDEX = np.array([[0, 3], [1, 1], [2, 0]])


@free
def with_mode(x, dim, index, mode, fill_value):
    return nbgather.gather(x, dim, index, mode=mode, fill_value=fill_value)


@pytest.mark.parametrize("mode", ["raise", "clip", "wrap", "fill", "", "warp", "raisin", "ŵrap"])
def test_modes_at_run_time(mode: str) -> None:
    for index in (INDEX, INDEX * 3 - 4, INDEX - 2**62, np.zeros((3, 0), int)):
        agree(with_mode, with_mode.py_func, X, 1, index, mode, 7)
    agree(with_mode, with_mode.py_func, X[:, :0], 1, INDEX, mode, 7)


@pytest.mark.parametrize(
    "dtype, values",
    [
        ("int8", (7, -128, 128, 2**40, 3.0, 3.5, np.nan, True)),
        ("uint64", (7, -1, 2.0**63, 1e30)),
        ("float32", (7, 2**53 + 1, 1e300, -0.0, np.inf)),
        ("bool", (0, 1, 2, True)),
        ("complex64", (7, 1.5, 1e39, -1e39j, complex(np.inf, 0))),
        ("datetime64[ms]", (7,)),
    ],
)
def test_fill_values(dtype: str, values: tuple[Any, ...]) -> None:
    x = np.zeros((3, 4), dtype)
    for value in values:
        with np.errstate(over="ignore"):
            agree(with_mode, with_mode.py_func, x, 1, INDEX + 3, "fill", value)


def test_dims_that_are_none() -> None:
    for dim in (2, -3, 2**40, True, 1.0, None):
        agree(gather, gather.py_func, X, dim, INDEX)
        agree(along, along.py_func, X, dim, INDEX)


@pytest.mark.parametrize("bad", [4, -1, -5, 2**62])
def test_a_bad_index_and_its_place(bad: int) -> None:
    index = np.zeros((3, 5), np.int64)
    index[1, 3] = index[2, 0] = bad
    for compiled, plain in (FUNCTIONS[name] for name in ("gather", "along", "tokens")):
        agree(compiled, plain, X, 1, index)
        agree(compiled, plain, X, 1, index[::-1])
    agree(along, along.py_func, X, 1, index[1:2])
    agree(gather, gather.py_func, X, 1, index.view(np.uint64))


@pytest.mark.parametrize(
    "x, index",
    [
        (X, INDEX.astype(float)),
        (X, INDEX.astype(bool)),
        (X, INDEX[0]),
        (X, np.zeros((4, 2), int)),
        (X[0], INDEX),
        (np.zeros((3, 4), "S3"), INDEX),
    ],
    ids=["float index", "bool index", "fewer dims", "larger index", "1d input", "itemsize"],
)
def test_operands_that_do_not_fit(x: np.ndarray, index: np.ndarray) -> None:
    for compiled, plain in FUNCTIONS.values():
        agree(compiled, plain, x, 1, index)


@free
def scattered(x, dim, index, src):
    return nbgather.scatter(x, dim, index, src)


def test_what_is_scattered() -> None:
    for src in (7, 7.5, True, X[:, :1], X.astype("f4"), X[0], 1 + 2j):
        agree(scattered, scattered.py_func, X, 1, INDEX, src)
    agree(scattered, scattered.py_func, X.astype("i1"), 1, INDEX, 300)
    agree(scattered, scattered.py_func, X, 1, INDEX + 3, X)


def _into(function: str, **options: Any) -> Any:
    calls = {
        "gather": lambda x, index, out: nbgather.gather(x, 1, index, out=out),
        "along": lambda x, index, out: nbgather.take_along_axis(x, index, 1, out=out),
        "tokens": lambda x, index, out: nbgather.gather_tokens(x, index, out=out),
    }
    return njit(**options)(calls[function])


@pytest.mark.parametrize("function", ["gather", "along", "tokens"])
def test_out(function: str) -> None:
    compiled = _into(function, nogil=True)
    plain = compiled.py_func
    fixed, x = np.empty((3, 2)), X.copy()
    fixed.flags.writeable = False
    outs = [
        np.empty((3, 2)), np.empty((3, 3)), np.empty((2, 3)).T, np.empty((3, 4))[::-1, ::-2],
        np.lib.stride_tricks.as_strided(np.empty(8), (3, 2), (0, 8)), x[:, :2], INDEX.view(float),
        np.empty(6), np.empty((3, 2), "f4"), fixed,
    ]  # fmt: skip
    # Each type is compiled: of one function all, and of the others those of the usual one.
    for out in outs if function == "gather" else outs[:2]:
        agree(compiled, lambda *given: np.array(plain(*given)), x, INDEX, out)
    for index in (INDEX + 9, INDEX[:, :1], INDEX[:2], INDEX.astype(float)):
        agree(compiled, plain, x, index, np.empty((3, 2)))
    if function == "gather":
        agree(compiled, plain, x, INDEX.astype(float), fixed)


def test_out_between_the_items_of_an_operand() -> None:
    memory = np.arange(24.0).reshape(3, 8)
    x, out = memory[:, ::2], memory[:, 1:5:2]
    same(np.array(_into("gather")(x, INDEX, out)), np.take_along_axis(x, INDEX, 1))
    with pytest.raises(ValueError, match="without the GIL that is taken for an overlap"):
        _into("gather", nogil=True)(x, INDEX, out)


def test_large_results_into_out(asked: list[str]) -> None:
    x, index = np.arange(3e5).reshape(300, 1000), np.full((300, 900), 7)
    out = np.empty((900, 300)).T
    assert _into("gather")(x, index, out) is out
    assert (out == x[:, 7:8]).all()
    assert asked == ["gather"]


@njit
def scattered_into(x, dim, index, src, out):
    return nbgather.scatter(x, dim, index, src, out=out)


@free
def added_into(x, dim, index, src, out):
    return nbgather.scatter_add(x, dim, index, src, out=out)


def test_scatters_into_out(asked: list[str]) -> None:
    """With the GIL and without, where what Python would look at closer is refused at once."""
    fixed, x, src = np.empty((3, 4)), X.copy(), X[:, 1:].copy()
    fixed.flags.writeable = False

    def check(compiled: Any, *given: Any) -> None:
        agree(compiled, lambda *same: np.array(compiled.py_func(*same)), *given)

    for out in (
        np.empty((3, 4)), np.empty((3, 3)), np.empty((6, 4))[::-2],
        np.lib.stride_tricks.as_strided(np.empty(8), (3, 4), (0, 8)), x, np.empty(12), fixed,
    ):  # fmt: skip
        check(scattered_into, x, 1, INDEX, src, out)
    for compiled in (scattered_into, added_into):
        for index, dim in ((INDEX, 1), (INDEX + 9, 1), (INDEX[:, :0], 1), (INDEX, 7)):
            out = np.full((3, 4), 5.0)
            check(compiled, x, dim, index, src, out)
            assert (out == 5).all() == (index is not INDEX or dim == 7) or not index.size
        assert compiled(x, 1, INDEX, src, out) is out
    check(scattered_into, x, 1, INDEX[0], src, out)
    check(scattered_into, x, 1, INDEX.astype(float), src, fixed)
    check(added_into, x, 1, INDEX, 2.5, out)
    asked.clear()
    memory = np.arange(24.0).reshape(3, 8)
    x, out = memory[:, ::2], memory[:, 1::2]
    same(np.array(scattered_into(x, 1, INDEX, src, out)), nbgather.scatter(x, 1, INDEX, src))
    assert asked == ["scatter_into"]
    with pytest.raises(ValueError, match="without the GIL that is taken for an overlap"):
        added_into(x, 1, INDEX, src, out)


def refusal(call: str, *arguments: Any) -> str:
    """What numba says of a call of the names a, b, ... that it cannot compile."""
    names = "abc"[: len(arguments)]
    function = njit(eval(f"lambda {', '.join(names)}: nbgather.{call}", {"nbgather": nbgather}))
    with pytest.raises(NumbaError) as raised:
        function(*arguments)
    return str(raised.value)


def test_what_numba_has_to_refuse() -> None:
    """It says why, and what can be done."""
    scores, way_out = np.zeros((3, 4)), "call it outside, or in a block `with numba.objmode(...)`"
    never = f"cannot be called in compiled code: {way_out}"
    for call, arguments, text in (
        ("random_masking(a)", (X,), "draws no seed: give noise= or seed="),
        ("random_masking(a, b, seed=1)", (X, scores), "mask_ratio is an array: a number is needed"),
        ("random_masking(a, noise=1)", (X,), "noise is a Literal[int](1) of numba's: an array is"),
        ("rank_tokens(a, b)", (scores, np.array(2)), "give num_keep[()]"),
        ("gather(a, 1, b, backend='cpu')", (X, INDEX), f"no backend=: leave it out, or {way_out}"),
        ("gather(a, 1, b)", (X, 3), "nbgather.gather: index is a int64 of numba's: an array is"),
        ("take_along_axis(a, b)", (X, (1, 2)), "take_along_axis: indices is a UniTuple(int64 x 2)"),
        ("scatter(a, 1, b, 1, out=1)", (X, INDEX), "scatter: out is a Literal[int](1) of numba's"),
        ("restore_tokens(a, b, 0, valid=1)", (scores[..., None], INDEX), "valid is a Literal[int]"),
        ("patchify(a, 2)", (3,), "nbgather.patchify: images is a int64 of numba's: an array is"),
        ("masked_patchify(a, 2, seed=1)", (scores[None, None],),
         "masked_patchify cannot be called in compiled code: nbgather.random_masking of"
         " nbgather.patchify gives the same tokens"),
        ("infer_gather(a, a)", (X,), f"nbgather.infer_gather {never}"),
        ("strategies.block(1, 2, (4, 4))", (), f"nbgather.strategies.block {never}")
    ):  # fmt: skip
        assert text in refusal(call, *arguments)


# Tokens and patches


@free
def noise(seed, ids, count, epoch):
    return nbgather.token_noise(seed, ids, count, epoch=epoch)


@free
def ranks(scores, number):
    return nbgather.rank_tokens(scores, number)


@free
def by_noise(x, number, noise):
    return nbgather.random_masking(x, noise=noise, num_keep=number)


@free
def by_seed(x, ratio, seed, ids, epoch):
    return nbgather.random_masking(x, ratio, seed=seed, sample_ids=ids, epoch=epoch)


@free
def restored(x, ids, token):
    return nbgather.restore_tokens(x, ids, token)


@free
def cut(images, size):
    return nbgather.patchify(images, size)


@free
def joined(patches, size, image_size):
    return nbgather.unpatchify(patches, size, image_size)


def test_noise() -> None:
    ids = np.array([3, -7, 2**62])
    for call in [
        (1, 3, 8, 0), (-5, ids, 7, 2**32 - 1), (2**63 - 1, ids[::-1], 301, 0), (1, 0, 3, 0),
        (1, -1, 3, 0), (1, ids, -1, 0), (1, ids, 3, -1), (1, ids, 3, 2**32), (1, 2000, 100, 5),
        (1, np.zeros((2, 2), int), 3, 0), (1.5, 2, 3, 0), (True, 2, 3, 0),
    ]:  # fmt: skip
        agree(noise, noise.py_func, *call)
    agree(noise, noise.py_func, 1, ids.astype("u2"), 5, 0)


def test_ranks() -> None:
    generator = rng("ranks")
    ties = np.array([[np.nan, -0.0, 0.0, 1, -np.inf, np.nan, 1]])
    wide = generator.random((3, 900))
    for scores in (ties, wide, np.round(wide, 1), wide[:, :0], wide[:0]):
        for number in (0, 3, scores.shape[1], scores.shape[1] + 1, -1):
            agree(ranks, ranks.py_func, scores, number)
    agree(ranks, ranks.py_func, wide.astype("f4").T, 2)
    agree(ranks, ranks.py_func, wide.astype(int), 2)
    agree(ranks, ranks.py_func, wide, 2.5)


def test_maskings() -> None:
    generator = rng("maskings")
    x = generator.random((3, 40, 5))
    scores = generator.random((3, 40))
    for number in (0, 10, 40, 41, -1):
        agree(by_noise, by_noise.py_func, x, number, scores)
    agree(by_noise, by_noise.py_func, x, 1, scores[:1])
    ids = np.array([5, 1, 2**40])
    for ratio in (0.75, 0.3, 0.0, 1.0, 1.5, -0.1, np.nan):
        agree(by_seed, by_seed.py_func, x, ratio, 7, ids, 3)
    for given in (3, 4, None, ids[:2], ids[None], ids.astype(float)):
        agree(by_seed, by_seed.py_func, x, 0.5, 7, given, 0)
    agree(by_seed, by_seed.py_func, x.transpose(1, 0, 2), 0.5, 7, 40, 0)
    agree(by_seed, by_seed.py_func, x, 0.5, 7, ids, 2**32)


def test_a_number_of_tokens_for_each_sample() -> None:
    generator = rng("counts")
    x, scores = generator.random((3, 40, 5)), generator.random((3, 40))
    counts = np.array([4, 0, 9])
    for number in (counts, counts * 0, counts[:2], counts - 1, counts * 5):
        agree(ranks, ranks.py_func, scores, number)
        agree(by_noise, by_noise.py_func, x, number, scores)
    for number in (counts.astype("u1")[::-1], counts[None], counts.astype(float)):
        agree(ranks, ranks.py_func, scores, number)
    seeded = free(lambda x, n, ids: nbgather.random_masking(x, seed=7, sample_ids=ids, num_keep=n))
    agree(seeded, seeded.py_func, x, counts, np.array([5, 1, 2**40]))
    agree(seeded, seeded.py_func, x[:0], counts[:0], np.arange(0))


def test_restoring_where_not_every_token_is_one(asked: list[str]) -> None:
    restored = njit(
        lambda x, ids, token, valid: nbgather.restore_tokens(x, ids, token, valid=valid)
    )
    x = rng("valid").random((3, 40, 2, 5))
    made = nbgather.random_masking(x, seed=1, num_keep=[4, 0, 9])
    visible, ids, valid = made.x_masked, made.ids_restore, made.valid
    for token in (1.5, np.arange(5.0)):
        agree(restored, restored.py_func, visible, ids, token, valid)
    agree(restored, restored.py_func, visible[::-1, ::-1], ids, 1.5, valid[::-1, ::-1])
    for wrong in (valid[:, :3], valid[0], valid.astype(int)):
        agree(restored, restored.py_func, visible, ids, 1.5, wrong)
    assert not asked
    many = np.repeat(visible, 300, 0), np.repeat(ids, 300, 0), 1.5, np.repeat(valid, 300, 0)
    agree(restored, restored.py_func, *many)
    assert asked == ["restore_valid"]


def test_restoring() -> None:
    x = rng("restoring").random((3, 40, 2, 5))
    visible, _, ids = nbgather.random_masking(x, 0.6, seed=1)
    row = np.arange(5.0)
    for token in (
        0, 1.5, row, x[:1, :1, 0], row[:1].astype("f4"), row[:1].astype(int), row[:3],
    ):  # fmt: skip
        agree(restored, restored.py_func, visible, ids, token)
    bad = ids.copy()
    bad[1, 2], bad[2, 1] = 40, -1
    for wrong in (bad, bad[::-1], ids[:, :3], ids[:1], ids.astype(float)):
        agree(restored, restored.py_func, visible, wrong, 0)


def test_patches() -> None:
    images = rng("patches").integers(0, 255, (2, 3, 8, 6)).astype(np.uint8)
    for size in (2, (4, 2), (2, 2, 2), 3, (0, 2), -1, 2.0):
        agree(cut, cut.py_func, images, size)
    agree(cut, cut.py_func, images.transpose(0, 3, 1, 2), (3, 4))
    video = images.reshape(1, 2, 3, 8, 6)
    for size in ((3, 2, 2), (2, 2, 2)):
        agree(cut, cut.py_func, video, size)
    patches = nbgather.patchify(images, 2)
    for sides in ((8, 6), (6, 8), 8, (0, 6), (-8, 6)):
        agree(joined, joined.py_func, patches, 2, sides)
    agree(joined, joined.py_func, patches[..., ::-1], (2, 2), (8, 6))
    agree(joined, joined.py_func, nbgather.patchify(video, (3, 2, 2)), (3, 2, 2), (3, 8, 6))


# Where they run


@njit
def locked(x, dim, index):
    return nbgather.gather(x, dim, index)


def test_large_calls_are_made_by_python_where_it_may_be_asked(asked: list[str]) -> None:
    x = random_bits(rng("asked"), (300, 500), "float64")
    index = rng("asked").integers(0, 500, (300, 700))
    agree(locked, locked.py_func, x, 1, index)
    assert asked == ["gather"]
    index[7, 9] = 500
    agree(locked, locked.py_func, x, 1, index)
    assert asked == ["gather", "gather"]
    agree(locked, locked.py_func, x[:3, :4], 1, index[:3, :4] % 4)
    agree(gather, gather.py_func, x, 1, index)
    assert len(asked) == 2


def test_what_python_raises_is_left_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    x, index = np.zeros((300, 500)), np.zeros((300, 700), int)
    for error in (MemoryError("none left"), TypeError("of another version")):

        def fails(*arguments: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setitem(large._CALLS, "gather", fails)
        agree(locked, locked.py_func, x, 1, index)

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(large._CALLS, "gather", interrupted)
    with pytest.raises(KeyboardInterrupt):
        locked(x, 1, index)


@njit(parallel=True)
def in_parallel(x, index):
    result = np.empty(index.shape, x.dtype)
    for n in prange(x.shape[0]):
        result[n] = nbgather.gather(x[n], 0, index[n])
    return result


def test_iterations_of_parallel_loops(asked: list[str]) -> None:
    """Each is so large that Python would be asked, but for a loop numba gives the GIL away."""
    x = random_bits(rng("prange"), (8, 64, 1000), "float64")
    index = rng("prange").integers(0, 64, (8, 64, 1000))
    for _ in range(5):
        same(in_parallel(x, index), np.take_along_axis(x, index, 1))
    assert not asked


def test_many_threads_without_the_gil() -> None:
    x = random_bits(rng("threads"), (300, 500), "float64")
    index = rng("threads").integers(0, 500, (300, 700))
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: gather(x, 1, index), range(12)):
            same(result, np.take_along_axis(x, index, 1))


def test_an_error_is_caught_in_compiled_code() -> None:
    @free
    def caught(x, index):
        try:
            return nbgather.gather(x, 1, index)[0, 0]
        except Exception:
            return -1.0

    assert caught(X, INDEX) == 0.0
    assert caught(X, INDEX + 2) == -1.0


def test_other_ways_to_compile() -> None:
    @njit(boundscheck=True)
    def checked(x, index):
        return nbgather.gather(x, 1, index)

    @guvectorize([(types.float64[:], types.int64[:], types.float64[:])], "(n),(m)->(m)")
    def picked(x, index, result):
        result[:] = nbgather.gather(x, 0, index)

    @cfunc(types.float64(types.CPointer(types.float64), types.intp))
    def second(x, count):
        return nbgather.gather(carray(x, (count,)), 0, np.array([1]))[0]

    agree(checked, checked.py_func, X, INDEX)
    agree(checked, checked.py_func, X, INDEX + 3)
    same(picked(X, INDEX), np.take_along_axis(X, INDEX, 1))
    with pytest.raises(IndexError, match=r"index 5 at \(1,\) is out of bounds for dimension 0"):
        picked(X, INDEX + 2)
    assert second.ctypes(X.ctypes.data_as(second.ctypes.argtypes[0]), 3) == 1.0


def test_results_are_freed() -> None:
    from numba.core.runtime import _nrt_python, rtsys

    visible, _, ids = nbgather.random_masking(np.zeros((3, 40, 5)), 0.5, seed=7)
    calls: list[Callable[[], Any]] = [
        lambda: gather(X, 1, INDEX),
        lambda: along(X, None, np.arange(3)),
        lambda: locked(np.zeros((300, 500)), 1, np.zeros((300, 700), int)),
        lambda: scattered(X, 1, INDEX, X),
        lambda: noise(1, np.arange(3), 4, 0),
        lambda: by_seed(np.zeros((3, 40, 5)), 0.5, 7, np.arange(3), 0),
        lambda: by_noise(np.zeros((3, 40, 5)), 3, np.zeros((3, 40))),
        lambda: restored(visible, ids, np.zeros(5)),
        lambda: scattered_into(X, 1, INDEX, X, np.zeros((3, 4))),
        lambda: by_noise(np.zeros((3, 40, 5)), np.array([1, 2, 3]), np.zeros((3, 40))),
    ]
    _nrt_python.memsys_enable_stats()
    try:
        for call in calls:
            call()
            before = rtsys.get_allocation_stats()
            call()
            after = rtsys.get_allocation_stats()
            assert after.mi_alloc - before.mi_alloc == after.mi_free - before.mi_free > 0
            assert after.alloc - before.alloc == after.free - before.free
        bad = INDEX + 9
        for failing in (lambda: gather(X, 1, bad), lambda: scattered(X, 1, bad, X)):
            attempt(failing)
            before = rtsys.get_allocation_stats()
            attempt(failing)
            after = rtsys.get_allocation_stats()
            kept = after.mi_alloc - before.mi_alloc - (after.mi_free - before.mi_free)
            # numba keeps the arguments of a function when one that it calls raises.
            assert kept <= 3
            assert after.mi_free > before.mi_free
    finally:
        _nrt_python.memsys_disable_stats()


# Other processes

PROGRAM = """
import sys
import numpy as np
import nbgather
from numba import njit

@njit(cache=True)
def picked(x, index):
    return nbgather.gather(x, 1, index)

x = np.arange(12.0).reshape(3, 4)
index = np.array([[0, 3], [1, 1], [2, 0]])
assert (picked(x, index) == np.take_along_axis(x, index, 1)).all()
wide, many = np.arange(3e5).reshape(300, 1000), np.full((300, 900), 7)
assert (picked(wide, many) == np.take_along_axis(wide, many, 1)).all()
try:
    picked(x, index + 2)
except IndexError as error:
    print(error)
print(sum(picked.stats.cache_hits.values()), "nbgather.numba_ext.gathers" in sys.modules)
"""


def run(program: Path, cache: Path, *paths: Path) -> list[str]:
    """What a program prints, in a process that finds packages in these folders too."""
    search = os.pathsep.join(map(str, (ROOT, *paths)))
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": search, "NUMBA_CACHE_DIR": str(cache)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return (done.stdout + done.stderr).splitlines()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with metadata as of an installed package."""
    metadata = tmp_path / "site" / "nbgather-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: nbgather\nVersion: 0\n")
    text = (ROOT / "pyproject.toml").read_text()
    section = text.partition("[project.entry-points.numba_extensions]\n")[2].partition("\n\n")[0]
    (metadata / "entry_points.txt").write_text(
        "[numba_extensions]\n" + section.replace('"', "") + "\n"
    )
    return metadata.parent


def test_the_entry_point_and_caches_of_numba(installed: Path, tmp_path: Path) -> None:
    """The second process compiles nothing, and knows nothing of the package's extension."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    said = "index 5 at (0, 1) is out of bounds for dimension 1 with size 4"
    assert run(program, tmp_path / "cache", installed) == [said, "0 True"]
    assert run(program, tmp_path / "cache", installed) == [said, "1 False"]


def test_it_costs_nothing_until_it_is_used(installed: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import sys
        from numba import njit
        assert njit(lambda a: a + 1)(1) == 2
        print("nbgather.numba_ext" in sys.modules, "nbgather.indexing" in sys.modules)
        """)
    )
    assert run(program, tmp_path / "cache", installed) == ["True False"]


def test_numba_works_where_it_cannot_be_imported(installed: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import sys, warnings
        sys.modules["nbgather.numba_ext"] = None
        warnings.simplefilter("ignore")
        from numba import njit
        print(njit(lambda a: a + 1)(1))
        """)
    )
    assert run(program, tmp_path / "cache", installed) == ["2"]


PAGE = ROOT / "scripts" / "docs" / "compiled.md"


def test_the_pages_example(installed: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PAGE.read_text().partition("```python\n")[2].partition("```")[0])
    printed = run(program, tmp_path / "cache", installed)
    assert "".join(printed) == "[[[ 2.  3.]  [ 6.  7.]  [10. 11.]]]"


@pytest.mark.large
def test_the_pages_table_is_what_can_be_called() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "compiled_table.py"), "--check"]
    assert subprocess.run(script).returncode == 0


def test_arrays_that_numba_does_not_know_are_still_unknown() -> None:
    """Of these the table of cases leaves out what it tries."""
    for name in ("dtype_float8_e4m3fn", "dtype_bfloat16", "dtype_>f4", "swapped_index"):
        case = CASES[name]()
        with pytest.raises(NumbaError, match="dtype"):
            typeof(case.input), typeof(case.index)
    with pytest.raises(NotImplementedError, match="float16"):
        free(lambda x: x)(np.zeros(1, np.float16))


def test_nothing_is_put_off_in_compiled_code() -> None:
    """The mode defer is the mode raise where a call is done when it comes back."""

    @njit
    def gathered(x, index):
        return nbgather.gather(x, 1, index, mode="defer")

    @njit
    def scattered(x, index, src):
        return nbgather.scatter_add(x, 1, index, src, mode="defer")

    x, index = np.arange(6.0).reshape(2, 3), np.array([[2, 0], [1, 1]])
    assert gathered(x, index).tolist() == [[2, 0], [4, 4]]
    assert scattered(x, index, x[:, :2].copy()).tolist() == [[1, 1, 2], [3, 11, 5]]
    for call in (lambda i: gathered(x, i), lambda i: scattered(x, i, x[:, :2].copy())):
        with pytest.raises(IndexError, match=r"index 3 at \(1, 0\) is out of bounds"):
            call(index + np.array([[0], [2]]))


# Reductions

_REDUCING = {
    "prod": lambda x, dim, index, src: nbgather.scatter_reduce(x, dim, index, src, "prod"),
    "mean": lambda x, dim, index, src: nbgather.scatter_reduce(
        x, dim, index, src, "mean", include_self=False
    ),
    "amax": lambda x, dim, index, src: nbgather.scatter_reduce(x, dim, index, src, reduce="amax"),
    "max": lambda x, dim, index, src: nbgather.scatter_reduce(x, dim, index, src, "max"),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("mean", "i1"), ("amax", "f4"), ("max", "f8"),
     pytest.param("prod", "f8", marks=pytest.mark.large),
     pytest.param("amax", "u8", marks=pytest.mark.large),
     pytest.param("mean", "f4", marks=pytest.mark.large),
     pytest.param("prod", "?", marks=pytest.mark.large)],
)  # fmt: skip
def test_reductions(name: str, dtype: str) -> None:
    """With the bits and the errors of Python's call, small, and large where Python is asked."""
    plain = _REDUCING[name]
    compiled = free(plain)
    generator = np.random.default_rng(6)
    for shape, index_shape in (((5, 6), (4, 9)), ((200, 300), (200, 400))):
        x, src = (generator.standard_normal(s) * 9 for s in (shape, index_shape))
        if dtype[0] == "f":
            src[0, 2], x[1, 1] = np.nan, -0.0
        x, src = x.astype(dtype), src.astype(dtype)
        index = generator.integers(0, shape[1] - 2, index_shape)
        agree(compiled, plain, x, 1, index, src)
    for given in (
        (x, 1, index + 300, src), (x, 2, index, src), (x, 1, index, src[:1]),
        (x, 1, index, src.astype("c8")), (x, 1, index.astype(float), src),
    ):  # fmt: skip
        agree(compiled, plain, *given)


@njit
def reduced_into(x, dim, index, src, out):
    return nbgather.scatter_reduce(x, dim, index, src, "amin", True, out)


def test_reductions_into_out() -> None:
    x, src = X.copy(), X[:, 1:].copy()

    def plain(x: Any, dim: Any, index: Any, src: Any, out: Any) -> Any:
        return np.array(nbgather.scatter_reduce(x, dim, index, src, "amin", out=out))

    for out in (np.empty((3, 4)), np.empty((3, 3)), x, np.empty((3, 4), "f4")):
        agree(lambda *given: np.array(reduced_into(*given)), plain, x, 1, INDEX, src, out)
    out = np.full((3, 4), 5.0)
    agree(lambda *given: np.array(reduced_into(*given)), plain, x, 1, INDEX + 9, src, out)
    assert (out == 5).all()


def test_what_no_reduction_in_compiled_code_takes() -> None:
    for call, arguments, text in (
        ("scatter_reduce(a, 1, b, a, 'mean')", (X + 0j, INDEX), "of complex128 cannot be called"),
        ("scatter_reduce(a, 1, b, 2.0, 'amax')", (X, INDEX), "src is a"),
        ("scatter_reduce(a, 1, b, a, c)", (X, INDEX, "sum"), "takes reduce= as a constant"),
    ):
        assert text in refusal(call, *arguments)


# Segments and bags of rows

_BY = {
    "ids": "lambda x, i, w, n: nbgather.segment_reduce(x, '{}', ids=i, num_segments=n)",
    "offsets": "lambda x, i, w, n: nbgather.segment_reduce(x, '{}', offsets=w)",
    "counts": "lambda x, i, w, n: nbgather.segment_reduce(x, '{}', counts=w)",
    "bags": "lambda x, i, w, n: nbgather.gather_reduce(x, i, '{}', offsets=w)",
    "counted bags": "lambda x, i, w, n: nbgather.gather_reduce(x, i, '{}', counts=w)",
    "even bags": "lambda x, i, w, n: nbgather.gather_reduce(x, i, '{}')",
}
_ALWAYS = [
    ("ids", "mean", "f4"), ("offsets", "amax", "f8"), ("counts", "sum", "i4"),
    ("bags", "amax", "f8"), ("even bags", "mean", "f4"),
]  # fmt: skip


def rows_of(dtype: str, *shape: int) -> np.ndarray:
    """Rows with NaNs, zeros of both signs and infinities, or the extremes of integers."""
    kind = np.dtype(dtype)
    if kind.kind != "f":
        few = [0, 1] if kind.kind == "b" else [np.iinfo(kind).min, np.iinfo(kind).max, 7, -3]
        return rng("rows").choice(np.array(few, kind), shape)
    x = rng("rows").standard_normal(shape).astype(kind)
    x[rng("special").random(shape) < 0.2] = rng("special").choice(
        np.array([np.nan, 0.0, -0.0, np.inf], kind)
    )
    x.reshape(-1)[:4] = 0.0, -0.0, np.nan, -np.inf
    return x


@pytest.mark.parametrize(
    ("by", "reduce", "dtype"),
    [
        pytest.param(*case, marks=[] if case in _ALWAYS else pytest.mark.large)
        for case in itertools.product(
            _BY, ("sum", "prod", "mean", "amax", "amin"), ("f4", "f8", "i4", "?")
        )
    ],
)
def test_rows_of_segments(by: str, reduce: str, dtype: str) -> None:
    """With the bits and the errors of Python's call, segments of no rows among them."""
    plain = eval(_BY[by].format(reduce), {"nbgather": nbgather})
    compiled = free(plain)
    x = rows_of(dtype, 24, 6)[::-2, 1::2]
    ids, counts, number = rng("ids").integers(0, 12, 12), np.array([3, 0, 1, 8, 0]), 14
    where = counts if "count" in by else np.concatenate([[0], np.cumsum(counts)])
    if by == "even bags":
        ids = ids.reshape(4, 3)
    shifted, mixed = where - 1, where[[0, 1, 3, 2, *range(4, len(where))]]
    given = [
        (ids, where, number), (ids, where, 0), (ids, where, -2), (ids, where, 1 << 62),
        (ids[1:], where, number), (ids + 1, where, number), (ids - 11, where, number),
        (ids, where + 1, number), (ids, shifted, number), (ids, mixed, number),
        (ids, where[:-1], number), (ids, where[:0], number),
    ]  # fmt: skip
    for one in given:
        agree(compiled, plain, x, *one)
    # Its compiled code would be another, of contiguous arrays.
    (signature,) = compiled.signatures
    assert signature[0].layout == "A"


@pytest.mark.large
@pytest.mark.parametrize("by", _BY)
def test_segments_of_other_shapes_and_dtypes(by: str) -> None:
    """Rows that are numbers or of three axes, ids and bounds of any width and stride."""
    plain = eval(_BY[by].format("mean"), {"nbgather": nbgather})
    compiled = free(plain)
    ids, counts = rng("ids").integers(0, 9, 9), np.array([3, 0, 6])
    where = counts if "count" in by else np.concatenate([[0], np.cumsum(counts)])
    if by == "even bags":
        ids = ids.reshape(3, 3).T
    for x, kind in (
        (rows_of("f4", 9), "u8"), (rows_of("f8", 9, 2, 3, 4).transpose(0, 3, 1, 2), "i1"),
        (rows_of("i4", 9, 2), "u2"),
    ):  # fmt: skip
        i, w = ids.astype(kind), where.astype(kind)
        for given in ((i, w, 9), (i, w - 1, 9), (i - 1, w, 9)):
            agree(compiled, plain, x, *given)
    none, nowhere = ids[:0], where[:0] if "count" in by else where[:1]
    agree(compiled, plain, x[:0], none, nowhere, 3)
    agree(compiled, plain, x[:, :0], ids, where, 9)
    agree(compiled, plain, x[:, :0], ids + 1, where, 9)
    # Dimensions and dtypes that do not fit.
    agree(compiled, plain, np.array(1.0), ids, where, 9)
    agree(compiled, plain, x, ids.astype(float), where.astype(float), 9)
    agree(compiled, plain, x, ids[None, None], where[None], 9)


_INTO = {
    "ids": "nbgather.segment_reduce(x, 'amax', ids=i, num_segments=n, out=o)",
    "offsets": "nbgather.segment_reduce(x, 'mean', offsets=w, out=o)",
    "bags": "nbgather.gather_reduce(x, i, 'mean', offsets=w, mode=m, fill_value=f, out=o)",
    "even bags": "nbgather.gather_reduce(x, i.reshape(-1, 3), 'mean', mode=m, out=o)",
}


@pytest.mark.parametrize(
    "by", [pytest.param(k, marks=[] if k == "bags" else pytest.mark.large) for k in _INTO]
)
def test_modes_of_bags_and_where_rows_are_written(by: str, asked: list[str]) -> None:
    plain = eval(f"lambda x, i, w, n, m, f, o: {_INTO[by]}", {"nbgather": nbgather})
    compiled = free(plain)
    x, ids = rows_of("f4", 7, 3), rng("far").integers(-20, 30, 12)
    w, f = np.array([0, 3, 3, 12]), 2.5
    if by == "ids":
        ids = ids[:7] % 4
    if by == "offsets":
        w = w * 7 // 12
    for mode in ("clip", "wrap", "fill", "raise", "defer", "nearest"):
        for i in (ids, ids % 4):
            for x_rows, n in ((7, 4), (7, 3), (0, 4)):
                outs = [np.full((8, 3), 9, "f4")[1::2] for _ in range(2)]
                if by != "ids":
                    outs = [out[: 4 if "even" in by else 3] for out in outs]
                given = x[:x_rows], i[:x_rows] if by == "ids" else i, w, n, mode, f
                both = []
                for call, out in zip((compiled, plain), outs, strict=True):
                    try:
                        with np.errstate(all="ignore"):
                            both.append(call(*given, out) is not None)
                    except (IndexError, ValueError) as error:
                        both.append((type(error), str(error)))  # type: ignore[arg-type]
                assert both[0] == both[1], (mode, n)
                assert outs[0].tobytes() == outs[1].tobytes(), (mode, n, both)
    rows = len(outs[0])
    for out in (
        np.zeros((rows + 1, 3), "f4"), np.zeros((rows, 3), "f8")[:, ::1].view("f4")[:, ::2],
        np.broadcast_to(np.zeros(3, "f4"), (rows, 3)), x[:rows, ::1],
    ):  # fmt: skip
        if out.flags.writeable:
            agree(compiled, plain, x, ids, w, 4, "wrap", f, out)
    # Between the items of x: Python tells, where it may be asked.
    wide = np.repeat(x, 2, 0)
    out, given = wide[1::2][:rows], (wide[::2], ids % 4, w, 4, "wrap", f)
    assert not asked
    with pytest.raises(ValueError, match="out lies between the items of an operand"):
        compiled(*given, out)
    want = plain(*given, np.zeros((rows, 3), "f4"))
    njit(plain)(*given, out)
    same(np.ascontiguousarray(out), want)
    assert asked == ["segment_reduce_into" if by in ("ids", "offsets") else "gather_reduce_with"]


@njit
def large_segments(x, offsets, ids):
    first = nbgather.segment_reduce(x, "mean", offsets=offsets)
    return first + nbgather.gather_reduce(x, ids, "mean", offsets=offsets)


def test_large_segments_are_pythons(asked: list[str]) -> None:
    x, offsets = rows_of("f4", 4000, 9), np.array([0, 1000, 1000, 4000])
    ids = rng("bags").integers(0, 4000, 4000)
    with np.errstate(invalid="ignore"):
        agree(large_segments, large_segments.py_func, x, offsets, ids)
    assert asked == ["segment_reduce", "gather_reduce"]
    agree(large_segments, large_segments.py_func, x, offsets + 1, ids)
    agree(large_segments, large_segments.py_func, x, offsets, ids + 1)


def test_what_no_segments_in_compiled_code_take() -> None:
    offsets = np.array([0, 3])
    for call, arguments, text in (
        ("segment_reduce(a, 'sum', ids=b)", (X, offsets), "takes num_segments=: give it, or call"),
        ("segment_reduce(a, 'sum', offsets=(0, 3))", (X,), "offsets is a"),
        ("segment_reduce(a, 'sum', offsets=b)", (X + 0j, offsets), "of complex128 cannot be"),
        ("segment_reduce(a, c, offsets=b)", (X, offsets, "sum"), "takes reduce= as a constant"),
        ("gather_reduce(a, 2, 'sum')", (X,), "ids is a"),
    ):
        assert text in refusal(call, *arguments)


@pytest.mark.parametrize(
    "call",
    ["segment_reduce(x, 'sum')", "segment_reduce(x, 'sum', offsets=i, counts=i)",
     "segment_reduce(x, 'sum', counts=i, num_segments=2)", "segment_reduce(x, 'most', counts=i)",
     "segment_reduce(x, 'sum', ids=i, num_segments=True)",
     "gather_reduce(x, x, 'sum', counts=i)", "gather_reduce(x, i, 'sum', counts=i, offsets=i)"],
)  # fmt: skip
def test_segments_that_are_never_right(call: str) -> None:
    plain = eval(f"lambda x, i: nbgather.{call}", {"nbgather": nbgather})
    agree(free(plain), plain, X, np.array([0, 1, 2]))
