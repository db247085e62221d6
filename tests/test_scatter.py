"""scatter and scatter_add: every backend, torch's results, order, threads, refusals, gradients."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import torch
from cases import DTYPES, INDEX_DTYPES, random_bits, rng, same

import nbgather
from nbgather.kernels.cpu import threads as cpu_threads

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
    with cpu_threads.limit_threads(threads):
        same(nbgather.scatter_add(x, dim, index, src), by_torch(True, x, dim, index, src))
        same(nbgather.scatter(x, dim, index, src), by_torch(False, x, dim, index, src))


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
