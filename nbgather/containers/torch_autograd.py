"""Gradients for eager tensors: the engine forward, and backward the operation's own rules.

A backward pass is made of operations that are differentiable themselves, so second derivatives
follow.
"""

from __future__ import annotations

from typing import Any

import torch

from nbgather.containers.torch_dtypes import fake_spec
from nbgather.engine import memo
from nbgather.operations.base import Operation, Options


def apply(container: Any, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
    """Execute an operation of one result, with gradients to what it is differentiable in."""
    return _Differentiable.apply(container, operation, options, *operands)


class _Differentiable(torch.autograd.Function):
    """``forward`` runs the operation; `transpose` and `tangent` are asked for the rest."""

    @staticmethod
    def forward(
        ctx: Any, container: Any, operation: Operation, options: Options, *operands: Any
    ) -> Any:
        side = {
            k: o
            for k, o in enumerate(operands)
            if isinstance(o, torch.Tensor) and k not in operation.differentiable
        }
        ctx.save_for_backward(*side.values())
        ctx.save_for_forward(*side.values())
        ctx.side, ctx.count = tuple(side), len(operands)
        ctx.container, ctx.operation, ctx.options = container, operation, options
        ctx.specs = tuple(map(fake_spec, operands))
        if options.backend is None:
            result = container.recall(*memo.call_of(operation, operands))
            if result is not None:
                return result
        return container.run(container, operation, operands, options)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        operation, needed = ctx.operation, ctx.needs_input_grad[3:]
        places = operation.differentiable
        gradients = operation.transpose(
            ctx.container.apply(cotangents[0], ctx.options.backend),
            cotangents[0],
            ctx.specs,
            _operands(ctx),
            tuple(needed[k] for k in places),
        )
        result = [None] * ctx.count
        for k, gradient in zip(places, gradients, strict=True):
            result[k] = gradient if needed[k] else None
        return None, None, None, *result

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        present = next((t for t in tangents[3:] if t is not None), None)
        do = ctx.container.apply(present, ctx.options.backend)
        return ctx.operation.tangent(do, tangents[3:], ctx.specs, _operands(ctx))


def _operands(ctx: Any) -> tuple[Any, ...]:
    """What was saved, in its place."""
    operands: list[Any] = [None] * ctx.count
    for k, tensor in zip(ctx.side, ctx.saved_tensors, strict=True):
        operands[k] = tensor
    return tuple(operands)
