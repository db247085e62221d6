"""Derivatives of a call, of a scalar and of a vector that are made of whatever floats it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo.compiled_autograd
from torch_cases import flat

Call = Callable[..., Any]
func = torch.func


def _floats(args: tuple[Any, ...]) -> list[int]:
    return [k for k, a in enumerate(args) if a.is_floating_point()]


def _of_floats(call: Call, args: tuple[Any, ...]) -> tuple[Call, tuple[Any, ...]]:
    """A function of a factor and the floats among the arguments, and where it is asked at.

    The factor is there for calls without any, such as those of ids alone.
    """
    places = _floats(args)

    def function(factor: Any, *floats: Any) -> Any:
        filled = list(args)
        for k, value in zip(places, floats, strict=True):
            filled[k] = value
        results = flat(call(*filled))
        return torch.cat([factor * (r.to(factor.dtype) ** 2).reshape(-1) for r in results])

    return function, (torch.tensor(3.0), *(args[k] for k in places))


def derivative(transform: Callable[[Call, tuple[Any, ...]], Any], scalar: bool = False) -> Any:
    def run(call: Call, args: tuple[Any, ...]) -> Any:
        function, at = _of_floats(call, args)
        whole = (lambda *a: function(*a).sum()) if scalar else function
        return tuple(torch.utils._pytree.tree_leaves(transform(whole, at)))

    return run


def places(at: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(range(len(at)))


def backward(function: Call, at: tuple[Any, ...]) -> Any:
    leaves = [a.clone().requires_grad_() for a in at]
    grads = torch.autograd.grad(function(*leaves), leaves, allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for g, a in zip(grads, at, strict=True)]


def vjp(function: Call, at: tuple[Any, ...]) -> Any:
    value, pull = torch.func.vjp(function, *at)
    return pull(torch.ones_like(value))  # outside of the transform


def batched_backward(function: Call, at: tuple[Any, ...]) -> Any:
    leaves = [a.clone().requires_grad_() for a in at]
    value = function(*leaves)
    rows = torch.eye(value.numel())[:3]
    return torch.autograd.grad(
        value, leaves, rows, is_grads_batched=True, allow_unused=True, materialize_grads=True
    )


def linearize(function: Call, at: tuple[Any, ...]) -> Any:
    return func.linearize(function, *at)[1](*at)


def backward_of_compiled(function: Call, at: tuple[Any, ...]) -> Any:
    torch._dynamo.reset()
    return backward(torch.compile(function, fullgraph=True, backend="aot_eager"), at)


def backward_by_compiled(function: Call, at: tuple[Any, ...]) -> Any:
    """Eager forward; the graph of the backward pass is compiled."""
    torch._dynamo.reset()
    with torch._dynamo.compiled_autograd._enable(
        lambda graph: torch.compile(graph, fullgraph=True, backend="aot_eager")
    ):
        return backward(function, at)


def forward_mode(function: Call, at: tuple[Any, ...]) -> Any:
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(*(forward_ad.make_dual(a, a) for a in at)))


def stacked(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(torch.stack([a, a.flip(0)]) for a in args)


def vmap_grad(call: Call, args: tuple[Any, ...]) -> Any:
    def one(*sample: Any) -> Any:
        function, at = _of_floats(call, sample)
        return func.grad(lambda *a: function(*a).sum(), places(at))(*at)

    return func.vmap(one)(*stacked(args))


def grad_vmap(call: Call, args: tuple[Any, ...]) -> Any:
    function, at = _of_floats(func.vmap(call), stacked(args))
    return func.grad(lambda *a: function(*a).sum(), places(at))(*at)


def each(run: Callable[[Call, tuple[Any, ...]], Any]) -> Callable[..., Any]:
    """What samples give one by one, for worlds that batch them."""

    def outside(call: Call, args: tuple[Any, ...]) -> Any:
        samples = [flat(run(call, args)), flat(run(call, tuple(a.flip(0) for a in args)))]
        return tuple(torch.stack(parts) for parts in zip(*samples, strict=True))

    return outside


hessian = derivative(lambda f, at: func.hessian(f, places(at))(*at), scalar=True)
