"""Gradients for tensors: what computes forward, and backward the operation's own rules.

A backward pass is made of operations that are differentiable themselves, so second derivatives
follow, and so does what torch.func nests: each of its levels records the call once more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch._functorch.utils import enable_single_level_autograd_function

from nbgather.containers.torch_dtypes import fake_spec
from nbgather.containers.torch_state import current_transform
from nbgather.operations.base import Operation

_forward_ad = torch.autograd.forward_ad


def record(
    compute: Callable[[], Any],
    container: Any,
    operation: Operation,
    operands: tuple[Any, ...],
    backend: str | None = None,
) -> Any:
    """What ``compute`` gives, with gradients to what the operation is differentiable in.

    Of several results only the first has one; the rules are given those that the operation names
    in ``kept_results``, behind its operands.
    """
    if current_transform() is None:
        return Nbgather.apply(compute, container, operation, backend, *operands)
    with enable_single_level_autograd_function():
        return NbgatherAtLevel.apply(compute, container, operation, backend, *operands)


@contextlib.contextmanager
def below(level: int | None) -> Any:
    """Below autograd: where the level of a transform is, those below it record as they are told."""
    with torch._C._AutoDispatchBelowAutograd():
        if level is None:
            yield
        else:
            with torch.enable_grad(), _forward_ad._set_fwd_grad_enabled(True):
                yield


class _Rules:
    """``forward`` computes; `transpose` and `tangent` are asked for the rest."""

    @staticmethod
    def forward(
        ctx: Any,
        compute: Callable[[], Any],
        container: Any,
        operation: Operation,
        backend: str | None,
        *operands: Any,
    ) -> Any:
        result = compute()
        side = {
            k: o
            for k, o in enumerate(operands)
            if isinstance(o, torch.Tensor)
            and (k not in operation.differentiable or k in operation.needs_values)
        }
        count, ctx.others = len(operands), 0
        if isinstance(result, tuple):
            ctx.mark_non_differentiable(*result[1:])
            ctx.others = len(result) - 1
            side |= {count + k: result[r] for k, r in enumerate(operation.kept_results)}
        ctx.save_for_backward(*side.values())
        ctx.save_for_forward(*side.values())
        ctx.places, ctx.count = tuple(side), count
        ctx.container, ctx.operation, ctx.backend = container, operation, backend
        ctx.specs = tuple(map(fake_spec, operands))
        return result

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        operation, needed = ctx.operation, ctx.needs_input_grad[4:]
        places, cotangent = operation.differentiable, cotangents[0]
        gradients = operation.transpose(
            ctx.container.locate(cotangent, "the cotangent").apply(cotangent, ctx.backend),
            cotangent,
            ctx.specs,
            _operands(ctx),
            tuple(needed[k] for k in places),
        )
        result = [None] * ctx.count
        for k, gradient in zip(places, gradients, strict=True):
            result[k] = gradient if needed[k] else None
        return None, None, None, None, *result

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        operation, tangents = ctx.operation, tangents[4:]
        present = [tangents[k] for k in operation.differentiable if tangents[k] is not None]
        tangent = None  # where it is that of scores, by which tokens are ranked
        if present:
            do = ctx.container.locate(present[0], "the tangent").apply(present[0], ctx.backend)
            tangent = operation.tangent(do, tangents, ctx.specs, _operands(ctx))
        return (tangent, *(None,) * ctx.others) if ctx.others else tangent


class Nbgather(_Rules, torch.autograd.Function):
    """One call in a graph."""


class NbgatherAtLevel(_Rules, torch.autograd.function._SingleLevelFunction):
    """One call in the graph of the transform of torch.func that is at work."""


def _operands(ctx: Any) -> tuple[Any, ...]:
    """What was saved, in its place."""
    operands: list[Any] = [None] * (ctx.count + len(ctx.operation.kept_results))
    for k, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
        operands[k] = tensor
    return tuple(operands)
