"""gather: every backend equals the reference, and torch; every refusal has its text."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from cases import CASES, DTYPES, INDEX_DTYPES, LARGE, Case, make, random_bits, rng, same
from hypothesis import given, settings
from hypothesis import strategies as st

import nbgather

MODES = ("raise", "clip", "wrap", "fill")


def expected(case: Case) -> np.ndarray:
    """What torch.gather gives, on the bits as signed integers."""
    x, dim, index = case
    size = x.dtype.itemsize
    if size == 16:
        words = np.ascontiguousarray(x).view(np.int64).reshape(*x.shape, 2)
        parts = [expected(Case(words[..., w], dim, index)) for w in (0, 1)]
        return np.stack(parts, -1).reshape(*index.shape, 2).view(x.dtype).reshape(index.shape)
    bits = np.array(x, order="C", copy=True).view(f"i{size}").reshape(x.shape)
    result = torch.gather(
        torch.from_numpy(bits), dim, torch.from_numpy(index.astype(np.int64).copy())
    )
    return result.numpy().view(x.dtype).reshape(index.shape)


@pytest.mark.parametrize("name", CASES)
def test_every_backend_equals_the_reference(name: str, backend: str) -> None:
    case = CASES[name]()
    got = nbgather.gather(*case, backend=backend)
    same(got, nbgather.gather(*case, backend="reference"))
    same(got, expected(case))


@pytest.mark.parametrize("mode", ["raise", "fill"])
@pytest.mark.parametrize("columns", [2, 3, 4, 16])
def test_a_few_elements_at_each_outer_position(columns: int, mode: str) -> None:
    for rows in (1, 2, 3, 4, 7, 8):
        generator = rng(f"{columns} {rows}")
        x = random_bits(generator, (23, 5, columns), "float32")
        index = generator.integers(0, 5, (23, rows, columns))
        if mode == "fill":
            index[generator.random(index.shape) < 0.2] = generator.choice([-1, 5, 2**40])
        same(
            nbgather.gather(x, 1, index, mode=mode),
            nbgather.gather(x, 1, index, mode=mode, backend="reference"),
        )
        for place in ((0, 0, 0), (11, rows - 1, 1), (22, rows - 1, columns - 1)):
            bad = np.clip(index, 0, 4)
            bad[place] = 5
            with pytest.raises(IndexError, match=f"index 5 at {place}".replace("(", r"\(")[:-1]):
                nbgather.gather(x, 1, bad)


@pytest.mark.parametrize("mode", MODES)
def test_strided_elements_by_a_plain_index(mode: str) -> None:
    generator = rng(mode)
    x = random_bits(generator, (211, 3, 4), "float32")
    index = generator.integers(0, 4, (211, 1, 1))
    if mode != "raise":
        index[::7] = [[[9]]]
        index[5::7] = [[[-6]]]
    for view in (x, x[::-1], x[:, :, ::-1]):
        same(
            nbgather.gather(view, 2, index, mode=mode, fill_value=7),
            nbgather.gather(view, 2, index, mode=mode, fill_value=7, backend="reference"),
        )


@pytest.mark.parametrize("name", LARGE)
def test_large_cases_equal_torch(name: str) -> None:
    case = LARGE[name]()
    same(nbgather.gather(*case), expected(case))


@pytest.mark.parametrize("name", CASES)
def test_default_backend_is_the_cpu_one(name: str) -> None:
    case = CASES[name]()
    same(nbgather.gather(*case), nbgather.gather(*case, backend="cpu"))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_formula(dim: int, backend: str) -> None:
    x = np.arange(60).reshape(3, 4, 5)
    index = rng("formula").integers(0, x.shape[dim], (2, 3, 4))
    out = nbgather.gather(x, dim, index, backend=backend)
    for i, j, k in np.ndindex(out.shape):
        source = [i, j, k]
        source[dim] = index[i, j, k]
        assert out[i, j, k] == x[tuple(source)]


def test_worked_example(backend: str) -> None:
    out = nbgather.gather(*CASES["worked"](), backend=backend)
    assert out.tolist() == [
        [[0, 1, 2, 3], [8, 9, 10, 11]],
        [[12, 13, 14, 15], [20, 21, 22, 23]],
    ]


def modes_and_layouts() -> list[Any]:
    """Every mode and dtype of an index, and how it lies.

    ``fill`` goes 16 neighbours at a time, the others one by one however they lie: there the strided
    kernel, compiled in a third of the time, has the same loop. So has ``fill``, for what is left
    over: of its loops by 16 those of the usual dtypes and of the extremes are always tried.
    """
    by_16 = ("int64", "int32", "int8", "uint64")
    return [
        pytest.param(
            dtype, mode, layout,
            marks=()
            if layout == ("contiguous" if mode == "fill" and dtype in by_16 else "strided")
            else pytest.mark.large,
        )
        for dtype in INDEX_DTYPES
        for mode in ("clip", "wrap", "fill")
        for layout in ("strided", "contiguous")
    ]  # fmt: skip


@pytest.mark.parametrize("index_dtype, mode, layout", modes_and_layouts())
def test_modes_never_raise_on_a_value(
    mode: str, layout: str, index_dtype: str, backend: str
) -> None:
    info = np.iinfo(index_dtype)
    values = [info.min, info.min + 1, -1 if info.min else 1, 0, 2, 3, 4, info.max - 1, info.max]
    values = values * 2  # 18, so that 16 go together and some do not
    index = np.array([values, values[::-1]], index_dtype)
    if layout == "strided":
        index = np.repeat(index, 2, 1)[:, ::2]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    got = nbgather.gather(x, 1, index, mode=mode, fill_value=-7, backend=backend)
    same(got, nbgather.gather(x, 1, index, mode=mode, fill_value=-7, backend="reference"))
    for (n, k), value in np.ndenumerate(index):
        j = int(value)
        want = {
            "clip": x[n, min(max(j, 0), 3)],
            "wrap": x[n, j % 4],
            "fill": x[n, j] if 0 <= j < 4 else -7,
        }[mode]
        assert got[n, k] == want


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["worked", "transposed", "tokens_expanded", "dtype_complex128"])
def test_modes_on_the_cases(name: str, mode: str, backend: str) -> None:
    case = CASES[name]()
    got = nbgather.gather(*case, mode=mode, backend=backend)
    same(got, nbgather.gather(*case, backend="reference"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fill_value_in_every_dtype(dtype: str) -> None:
    x = random_bits(rng(dtype), (2, 3), DTYPES[dtype])
    fill = {"m": np.timedelta64(3, "D"), "M": np.datetime64("2020-02-02"), "S": b"abc"}.get(
        x.dtype.kind, 1
    )
    got = nbgather.gather(x, 1, np.array([[0, 9], [-1, 2]]), mode="fill", fill_value=fill)
    want = np.array([[x[0, 0], fill], [fill, x[1, 2]]], x.dtype)
    want[0, 0], want[1, 1] = x[0, 0], x[1, 2]
    assert got.tobytes() == want.tobytes()
    assert got.dtype == x.dtype


@pytest.mark.parametrize("value", [300, -1, 0.5, "a"])
def test_fill_value_that_does_not_fit(value: object) -> None:
    with pytest.raises(ValueError, match="cannot be held in dtype uint8"):
        nbgather.gather(
            np.zeros((2, 2), "u1"), 1, np.zeros((2, 2), int), mode="fill", fill_value=value
        )


@pytest.mark.parametrize("value", [None, [1], {}, np.zeros(2), object()])
def test_a_fill_value_that_is_no_scalar(value: object) -> None:
    x, index = np.zeros((2, 2)), np.zeros((2, 2), int)
    with pytest.raises(TypeError, match="a scalar is needed"):
        nbgather.gather(x, 1, index, mode="fill", fill_value=value)


@pytest.mark.parametrize("value", [3, -1, 7, 2**40, -(2**40)])
@pytest.mark.parametrize("threads", [False, True])
def test_bad_index_is_named(value: int, threads: bool, backend: str) -> None:
    if threads and backend == "reference":
        shape = (4, 3, 50)
    else:
        shape = (400, 3, 500) if threads else (2, 3, 4)
    x = np.arange(np.prod(shape)).reshape(shape)
    index = np.zeros(shape, np.int64)
    index[1, 0, 3] = value
    index[1, 2, 0] = 99
    with pytest.raises(IndexError) as caught:
        nbgather.gather(x, 1, index, backend=backend)
    text = f"index {value} at (1, 0, 3) is out of bounds for dimension 1 with size 3"
    assert str(caught.value) == text


@pytest.mark.parametrize("index_dtype", INDEX_DTYPES)
def test_bad_index_of_every_dtype(index_dtype: str, backend: str) -> None:
    x = np.arange(6, dtype=np.uint16).reshape(2, 3)
    for value in {np.iinfo(index_dtype).max, np.iinfo(index_dtype).min, 3} - {0}:
        index = np.array([[0, 1], [2, value]], index_dtype)
        text = rf"^index {value} at \(1, 1\) is out of bounds for dimension 1 with size 3$"
        with pytest.raises(IndexError, match=text):
            nbgather.gather(x, 1, index, backend=backend)


def test_bad_index_of_0d(backend: str) -> None:
    with pytest.raises(IndexError, match=r"^index 1 at \(\) is out of bounds for dimension 0"):
        nbgather.gather(np.array(5), 0, np.array(1), backend=backend)


def test_bad_index_in_a_huge_broadcast_index() -> None:
    index = np.broadcast_to(np.array([0, 5], np.int8)[:, None, None], (2, 1 << 11, 1 << 11))
    x = np.broadcast_to(np.zeros((), np.uint8), (2, 3, 1 << 11))
    with pytest.raises(IndexError, match=r"^index 5 at \(1, 0, 0\) is out of bounds"):
        nbgather.gather(x, 1, index)


@pytest.mark.parametrize("mode", MODES)
def test_gathering_from_a_dimension_of_size_0(mode: str, backend: str) -> None:
    x, index = np.zeros((2, 0), "f4"), np.zeros((2, 1), int)
    if mode == "fill":
        got = nbgather.gather(x, 1, index, mode=mode, fill_value=3, backend=backend)
        assert got.tolist() == [[3], [3]]
    else:
        with pytest.raises(IndexError, match="dimension 1"):
            nbgather.gather(x, 1, index, mode=mode, backend=backend)


REFUSED = {
    "dims": (TypeError, "dim is 1.5 of type float", (2, 3), 1.5, (2, 3), {}),
    "dim_bool": (TypeError, "dim is True: a whole number is needed", (2, 3), True, (2, 3), {}),
    "dim_range": (
        IndexError,
        "dim 2 is out of range for 2 dimensions: -2 to 1",
        (2, 3),
        2,
        (2, 3),
        {},
    ),
    "dim_low": (IndexError, "dim -3 is out of range", (2, 3), -3, (2, 3), {}),
    "dim_0d": (IndexError, "dim 1 is out of range for 0 dimensions: -1 to 0", (), 1, (), {}),
    "ndim": (
        ValueError,
        r"index has 1 dimensions \(shape \(3,\)\) and input 2",
        (2, 3),
        1,
        (3,),
        {},
    ),
    "larger": (ValueError, "index has size 4 at dimension 0, input only 2", (2, 3), 1, (4, 3), {}),
    "mode": (ValueError, "mode is 'drop': it must be one of", (2, 3), 1, (2, 3), {"mode": "drop"}),
    "backend": (
        ValueError,
        "backend is 'gpu': it must be one of",
        (2, 3),
        1,
        (2, 3),
        {"backend": "gpu"},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_calls(name: str) -> None:
    error, text, shape, dim, index_shape, options = REFUSED[name]
    with pytest.raises(error, match=text):
        nbgather.gather(np.zeros(shape), dim, np.zeros(index_shape, int), **options)


@pytest.mark.parametrize("dtype", ["bool", "float32", "complex64", "datetime64[s]", "S8"])
@pytest.mark.parametrize("shape", [(2, 3), (2, 0)])
def test_index_must_be_of_an_integer_dtype(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match=r"index has dtype .*: an integer dtype is needed"):
        nbgather.gather(np.zeros((2, 3)), 1, np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.zeros((2, 3), object), "holds Python objects"),
        (np.zeros((2, 3), "S3"), "input has dtype .*S3 of 3 bytes: items of 1, 2, 4, 8, 16 bytes"),
        (np.ma.zeros((2, 3)), "input is a masked array"),
        (
            [[1, 2, 3]] * 2,
            "input is a builtins.list: an array of NumPy, torch, JAX, Dask, CuPy or numba.cuda is",
        ),
    ],
)
def test_refused_inputs(x: object, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        nbgather.gather(x, 1, np.zeros((2, 3), int))


def test_a_torch_index_beside_a_numpy_input_is_refused() -> None:
    with pytest.raises(TypeError, match="input is a NumPy array and index a torch one"):
        nbgather.gather(np.zeros((2, 3)), 1, torch.zeros((2, 3), dtype=torch.int64))


def test_subclasses_give_plain_arrays(tmp_path) -> None:
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(3, 4))
    mapped[...] = np.arange(12).reshape(3, 4)
    same(nbgather.gather(mapped, 1, np.array([[3], [0], [1]])), np.array([[3], [4], [9]], "f4"))


class TestOut:
    case = staticmethod(CASES["3d_dim1"])

    @pytest.mark.parametrize("name", CASES)
    def test_every_case(self, name: str, backend: str) -> None:
        case = CASES[name]()
        out = random_bits(rng("out"), case.index.shape, case.input.dtype)
        assert nbgather.gather(*case, out=out, backend=backend) is out
        same(out, nbgather.gather(*case, backend="reference"))

    @pytest.mark.parametrize(
        "view",
        [
            lambda a: a.transpose(2, 1, 0),
            lambda a: a[::-1, :, ::-1],
            lambda a: np.zeros((*a.shape, 2), a.dtype)[..., 1],
            lambda a: np.zeros(a.shape, np.dtype([("pad", "u1"), ("v", a.dtype)]))["v"],
        ],
    )
    def test_any_strides(self, view, backend: str) -> None:
        case = make("out", (4, 3, 5), 1, (5, 6, 4)[::-1])
        out = view(
            np.zeros((5, 6, 4), "f4")
            if view(np.zeros((1, 2, 3))).shape[0] == 3
            else np.zeros((4, 6, 5), "f4")
        )
        want = nbgather.gather(*case, backend="reference")
        nbgather.gather(*case, out=out, backend=backend)
        same(np.array(out), want)

    def test_refusals(self) -> None:
        x, dim, index = self.case()
        shape = index.shape
        with pytest.raises(ValueError, match=r"out has shape \(1, 2\): the result has shape"):
            nbgather.gather(x, dim, index, out=np.zeros((1, 2), x.dtype))
        with pytest.raises(ValueError, match="out has dtype float64: the result has dtype float32"):
            nbgather.gather(x, dim, index, out=np.zeros(shape, "f8"))
        frozen = np.zeros(shape, x.dtype)
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="out is read-only"):
            nbgather.gather(x, dim, index, out=frozen)
        with pytest.raises(ValueError, match="out overlaps itself"):
            nbgather.gather(
                x, dim, index, out=np.lib.stride_tricks.as_strided(x.copy(), shape, (0, 4, 4))
            )
        with pytest.raises(TypeError, match="out is a torch array and the operands are NumPy"):
            nbgather.gather(x, dim, index, out=torch.zeros(shape))

    def test_overlap(self) -> None:
        whole = np.zeros(20, np.int64)
        index = np.zeros(10, np.int64)
        with pytest.raises(ValueError, match="out overlaps input in memory"):
            nbgather.gather(whole[:10], 0, index, out=whole[5:15])
        with pytest.raises(ValueError, match="out overlaps index in memory"):
            nbgather.gather(whole[:10], 0, index, out=index)
        # Interleaved, but never the same bytes.
        nbgather.gather(whole[::2], 0, index, out=whole[1::2])


class TestTorch:
    """Torch tensors in and out, and the same calls refused as torch.gather refuses."""

    @pytest.mark.parametrize(
        "name", [n for n in CASES if not n.startswith(("dtype", "rows", "index"))]
    )
    def test_tensors(self, name: str) -> None:
        case = CASES[name]()
        x, index = (np.ascontiguousarray(a).reshape(a.shape) for a in (case.input, case.index))
        tx, ti = torch.from_numpy(x.copy()), torch.from_numpy(index.astype(np.int64))
        got, want = nbgather.gather(tx, case.dim, ti), torch.gather(tx, case.dim, ti)
        assert type(got) is torch.Tensor
        assert got.dtype == want.dtype
        same(got.numpy(), want.numpy())

    @pytest.mark.parametrize(
        "dtype",
        [
            "bool",
            "uint8",
            "int16",
            "float16",
            "bfloat16",
            "float8_e5m2",
            "complex64",
            "complex128",
            "uint16",
            "uint64",
            "complex32",
        ],
    )
    @pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
    def test_dtypes(self, dtype: str) -> None:
        kind = getattr(torch, dtype)
        bits = torch.from_numpy(
            rng(dtype).integers(0, 2, (4, 6, 16 * kind.itemsize), dtype=np.uint8)
        )
        x = bits.view(kind)
        index = torch.from_numpy(rng(dtype).integers(0, 6, (4, 3, x.shape[2])))
        got = nbgather.gather(x, 1, index)
        assert got.dtype == kind
        same_bits = torch.gather(
            bits.view(4, 6, x.shape[2], -1), 1, index[..., None].expand(-1, -1, -1, kind.itemsize)
        )
        assert torch.equal(got.view(torch.uint8).view(same_bits.shape), same_bits)

    @pytest.mark.parametrize(
        "view",
        [
            lambda t: t.transpose(0, 2),
            lambda t: t[:, :, ::2],
            lambda t: t[:1].expand(5, -1, -1),
            lambda t: torch.nn.Parameter(t),
            lambda t: t.to(torch.complex64).conj(),
            lambda t: t.to(torch.complex64).conj().imag,
        ],
    )
    def test_views(self, view) -> None:
        x = view(torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0)))
        index = torch.randint(0, x.shape[1], (x.shape[0], 9, x.shape[2]))
        got = nbgather.gather(x, 1, index)
        assert torch.equal(got, torch.gather(x, 1, index))
        assert got.requires_grad == x.requires_grad

    @pytest.mark.parametrize(
        ("x", "dim", "index"),
        [
            (torch.zeros(2, 3), 2, torch.zeros(2, 3, dtype=torch.int64)),
            (torch.zeros(2, 3), -3, torch.zeros(2, 3, dtype=torch.int64)),
            (torch.zeros(2, 3), 1, torch.zeros(3, dtype=torch.int64)),
            (torch.zeros(2, 3), 1, torch.zeros(3, 3, dtype=torch.int64)),
            (torch.zeros(2, 3), 1, torch.zeros(2, 3)),
            (torch.zeros(2, 3), 1, torch.zeros(2, 3, dtype=torch.bool)),
            (torch.zeros(2, 3), 1, torch.full((2, 3), 3)),
            (torch.zeros(2, 3), 1, torch.full((2, 3), -1)),
            (torch.zeros(2, 0), 1, torch.zeros(2, 1, dtype=torch.int64)),
        ],
    )
    def test_refuses_what_torch_refuses(self, x, dim: int, index) -> None:
        with pytest.raises((RuntimeError, IndexError)):
            torch.gather(x, dim, index)
        with pytest.raises((TypeError, ValueError, IndexError)):
            nbgather.gather(x, dim, index)

    @pytest.mark.parametrize(
        ("x", "dim", "index"),
        [
            (torch.tensor(3.0), 0, torch.tensor(0)),
            (torch.tensor(3.0), -1, torch.tensor([0, 0])),
            (torch.zeros(3), 0, torch.tensor(1)),
            (torch.zeros(2, 3), 1, torch.zeros(0, dtype=torch.int64)),
            (torch.zeros(2, 3), 0, torch.zeros(5, 0, 2, dtype=torch.int64)),
        ],
    )
    def test_accepts_what_torch_accepts(self, x, dim: int, index) -> None:
        assert torch.equal(nbgather.gather(x, dim, index), torch.gather(x, dim, index))

    def test_unusable_tensors(self) -> None:
        index = torch.zeros(2, 3, dtype=torch.int64)
        with pytest.raises(TypeError, match=r"layout torch\.sparse_coo"):
            nbgather.gather(torch.zeros(2, 3).to_sparse(), 1, index)
        with pytest.raises(TypeError, match="input is on meta and index on cpu"):
            nbgather.gather(torch.zeros(2, 3, device="meta"), 1, index)

    @pytest.mark.parametrize("mode", MODES)
    def test_gradient(self, mode: str) -> None:
        x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
        index = torch.randint(0, 4, (3, 6, 5))
        if mode != "raise":
            index[0, 0, 0], index[1, 2, 3] = 9, -2
        function = lambda t: nbgather.gather(t, 1, index, mode=mode)  # noqa: E731
        assert torch.autograd.gradcheck(function, (x,))
        if mode == "raise":
            weight = torch.randn(3, 6, 5, dtype=torch.float64)
            (got,) = torch.autograd.grad((function(x) * weight).sum(), x)
            (want,) = torch.autograd.grad((torch.gather(x, 1, index) * weight).sum(), x)
            assert torch.equal(got, want)

    def test_out_and_grad(self) -> None:
        x = torch.zeros(2, 3, requires_grad=True)
        index = torch.zeros(2, 3, dtype=torch.int64)
        with pytest.raises(ValueError, match="gradients cannot flow through out="):
            nbgather.gather(x, 1, index, out=torch.zeros(2, 3))
        with torch.no_grad():
            nbgather.gather(x, 1, index, out=torch.zeros(2, 3))


class TestGatherTokens:
    @pytest.mark.parametrize("rest", [(), (1,), (3,), (8,), (2, 3), (4, 5, 2)])
    @pytest.mark.parametrize("dtype", ["uint8", "float32", "complex128"])
    def test_equals_indexing(self, rest: tuple[int, ...], dtype: str, backend: str) -> None:
        x = random_bits(rng(dtype), (3, 5, *rest), dtype)
        ids = rng(dtype).integers(0, 5, (3, 4)).astype(np.int32)
        want = np.stack([x[n][ids[n]] for n in range(3)])
        same(nbgather.gather_tokens(x, ids, backend=backend), want)
        turned = np.asfortranarray(x)
        same(nbgather.gather_tokens(turned, ids[:, ::-1], backend=backend), want[:, ::-1].copy())

    def test_bad_ids(self, backend: str) -> None:
        with pytest.raises(
            IndexError, match=r"^index 5 at \(1, 0\) is out of bounds for dimension 1"
        ):
            nbgather.gather_tokens(np.zeros((2, 5, 8)), np.array([[0], [5]]), backend=backend)

    def test_modes(self, backend: str) -> None:
        x = np.arange(24.0).reshape(2, 3, 4)
        ids = np.array([[-1, 0, 3], [1, 7, 2]])
        for mode in MODES[1:]:
            got = nbgather.gather_tokens(x, ids, mode=mode, fill_value=-1, backend=backend)
            wide = np.broadcast_to(ids[..., None], (2, 3, 4))
            same(got, nbgather.gather(x, 1, wide, mode=mode, fill_value=-1, backend="reference"))

    def test_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"x has shape \(2, 5\) and ids \(3, 1\)"):
            nbgather.gather_tokens(np.zeros((2, 5)), np.zeros((3, 1), int))


#: Dtypes of input and index that are drawn. Each pair is a kernel of each mode to compile: one of
#: each item size, two of the index, each with some other; the tables above have more.
DRAWN = (
    ("uint8", "int64"),
    ("float16", "int8"),
    ("float32", "int64"),
    ("float32", "int8"),
    ("int64", "int64"),
    ("complex128", "int8"),
)
EVERY_PAIR = tuple(
    (dtype, index_dtype)
    for dtype in ("uint8", "float16", "float32", "int64", "complex128")
    for index_dtype in ("int64", "int8")
)


@st.composite
def gathers(draw: st.DrawFn, kinds: Sequence[tuple[str, str]]) -> tuple[Case, str]:
    """Random shapes, dims, dtypes and strides; indices in bounds or not."""
    ndim = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(1, 5)) for _ in range(ndim))
    dim = draw(st.integers(-ndim, ndim - 1))
    at = dim % ndim
    index_shape = tuple(
        draw(st.integers(1, 6)) if d == at else draw(st.integers(1, n)) for d, n in enumerate(shape)
    )
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype, index_dtype = draw(st.sampled_from(kinds))
    x = random_bits(generator, tuple(2 * n for n in shape), dtype)
    low, high = draw(st.sampled_from([(0, shape[at]), (-3, shape[at] + 3)]))
    index = generator.integers(low, high, tuple(2 * n for n in index_shape))
    index = index.astype(index_dtype)
    views = []
    for array in (x, index):
        order = draw(st.permutations(range(ndim)))
        turned = np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
        steps = [draw(st.sampled_from([2, -2])) for _ in range(ndim)]
        views.append(turned[tuple(slice(None, None, s) for s in steps)])
    if draw(st.booleans()):
        axis = draw(st.integers(0, ndim - 1))
        first = views[1].take([0], axis)
        views[1] = np.broadcast_to(first, views[1].shape)
    return Case(views[0], dim, views[1]), draw(st.sampled_from(MODES))


def check_any_gather(case: Case, mode: str) -> None:
    def outcome(backend: str) -> np.ndarray | str:
        try:
            return nbgather.gather(
                *case, mode=mode, fill_value=np.zeros(1, case.input.dtype)[0], backend=backend
            )
        except IndexError as error:
            return str(error)

    got, want = outcome("cpu"), outcome("reference")
    if isinstance(want, str):
        assert got == want
    else:
        same(got, want)


@settings(max_examples=2000, deadline=None)
@given(gathers(DRAWN))
def test_any_gather_equals_the_reference(drawn: tuple[Case, str]) -> None:
    check_any_gather(*drawn)


@pytest.mark.large
@settings(max_examples=2000, deadline=None)
@given(gathers(EVERY_PAIR))
def test_any_gather_of_every_pair_equals_the_reference(drawn: tuple[Case, str]) -> None:
    check_any_gather(*drawn)


def test_more_elements_than_int32() -> None:
    x = np.broadcast_to(np.array([3, 5, 9], np.uint8)[:, None], (3, (1 << 31) + 7))
    index = np.broadcast_to(np.array([[2]], np.uint8), (1, (1 << 31) + 7))
    out = nbgather.gather(x, 0, index)
    assert out.shape == (1, (1 << 31) + 7)
    assert out[0, 0] == out[0, -1] == 9
    assert int(out[0, :: 1 << 20].min()) == 9


def test_bfloat16_nan_payloads_survive() -> None:
    x = np.array([[0x7FC1, 0xFF81, 0x8000]], np.uint16).view(ml_dtypes.bfloat16)
    got = nbgather.gather(x, 1, np.array([[2, 1, 0]]))
    assert got.view(np.uint16).tolist() == [[0x8000, 0xFF81, 0x7FC1]]


class TestRepeatedSmallCalls:
    """A call like an earlier one takes a short way: nothing may differ on it."""

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        x, index = torch.arange(24.0).reshape(2, 3, 4), torch.tensor([[[0] * 4, [2] * 4]] * 2)
        for _ in range(3):
            nbgather.gather(x, 1, index)
        return x, index

    def test_other_values_and_new_memory(self) -> None:
        x, index = self.tensors()
        first = nbgather.gather(x, 1, index)
        second = nbgather.gather(x + 1, 1, 2 - index)
        assert torch.equal(first, torch.gather(x, 1, index))
        assert torch.equal(second, torch.gather(x + 1, 1, 2 - index))
        array, numbers = x.numpy(), index.numpy()
        for shift in (0, 1, 2, 3):
            got = nbgather.gather(array + shift, 1, numbers)
            same(got, np.take_along_axis(array + shift, numbers, 1))

    def test_other_layouts(self) -> None:
        x, index = self.tensors()
        for a in (x, x.flip(0), x.transpose(0, 1).contiguous().transpose(0, 1)):
            for i in (index, index[:, :, :1].expand(2, 2, 4), index.flip(1)):
                assert torch.equal(nbgather.gather(a, 1, i), torch.gather(a, 1, i))
                got = nbgather.gather(a.numpy(), 1, i.numpy())
                same(got, torch.gather(a, 1, i).numpy())

    def test_unaligned_memory(self) -> None:
        x, index = self.tensors()
        raw = np.zeros(97, np.uint8)
        raw[1:].view(np.uint8)[:] = x.numpy().view(np.uint8).reshape(-1)
        odd = raw[1:].view(np.float32).reshape(2, 3, 4)
        for _ in range(3):
            same(nbgather.gather(odd, 1, index.numpy()), torch.gather(x, 1, index).numpy())

    def test_bad_indices_are_still_errors(self) -> None:
        x, index = self.tensors()
        index[1, 1, 2] = 3
        for a, i in ((x, index), (x.numpy(), index.numpy())):
            with pytest.raises(IndexError, match=r"^index 3 at \(1, 1, 2\) is out of bounds"):
                nbgather.gather(a, 1, i)

    def test_gradients_and_conjugates(self) -> None:
        x, index = self.tensors()
        y = nbgather.gather(x.clone().requires_grad_(), 1, index)
        assert y.requires_grad
        z = torch.complex(x, x + 1)
        for _ in range(3):
            got = nbgather.gather(z.conj(), 1, index)
            assert torch.equal(got, torch.gather(z.conj(), 1, index))
            got = nbgather.gather(z.conj().imag, 1, index)
            assert torch.equal(got, torch.gather(z.conj().imag, 1, index))

    @pytest.mark.parametrize("dim", [True, 1.0, np.float64(1)])
    def test_a_dim_that_only_looks_equal(self, dim: object) -> None:
        x, index = self.tensors()
        with pytest.raises(TypeError, match="dim is"):
            nbgather.gather(x, dim, index)

    def test_sparse_and_meta_tensors(self) -> None:
        x, index = self.tensors()
        for bad in (x.to_sparse(), x.to("meta")):
            with pytest.raises(TypeError):
                nbgather.gather(bad, 1, index)
            with pytest.raises(TypeError):
                nbgather.gather(x, 1, bad.to(torch.int64))

    def test_other_modes_and_kinds(self) -> None:
        x, index = self.tensors()
        index = index - 1
        with pytest.raises(IndexError):
            nbgather.gather(x, 1, index)
        assert torch.equal(
            nbgather.take_along_axis(x, index, 1), torch.gather(x, 1, index.remainder(3))
        )
        for _ in range(2):
            for mode in MODES[1:]:
                got = nbgather.gather(x, 1, index, mode=mode, fill_value=-2)
                want = nbgather.gather(x, 1, index, mode=mode, fill_value=-2, backend="reference")
                assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("dtype", "whole", "cut"),
    [
        ("U2", "ab", "abc"),
        ("U2", 12, 123),
        ("S2", b"ab", b"abc"),
        ("M8[s]", np.datetime64("2020-01-01", "D"), np.datetime64(1, "ns")),
        ("M8[s]", np.datetime64("NaT", "ns"), "2020-01-01T00:00:00.5"),
        ("M8[ns]", "2020-01-01", np.datetime64(3000, "Y")),
        ("m8[s]", datetime.timedelta(minutes=1), datetime.timedelta(microseconds=1)),
        ("f4", 1e38, 1e39),
        ("f2", np.inf, 1e5),
        ("c8", 1j, 1e39j),
    ],
)
def test_a_fill_value_is_there_whole_or_refused(dtype: str, whole: Any, cut: Any) -> None:
    def filled(value: Any) -> Any:
        given = np.zeros((1, 2), dtype), 1, np.array([[9]])
        return nbgather.gather(*given, mode="fill", fill_value=value)[0, 0]

    wanted = np.array([whole]).astype(dtype)[0]
    assert np.array(filled(whole)).tobytes() == np.array(wanted).tobytes()
    with pytest.raises(ValueError, match=r"fill_value .* cannot be held in dtype"):
        filled(cut)
