"""scatter and scatter_add: every backend, torch's results, order, threads, refusals, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from cases import DTYPES, INDEX_DTYPES, random_bits, rng, same

import nbgather
from nbgather.kernels.cpu import launch, launch_reduce
from nbgather.kernels.cpu import limits as cpu_limits

BACKENDS = ("cpu", "reference", "torch")
NUMBERS = ("bool", "int8", "uint8", "int16", "int32", "int64", "float32", "float64", "complex64")
SHAPES = (
    ((7,), 0, (9,)),
    ((5, 6), 0, (8, 6)),
    ((5, 6), 1, (5, 9)),
    ((4, 3, 5), 1, (2, 7, 4)),
    ((4, 3, 5), 2, (4, 3, 11)),
    ((4, 3, 5), 0, (1, 3, 5)),
    ((2, 3, 4, 5), -2, (2, 3, 9, 5)),
    ((), 0, ()),
    ((4,), 0, ()),
)


def numbers(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Values whose sums round, or wrap."""
    if dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if np.dtype(dtype).kind in "iu":
        return random_bits(generator, shape, dtype)
    values = generator.standard_normal(shape) * 10.0 ** generator.integers(-3, 4, shape)
    return np.asarray(values).astype(dtype)


def by_torch(add: bool, x: np.ndarray, dim: int, index: np.ndarray, src: np.ndarray) -> np.ndarray:
    function = torch.scatter_add if add else torch.scatter
    tensors = [torch.from_numpy(np.array(a, order="C")) for a in (x, index.astype(np.int64), src)]
    return function(tensors[0], dim, tensors[1], tensors[2]).numpy()


def ours(add: bool) -> Callable[..., np.ndarray]:
    return nbgather.scatter_add if add else nbgather.scatter


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SHAPES)
def test_every_backend_equals_torch(case: tuple, backend: str, add: bool) -> None:
    shape, dim, index_shape = case
    generator = rng(f"{case}")
    size = shape[dim] if shape else 1
    for dtype in ("float32", "int64"):
        x = numbers(generator, shape, dtype)
        index = generator.integers(0, size, index_shape)
        src = numbers(generator, tuple(n + 1 for n in index_shape), dtype)
        before = [a.copy() for a in (x, index, src)]
        got = ours(add)(x, dim, index, src, backend=backend)
        same(got, by_torch(add, x, dim, index, src))
        for array, was in zip((x, index, src), before, strict=True):
            same(array, was)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_sums_of_every_dtype(dtype: str, backend: str) -> None:
    generator = rng(dtype)
    for dim, shape in ((1, (3, 40)), (0, (40, 3))):
        x, src = numbers(generator, (3, 3), dtype), numbers(generator, shape, dtype)
        index = generator.integers(0, 3, shape)
        got = nbgather.scatter_add(x, dim, index, src, backend=backend)
        same(got, by_torch(True, x, dim, index, src))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_are_rounded_once(dtype: type) -> None:
    generator = rng("narrow")
    x, src = (generator.standard_normal(s).astype(dtype) for s in ((3, 2), (3, 200)))
    index = generator.integers(0, 2, (3, 200))
    got = nbgather.scatter_add(x, 1, index, src)
    assert got.dtype == dtype
    kind = torch.float16 if dtype is np.float16 else torch.bfloat16
    tensors = [torch.from_numpy(a.view(np.int16)).view(kind) for a in (x, src)]
    want = torch.scatter_add(tensors[0], 1, torch.from_numpy(index), tensors[1])
    assert got.tobytes() == want.view(torch.int16).numpy().tobytes()
    mine = nbgather.scatter_add(tensors[0], 1, torch.from_numpy(index), tensors[1])
    assert torch.equal(mine.view(torch.int16), want.view(torch.int16))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_every_dtype_are_put_in_place(dtype: str, backend: str) -> None:
    generator = rng(dtype)
    x, src = (random_bits(generator, s, DTYPES[dtype]) for s in ((3, 5), (3, 9)))
    index = generator.integers(0, 5, (3, 9))
    want = x.copy()
    for n, k in np.ndindex(index.shape):
        want[n, index[n, k]] = src[n, k]
    same(nbgather.scatter(x, 1, index, src, backend=backend), want)


@pytest.mark.parametrize("index_dtype", INDEX_DTYPES)
def test_every_dtype_of_index(index_dtype: str) -> None:
    generator = rng(index_dtype)
    x, src = numbers(generator, (4, 3), "float32"), numbers(generator, (6, 3), "float32")
    index = generator.integers(0, 4, (6, 3)).astype(index_dtype)
    for add in (False, True):
        same(ours(add)(x, 0, index, src), by_torch(add, x, 0, index, src))


@pytest.mark.parametrize("add", [False, True])
def test_two_thousand_random_cases_equal_torch(add: bool) -> None:
    generator = np.random.default_rng(17)
    for _ in range(2000):
        ndim = int(generator.integers(1, 4))
        shape = tuple(generator.integers(1, 6, ndim).tolist())
        dim = int(generator.integers(-ndim, ndim))
        index_shape = [int(generator.integers(1, n + 1)) for n in shape]
        index_shape[dim] = int(generator.integers(0, 8))
        src_shape = [n + int(generator.integers(0, 2)) for n in index_shape]
        dtype = ("float32", "int64")[int(generator.integers(0, 2))]
        x, src = numbers(generator, shape, dtype), numbers(generator, tuple(src_shape), dtype)
        index = generator.integers(0, shape[dim], index_shape)
        x, index, src = (turned(generator, a) for a in (x, index, src))
        same(ours(add)(x, dim, index, src), by_torch(add, x, dim, index, src))


def turned(generator: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """The same values behind other strides."""
    kind = int(generator.integers(0, 5))
    if kind == 1:
        return np.ascontiguousarray(array.T).T
    if kind == 2:
        return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    if kind == 3:
        return np.repeat(array, 2, -1)[..., ::2]
    if kind == 4:
        array.flags.writeable = False
    return array


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("shape", "dim"), [((200, 700), 1), ((700, 200), 0), ((9, 300, 50), 1)])
@pytest.mark.parametrize("values", [2, 100])
def test_the_same_bits_for_any_number_of_threads(shape, dim: int, values: int, threads: int):
    generator = rng("threads")
    x, src = numbers(generator, shape, "float32"), numbers(generator, shape, "float32")
    index = generator.integers(0, values, shape)
    with cpu_limits.limit_threads(threads):
        same(nbgather.scatter_add(x, dim, index, src), by_torch(True, x, dim, index, src))
        same(nbgather.scatter(x, dim, index, src), by_torch(False, x, dim, index, src))


#: Cases by the kernel that serves them: shape, dim, the index's shape.
FORMS: dict[str, tuple[tuple[tuple[int, ...], int, tuple[int, ...]], ...]] = {
    "lane": (((3, 20), 1, (3, 50)), ((70,), 0, (33,)), ((2, 3, 9), 2, (2, 3, 18))),
    "far": (((2, 9000), 1, (2, 70)), ((9000,), 0, (21,))),
    "few": (
        ((9, 5), 1, (9, 40)),
        ((10, 40), 1, (10, 5)),
        ((7, 1), 1, (7, 33)),
        ((2, 3), 1, (2, 9)),
    ),
    "columns": (((3, 11, 4), 1, (3, 30, 4)), ((300, 2), 0, (90, 2)), ((5, 3, 15), 1, (5, 8, 15))),
    "wide": (((2, 40, 100), 1, (2, 9, 100)), ((3, 33), 0, (60, 33)), ((9, 700), 0, (5, 700))),
    "strided": (((6, 50), 0, (40, 30)), ((4, 5, 6), 1, (3, 9, 2))),
    "strided lanes": (((6, 50), 1, (5, 70)), ((5, 20, 4), 1, (3, 7, 1))),
}


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that served the scatters of a test."""
    seen: list[str] = []
    find = launch._scatter_kernel

    def noting(plan, form, add):
        seen.append(form)
        return find(plan, form, add)

    reduces = launch_reduce._kernel

    def noting_rows(plan, form, how):
        seen.append(form)
        return reduces(plan, form, how)

    monkeypatch.setattr(launch, "_scatter_kernel", noting)
    monkeypatch.setattr(launch_reduce, "_kernel", noting_rows)
    return seen


def forms_and(dtypes: list[str]) -> list[Any]:
    """Each is a kernel to compile: beyond a third of them it is ``large``."""
    return [
        pytest.param(form, dtype, marks=() if (k + n) % 3 == 0 else pytest.mark.large)
        for k, form in enumerate(FORMS)
        for n, dtype in enumerate(dtypes)
    ]


@pytest.mark.parametrize("form, dtype", forms_and(["uint8", "float32", "int64", "complex128"]))
def test_sums_by_every_kernel(form: str, dtype: str, forms: list[str]) -> None:
    for shape, dim, index_shape in FORMS[form]:
        generator = rng(f"{shape} {dtype}")
        x, src = (numbers(generator, s, dtype) for s in (shape, index_shape))
        for values in {1, 2, shape[dim]}:
            index = generator.integers(0, min(values, shape[dim]), index_shape)
            for given in (x, np.repeat(x, 2, -1)[..., ::2], x[::-1]):
                before = given.copy()
                got = nbgather.scatter_add(given, dim, index, src)
                same(got, nbgather.scatter_add(given, dim, index, src, backend="reference"))
                same(got, by_torch(True, given, dim, index, src))
                same(np.ascontiguousarray(given), before)
    assert set(forms) == {form}


@pytest.mark.parametrize(
    "form, dtype", forms_and(["int8", "float16", "int32", "float64", "complex128"])
)
def test_values_of_every_size_are_put_in_place_by_every_kernel(
    form: str, dtype: str, forms: list[str]
) -> None:
    for shape, dim, index_shape in FORMS[form]:
        generator = rng(f"{shape} {dtype}")
        x, src = (random_bits(generator, s, dtype) for s in (shape, index_shape))
        for values in {2, shape[dim]}:
            index = generator.integers(0, min(values, shape[dim]), index_shape)
            for given in (x, x[::-1]):
                got = nbgather.scatter(given, dim, index.astype(np.int32), src)
                same(got, nbgather.scatter(given, dim, index, src, backend="reference"))
    assert set(forms) == {form}


def test_bools_are_ored_by_every_kernel(forms: list[str]) -> None:
    for cases in FORMS.values():
        for shape, dim, index_shape in cases:
            generator = rng(f"{shape} bool")
            x, src = (generator.random(s) < 0.2 for s in (shape, index_shape))
            index = generator.integers(0, shape[dim], index_shape)
            same(nbgather.scatter_add(x, dim, index, src), by_torch(True, x, dim, index, src))
    assert set(forms) == set(FORMS)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "complex128"])
def test_rows_by_one_index_each(dtype: str, add: bool, forms: list[str]) -> None:
    for width in (2, 7, 40, 300):
        generator = rng(f"rows {width}")
        x, src = (numbers(generator, (3, n, width), dtype) for n in (11, 30))
        ids = generator.integers(0, 11, (3, 30))
        index = np.broadcast_to(ids[..., None], src.shape)
        got = ours(add)(x, 1, index, src)
        same(got, by_torch(add, x, 1, index, src))
    assert set(forms) == {"rows" if add else "wide"}


#: What several threads share: few lanes by their places, and others by lanes or columns. Sums of
#: lanes with as many values as places, far from each other, are not shared by a few threads.
SHARED = (
    ((50_000,), 0, (60_000,)),
    ((70_000,), 0, (30_000,)),
    ((50_001,), 0, (7,)),
    ((2, 40_000), 1, (2, 50_003)),
    ((40_000, 3), 0, (20_001, 3)),
    ((3, 60_000), 1, (3, 1000)),
)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", SHARED)
def test_threads_share_the_places_of_few_lanes(
    case: tuple, threads: int, add: bool, forms: list[str]
) -> None:
    shape, dim, index_shape = case
    generator = rng(f"{case}")
    x, src = numbers(generator, shape, "float64"), numbers(generator, index_shape, "float64")
    for index in (
        generator.integers(0, shape[dim], index_shape),
        generator.integers(shape[dim] // 2 - 3, shape[dim] // 2 + 3, index_shape),
    ):
        for given in (x, np.repeat(x, 2, -1)[..., ::2]):
            with cpu_limits.limit_threads(threads):
                same(ours(add)(given, dim, index, src), by_torch(add, x, dim, index, src))
    lanes = int(np.prod(shape[:dim]))
    is_far = add and len(shape) == dim + 1 and index_shape[dim] >= shape[dim]
    is_far = is_far and 8 * shape[dim] >= launch_reduce.FAR_LANE_BYTES
    assert ("shared" in forms) == (lanes < threads and not is_far)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("value", [-1, None, 2**40])
def test_every_kernel_finds_a_bad_index(value: int | None, add: bool, threads: int) -> None:
    """``None`` is the first that is too large."""
    for shape, dim, index_shape in (*SHARED, *(c for cases in FORMS.values() for c in cases)):
        generator = rng(f"bad {shape}")
        x, src = (generator.random(s) for s in (shape, index_shape))
        good = generator.integers(0, shape[dim], index_shape)
        bad, before = shape[dim] if value is None else value, x.copy()
        for first in (0, good.size // 2, good.size - 1):
            index = good.copy()
            index.flat[first] = bad
            if first:
                index.flat[good.size - 1] = bad
            with cpu_limits.limit_threads(threads), pytest.raises(IndexError) as raised:
                ours(add)(x, dim, index, src)
            place = tuple(int(p) for p in np.unravel_index(first, index_shape))
            limits = f"is out of bounds for dimension {dim} with size {shape[dim]}"
            assert str(raised.value) == f"index {bad} at {place} {limits}"
            same(x, before)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("places, steps", [(300, 300), (300, 75), (90, 200), (300, 10)])
def test_rows_that_share_sets_of_the_caches(places: int, steps: int, add: bool) -> None:
    generator = rng(f"{places} {steps}")
    for shape, dim in (((places, 1024), 0), ((2, places, 512), 1)):
        index_shape = (*shape[:dim], steps, *shape[dim + 1 :])
        x, src = (numbers(generator, s, "float32") for s in (shape, index_shape))
        index = generator.integers(0, places, index_shape)
        for given in (x, x[..., ::-1].copy()[..., ::-1]):
            got = ours(add)(given, dim, index, src)
            same(got, ours(add)(given, dim, index, src, backend="reference"))
        index[(..., steps - 1, 700 % shape[-1])] = places
        with pytest.raises(IndexError, match=f"index {places} at"):
            ours(add)(x, dim, index, src)


def test_no_places_at_all() -> None:
    for shape, dim, index_shape in (((3, 0), 1, (3, 2)), ((0, 30), 0, (2, 30)), ((0,), 0, (1,))):
        with pytest.raises(IndexError, match="with size 0"):
            nbgather.scatter_add(
                np.zeros(shape), dim, np.zeros(index_shape, int), np.ones(index_shape)
            )
    for shape in ((0, 4), (4, 0)):
        nothing = nbgather.scatter_add(np.zeros(shape), 1, np.zeros((0, 0), int), np.ones((0, 0)))
        assert nothing.shape == shape


def test_the_last_of_several_values_stays() -> None:
    index = np.zeros((1, 100_000), np.int8)
    src = np.arange(100_000.0).reshape(1, -1)
    assert nbgather.scatter(np.zeros((1, 2)), 1, index, src).tolist() == [[99_999.0, 0.0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_number_stands_for_all_values(backend: str) -> None:
    x = np.zeros((2, 3), np.float32)
    got = nbgather.scatter(x, 1, np.array([[1], [2]]), 7, backend=backend)
    assert got.tolist() == [[0, 7, 0], [0, 0, 7]]
    tensor = nbgather.scatter(torch.zeros(3, dtype=torch.int8), 0, torch.tensor([1]), -4)
    assert tensor.tolist() == [0, -4, 0]


def test_large_inputs_are_copied_right() -> None:
    x = random_bits(rng("large"), (700, 1001), "float64")
    index, src = np.zeros((700, 1), int), np.ones((700, 1))
    for array in (x, x[::-1], x[:, ::2]):
        want = array.copy()
        want[:, 0] = 1
        same(nbgather.scatter(array, 1, index, src), want)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("columns", [1, 24])
@pytest.mark.parametrize("steps", [3, 40, 3000])
def test_out_is_written_once_the_index_is_good(steps: int, columns: int, add: bool) -> None:
    """Whether the index is looked through first, which a long one is not; at once and repeated."""
    generator = rng(f"{steps} {columns}")
    x = generator.integers(0, 99, (60, 300, columns)).astype(np.float32)
    src = generator.integers(0, 9, (60, steps, columns)).astype(np.float32)
    index = generator.integers(0, 300, src.shape)
    theirs = torch.scatter_add if add else torch.scatter
    want = theirs(*map(torch.from_numpy, (x,)), 1, *map(torch.from_numpy, (index, src))).numpy()
    if not add:
        want = ours(add)(x, 1, index, src)  # of several values torch keeps any
    out = np.empty_like(x)
    for _ in range(4):
        out[:] = -1
        assert ours(add)(x, 1, index, src, out=out) is out
        assert out.tobytes() == want.tobytes()
        for place, value in (((59, steps - 1, columns - 1), 300), ((0, 0, 0), -1)):
            kept, index[place], out[:] = index[place], value, -1
            with pytest.raises(IndexError, match=f"index {value} at "):
                ours(add)(x, 1, index, src, out=out)
            assert (out == -1).all()
            index[place] = kept


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bad_index_writes_nothing(backend: str, add: bool) -> None:
    guarded = np.full((5, 6), 7.0)
    out = guarded[1:4, 1:5]
    index = np.zeros((3, 4), int)
    index[2, 1], index[2, 3] = 4, -1
    with pytest.raises(IndexError) as raised:
        ours(add)(np.zeros((3, 4)), 1, index, np.ones((3, 4)), out=out, backend=backend)
    assert str(raised.value) == "index 4 at (2, 1) is out of bounds for dimension 1 with size 4"
    assert (guarded == 7).all()
    index[...] = 1
    given = ours(add)(np.zeros((3, 4)), 1, index, np.ones((3, 4)), out=out, backend=backend)
    assert given is out
    assert out[:, 1].tolist() == ([4] * 3 if add else [1] * 3)
    assert (guarded[0] == 7).all()
    assert (guarded[:, 5] == 7).all()


def test_more_elements_than_int32() -> None:
    n = (1 << 31) + 5
    index = np.broadcast_to(np.array(1, np.int8), (1, n))
    src = np.broadcast_to(np.array(1, np.uint8), (1, n))
    assert nbgather.scatter_add(np.zeros((1, 2), np.uint8), 1, index, src).tolist() == [
        [0, n % 256]
    ]


def test_gradients_equal_torchs() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    src = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    index = torch.stack([torch.randperm(5)[:4] for _ in range(4)])
    weight = torch.randn(4, 5, dtype=torch.float64)
    for mine, theirs in (
        (nbgather.scatter_add, torch.scatter_add),
        (nbgather.scatter, torch.scatter),
    ):
        grads = [
            torch.autograd.grad((f(x, 1, index, s) * weight).sum(), (x, src))
            # torch's own gradient fails where src is larger than the index.
            for f, s in ((mine, src), (theirs, src[:, :4]))
        ]
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
        call = lambda x, src, f=mine: f(x, 1, index, src)  # noqa: E731
        assert torch.autograd.gradcheck(call, (x, src))
        assert torch.autograd.gradgradcheck(call, (x, src))
    (only,) = torch.autograd.grad(nbgather.scatter(x, 1, index, 3.0).sum(), x)
    assert torch.equal(only, torch.autograd.grad(torch.scatter(x, 1, index, 3.0).sum(), x)[0])


Z, INDEX, S = np.zeros((2, 3)), np.zeros((2, 2), int), np.ones((2, 2))
REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "src_dtype": (
        lambda: nbgather.scatter(Z, 1, INDEX, S.astype("f4")),
        TypeError,
        "input has dtype float64 and src float32",
    ),
    "index_dtype": (lambda: nbgather.scatter(Z, 1, INDEX > 0, S), TypeError, "bool"),
    "index_large": (
        lambda: nbgather.scatter(Z, 1, np.zeros((3, 2), int), np.ones((3, 2))),
        ValueError,
        "index has size 3 at dimension 0, input only 2",
    ),
    "src_small": (
        lambda: nbgather.scatter_add(Z, 1, INDEX, S[:, :1]),
        ValueError,
        "index has size 2 at dimension 1, src only 1",
    ),
    "src_ndim": (lambda: nbgather.scatter(Z, 1, INDEX, S[0]), ValueError, "src has 1 dimensions"),
    "dim": (lambda: nbgather.scatter(Z, 2, INDEX, S), IndexError, "dim 2 is out of range"),
    "library": (
        lambda: nbgather.scatter(Z, 1, INDEX, torch.ones(2, 2)),
        TypeError,
        "src a torch one",
    ),
    "scalar_sum": (
        lambda: nbgather.scatter_add(Z, 1, INDEX, 1.0),
        TypeError,
        "src is a builtins.float",
    ),
    "scalar_wide": (
        lambda: nbgather.scatter(INDEX, 1, INDEX, 1.5),
        ValueError,
        "src 1.5 cannot be held in dtype int64",
    ),
    "dates": (
        lambda: nbgather.scatter_add(Z.astype("M8[s]"), 1, INDEX, S.astype("M8[s]")),
        TypeError,
        "datetime64[s]",
    ),
    "swapped": (
        lambda: nbgather.scatter_add(Z.astype(">f8"), 1, INDEX, S.astype(">f8")),
        TypeError,
        "byte order",
    ),
    "float8": (
        lambda: nbgather.scatter_add(
            torch.zeros(2).to(torch.float8_e5m2),
            0,
            torch.tensor([0]),
            torch.ones(1).to(torch.float8_e5m2),
        ),
        TypeError,
        "float8_e5m2",
    ),
    "out_shape": (
        lambda: nbgather.scatter(Z, 1, INDEX, S, out=np.zeros((2, 2))),
        ValueError,
        "(2, 2)",
    ),
    "out_input": (
        lambda: nbgather.scatter(Z, 1, INDEX, S, out=Z),
        ValueError,
        "out overlaps input",
    ),
    "out_src": (
        lambda: nbgather.scatter(S[:, :1], 1, INDEX, S, out=S[:, 1:]),
        ValueError,
        "out overlaps src",
    ),
    "backend": (
        lambda: nbgather.scatter(Z, 1, INDEX, S, backend="onnxruntime"),
        ValueError,
        "backend 'onnxruntime' cannot scatter",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, kind, text = REFUSED[name]
    with pytest.raises(kind) as raised:
        call()
    assert text in str(raised.value), str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["scatter", "scatter_add"])
def test_a_0d_src_has_one_item(name: str) -> None:
    """What lies behind it in memory is not read."""
    memory = np.array([5.0, 77.0, 88.0])
    call = getattr(nbgather, name)
    with pytest.raises(ValueError, match=r"index has size 3 at dimension 0, src only 1"):
        call(np.array(1.0), 0, np.array([0, 0, 0]), memory[:1].reshape(()))
    assert call(np.array([0.0]), 0, np.array(0), memory[:1].reshape(())) == [5.0]
