"""take_along_axis: NumPy's results and the Array API's rules, from every backend."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from cases import DTYPES, INDEX_DTYPES, random_bits, rng, same
from hypothesis import given, settings
from hypothesis import strategies as st

import nbgather


def plain(x: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
    """NumPy's answer, where NumPy has one: it does not broadcast arr's axis of length 1."""
    shape = [max(n, m) if d != axis % x.ndim else 0 for d, (n, m) in
             enumerate(zip(x.shape, indices.shape, strict=True))]  # fmt: skip
    shape[axis] = x.shape[axis]
    return np.take_along_axis(np.broadcast_to(x, shape), indices.astype(np.int64), axis)


def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    ndim = int(generator.integers(1, 5))
    full = generator.integers(1, 5, ndim)
    axis = int(generator.integers(-ndim, ndim))
    shape = np.where(generator.random(ndim) < 0.25, 1, full)
    index_shape = np.where(generator.random(ndim) < 0.25, 1, full)
    shape[axis] = full[axis]
    index_shape[axis] = generator.integers(1, 6)
    dtype = ("float32", "int64")[int(generator.integers(0, 2))]
    x = random_bits(generator, tuple(shape.tolist()), dtype)
    size = int(full[axis])
    index = generator.integers(-size, size, tuple(index_shape.tolist()))
    kind = int(generator.integers(0, 4))
    if kind == 1:
        x, index = np.ascontiguousarray(x.T).T, np.ascontiguousarray(index.T).T
    elif kind == 2:
        x, index = x[..., ::-1], index[..., ::-1]
    elif kind == 3:
        x.flags.writeable = index.flags.writeable = False
    return x, index, axis


def test_two_thousand_random_cases_equal_numpy() -> None:
    generator = np.random.default_rng(3)
    for _ in range(2500):
        x, index, axis = draw(generator)
        same(nbgather.take_along_axis(x, index, axis), plain(x, index, axis))


def test_every_backend_equals_numpy(backend: str) -> None:
    generator = np.random.default_rng(4)
    for _ in range(60):
        x, index, axis = draw(generator)
        same(nbgather.take_along_axis(x, index, axis, backend=backend), plain(x, index, axis))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str, backend: str) -> None:
    x = random_bits(rng(dtype), (3, 4), DTYPES[dtype])
    index = np.array([[-1, 0, -4], [3, 1, 2], [-2, -3, 0]])
    want = np.take_along_axis(x, index, 1)
    same(nbgather.take_along_axis(x, index, backend=backend), want)


@pytest.mark.parametrize("index_dtype", INDEX_DTYPES)
def test_every_dtype_of_indices(index_dtype: str) -> None:
    x = np.arange(12, dtype="f4").reshape(3, 4)
    index = np.array([[0, 3], [1, 1], [2, 0]]).astype(index_dtype)
    if index_dtype in ("int16", "uint8", "uint32"):
        index = np.repeat(index, 2, 1)[:, ::2]  # its kernel is compiled in a third of the time
    same(nbgather.take_along_axis(x, index), np.take_along_axis(x, index.astype(int), 1))
    if index_dtype.startswith("i"):
        same(nbgather.take_along_axis(x, -index), np.take_along_axis(x, -index.astype(int), 1))


def test_what_the_array_api_asks() -> None:
    """The standard: out.shape is indices' shape, sorted values by argsort, any axis, default -1."""
    x = rng("api").random((3, 4, 5))
    for axis in range(-3, 3):
        order = np.argsort(x, axis)
        got = nbgather.take_along_axis(x, order, axis)
        assert got.dtype == x.dtype
        assert got.shape == order.shape
        same(got, np.sort(x, axis))
    same(nbgather.take_along_axis(x, np.argsort(x)), np.sort(x))
    for axis in range(3):
        first = np.argmax(x, axis, keepdims=True)
        same(nbgather.take_along_axis(x, first, axis), x.max(axis, keepdims=True))


def test_axis_none_takes_from_the_flattened_array() -> None:
    x = np.arange(6).reshape(2, 3)
    index = np.array([5, -6, 2])
    same(nbgather.take_along_axis(x, index, None), np.take_along_axis(x, index, None))
    same(nbgather.take_along_axis(x.T, index, None), np.take_along_axis(x.T, index, None))


@pytest.mark.parametrize(
    ("mode", "want"),
    [("clip", [0, 0, 2, 2, 2]), ("wrap", [2, 0, 2, 0, 1]), ("fill", [-9, 0, 2, -9, -9])],
)
def test_modes_beyond_the_ends(mode: str, want: list[int], backend: str) -> None:
    index = np.array([-4, -3, -1, 3, 7])
    got = nbgather.take_along_axis(np.arange(3), index, mode=mode, fill_value=-9, backend=backend)
    assert got.tolist() == want


@pytest.mark.parametrize("value", [-5, 4, 2**62, -(2**63)])
def test_the_first_bad_index_is_named(value: int, backend: str) -> None:
    index = np.zeros((3, 2), int)
    index[1, 1], index[2, 0] = value, 99
    with pytest.raises(IndexError) as raised:
        nbgather.take_along_axis(np.zeros((3, 4)), index, backend=backend)
    said = f"index {value} at (1, 1) is out of bounds for dimension 1 with size 4"
    assert str(raised.value) == said


def test_out() -> None:
    x, index = rng("out").random((3, 4)), np.array([[-1, 0]])
    out = np.empty((3, 2))
    assert nbgather.take_along_axis(x, index, out=out) is out
    same(out, plain(x, index, -1))
    with pytest.raises(ValueError, match=r"out has shape \(3, 3\)"):
        nbgather.take_along_axis(x, index, out=np.empty((3, 3)))


def test_empty() -> None:
    assert nbgather.take_along_axis(np.zeros((3, 4)), np.zeros((3, 0), int)).shape == (3, 0)
    assert nbgather.take_along_axis(np.zeros((0, 4)), np.zeros((1, 2), int)).shape == (0, 2)


@pytest.mark.large  # of the same plans and loops as the gather's, which has such a test
def test_more_elements_than_int32() -> None:
    x = np.array([[4], [6]], np.uint8)
    index = np.broadcast_to(np.array(-1, np.int8), (1, (1 << 31) + 3))
    out = nbgather.take_along_axis(x, index, 0)
    assert out.shape == (1, (1 << 31) + 3)
    assert out[0, 0] == out[0, -1] == 6


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (3, 1)])
def test_tensors_and_gradients(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[0, -1, 0], [0, 0, -1], [-1, -1, 0]])
    got = nbgather.take_along_axis(x, index)
    wide = torch.where(index < 0, index + shape[1], index)
    want = torch.gather(x.expand(3, -1), 1, wide)
    assert torch.equal(got, want)
    weight = torch.randn(3, 3, dtype=torch.float64)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, want)]
    assert torch.equal(*grads)
    assert torch.autograd.gradcheck(lambda x: nbgather.take_along_axis(x, index), (x,))
    assert torch.autograd.gradgradcheck(lambda x: nbgather.take_along_axis(x, index), (x,))


@pytest.mark.parametrize(
    ("x", "indices", "axis", "kind", "text"),
    [
        (np.zeros((2, 3)), np.zeros((3, 1), int), 1, ValueError, "off axis 1 the sizes must be"),
        (np.zeros((2, 3)), np.zeros(3, int), 1, ValueError, "indices has 1 dimensions"),
        (np.zeros(3), np.zeros((), int), 0, ValueError, "indices has 0 dimensions"),
        (np.zeros((2, 3)), np.zeros((2, 3)), 1, IndexError, "indices has dtype float64"),
        (np.zeros((2, 3)), np.zeros((2, 3), bool), 1, IndexError, "indices has dtype bool"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), 2, IndexError, "axis 2 is out of range"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), 1.0, TypeError, "axis is 1.0"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), None, ValueError, "with axis=None"),
        ([[1, 2]], np.zeros((1, 1), int), 1, TypeError, "arr is a builtins.list"),
    ],
)
def test_refusals(x: object, indices: object, axis: object, kind, text: str) -> None:
    with pytest.raises(kind) as raised:
        nbgather.take_along_axis(x, indices, axis)
    assert text in str(raised.value), str(raised.value)


# The Array API's own test of take_along_axis (array_api_tests/test_indexing_functions.py), written
# from the standard: off the axis the sizes are equal, and each line along it is taken by itself.


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_the_array_apis_property(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    taken = data.draw(st.integers(0, 6))
    size = shape[axis]
    dtype = data.draw(st.sampled_from(["int32", "int64", "uint8"]))
    wide = list(shape)
    wide[axis] = taken
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    low = 0 if dtype.startswith("u") else -size
    indices = generator.integers(low, size, wide).astype(dtype)
    x = generator.standard_normal(shape)
    container = data.draw(st.sampled_from([np.asarray, torch.from_numpy]))
    out = nbgather.take_along_axis(container(x), container(indices), axis=axis)
    assert type(out) is type(container(x))
    out = np.asarray(out)
    assert out.dtype == x.dtype
    assert out.shape == tuple(wide)
    lines = [range(n) if d != axis % len(shape) else [slice(None)] for d, n in enumerate(shape)]
    for line in itertools.product(*lines):
        want = [x[line][int(i)] for i in indices[line]]
        assert out[line].tolist() == want
