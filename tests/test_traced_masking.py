"""Masking that torch traces: the results and the errors of the eager call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import nbgather
from nbgather.containers import registry

X = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0))
NOISE = torch.tensor([[0.5, 0.1, 0.9, 0.1], [0.2, 0.8, 0.3, 0.0]])
IDS = torch.tensor([5, 2**40])
IMAGES = torch.arange(96, dtype=torch.uint8).reshape(2, 3, 4, 4)
FIVE = torch.tensor([[1, 0, 2, 4, 3], [2, 0, 1, 3, 4]])
RANKS = torch.tensor([[1, 0, 2, 3], [2, 0, 1, 3]])

mask, patch = nbgather.random_masking, nbgather.masked_patchify
restore, rank, noise = nbgather.restore_tokens, nbgather.rank_tokens, nbgather.token_noise

#: What goes well.
GOOD: dict[str, Callable[..., Any]] = {
    "seed": lambda x: mask(x, 0.5, seed=3),
    "seed, ids, epoch": lambda x: mask(x, 0.5, seed=2**64 - 1, sample_ids=IDS, epoch=2**32 - 1),
    "int32 ids": lambda x: mask(x, 0.5, seed=3, sample_ids=torch.tensor([5, 6], dtype=torch.int32)),
    "ids list": lambda x: mask(x, 0.5, seed=3, sample_ids=[5, 6]),
    "noise": lambda x: mask(x, 0.5, noise=NOISE),
    "num_keep": lambda x: mask(x, noise=NOISE, num_keep=3),
    "num_keep list": lambda x: mask(x, noise=NOISE, num_keep=[3, 1]),
    "num_keep none": lambda x: mask(x, noise=NOISE, num_keep=[0, 0]),
    "ratio int": lambda x: mask(x, 1, noise=NOISE),
    "rank": lambda x: rank(x[:, :, 0], 2),
    "rank list": lambda x: rank(x[:, :, 0], (4, 1)),
    "token_noise": lambda x: noise(-1, IDS, 7, epoch=3),
    "patchify": lambda x: patch(IMAGES, 2, 0.5, seed=1),
    "patchify normalised": lambda x: patch(
        IMAGES, 2, 0.5, seed=1, scale=1 / 255, mean=(0.1, 0.2, 0.3), std=0.5
    ),
    "patchify list": lambda x: patch(IMAGES, 2, noise=NOISE, num_keep=[3, 1], scale=1 / 255),
    "restore": lambda x: restore(x, FIVE, torch.ones(1, 1, 3)),
    "restore number": lambda x: restore(x[:, :2], RANKS, 7.5),
    "restore valid": lambda x: restore(
        x[:, :2], RANKS, torch.ones(3), valid=torch.tensor([[True, False], [True, True]])
    ),
}
#: What is refused, with a part of its text.
BAD: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "noise and seed": (lambda x: mask(x, noise=NOISE, seed=1), ValueError, "both noise and seed"),
    "ids without seed": (lambda x: mask(x, sample_ids=IDS), ValueError, "without seed"),
    "ids with noise": (lambda x: mask(x, noise=NOISE, sample_ids=IDS), ValueError, "with noise"),
    "noise shape": (lambda x: mask(x, noise=NOISE[:, :3]), ValueError, "noise has shape (2, 3)"),
    "ids shape": (lambda x: mask(x, seed=1, sample_ids=IDS[:1]), ValueError, "one id for each"),
    "ids dtype": (
        lambda x: mask(x, seed=1, sample_ids=IDS.float()), TypeError, "an integer dtype is needed",
    ),
    "noise dtype": (lambda x: mask(x, noise=NOISE.int()), TypeError, "float64 is needed"),
    "ratio": (lambda x: mask(x, 1.5, noise=NOISE), ValueError, "mask_ratio is 1.5"),
    "ratio text": (lambda x: mask(x, "0.5", noise=NOISE), TypeError, "mask_ratio is '0.5'"),
    "num_keep": (lambda x: mask(x, noise=NOISE, num_keep=5), ValueError, "num_keep is 5"),
    "num_keep float": (lambda x: mask(x, noise=NOISE, num_keep=1.5), TypeError, "whole number"),
    "num_keep list": (
        lambda x: mask(x, noise=NOISE, num_keep=[1, 9]), ValueError, "num_keep[1] is 9",
    ),
    "num_keep length": (lambda x: mask(x, noise=NOISE, num_keep=[1]), ValueError, "2 samples"),
    "epoch": (lambda x: mask(x, seed=1, epoch=-1), ValueError, "epoch is -1"),
    "seed": (lambda x: mask(x, seed=2**64), ValueError, "it must fit in 64 bits"),
    "tokens": (lambda x: mask(x[0, 0], seed=1), ValueError, "[N, L, ...] is needed"),
    "scores": (lambda x: rank(x, 1), ValueError, "[N, L] is needed"),
    "patch size": (lambda x: patch(IMAGES, 3, seed=1), ValueError, "each must divide"),
    "std": (lambda x: patch(IMAGES, 2, seed=1, std=0), ValueError, "none may be 0"),
    "pixels": (lambda x: patch(IMAGES.int(), 2, seed=1, scale=2), TypeError, "can be normalised"),
    "index dtype": (
        lambda x: nbgather.gather(x, 1, RANKS[..., None].float()), TypeError, "an integer dtype",
    ),
    "index dimensions": (lambda x: nbgather.gather(x, 1, RANKS), ValueError, "the same number"),
    "ids shape of tokens": (
        lambda x: nbgather.gather_tokens(x, RANKS[:1]), ValueError, "with the same N are needed",
    ),
    "src dtype": (
        lambda x: nbgather.scatter(x, 1, RANKS[..., None], x.double()), TypeError, "one is needed",
    ),
    "axis": (
        lambda x: nbgather.take_along_axis(x, RANKS[..., None], 7), IndexError, "axis 7 is out of",
    ),
    "fill_value": (
        lambda x: nbgather.gather(x, 1, RANKS[..., None], mode="fill", fill_value="q"),
        ValueError, "fill_value 'q' cannot be held in dtype torch.float32",
    ),
    "strategy grid": (
        lambda x: nbgather.strategies.block(1, IDS, (0, 3)), ValueError, "grid is (0, 3)",
    ),
    "mode": (lambda x: nbgather.gather(x, 1, RANKS[..., None], mode="rase"), ValueError, "mode is"),
    "restore shapes": (lambda x: restore(x, RANKS[:, :2], 0.0), ValueError, "no more can be"),
    "restore token": (
        lambda x: restore(x[:, :2], RANKS, torch.ones(5)), ValueError, "it must broadcast",
    ),
    "restore token dtype": (
        lambda x: restore(x[:, :2], RANKS, torch.ones(3) * 1j),
        TypeError, "without loss",
    ),
    "restore token number": (
        lambda x: restore(IMAGES[:, 0, :2], RANKS, 7.5), ValueError, "7.5 cannot be held in",
    ),
    "scatter number": (
        lambda x: nbgather.scatter(RANKS, 1, RANKS, 2**63), ValueError, "cannot be held in dtype",
    ),
    "scatter complex": (
        lambda x: nbgather.scatter(x, 1, RANKS[..., None], 1j), ValueError, "src 1j cannot be held",
    ),
    "restore valid": (
        lambda x: restore(x[:, :2], RANKS, 0.0, valid=torch.tensor([[True]])),
        ValueError, "valid must be [N, K]",
    ),
}  # fmt: skip


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and all(map(same, one, other))


@pytest.mark.parametrize("name", GOOD)
def test_results_are_the_eager_ones(name: str) -> None:
    torch._dynamo.reset()
    call = GOOD[name]
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert same(compiled(X), call(X))


#: Some of each operation, and each way by which torch hands an error on; the others take torch's
#: compiler three seconds each.
USUAL_BAD = {
    "noise and seed", "noise shape", "ids dtype", "num_keep list", "epoch", "scores", "pixels",
    "index dimensions", "fill_value", "mode", "strategy grid", "restore token", "restore valid",
    "scatter number",
}  # fmt: skip


def test_the_usual_errors_are_some_of_all() -> None:
    assert BAD.keys() > USUAL_BAD


@pytest.mark.parametrize(
    "name",
    [name if name in USUAL_BAD else pytest.param(name, marks=pytest.mark.large) for name in BAD],
)
def test_errors_are_the_eager_ones(name: str) -> None:
    torch._dynamo.reset()
    call, error, text = BAD[name]
    found = []
    for run in (call, torch.compile(call, backend="eager")):
        with pytest.raises(error) as caught:
            run(X)
        found.append(str(caught.value))
    assert text in found[0]
    assert text in found[1]
    # Where there must be one graph, torch raises its own error about ours, or at the first call.
    torch._dynamo.reset()
    with pytest.raises(Exception) as caught:
        torch.compile(call, fullgraph=True, backend="eager")(X)
    assert text in str(caught.value) or text in str(caught.value.__cause__)


#: Calls with a number, and numbers that one graph serves.
OPEN_NUMBERS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "num_keep": (lambda x, k: mask(x, noise=NOISE, num_keep=k), (3, 2, 4)),
    "rank": (lambda x, k: rank(NOISE, k), (3, 2, 4)),
    "epoch": (lambda x, k: mask(x, 0.5, seed=1, epoch=k), (5, 6, 2**32 - 1)),
    "num_tokens": (lambda x, k: noise(3, IDS, k), (5, 6, 7)),
    "default ratio": (lambda x, k: mask(x * k, noise=NOISE), (3, 2, 4)),
    "patches": (lambda x, k: patch(IMAGES, 2, noise=NOISE, num_keep=k), (3, 2, 4)),
    "strategy": (lambda x, k: nbgather.strategies.grid(3, IDS, (2, k)), (3, 2, 4)),
}


@pytest.mark.parametrize("name", OPEN_NUMBERS)
def test_numbers_stay_open(name: str) -> None:
    # As in a process that has seen no tensor yet: the eager calls between are its first.
    registry.exact.clear()
    torch._dynamo.reset()
    call, numbers = OPEN_NUMBERS[name]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=counter)
    counts = set()
    for number in numbers:
        assert same(compiled(X, number), call(X, number))
        counts.add(counter.frame_count)
    assert len(counts) == 1


@pytest.mark.parametrize(("name", "number"), [("num_keep", 5), ("epoch", 2**32), ("rank", -1)])
def test_an_open_number_is_checked(name: str, number: int) -> None:
    torch._dynamo.reset()
    call, numbers = OPEN_NUMBERS[name]
    compiled = torch.compile(call, dynamic=True, backend="eager")
    compiled(X, numbers[0])
    with pytest.raises(ValueError) as eager:
        call(X, number)
    with pytest.raises(ValueError) as caught:
        compiled(X, number)
    assert str(caught.value) == str(eager.value)


def test_a_tensor_of_counts_cannot_be_traced() -> None:
    torch._dynamo.reset()
    call = torch.compile(lambda x, k: mask(x, noise=NOISE, num_keep=k), fullgraph=True)
    with pytest.raises(Exception, match="num_keep is a tensor where torch traces the call"):
        call(X, torch.tensor([1, 2]))


def test_a_scripted_trace_holds_our_operators() -> None:
    """torch.jit.trace sees the calls as operators, and replays them on other values."""

    def both(x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = mask(x, 0.5, noise=noise)
        return (*made, restore(made.x_masked, made.ids_restore, 0.0))

    # torch's tracer warns of every shape that is looked at.
    warnings.simplefilter("ignore", torch.jit.TracerWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    for _ in range(3):
        both(X, NOISE)
    traced = torch.jit.trace(both, (X, NOISE))
    assert "nbgather::random_masking" in str(traced.graph)
    other, scores = torch.rand(2, 4, 3), torch.rand(2, 4)
    assert same(traced(other, scores), both(other, scores))
    index = torch.tensor([[1, 2], [0, 3]])
    gather = torch.jit.trace(lambda x, i: nbgather.gather_tokens(x, i), (X, index))
    assert same(gather(other, 3 - index), nbgather.gather_tokens(other, 3 - index))


NUMBERS = (
    0, 1, 2, -1, 2.0, 2.5, 256, -129, 1e5, 1e300, float("inf"), float("nan"), 2**63, 2**64, 1j,
    complex(2, 0), True, -0.0, 3.4028236e38,
)  # fmt: skip
DTYPES = (
    torch.bool, torch.int8, torch.uint8, torch.int64, torch.uint64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn,
)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_number_is_held_where_the_eager_call_holds_it(dtype: torch.dtype) -> None:
    """Beside tensors of a subclass, for which every call is an operator."""

    class Mine(torch.Tensor):
        pass

    def outcome(x: torch.Tensor, value: Any) -> Any:
        try:
            made = nbgather.scatter(x, 0, torch.tensor([1]), value)
        except ValueError as error:
            return str(error)
        return bytes(made.as_subclass(torch.Tensor).view(torch.uint8).numpy())

    x = torch.zeros(3, dtype=dtype)
    for value in NUMBERS:
        assert outcome(x.as_subclass(Mine), value) == outcome(x, value), value
