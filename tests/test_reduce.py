"""scatter_reduce and segment_reduce: torch's and the reference's results, threads, refusals."""

from __future__ import annotations

import functools
import mmap
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from cases import random_bits, rng, same
from test_scatter import numbers, turned

import nbgather
from nbgather.kernels.cpu import launch_reduce, limits

REDUCES = ("sum", "prod", "mean", "amax", "amin")
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SEGMENTS = {"sum": "sum", "prod": "prod", "mean": "mean", "amax": "max", "amin": "min"}


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)


def tensor(array: np.ndarray) -> torch.Tensor:
    array = np.array(array, order="C", copy=True)
    if array.dtype.name in HALVES:
        return torch.from_numpy(array.view(np.int16)).view(HALVES[array.dtype.name])
    return torch.from_numpy(array)


def by_torch(
    x: np.ndarray, dim: int, index: np.ndarray, src: np.ndarray, reduce: str, own: bool
) -> np.ndarray:
    result = torch.scatter_reduce(
        tensor(x), dim, tensor(index.astype(np.int64)), tensor(src), reduce, include_self=own
    )
    if x.dtype.name in HALVES:
        return result.view(torch.int16).numpy().view(x.dtype)
    return result.numpy()


def special(generator: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Numbers with ties, both zeros, infinities and one kind of NaN; small where they are whole."""
    dtype = dtype_of(name)
    if dtype.kind in "iu" or name == "bool":
        if name != "bool" and generator.random() < 0.3:
            return random_bits(generator, shape, dtype)
        return generator.integers(0, 4, shape).astype(dtype)
    choice = np.array([0.0, -0.0, 1.5, -1.5, 2.0, np.inf, -np.inf, np.nan])
    drawn = choice[generator.integers(0, 5 + int(generator.integers(0, 4)), shape)]
    some = generator.standard_normal(shape)
    return np.asarray(np.where(generator.random(shape) < 0.5, some, drawn)).astype(dtype)


def equal(got: np.ndarray, want: np.ndarray) -> None:
    """Equal bits; of NaNs that arithmetic makes any will do."""
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if got.dtype.kind in "fV" or got.dtype.name == "bfloat16":
        nan = np.isnan(want.astype(np.float64))
        assert np.array_equal(np.isnan(got.astype(np.float64)), nan)
        got, want = np.where(nan, 0, got), np.where(nan, 0, want)
    assert got.tobytes() == want.tobytes()


def random_case(generator: np.random.Generator, name: str) -> tuple[Any, ...]:
    ndim = int(generator.integers(1, 4))
    shape = tuple(generator.integers(1, 6, ndim).tolist())
    dim = int(generator.integers(-ndim, ndim))
    index_shape = [int(generator.integers(1, n + 1)) for n in shape]
    index_shape[dim] = int(generator.integers(0, 12))
    src_shape = [n + int(generator.integers(0, 2)) for n in index_shape]
    index = generator.integers(0, shape[dim], index_shape)
    values = (special(generator, tuple(s), name) for s in (shape, src_shape))
    x, index, src = (turned(generator, a) for a in (next(values), index, next(values)))
    return x, dim, index, src


@pytest.mark.parametrize(
    "name",
    ["float32", pytest.param("int8", marks=pytest.mark.large)],
)
@pytest.mark.parametrize("reduce", REDUCES)
def test_two_thousand_random_cases_equal_torch_and_the_reference(reduce: str, name: str) -> None:
    generator = np.random.default_rng(5)
    for k in range(1000):
        x, dim, index, src = random_case(generator, name)
        for own in (True, False):
            got = nbgather.scatter_reduce(x, dim, index, src, reduce, include_self=own)
            equal(got, by_torch(x, dim, index, src, reduce, own))
            if k % 20 == 0:
                want = nbgather.scatter_reduce(
                    x, dim, index, src, reduce, include_self=own, backend="reference"
                )
                equal(got, want)


DTYPES = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
    "float64",
)  # fmt: skip


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_of_torch_by_the_other_backends(name: str, reduce: str, backend: str) -> None:
    if (name, reduce) == ("bool", "mean"):
        pytest.skip("bools have no mean")
    generator = rng(f"{name} {reduce}")
    for _ in range(6):
        x, dim, index, src = random_case(generator, name)
        for own in (True, False):
            got = nbgather.scatter_reduce(
                x, dim, index, src, reduce, include_self=own, backend=backend
            )
            equal(got, by_torch(x, dim, index, src, reduce, own))


#: Cases by the form of kernel that serves them: shape, dim, the index's shape, rows of one index.
FORMS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "lanes": (((5, 20), 1, (5, 90), 0), ((9, 4), 1, (9, 40), 0), ((3, 11, 4), 1, (3, 30, 4), 0)),
    "places": (((140_000,), 0, (70_000,), 0), ((60_000, 3), 0, (30_000, 3), 0)),
    "wide": (((2, 40, 100), 1, (2, 90, 100), 0), ((3, 33), 0, (60, 33), 0)),
    "rows": (((2, 40, 100), 1, (2, 90, 100), 1), ((50, 16), 0, (9000, 16), 1)),
    "strided": (((6, 50), 0, (40, 30), 0), ((4, 5, 6), 1, (3, 9, 2), 0)),
}
_MAKERS = {
    "make_lane_reduce": "lanes", "make_place_reduce": "places", "make_wide_reduce": "wide",
    "make_row_reduce": "rows", "make_strided_reduce": "strided", "make_part_reduce": "parts",
}  # fmt: skip


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The forms of the kernels that served the reductions of a test."""
    seen: list[str] = []
    find = launch_reduce._kernel

    def noting(plan, form, how):
        seen.append(_MAKERS[launch_reduce._FORMS[form][1]])
        return find(plan, form, how)

    monkeypatch.setattr(launch_reduce, "_kernel", noting)
    return seen


def _every_kernel() -> list[Any]:
    """Beside those that come compiled, each is one to compile: most are ``large``."""
    params = []
    for form in FORMS:
        for reduce in REDUCES:
            for name in ("float32", "int16", "uint64", "float16", "complex64"):
                usual = name == "float32" and reduce in ("mean", "amax") and form != "strided"
                chosen = (form, reduce, name) in _CHOSEN
                marks = () if usual or chosen else pytest.mark.large
                params.append(pytest.param(form, reduce, name, marks=marks))
    return params


_CHOSEN = {
    ("lanes", "mean", "int16"), ("wide", "prod", "uint64"),
    ("rows", "amax", "float16"), ("strided", "mean", "float32"), ("lanes", "prod", "complex64"),
}  # fmt: skip


@pytest.mark.parametrize("form, reduce, name", _every_kernel())
def test_every_kernel_equals_the_reference(
    form: str, reduce: str, name: str, forms: list[str]
) -> None:
    if name == "complex64" and reduce in ("mean", "amax", "amin"):
        pytest.skip("no kernel does this to complex numbers")
    if name == "float16" and reduce not in ("amax", "amin"):
        pytest.skip("float16 is computed with as float32")
    for shape, dim, index_shape, is_row in FORMS[form]:
        generator = rng(f"{shape} {name}")
        if name == "complex64":
            x, src = (numbers(generator, s, name) for s in (shape, index_shape))
        else:
            x, src = (special(generator, s, name) for s in (shape, index_shape))
        for values in (1, shape[dim]):
            index = generator.integers(0, values, index_shape)
            if values == 1:
                index[..., -1] = shape[dim] - 1  # runs of one, and an end
            if is_row:
                index = np.broadcast_to(index[..., :1], index_shape)
            for own in (True, False):
                with limits.limit_threads(4):
                    got = nbgather.scatter_reduce(x, dim, index, src, reduce, include_self=own)
                with limits.limit_threads(1):
                    alone = nbgather.scatter_reduce(x, dim, index, src, reduce, include_self=own)
                same(alone, got)
                want = by_loops(x, dim, index, src, reduce, own)
                equal(got, want)
    assert form in forms


def by_loops(
    x: np.ndarray, dim: int, index: np.ndarray, src: np.ndarray, reduce: str, own: bool
) -> np.ndarray:
    """torch where it has the dtype, else the reference."""
    if x.dtype.name in DTYPES and not (x.dtype.name == "int16" and reduce == "prod"):
        return by_torch(x, dim, index, src, reduce, own)
    return nbgather.scatter_reduce(
        x, dim, index, src, reduce, include_self=own, backend="reference"
    )


def test_a_sum_is_that_of_scatter_add() -> None:
    generator = rng("sum")
    for shape, index_shape in (((40, 30), (90, 30)), ((40, 30), (90, 30)), ((500,), (9000,))):
        x, src = (numbers(generator, s, "float32") for s in (shape, index_shape))
        index = generator.integers(0, shape[0], index_shape)
        want = nbgather.scatter_add(x, 0, index, src)
        same(nbgather.scatter_reduce(x, 0, index, src, "sum"), want)
        zeros = nbgather.scatter_reduce(x, 0, index, src, "sum", include_self=False)
        start = nbgather.scatter(x, 0, index, 0)
        same(zeros, nbgather.scatter_add(start, 0, index, src))


def test_a_count_beyond_what_a_dtype_holds_wraps_or_rounds_as_torch_has_it() -> None:
    index = np.zeros(300, np.int64)
    for name in ("int8", "uint8", "bfloat16"):
        x, src = np.zeros(1, dtype_of(name)), np.full(300, 3, dtype_of(name))
        for own in (True, False):
            got = nbgather.scatter_reduce(x, 0, index, src, "mean", include_self=own)
            equal(got, by_torch(x, 0, index, src, "mean", own))


@pytest.mark.parametrize("reduce", ["mean", "amax"])
@pytest.mark.parametrize("form", FORMS)
def test_every_kernel_finds_a_bad_index(form: str, reduce: str) -> None:
    for shape, dim, index_shape, is_row in FORMS[form]:
        generator = rng(f"bad {shape}")
        x = generator.standard_normal(shape).astype(np.float32)
        src = generator.standard_normal(index_shape).astype(np.float32)
        good = generator.integers(0, shape[dim], index_shape)
        before = x.copy()
        for bad in (-1, shape[dim], 2**40):
            index = good.copy()
            place = tuple(n - 1 for n in index_shape)
            if is_row:
                index = index[..., :1].copy()
                index[(*place[:-1], 0)] = bad
                index, place = np.broadcast_to(index, index_shape), (*place[:-1], 0)
            else:
                index[place] = bad
            for own in (True, False):
                with limits.limit_threads(2), pytest.raises(IndexError) as raised:
                    nbgather.scatter_reduce(x, dim, index, src, reduce, include_self=own)
                assert str(raised.value).startswith(f"index {bad} at {place} is out of bounds")
                same(x, before)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("reduce", ["mean", "amax"])
def test_out(reduce: str, own: bool) -> None:
    generator = rng("out")
    x = generator.standard_normal((60, 90)).astype(np.float32)
    src = generator.standard_normal((200, 90)).astype(np.float32)
    index = generator.integers(0, 60, src.shape)
    want = by_torch(x, 0, index, src, reduce, own)
    for target in (np.empty_like(x), np.empty((60, 180), np.float32)[:, ::2]):
        for _ in range(3):  # the last is repeated
            target[...] = 7
            args = (x, 0, index, src, reduce)
            assert nbgather.scatter_reduce(*args, include_self=own, out=target) is target
            equal(np.ascontiguousarray(target), want)
    index[-1, -1] = 60
    target[...] = 7
    with pytest.raises(IndexError, match="index 60 at"):
        nbgather.scatter_reduce(x, 0, index, src, reduce, include_self=own, out=target)
    assert (target == 7).all()


def at_the_end_of_a_page(array: np.ndarray) -> np.ndarray:
    """A copy whose last byte is the last before memory that must not be touched."""
    import ctypes

    page = mmap.PAGESIZE
    used = -(-max(array.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, used + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + used), ctypes.c_size_t(page), 0) == 0
    view = np.frombuffer(memory, np.uint8, array.nbytes, used - array.nbytes)
    copied = view.view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


@pytest.mark.parametrize("reduce", ["mean", "amin"])
@pytest.mark.parametrize("form", FORMS)
def test_nothing_beyond_the_operands_is_touched(form: str, reduce: str) -> None:
    for shape, dim, index_shape, is_row in FORMS[form]:
        generator = rng(f"guard {shape}")
        x = generator.standard_normal(shape).astype(np.float32)
        src = generator.standard_normal(index_shape).astype(np.float32)
        index = generator.integers(0, shape[dim], index_shape)
        if is_row:
            index = index[..., :1]
        held = [at_the_end_of_a_page(a) for a in (x, index, src, np.empty_like(x))]
        wide = np.broadcast_to(held[1], index_shape)
        for own in (True, False):
            got = nbgather.scatter_reduce(
                held[0], dim, wide, held[2], reduce, include_self=own, out=held[3]
            )
            want = by_torch(x, dim, np.broadcast_to(index, index_shape), src, reduce, own)
            equal(got, want)


Z, INDEX, S = np.zeros((2, 3)), np.array([[2], [0]]), np.array([[5.0, 1], [6, 1]])
REFUSED = {
    "reduce": (lambda: nbgather.scatter_reduce(Z, 1, INDEX, S, "max"), ValueError, "'amax'"),
    "a number for it": (
        lambda: nbgather.scatter_reduce(Z, 1, INDEX, S, 3), ValueError, "reduce is 3"
    ),
    "include_self": (
        lambda: nbgather.scatter_reduce(Z, 1, INDEX, S, "amax", include_self=1),
        TypeError,
        "include_self is 1 of type int: a bool is needed",
    ),
    "mean of bools": (
        lambda: nbgather.scatter_reduce(Z > 0, 1, INDEX, S > 0, "mean"), TypeError, "'mean' takes"
    ),
    "largest complex": (
        lambda: nbgather.scatter_reduce(Z + 0j, 1, INDEX, S + 0j, "amax"), TypeError, "complex128"
    ),
    "a date": (
        lambda: nbgather.scatter_reduce(Z.astype("M8[s]"), 1, INDEX, S.astype("M8[s]"), "amin"),
        TypeError,
        "datetime64[s]",
    ),
    "a number": (lambda: nbgather.scatter_reduce(Z, 1, INDEX, 2.0, "amax"), TypeError, "src"),
    "dtypes": (
        lambda: nbgather.scatter_reduce(Z, 1, INDEX, S.astype("f4"), "amax"), TypeError, "float32"
    ),
    "shapes": (
        lambda: nbgather.scatter_reduce(Z, 1, INDEX, S[:1], "amax"), ValueError, "src only 1"
    ),
    "out": (
        lambda: nbgather.scatter_reduce(Z, 1, INDEX, S, "amax", out=Z), ValueError, "out overlaps"
    ),
    "no segments": (lambda: nbgather.segment_reduce(Z, "sum"), ValueError, "none came"),
    "two ways": (
        lambda: nbgather.segment_reduce(Z, "sum", ids=[0, 0], counts=[2]),
        ValueError,
        "ids and counts came",
    ),
    "offsets that fall": (
        lambda: nbgather.segment_reduce(Z, "sum", offsets=[0, 2, 1, 2]), ValueError, "offsets[2]"
    ),
    "offsets beyond": (
        lambda: nbgather.segment_reduce(Z, "sum", offsets=[0, 3]), ValueError, "offsets[1] is 3"
    ),
    "offsets that end before": (
        lambda: nbgather.segment_reduce(Z, "sum", offsets=[0, 1]), ValueError, "0 to 1"
    ),
    "counts": (lambda: nbgather.segment_reduce(Z, "sum", counts=[1]), ValueError, "sum to 1"),
    "a negative count": (
        lambda: nbgather.segment_reduce(Z, "sum", counts=[-1, 3]), ValueError, "counts[0] is -1"
    ),
    "ids": (lambda: nbgather.segment_reduce(Z, "sum", ids=[0]), ValueError, "1 items and x 2"),
    "an id": (
        lambda: nbgather.segment_reduce(Z, "sum", ids=[0, 5], num_segments=3), IndexError, "index 5"
    ),
    "an id of rows": (
        lambda: nbgather.segment_reduce(Z, "sum", ids=[0, -1], num_segments=3),
        IndexError,
        "index -1 at (1,) is out of bounds for dimension 0 with size 3",
    ),
    "an id beyond memory": (
        lambda: nbgather.segment_reduce(Z, "sum", ids=[0, 2**62]),
        ValueError,
        f"{2**62 + 1} segments are too many: no memory holds a result of ({2**62 + 1}, 3)",
    ),
    "an unsigned id": (
        lambda: nbgather.segment_reduce(Z, "sum", ids=np.array([0, 2**64 - 1], np.uint64)),
        ValueError,
        "segments are too many",
    ),
    "a sum of texts": (
        lambda: nbgather.scatter_reduce(Z.astype("U1"), 1, INDEX, S.astype("U1"), "sum"),
        TypeError,
        "input has dtype <U1: a sum takes bool, integers",
    ),
    "ids of floats": (
        lambda: nbgather.segment_reduce(Z, "sum", ids=np.zeros(2)), TypeError, "ids has dtype"
    ),
    "num_segments": (
        lambda: nbgather.segment_reduce(Z, "sum", counts=[2], num_segments=1),
        ValueError,
        "num_segments was given with counts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, kind, text = REFUSED[name]
    with pytest.raises(kind) as raised:
        call()
    assert text in str(raised.value), str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("reduce", ["sum", "amax"])
def test_a_bad_segment_is_told_of_by_its_own_place_wherever_rows_have_columns(reduce: str) -> None:
    def call(x: Any, ids: Any) -> Any:
        return nbgather.segment_reduce(x, reduce, ids=ids, num_segments=3)

    x, ids = torch.ones(2, 4), torch.tensor([0, 7])
    traced = torch.compile(call, backend="aot_eager")
    for function, given in ((call, x), (call, x.clone().requires_grad_()), (traced, x)):
        with pytest.raises(IndexError) as raised:
            function(given, ids)
        told = str(raised.value)
        assert told.startswith("index 7 at (1,) is out of bounds for dimension 0 with size 3")


@pytest.mark.parametrize("by, text", [("counts", "counts sum to 1: N = 2"), ("offsets", "0 to 1")])
def test_bad_segments_of_tensors_with_gradients_are_told_of_in_the_same_words(
    by: str, text: str
) -> None:
    x, values = torch.ones(2, 4, requires_grad=True), [1] if by == "counts" else [0, 1]
    with pytest.raises(ValueError, match=text):
        nbgather.segment_reduce(x, "amax", **{by: values})


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax", "amin"])
@pytest.mark.parametrize("counts", [[10, 0, 5, 35], [1] * 50, [50], [7, 7, 7, 7, 7, 7, 8, 0]])
def test_segments_equal_torch(counts: list[int], reduce: str) -> None:
    generator = rng("segments")
    offsets, ids = np.cumsum([0, *counts]), np.repeat(np.arange(len(counts)), counts)
    for shape in ((50,), (50, 5), (50, 2, 40)):
        x = special(generator, shape, "float32")
        for given in (x, np.repeat(x, 2, -1)[..., ::2]):
            got = nbgather.segment_reduce(given, reduce, offsets=offsets)
            want = torch.segment_reduce(tensor(x), SEGMENTS[reduce], offsets=tensor(offsets))
            equal(got, want.numpy())
            equal(nbgather.segment_reduce(given, reduce, counts=counts), got)
            by_ids = nbgather.segment_reduce(x, reduce, ids=ids, num_segments=len(counts))
            equal(by_ids, got)
            order = generator.permutation(50)
            if reduce != "sum" and reduce != "mean":
                mixed = nbgather.segment_reduce(
                    x[order], reduce, ids=ids[order], num_segments=len(counts)
                )
                assert np.array_equal(mixed, got, equal_nan=True)


def test_segments_of_tensors_have_gradients() -> None:
    x = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 4, 4, 9])
    for reduce in ("sum", "amax"):

        def ours(a: torch.Tensor, reduce: str = reduce) -> torch.Tensor:
            return nbgather.segment_reduce(a, reduce, offsets=offsets)

        (got,) = torch.autograd.grad(ours(x)[::2].sum(), x)
        theirs = torch.segment_reduce(x, SEGMENTS[reduce], offsets=offsets)
        (want,) = torch.autograd.grad(theirs[::2].sum(), x)
        assert torch.allclose(got, want)
        with torch.no_grad():
            assert torch.equal(ours(x), theirs)


@pytest.mark.parametrize("include_self", [True, False])
def test_second_derivatives_of_products_with_zeros(include_self: bool) -> None:
    """That of one zero is told; where two meet it is not known, and NaN."""
    index = torch.tensor([0, 0, 0, 1, 1])
    x = torch.tensor([2.0, 3.0], dtype=torch.float64)
    src = torch.tensor([0.0, 0.0, 3.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    call = functools.partial(nbgather.scatter_reduce, include_self=include_self)
    (first,) = torch.autograd.grad(call(x, 0, index, src, "prod").sum(), src, create_graph=True)
    theirs = torch.scatter_reduce(x, 0, index, src, "prod", include_self=include_self)
    assert torch.equal(first, torch.autograd.grad(theirs.sum(), src)[0])
    (second,) = torch.autograd.grad(first.sum(), src)
    own = 3.0 if include_self else 1.0
    assert second.isnan().tolist() == [True, True, False, False, False]
    assert second[2:].tolist() == [0, own, own]


@pytest.mark.parametrize("dtype, count", [("int8", 256), ("uint8", 512), ("int16", 1 << 16)])
@pytest.mark.parametrize("columns", [(), (3,), (40,)])
@pytest.mark.parametrize("own", [True, False])
def test_a_count_may_come_round_to_zero(
    dtype: str, count: int, columns: tuple[int, ...], own: bool
) -> None:
    """A place with as many values as its type wraps at is none without values."""
    x = np.full((4, *columns), 9, dtype)
    index = np.zeros((count, *columns), np.int64)
    src = numbers(rng(f"wraps {dtype} {columns}"), index.shape, dtype)
    got = nbgather.scatter_reduce(x, 0, index, src, "mean", include_self=own)
    same(got, by_torch(x, 0, index, src, "mean", own))
