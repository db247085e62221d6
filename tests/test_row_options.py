"""What gather_reduce and segment_reduce take besides rows: modes of ids, and where to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import rng
from test_reduce import REDUCES, at_the_end_of_a_page, dtype_of, equal, special

import nbgather

MODES = ("clip", "wrap", "fill")
COUNTS = [3, 0, 5, 1]


def gathered(x: np.ndarray, ids: np.ndarray, reduce: str, counts: Any, **options: Any) -> Any:
    """Segments of rows that were gathered: what a bag is."""
    wide = x.reshape(1, len(x), -1)
    rows = nbgather.gather_tokens(wide, ids.reshape(1, -1), **options)
    return nbgather.segment_reduce(rows.reshape(-1, *x.shape[1:]), reduce, counts=counts)


def to_numpy(array: Any) -> np.ndarray:
    return np.asarray(array.detach() if isinstance(array, torch.Tensor) else array)


#: Every mode, reduction and kind of number, one of which has no kernel.
USUAL_MODES = {
    ("float32", "clip"): (("sum", "i8"),), ("float32", "wrap"): (("mean", "i8"),),
    ("float32", "fill"): (("amax", ">i4"),), ("int16", "fill"): (("amin", "i8"),),
    ("float16", "clip"): (("prod", "i8"),),
}  # fmt: skip
WEEKLY_MODES = [
    pytest.param(name, mode, tuple(zip(REDUCES, ("i8", "i2", ">i4", "i8", "i2"), strict=True)),
                 marks=pytest.mark.large, id=f"{name}-{mode}-every")
    for name in ("float32", "int16", "float16", "bool", "float64")
    for mode in MODES
]  # fmt: skip


@pytest.mark.parametrize(
    "name, mode, hows", [*((*key, hows) for key, hows in USUAL_MODES.items()), *WEEKLY_MODES]
)
def test_a_mode_is_that_of_the_gather(
    name: str, mode: str, hows: tuple[tuple[str, str], ...]
) -> None:
    """More rows than ids and fewer, whose fills are made in two ways."""
    generator = rng(f"modes {name}{mode}")
    options = {"mode": mode} | ({"fill_value": 1} if mode == "fill" else {})
    for reduce, ids_dtype in hows:
        if (name, reduce) == ("bool", "mean"):
            continue
        for rows, columns in ((4, ()), (4, (3,)), (30, (2, 2))):
            x = special(generator, (rows, *columns), name)
            flat = generator.integers(-9, 40, sum(COUNTS)).astype(ids_dtype)
            wide = generator.integers(-9, 40, (3, 4))
            with np.errstate(all="ignore"):
                want = gathered(x, flat, reduce, COUNTS, **options)
                squares = gathered(x, wide, reduce, [4] * 3, **options)
                for how in ({"counts": COUNTS}, {"offsets": np.cumsum([0, *COUNTS])}):
                    equal(nbgather.gather_reduce(x, flat, reduce, **how, **options), want)
                got = nbgather.gather_reduce(x, wide.T.copy().T, reduce, **options)
                equal(got, squares)
                plainly = nbgather.gather_reduce(x, wide, reduce, **options, backend="reference")
            equal(plainly, squares)


@pytest.mark.parametrize(
    "mode", [pytest.param(m, marks=() if m == "wrap" else pytest.mark.large) for m in MODES]
)
def test_ids_beyond_int64_have_modes(mode: str) -> None:
    options = {"mode": mode} | ({"fill_value": 1} if mode == "fill" else {})
    last = np.array([[2**64 - 1, 2**63]], np.uint64)
    x = np.arange(3, dtype="f4").reshape(3, 1)
    equal(
        nbgather.gather_reduce(x, last, "sum", **options),
        gathered(x, last, "sum", [2], **options),
    )


def _with(mode: str, reduce: str, ids: Any) -> Callable[[Any], Any]:
    options = {"mode": mode, "fill_value": 2.5}
    return lambda x: nbgather.gather_reduce(x, ids, reduce, **options)


def _modes_and_reductions() -> list[Any]:
    """By turns; the others are ``large``."""
    return [
        pytest.param(mode, reduce, marks=() if m == r else pytest.mark.large)
        for m, mode in enumerate(MODES)
        for r, reduce in enumerate(("mean", "prod", "amax"))
    ]


@pytest.mark.parametrize("mode, reduce", _modes_and_reductions())
def test_tensors_have_gradients_in_every_mode(mode: str, reduce: str) -> None:
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    for ids in (torch.tensor([[0, 7, 3], [-2, 4, 4]]), torch.tensor([[1, -1]])):
        call = _with(mode, reduce, ids)
        equal(to_numpy(call(x)), to_numpy(call(x.detach())))
        assert torch.autograd.gradcheck(call, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, x)
    both = torch.func.vmap(call)(torch.stack([x, 2 * x]).detach())
    equal(to_numpy(both[1]), to_numpy(call(2 * x)))


@pytest.mark.large
def test_a_graph_of_torch_has_modes() -> None:
    x, ids = torch.randn(5, 2), torch.tensor([[0, 7, 3], [-2, 4, 4]])
    calls = [_with(mode, "mean", ids) for mode in MODES]
    graph = torch.compile(
        lambda x: [call(x) for call in calls], backend="eager", fullgraph=True, dynamic=True
    )
    for got, call in zip(graph(x), calls, strict=True):
        equal(to_numpy(got), to_numpy(call(x)))


def test_what_jax_compiles_has_modes_and_tells_of_the_place() -> None:
    jax = pytest.importorskip("jax")
    x, ids = np.arange(15, dtype="f4").reshape(5, 3), np.array([[0, 7, 3], [-2, 4, 4]])
    calls = [_with(mode, "sum", ids) for mode in MODES]
    results = jax.jit(lambda x: [call(x) for call in calls])(x)
    grads = jax.jit(jax.grad(lambda x: sum((call(x) ** 2).sum() for call in calls)))(x)
    leaf = torch.from_numpy(x).requires_grad_()
    sum((call(leaf) ** 2).sum() for call in calls).backward()
    equal(np.asarray(grads), to_numpy(leaf.grad))
    for got, call in zip(results, calls, strict=True):
        equal(np.asarray(got), call(x))
    text = r"index 7 at \(0, 1\) is out of bounds for dimension 0 with size 5"
    for mode, columns in (("raise", 3), ("defer", 3), ("raise", 0)):
        given = x if columns else x[:, 0]
        traced = jax.jit(lambda x: nbgather.gather_reduce(x, ids, "sum", mode=mode))  # noqa: B023
        with pytest.raises(Exception, match=text):
            jax.block_until_ready(traced(given))
        with pytest.raises(IndexError, match=text):
            nbgather.gather_reduce(given, ids, "sum", mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_chunks_have_modes(mode: str) -> None:
    da = pytest.importorskip("dask.array")
    generator = rng("chunks")
    x = generator.standard_normal((20, 4)).astype("f4")
    ids = generator.integers(-9, 40, (7, 3))
    call = _with(mode, "sum", ids)
    equal(call(da.from_array(x, chunks=(6, 3))).compute(), call(x))
    chunked = da.from_array(ids, chunks=(2, 2))
    equal(_with(mode, "amax", chunked)(da.from_array(x, chunks=6)).compute(),
          _with(mode, "amax", ids)(x))  # fmt: skip


X = np.arange(12.0).reshape(4, 3)
IDS = np.array([[0, 5], [2, 3]])
BAD_MODES = {
    "unknown": (X, {"mode": "nearest"}, ValueError, "mode is 'nearest': it must be one of 'raise'"),
    "fill": (X.astype("u1"), {"mode": "fill", "fill_value": 300}, ValueError, "fill_value 300"),
    "few rows": (X[:1].astype("u1"), {"mode": "fill", "fill_value": 300}, ValueError, "value 300"),
    "an array": (X, {"mode": "fill", "fill_value": X}, TypeError, "a scalar is needed"),
    "no rows": (X[:0], {"mode": "clip"}, IndexError, "mode 'clip' has no position to choose"),
    "defer": (X, {"mode": "defer"}, IndexError, r"index 5 at \(0, 1\) is out of bounds for dim"),
    "counts": (X, {"mode": "wrap", "counts": [1]}, ValueError, "ids has shape"),
    "byte order": (X.astype(">f8"), {}, TypeError, "x has dtype >f8: gather_reduce by 'sum' takes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MODES)
def test_refusals_of_modes(name: str) -> None:
    x, options, kind, text = BAD_MODES[name]
    with pytest.raises(kind, match=text):
        nbgather.gather_reduce(x, IDS, "sum", **options)


def test_other_byte_orders_are_refused_as_by_every_sum() -> None:
    big, segments = X.astype(">f4"), {"counts": [4]}
    calls: list[Any] = [
        lambda: nbgather.segment_reduce(big, "sum", **segments),
        lambda: nbgather.scatter_add(big, 0, np.zeros((4, 3), int), big),
        lambda: nbgather.scatter_reduce(big, 0, np.zeros((4, 3), int), big, "amax"),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"has dtype >f4: .* this machine's byte order"):
            call()
    where = np.array([0, 2, 4], ">i4")
    equal(nbgather.segment_reduce(X, "sum", offsets=where), X.reshape(2, 2, 3).sum(1))


# out=

OFFSETS = np.array([0, 3, 3, 8, 9])
#: Calls of 9 ids or rows in 4 segments, of rows of some columns: what each is given by name.
WAYS: dict[str, Callable[..., Any]] = {
    "bags by counts": lambda x, **o: nbgather.gather_reduce(
        x, [0, 1, 2, 8, 8, 8, 8, 0, 3], "sum", counts=COUNTS, **o
    ),
    "bags": lambda x, **o: nbgather.gather_reduce(x, np.arange(8).reshape(4, 2), "amin", **o),
    "bags that wrap": lambda x, **o: nbgather.gather_reduce(
        x, np.arange(-4, 4).reshape(4, 2), "mean", mode="wrap", **o
    ),
    "ids": lambda x, **o: nbgather.segment_reduce(
        x, "amax", ids=[0, 2, 2, 0, 2, 3, 0, 2, 2], num_segments=4, **o
    ),
    "offsets": lambda x, **o: nbgather.segment_reduce(x, "sum", offsets=OFFSETS, **o),
    "counts": lambda x, **o: nbgather.segment_reduce(x, "amax", counts=COUNTS, **o),
}  # fmt: skip


def _outs(shape: tuple[int, ...], dtype: Any) -> list[np.ndarray]:
    """Contiguous, strided, reversed, transposed, beside an item's place."""
    nbytes = int(np.prod(shape)) * dtype.itemsize
    beside = np.zeros(nbytes + 1, np.uint8)[1:].view(dtype).reshape(shape)
    wide = np.zeros((2 * shape[0], *shape[1:]), dtype)
    return [np.zeros(shape, dtype), wide[::2], wide[1::2][::-1], np.zeros(shape[::-1], dtype).T,
            beside]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_results_are_written_where_they_are_wanted(way: str) -> None:
    call = WAYS[way]
    for name, columns in (("float32", (5,)), ("float32", ()), ("float16", (2, 3))):
        x = special(rng(f"out{name}"), (9, *columns), name)
        with np.errstate(all="ignore"):
            for given in (x, x[::-1].copy()[::-1]):
                want = call(x)
                for out in _outs(want.shape, x.dtype):
                    assert call(given, out=out) is out
                    equal(np.ascontiguousarray(out), want)
            if "bags" not in way or name == "float32":
                out = np.zeros_like(want)
                assert call(x, out=out, backend="reference") is out
                equal(out, want)
            tensor = torch.zeros(want.shape, dtype=getattr(torch, name))
            assert call(torch.from_numpy(x), out=tensor) is tensor
            equal(tensor.numpy(), want)
        none = np.zeros((4, 0), x.dtype)
        assert call(none[:1].repeat(9, 0), out=none) is none


@pytest.mark.parametrize("way", WAYS)
def test_an_out_that_will_not_do(way: str) -> None:
    call, x = WAYS[way], special(rng("no"), (9, 5), "float32")
    good = np.zeros((4, 5), "f4")
    fixed = good.copy()
    fixed.flags.writeable = False
    refusals: list[tuple[Any, type[Exception], str]] = [
        (good[:3], ValueError, r"out has shape \(3, 5\): the result has shape \(4, 5\)"),
        (good.astype("f8"), ValueError, "out has dtype float64: the result has dtype"),
        (fixed, ValueError, "out is read-only"),
        (x[5:], ValueError, "out overlaps x in memory: it must overlap no operand"),
        (np.broadcast_to(good[:1], (4, 5)), ValueError, "out "),
        (np.lib.stride_tricks.as_strided(good, (4, 5), (4, 4)), ValueError, "out overlaps itself"),
        (torch.zeros(4, 5), TypeError, "out is a torch array and the operands are NumPy ones"),
        ([[0.0] * 5] * 4, TypeError, "out is a builtins.list"),
    ]
    for out, kind, text in refusals:
        before = x.copy()
        with pytest.raises(kind, match=text):
            call(x, out=out)
        equal(x, before)
    leaf = torch.from_numpy(x).requires_grad_()
    with pytest.raises(ValueError, match="x requires grad: gradients cannot flow through out="):
        call(leaf, out=torch.zeros(4, 5))
    with pytest.raises(ValueError, match="out requires grad"):
        call(torch.from_numpy(x), out=torch.zeros(4, 5, requires_grad=True))
    jax, da = pytest.importorskip("jax"), pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match="out= was given for JAX arrays"):
        call(jax.numpy.asarray(x), out=good)
    with pytest.raises(ValueError, match="out= or backend= was given for Dask arrays"):
        call(da.from_array(x), out=good)
    assert not good.any()


def test_an_out_meets_no_operand_that_says_where() -> None:
    memory = np.zeros(20, np.int64)
    out, x = memory[:8].reshape(4, 2), np.ones((4, 2), np.int64)
    ids, bounds = memory[4:12].reshape(4, 2), memory[7:12]
    bounds[...] = 0, 1, 2, 3, 4
    reduce, segments = nbgather.gather_reduce, nbgather.segment_reduce
    flat, of, counts = np.arange(4), memory[5:9], memory[7:11]
    calls: dict[str, tuple[str, Callable[[], Any]]] = {
        "bags": ("ids", lambda: reduce(x, ids, "sum", out=out)),
        "their offsets": ("offsets", lambda: reduce(x, flat, "sum", offsets=bounds, out=out)),
        "offsets": ("offsets", lambda: segments(x, "sum", offsets=bounds, out=out)),
        "counts": ("counts", lambda: segments(x, "sum", counts=counts, out=out)),
        "ids": ("ids", lambda: segments(x, "sum", ids=of, num_segments=4, out=out)),
    }  # fmt: skip
    before = memory.copy()
    for name, call in calls.values():
        with pytest.raises(ValueError, match=f"out overlaps {name} in memory"):
            call()
    equal(memory, before)


@pytest.mark.parametrize("columns", [1, 40])
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_nothing_is_written_where_something_is_bad(name: str, columns: int) -> None:
    """By kernels that check first, by those that write apart, and by what has no kernel."""
    x = np.ones((6, columns), dtype_of(name))
    ids = rng("bad").integers(0, 6, (40, 11))
    ids[30, 10] = 6
    of, good = np.arange(6) % 3, np.where(ids == 6, 0, ids).ravel()
    of[4] = 40
    bounds = np.arange(0, 441, 11)
    bounds[30] = 500
    calls: list[tuple[type[Exception], Any, Callable[[Any], Any]]] = [
        (IndexError, r"6 at \(30, 10\)", lambda o: nbgather.gather_reduce(x, ids, "sum", out=o)),
        (ValueError, r"offsets\[30\] is 500",
         lambda o: nbgather.gather_reduce(x, good, "sum", offsets=bounds, out=o)),
        (IndexError, r"40 at \(4,\)",
         lambda o: nbgather.segment_reduce(x, "amax", ids=of, num_segments=40, out=o)),
        (ValueError, "counts sum to 5",
         lambda o: nbgather.segment_reduce(x, "mean", counts=[5] + [0] * 39, out=o)),
    ]  # fmt: skip
    for kind, text, call in calls:
        for out in (np.full((40, columns), 7, x.dtype), np.full((80, columns), 7, x.dtype)[::2]):
            with pytest.raises(kind, match=text):
                call(out)
            assert (out == 7).all()


def test_nothing_beyond_an_out_is_touched() -> None:
    for columns in (1, 5, 130):
        x = at_the_end_of_a_page(special(rng("page"), (9, columns), "float32"))
        out = at_the_end_of_a_page(np.zeros((4, columns), "f4"))
        for call in WAYS.values():
            equal(call(x, out=out), call(x.copy()))
