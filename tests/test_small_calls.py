"""Small calls that are repeated: each as the first one, as the reference, and as it is refused."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cases import random_bits, rng

import nbgather
from nbgather import dispatch
from nbgather.engine import memo
from nbgather.kernels.cpu import limits as cpu_limits

N, L, D, K = 2, 6, 4, 3


#: A dtype of each size, and those that are special to a library.
ITEMS = ("bool", "int16", "bfloat16", "float32", "complex64", "complex128", "datetime64[ms]")


class Case(NamedTuple):
    """A call of arrays, of which the first has the dtype of the case."""

    shapes: tuple[tuple[int, ...], ...]
    call: Callable[..., Any]
    #: Numbers below which the whole numbers of each other operand lie; 0 for values.
    limits: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ITEMS
    #: Operands that are permutations of each sample's places.
    ranks: tuple[int, ...] = ()
    #: Whether ``backend=`` can be given.
    has_backends: bool = True


FLOATS = ("float32", "float64")
SCORES = (*FLOATS, "float16", "bfloat16")
SUMS = ("float32", "float64", "int8", "int64", "uint16", "complex64", "bool")
X, IMAGES = (N, L, D), (N, 3, 4, 6)
CASES: dict[str, Case] = {
    "gather": Case((X, (N, K, D)), lambda x, i, **o: nbgather.gather(x, 1, i, **o), (L,)),
    "gather last": Case((X, (N, L, K)), lambda x, i, **o: nbgather.gather(x, -1, i, **o), (D,)),
    "gather 1-d": Case(((9,), (5,)), lambda x, i, **o: nbgather.gather(x, 0, i, **o), (9,)),
    "gather clip": Case(
        (X, (N, K, D)), lambda x, i, **o: nbgather.gather(x, 1, i - 2, mode="clip", **o), (2 * L,)
    ),
    "gather fill": Case(
        (X, (N, K, D)),
        lambda x, i, **o: nbgather.gather(x, 1, i, mode="fill", fill_value=1, **o),
        (2 * L,),
        ("float32", "float16", "int8", "int64", "complex64", "bfloat16"),
    ),
    "take_along_axis": Case(
        (X, (N, K, 1)), lambda x, i, **o: nbgather.take_along_axis(x, i - L, 1, **o), (2 * L,)
    ),
    "take_along_axis of one place": Case(
        ((N, 1, D), (N, 1, D)),
        lambda x, i, **o: nbgather.take_along_axis(x, i - 1, 1, **o), (2,),
    ),
    "take_along_axis flat": Case(
        (X, (5,)), lambda x, i, **o: nbgather.take_along_axis(x, i, None, **o), (N * L * D,)
    ),
    "gather_tokens": Case((X, (N, K)), nbgather.gather_tokens, (L,)),
    "scatter": Case(
        (X, (N, K, D), (N, K, D)),
        lambda x, i, s, **o: nbgather.scatter(x, 1, i, s, **o),
        (L, 0),
    ),
    "scatter number": Case(
        (X, (N, K, D)), lambda x, i, **o: nbgather.scatter(x, 1, i, 3, **o), (L,),
        ("float32", "int16"),
    ),
    "scatter_add": Case(
        (X, (N, 9, D), (N, 9, D)),
        lambda x, i, s, **o: nbgather.scatter_add(x, 1, i, s, **o),
        (L, 0),
        SUMS,
    ),
    "restore_tokens": Case(
        ((N, K, D), (N, L), (D,)), nbgather.restore_tokens, (L, 0), ranks=(1,)
    ),
    "restore_tokens wide": Case(
        ((N, K, D), (N, L), (1, 1, D)), nbgather.restore_tokens, (L, 0), FLOATS, (1,)
    ),
    "restore_tokens number": Case(
        ((N, K, D), (N, L)), lambda x, r, **o: nbgather.restore_tokens(x, r, 1, **o), (L,),
        ("float32", "bfloat16", "int32"), (1,),
    ),
    "gather of one place": Case(
        ((N, 1, D), (N, 1, D)), lambda x, i, **o: nbgather.gather(x, 1, i, **o), (1,)
    ),
    "rank_tokens": Case(((N, L),), lambda s, **o: nbgather.rank_tokens(s, K, **o), (), SCORES),
    "rank_tokens long": Case(
        ((2, 300),), lambda s, **o: nbgather.rank_tokens(s, 9, **o), (), SCORES
    ),
    "token_noise": Case(
        ((N,),), lambda ids, **o: nbgather.token_noise(-5, ids, 9, epoch=3, **o), (),
        ("int64", "uint64"),
    ),
    "random_masking seed": Case(
        (X,), lambda x, **o: nbgather.random_masking(x, 0.5, seed=2**63 + 1, epoch=7, **o)
    ),
    "random_masking ids": Case(
        (X, (N,)),
        lambda x, ids, **o: nbgather.random_masking(x, num_keep=K, seed=-1, sample_ids=ids, **o),
        (2**40,),
    ),
    "random_masking noise": Case(
        (X, (N, L)), lambda x, noise, **o: nbgather.random_masking(x, 0.25, noise=noise, **o), (0,),
        SCORES,
    ),
    "patchify": Case((IMAGES,), lambda x: nbgather.patchify(x, 2), has_backends=False),
    "unpatchify": Case(
        ((N, 6, 12),), lambda p: nbgather.unpatchify(p, 2, (4, 6)), has_backends=False
    ),
    "masked_patchify": Case(
        (IMAGES, (N,)),
        lambda x, ids, **o: nbgather.masked_patchify(x, 2, 0.5, seed=9, sample_ids=ids, **o),
        (2**40,),
    ),
    "masked_patchify none": Case(
        (IMAGES, (N,)),
        lambda x, ids, **o: nbgather.masked_patchify(x, 2, 0.9, seed=9, sample_ids=ids, **o),
        (2**40,), FLOATS,
    ),
    "masked_patchify noise": Case(
        (IMAGES, (N, 6)),
        lambda x, noise, **o: nbgather.masked_patchify(x, (2, 2), noise=noise, **o),
        (0,), SCORES,
    ),
    **{
        f"strategies.{name}": Case(
            ((N,),),
            lambda ids, name=name, options=options, **o: getattr(nbgather.strategies, name)(
                -7, ids, (3, 4, 5), epoch=2, **options, **o
            ),
            (), ("int64",),
        )
        for name, options in {
            "random": {}, "grid": {"stride": 3}, "block": {"min_area": 2, "wrap": True},
            "time_frequency": {}, "tube": {},
        }.items()
    },
}  # fmt: skip
LIBRARIES = ("numpy", "torch")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    memo.entries.clear()
    yield
    memo.entries.clear()


def operands(name: str, dtype: str, draw: int) -> list[np.ndarray]:
    """The arrays of one call, others for each draw."""
    case, generator = CASES[name], rng(f"{name} {dtype} {draw}")
    arrays = [random_bits(generator, case.shapes[0], dtype)]
    for k, (shape, limit) in enumerate(zip(case.shapes[1:], case.limits, strict=True), 1):
        if k in case.ranks:
            order = [generator.permutation(shape[1]) for _ in range(shape[0])]
            arrays.append(np.array(order, np.int64))
        elif limit:
            arrays.append(generator.integers(0, limit, shape))
        else:
            arrays.append(random_bits(generator, shape, dtype))
    return arrays


def to(library: str, array: np.ndarray) -> Any:
    """A new array of a library with the same bits."""
    if library == "numpy":
        return array.copy()
    name = array.dtype.name
    if not hasattr(torch, name):
        pytest.skip(f"torch has no {name}")
    return torch.from_numpy(array.view(np.uint8)).view(getattr(torch, name)).clone()


def bits(result: Any) -> list[tuple[str, tuple[int, ...], bytes]]:
    """What came: dtypes, shapes and bits."""
    described = []
    for array in result if isinstance(result, tuple) else (result,):
        if isinstance(array, torch.Tensor):
            data = array.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            kind = str(array.dtype).removeprefix("torch.")
        else:
            data, kind = np.ascontiguousarray(array), array.dtype.name
        described.append((kind, tuple(array.shape), data.tobytes()))
    return described


def whole_way(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("the call went the whole way")


EVERY = [(name, dtype) for name, case in CASES.items() for dtype in case.dtypes]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("name", "dtype"), EVERY)
def test_each_repeated_call_is_right(
    name: str, dtype: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the reference, for new values each time, and without the whole way."""
    case = CASES[name]
    draws = [operands(name, dtype, draw) for draw in range(4)]
    expected = []
    for arrays in draws:
        memo.entries.clear()
        ours = [to(library, a) for a in arrays]
        cold = case.call(*ours)
        if case.has_backends:
            assert bits(cold) == bits(case.call(*ours, backend="reference"))
        expected.append((type(cold), bits(cold)))
    memo.entries.clear()
    for arrays in draws[:2]:
        case.call(*[to(library, a) for a in arrays])
    monkeypatch.setattr(dispatch, "execute", whole_way)
    kept = []
    for arrays, (kind, wanted) in zip(draws * 2, expected * 2, strict=True):
        result = case.call(*[to(library, a) for a in arrays])
        assert type(result) is kind
        assert bits(result) == wanted
        kept.append((result, wanted))
    for result, wanted in kept:  # no later call wrote into it
        assert bits(result) == wanted


#: Calls of each function that are split over threads, and the shapes and limits of their operands.
LARGE = {
    "gather": (((4, 50_000), (4, 40_000)), (50_000,)),
    "gather 1-d": (((90_000,), (90_000,)), (90_000,)),
    "gather_tokens": (((2, 600, 64), (2, 500)), (600,)),
    "scatter": (((3, 50_000, 1), (3, 40_000, 1), (3, 40_000, 1)), (50_000, 0)),
    "scatter_add": (((1, 90_000, 1), (1, 70_000, 1), (1, 70_000, 1)), (90_000, 0)),
    "restore_tokens": (((2, 500, 64), (2, 600), (64,)), (600, 0)),
    "rank_tokens": (((2, 20_000),), ()),
    "token_noise": (((4000,),), ()),
    "random_masking seed": (((1, 20_000, 4),), ()),
    "random_masking noise": (((2, 9000, 4), (2, 9000)), (0,)),
    "patchify": (((8, 3, 64, 64),), ()),
    "masked_patchify": (((8, 3, 64, 64), (8,)), (2**40,)),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", LARGE)
def test_large_calls_come_again(
    name: str, threads: int, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not kept, since several threads do it, is right the second and the third time too."""
    shapes, limits = LARGE[name]
    case = CASES[name]._replace(shapes=shapes, limits=limits)
    monkeypatch.setitem(CASES, name, case)
    arrays = operands(name, case.dtypes[-1] if name == "token_noise" else "float32", 0)
    with cpu_limits.limit_threads(1):
        wanted = bits(case.call(*[to(library, a) for a in arrays]))
    memo.entries.clear()
    with cpu_limits.limit_threads(threads):
        for _ in range(4):
            assert bits(case.call(*[to(library, a) for a in arrays])) == wanted


INTO = (
    "gather", "take_along_axis", "gather_tokens", "gather fill", "scatter", "scatter number",
    "scatter_add",
)  # fmt: skip


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", INTO)
def test_out_is_written(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    given = [to(library, a) for a in operands(name, "float32", 0)]
    wanted = case.call(*given)
    out = case.call(*given)
    for _ in range(2):
        case.call(*given, out=out)
    before = [bits(a) for a in given]
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "execute", whole_way)
        out[...] = 7
        assert case.call(*given, out=out) is out
    assert bits(out) == bits(wanted)
    assert [bits(a) for a in given] == before
    if library == "torch":
        _require_told_of_writing(lambda: case.call(*given, out=out), out)
        monkeypatch.setattr(memo, "repeat", lambda *_: None)
        _require_told_of_writing(lambda: case.call(*given, out=out), out)
        monkeypatch.undo()
    if not name.startswith("scatter"):
        return
    # A bad index leaves all of it as it was.
    given[1].reshape(-1)[-1] = L
    with pytest.raises(IndexError, match=f"index {L} at"):
        case.call(*given, out=out)
    assert bits(out) == bits(wanted)


def _require_told_of_writing(call: Callable[[], Any], out: torch.Tensor) -> None:
    """torch must refuse a gradient that needs what ``out`` held."""
    product = torch.ones_like(out, requires_grad=True) * out
    call()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return bits(call(*args, **kwargs))
    except Exception as error:
        return type(error), str(error)


def test_what_out_must_not_be() -> None:
    """Read-only, overlapping, unaligned, of another shape, dtype or library: warm as cold."""
    x, index = np.arange(24.0).reshape(2, 3, 4), np.zeros((2, 3, 4), np.int64)
    index[:] = [[0], [2], [1]]
    block = np.zeros(60)
    read_only = np.zeros((2, 3, 4))
    read_only.flags.writeable = False
    unaligned = np.zeros(24 * 8 + 1, np.uint8)[1:].view(np.float64).reshape(2, 3, 4)
    inside = block[:24].reshape(2, 3, 4)
    inside[...] = x
    given = [
        (x, index, read_only), (inside, index, block[12:36].reshape(2, 3, 4)), (x, index, x),
        (x, index, index.view(np.float64)), (x, index, unaligned), (x, index, np.zeros((2, 4, 3))),
        (x, index, np.zeros((2, 3, 4), np.float32)), (x, index, torch.zeros(2, 3, 4).double()),
        (x, index, np.zeros((2, 3, 4)).view(np.ma.MaskedArray)),
        (x, index, np.zeros((2, 4, 3)).transpose(0, 2, 1)),
        (inside, index, block[24:48].reshape(2, 3, 4)),
    ]  # fmt: skip
    cold = []
    for a, i, out in given:
        memo.entries.clear()
        cold.append(outcome(nbgather.gather, a, 1, i, out=out))
    for _ in range(3):
        nbgather.gather(x, 1, index, out=np.zeros((2, 3, 4)))
    assert memo.entries
    warm = [outcome(nbgather.gather, a, 1, i, out=out) for a, i, out in given]
    assert warm == cold
    assert [c[0] for c in cold[:4]] == [ValueError] * 4


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("name", "place", "bad"),
    [
        ("gather", 1, L), ("gather", 1, -1), ("take_along_axis", 1, 2 * L),
        ("gather_tokens", 1, -2**62),
        ("scatter", 1, L), ("scatter_add", 1, -1), ("restore_tokens", 1, L),
        ("restore_tokens number", 1, -1),
    ],
)  # fmt: skip
def test_a_bad_index_is_named_by_a_repeated_call(
    name: str, place: int, bad: int, library: str
) -> None:
    case = CASES[name]
    arrays = operands(name, "float32", 0)
    for _ in range(3):
        case.call(*[to(library, a) for a in arrays])
    wanted = bits(case.call(*[to(library, a) for a in arrays]))
    arrays[place].reshape(-1)[-1] = bad
    value = bad - L if name == "take_along_axis" else bad
    with pytest.raises(IndexError, match=f"{value} at "):
        case.call(*[to(library, a) for a in arrays])
    assert bits(case.call(*[to(library, a) for a in operands(name, "float32", 0)])) == wanted


@pytest.mark.parametrize("library", LIBRARIES)
def test_numbers_count_by_their_bits_and_types(library: str) -> None:
    x, ranks = to(library, np.ones((1, 1, 1))), to(library, np.array([[0, 1]]))
    narrow = to(library, np.ones((1, 1, 1), np.int8))
    for _ in range(3):
        for value in (0.0, -0.0, 1.0, float("nan"), float("inf"), 0, 1):
            result = nbgather.restore_tokens(x, ranks, value)
            assert bits(result)[0][2] == np.array([1.0, value]).tobytes()
        for value in (0, 1, True, 1.0):
            result = nbgather.restore_tokens(narrow, ranks, value)
            assert bits(result)[0][2] == np.array([1, value], np.int8).tobytes()
        for value, error in ((1.5, ValueError), (300, ValueError), ("1", TypeError)):
            with pytest.raises(error):
                nbgather.restore_tokens(narrow, ranks, value)
    images = to(library, np.ones((1, 1, 4, 4)))
    for _ in range(3):
        nbgather.patchify(images, 2)
        nbgather.masked_patchify(images, 2, seed=1)
    for sizes in (2.0, (2.0, 2), True, (1, True)):
        cold = outcome(nbgather.patchify, to(library, np.ones((1, 1, 4, 4))), sizes)
        assert outcome(nbgather.patchify, images, sizes) == cold
    with pytest.raises(TypeError):
        nbgather.patchify(images, 2.0)
    for wrong in ({"seed": 2**64}, {"seed": True}, {"seed": 1.0}, {"seed": 1, "epoch": -1}):
        with pytest.raises((TypeError, ValueError)):
            nbgather.masked_patchify(images, 2, **wrong)


def test_a_layout_of_its_own_for_each() -> None:
    """Same operation, other strides, dtypes, offsets, libraries, in turns."""
    base = np.arange(96, dtype=np.float64).reshape(4, 6, 4)
    index = np.array([[[0] * 4, [2] * 4]] * 2)
    views = [
        base[:2, :3].copy(), base[::2, ::2], base[1:3, 2:5], base[::-2, :3],
        base.transpose(2, 1, 0)[:2, :3],
        base[:2, :3].astype(np.float32), base[:2, :3].astype(">f8"), base[:2, :3].astype(np.int64),
        np.asfortranarray(base[:2, :3]), np.broadcast_to(base[:1, :3], (2, 3, 4)),
    ]  # fmt: skip
    indices = [
        index,
        index.astype(np.int32),
        index.astype(np.uint8),
        index[::-1],
        index[:, ::-1].copy(),
    ]
    for _ in range(4):
        for x in views:
            for i in indices:
                wanted = np.take_along_axis(x, i.astype(np.int64), 1)
                got = nbgather.gather(x, 1, i)
                assert got.dtype == x.dtype
                assert got.tobytes() == wanted.tobytes()
                if x.dtype.isnative and all(s > 0 for s in (*x.strides, *i.strides)):
                    tx, ti = torch.from_numpy(x.copy()[:]), torch.from_numpy(i.copy())
                    assert nbgather.gather(tx, 1, ti).numpy().tobytes() == wanted.tobytes()


def test_memory_that_is_gone_or_lazy() -> None:
    """Tensors of a layout that is kept, whose memory is not their value."""
    x, index = torch.randn(2, 3, 4), torch.zeros(2, 2, 4, dtype=torch.int64)
    for _ in range(3):
        nbgather.gather(x, 1, index)
    shrunk = x.clone()
    shrunk.untyped_storage().resize_(4 * 23)
    freed = x.clone()
    freed.untyped_storage().resize_(0)
    for gone in (shrunk, freed):
        with pytest.raises(ValueError, match="its memory was freed"):
            nbgather.gather(gone, 1, index)
    short = index.clone()
    short.untyped_storage().resize_(8)
    with pytest.raises(ValueError, match="its memory was freed"):
        nbgather.gather(x, 1, short)
    later = torch.randn(30)[6:].reshape(2, 3, 4)  # which begins behind the start of its storage
    assert torch.equal(nbgather.gather(later, 1, index), torch.gather(later, 1, index))
    assert torch.equal(nbgather.gather(torch._neg_view(x), 1, index), torch.gather(-x, 1, index))
    with torch.inference_mode():
        assert torch.equal(nbgather.gather(x.clone(), 1, index), torch.gather(x, 1, index))


def test_tensors_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch is not as it was found to be, nothing is kept, and all else is the same."""
    container = dispatch.container_of(torch.zeros(1), "x")
    monkeypatch.setattr(container, "_is_told", False)
    x, index = torch.randn(2, 3, 4), torch.zeros(2, 2, 4, dtype=torch.int64)
    for _ in range(4):
        assert torch.equal(nbgather.gather(x, 1, index), torch.gather(x, 1, index))
    assert not any(isinstance(value, tuple) for value in memo.entries.values())


@pytest.mark.parametrize("name", ["gather", "gather_tokens", "scatter_add"])
def test_gradients_of_repeated_calls(name: str) -> None:
    """By torch's own operators: the same bits, forward and backward, as of the first call."""
    case = CASES[name]

    def run() -> list[Any]:
        tensors = [to("torch", a) for a in operands(name, "float32", 0)]
        for t in tensors:
            if t.is_floating_point():
                torch.nan_to_num_(t, 0.5, 2.0, -3.0).clamp_(-9, 9).requires_grad_()
        result = case.call(*tensors)
        (result * torch.arange(result.numel()).reshape(result.shape)).sum().backward()
        return bits((result, *(t.grad for t in tensors if t.grad is not None)))

    first = run()
    for _ in range(4):
        assert run() == first
    with torch.no_grad():
        x = to("torch", operands(name, "float32", 0)[0]).requires_grad_()
        rest = [to("torch", a) for a in operands(name, "float32", 0)[1:]]
        assert not case.call(x, *rest).requires_grad


def test_a_gradient_that_torch_fails_at() -> None:
    """Its own scatter_add does where src is larger than the index."""
    x, src = torch.ones(2, 5).requires_grad_(), torch.ones(2, 7).requires_grad_()
    index = torch.tensor([[0, 1, 4], [2, 2, 2]])
    for _ in range(4):
        with torch.no_grad():
            nbgather.scatter_add(x, 1, index, src)
        grads = torch.autograd.grad(nbgather.scatter_add(x, 1, index, src).sum(), (x, src))
        assert grads[1].tolist() == [[1.0] * 3 + [0.0] * 4] * 2


def test_states_of_torch_go_the_whole_way() -> None:
    x, index = torch.randn(2, 3, 4), torch.zeros(2, 2, 4, dtype=torch.int64)
    for _ in range(3):
        nbgather.gather(x, 1, index)
    chain = next(v for v in memo.entries.values() if isinstance(v, tuple))
    assert memo.repeat(chain, x, index) is not None
    by_torch = memo.repeat(chain, x.requires_grad_(), index)
    assert torch.equal(by_torch(x, index), torch.gather(x, 1, index))
    x = x.detach()
    with torch.utils._python_dispatch.TorchDispatchMode():
        assert memo.repeat(chain, x, index) is None
    with torch.overrides.BaseTorchFunctionMode():
        assert memo.repeat(chain, x, index) is None
    seen = []
    torch.func.vmap(lambda t: seen.append(memo.repeat(chain, x, index)) or t)(torch.ones(2))
    assert seen == [None]
    torch.jit.trace(lambda t: seen.append(memo.repeat(chain, x, index)) or t, torch.ones(2))
    assert seen[1] is None


@pytest.mark.parametrize("library", LIBRARIES)
def test_nothing_is_held_or_released_too_often(library: str) -> None:
    x, index = to(library, np.ones((2, 3, 4))), to(library, np.zeros((2, 2, 4), np.int64))
    bad = to(library, np.full((2, 2, 4), 9))
    out = to(library, np.zeros((2, 2, 4)))
    noise = to(library, np.ones((2, 3), np.float32))
    watched = (x, index, bad, out, noise, None, True)

    def all_ways() -> None:
        result = weakref.ref(nbgather.gather(x, 1, index))
        assert result() is None
        assert nbgather.gather(x, 1, index, out=out) is out
        result = weakref.ref(nbgather.random_masking(x, 0.5, noise=noise).ids_restore)
        assert result() is None
        with pytest.raises(IndexError):
            nbgather.gather(x, 1, bad)
        with pytest.raises(IndexError):
            nbgather.scatter_add(x, 1, bad, out)

    for _ in range(4):
        all_ways()
    gc.collect()  # what other tests left holds None and True as well
    before = [sys.getrefcount(o) for o in watched]
    for _ in range(200):
        all_ways()
    gc.collect()
    after = [sys.getrefcount(o) for o in watched]
    assert all(abs(a - b) < 50 for a, b in zip(after, before, strict=True)), (before, after)


def test_a_call_with_too_little_memory_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes a result may fail: its error comes, and the next call goes well."""
    x, index = np.ones((2, 3, 4)), np.zeros((2, 2, 4), np.int64)
    for _ in range(3):
        nbgather.gather(x, 1, index)
    head, chain = next((k, v) for k, v in memo.entries.items() if isinstance(v, tuple))
    table, (numbers, makers, *others) = chain

    def fail(*args: Any) -> Any:
        raise MemoryError("no memory")

    memo.entries[head] = table, (numbers, (fail, *makers[1:]), *others)
    with pytest.raises(MemoryError, match="no memory"):
        nbgather.gather(x, 1, index)
    memo.entries[head] = table, (numbers, (*makers[:2], fail), *others)
    with pytest.raises(MemoryError, match="no memory"):
        nbgather.gather(x, 1, index)
    memo.entries[head] = chain
    assert nbgather.gather(x, 1, index).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_threads_repeat_one_call_at_once(library: str) -> None:
    x, ids = np.random.default_rng(0).random((4, 20, 3), np.float32), np.arange(4)
    wanted = {s: bits(nbgather.random_masking(to(library, x), 0.5, seed=s)) for s in range(8)}
    wrong: list[int] = []
    tensors = to(library, x), to(library, ids)

    def run(seed: int) -> None:
        for _ in range(300):
            got = nbgather.random_masking(tensors[0], 0.5, seed=seed)
            if bits(got) != wanted[seed]:
                wrong.append(seed)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_fork_repeats_what_its_parent_kept() -> None:
    x, index = np.arange(24.0).reshape(2, 3, 4), np.zeros((2, 2, 4), np.int64)
    for _ in range(3):
        wanted = nbgather.gather(x, 1, index).tobytes()
    child = os.fork()
    if not child:
        same = all(nbgather.gather(x, 1, index).tobytes() == wanted for _ in range(3))
        other = nbgather.scatter_add(x, 1, index, np.ones((2, 2, 4)))
        os._exit(0 if same and other[0, 0, 0] == x[0, 0, 0] + 2 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_is_kept_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "MAX_CALLS", 40)
    monkeypatch.setattr(memo, "MAX_LAYOUTS", 8)
    x = np.arange(100.0)
    for _ in range(3):
        for n in range(1, 60):
            for _ in range(3):
                index = np.arange(n)[::-1].copy()
                assert np.array_equal(nbgather.gather(x, 0, index), x[:n][::-1])
                assert np.array_equal(nbgather.take_along_axis(x, index, 0), x[:n][::-1])
            assert len(memo.entries) <= 44
            assert all(len(v) <= 10 for v in memo.entries.values() if isinstance(v, tuple))


def test_what_is_kept_may_change_while_memory_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection lets other threads run, and they keep calls of their own meanwhile."""
    monkeypatch.setattr(memo, "MAX_LAYOUTS", 4)

    def keep_another(phase: str, info: dict[str, int]) -> None:
        memo.entries[object()] = False

    x = np.arange(100.0)
    thresholds = gc.get_threshold()
    gc.callbacks.append(keep_another)
    gc.set_threshold(1)
    try:
        for n in range(1, 20):
            index = np.arange(n)[::-1].copy()
            for _ in range(3):
                assert np.array_equal(nbgather.gather(x, 0, index), x[:n][::-1])
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(keep_another)


def test_a_call_is_kept_when_it_comes_again() -> None:
    """Not before: what is called once with each shape should not pay for it."""
    x = np.arange(100.0)
    for n in range(1, 9):
        nbgather.gather(x, 0, np.zeros(n, np.int64))
    assert not any(isinstance(value, tuple) for value in memo.entries.values())
    nbgather.gather(x, 0, np.zeros(3, np.int64))
    assert [len(v) for v in memo.entries.values() if isinstance(v, tuple)] == [2]


#: What compiled code calls of Python's library and is in that of 3.10, not in its headers alone as
#: PyObject_CallOneArg is: to call such a name ends the process.
IN_PYTHON_3_10 = {
    "PyErr_CheckSignals", "PyErr_Clear", "PyEval_RestoreThread", "PyEval_SaveThread",
    "PyLong_AsUnsignedLongLongMask", "PyLong_FromLongLong", "PyObject_CallFunctionObjArgs",
    "PyObject_CallNoArgs", "PyObject_CallObject", "PyObject_GetAttr", "PyObject_RichCompareBool",
    "PyTuple_GetItem", "PyTuple_New", "PyTuple_SetItem", "PyTuple_Size", "Py_DecRef", "Py_IncRef",
}  # fmt: skip


def test_every_python_has_the_functions_that_compiled_code_calls() -> None:
    folder = Path(cpu_limits.__file__).parent
    texts = [path.read_text() for path in folder.glob("*.py")]
    named = {name for text in texts for name in re.findall(r'"(Py[A-Z_][A-Za-z]*_?\w*)"', text)}
    assert named == IN_PYTHON_3_10
    assert all(hasattr(ctypes.pythonapi, name) for name in named)
