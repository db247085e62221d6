"""An operation's rules for gradients, on the arrays of any library.

What is linear in an operand x has one transpose: ``sum(op(x) * c) == sum(x * transpose(c))`` for
every cotangent c. Of whole numbers both sums are exact.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import nbgather
import nbgather.operations
from nbgather import dispatch
from nbgather.operations.base import DType, Operation, Spec
from nbgather.operations.indexing import (
    Gather,
    GatherTokens,
    Scatter,
    ScatterAdd,
    TakeAlongAxis,
    TakeInBounds,
)
from nbgather.operations.patches import Patchify, Unpatchify
from nbgather.operations.ranked import RankedMasking
from nbgather.operations.reducing import ScatterReduce
from nbgather.operations.tokens import KeepTokens, RestoreTokens

N, L, K, D = 2, 6, 3, 4
RNG = np.random.default_rng(0)


def whole(*shape: int) -> np.ndarray:
    return RNG.integers(-4, 5, shape).astype(np.float64)


INDEX = RNG.integers(0, L, (N, K, D))
ORDER = RNG.permuted(np.tile(np.arange(L), (N, 1)), axis=1)
RANKS = np.argsort(ORDER, 1)
PADDED = np.where(np.arange(K) < [[3], [1]], ORDER[:, :K], -1)
NOISE = RNG.random((N, L))
X = whole(N, L, D)

#: Operations beside operands; what is None is a number that takes no part.
SAMPLES: list[tuple[Operation, tuple[Any, ...]]] = [
    (Gather(1), (X, INDEX)),
    (Gather(-2, "clip"), (X, INDEX * 3 - 4)),
    (Gather(1, "wrap"), (X, INDEX * 3 - 4)),
    (Gather(1, "fill"), (X, INDEX * 3 - 4)),
    (Gather(0), (np.array(3.0), np.array([0, 0]))),
    (TakeAlongAxis(1), (X[:, :, :1], INDEX - L)),
    (TakeAlongAxis(1, "fill"), (X[:1], INDEX * 2 - 5)),
    (TakeInBounds(1), (X[:, :, :1], INDEX)),
    (GatherTokens(), (X, INDEX[..., 0])),
    (GatherTokens(mode="fill"), (X, INDEX[..., 0] * 2 - 4)),
    (Scatter(1), (X, np.broadcast_to(ORDER[:, :K, None], (N, K, D)), whole(N, K + 1, D))),
    (Scatter(1), (X, INDEX, None)),
    (ScatterAdd(1), (X, INDEX, whole(N, K, D))),
    (ScatterAdd(1), (X, INDEX[:, :2], whole(N, K, D))),
    (ScatterReduce(1, reduce="sum"), (X, INDEX, whole(N, K, D))),
    (ScatterReduce(1, reduce="sum", include_self=False), (X, INDEX, whole(N, K, D))),
    (KeepTokens(), (X, ORDER[:, :K], RANKS)),
    (KeepTokens(True), (X, PADDED, RANKS)),
    (RankedMasking(0.5), (X, NOISE)),
    (RestoreTokens(), (X[:, :K], RANKS, whole(D))),
    (RestoreTokens(), (X[:, :K], RANKS, whole(1, 1, D))),
    (RestoreTokens(), (X[:, :K], RANKS, whole(1))),
    (RestoreTokens(), (X[:, :K], RANKS * 0 + 1, whole(D))),
    (Patchify((2, 3)), (whole(N, 3, 4, 6),)),
    (Unpatchify((2, 3), (4, 6)), (whole(N, 4, 18),)),
]
LIBRARIES: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": np.asarray,
    "torch": lambda a: torch.from_numpy(np.array(a)),
}


def spec_of(array: Any) -> Spec | None:
    if array is None:
        return None
    return Spec(
        tuple(array.shape), (), DType(str(array.dtype).split(".")[-1], array.itemsize, "i8")
    )


def first(results: Any) -> Any:
    return results[0] if isinstance(results, tuple) else results


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("operation", "arrays"), SAMPLES, ids=lambda v: type(v).__name__)
def test_transposes(operation: Operation, arrays: tuple[Any, ...], library: str) -> None:
    make = LIBRARIES[library]
    operands = [None if a is None else make(a) for a in arrays]
    do = dispatch.container_of(operands[0], "x").apply(operands[0])

    def run(values: list[Any]) -> Any:
        return do.run(operation, *(0 if v is None else v for v in values))

    made = run(operands)
    kept = [made[k] for k in operation.kept_results]
    places = [k for k in operation.differentiable if arrays[k] is not None]
    side = [None if k in places else o for k, o in enumerate(operands)]
    cotangent = make(whole(*first(made).shape))
    gradients = operation.transpose(
        do, cotangent, tuple(map(spec_of, operands)), (*side, *kept),
        tuple(k in places for k in operation.differentiable),
    )  # fmt: skip
    zeros = [o * 0 if k in places else o for k, o in enumerate(operands)]
    for k, gradient in zip(operation.differentiable, gradients, strict=True):
        if k not in places:
            continue
        assert gradient.shape == operands[k].shape
        assert gradient.dtype == operands[k].dtype
        alone = [operands[k] if j == k else o for j, o in enumerate(zeros)]
        got, want = (operands[k] * gradient).sum(), (first(run(alone)) * cotangent).sum()
        assert float(got) == float(want)
        tangents = tuple(operands[j] if j == k else None for j in range(len(operands)))
        specs = tuple(map(spec_of, operands))
        tangent = operation.tangent(do, tangents, specs, (*side, *kept))
        assert bool((tangent == first(run(alone))).all())


def test_every_operation_with_a_gradient_has_a_sample() -> None:
    for module in pkgutil.iter_modules(nbgather.operations.__path__, "nbgather.operations."):
        importlib.import_module(module.name)

    def below(kind: type[Operation]) -> set[type[Operation]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    ours = {k for k in below(Operation) if k.__module__.startswith("nbgather.")}
    # The gradient of what has `differentiable_parts` is that of its parts.
    own = {k for k in ours if k.differentiable and not getattr(k, "differentiable_parts", False)}
    assert {type(o) for o, _ in SAMPLES} >= own
    assert all(o.differentiable for o, _ in SAMPLES)


def test_the_gradient_of_a_masking_restores() -> None:
    """No sum: a zero keeps its sign, which adding to 0 takes from it."""
    x = torch.rand(2, 6, 700).requires_grad_()
    made = nbgather.random_masking(x, 0.5, seed=1)
    (got,) = torch.autograd.grad(made.x_masked, x, torch.full((2, 3, 700), -0.0))
    assert torch.equal(torch.signbit(got).all(2), made.mask == 0)
