"""``torch.ops.nbgather``: the operations as operators that torch can trace, differentiate, batch.

They are what ``torch.compile``, ``torch.export``, ``torch.func`` and the ONNX exporter see. Each is
one operation: what it computes on fake tensors, its gradient and its batches are the operation's
own rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from nbgather.containers.torch_dtypes import fake_spec, torch_dtype
from nbgather.operations import checks
from nbgather.operations.base import PLAIN, Apply, Operation, Spec, batch_of_samples
from nbgather.operations.indexing import Gather, GatherTokens, Scatter, ScatterAdd, TakeAlongAxis
from nbgather.operations.keep import Keep
from nbgather.operations.tokens import (
    RankTokens,
    RestoreTokens,
    TokenNoise,
    ranks,
)

_library = torch.library.Library("nbgather", "FRAGMENT")
_MODES = "*, str mode='raise', Scalar fill_value=0"

#: The container of tensors on the CPU, which the operators are installed by.
_container: Any = None

Call = tuple[Operation, tuple[Any, ...]]


class _Operator(NamedTuple):
    """An operator of torch: its schema, and the operation and operands of its arguments."""

    operation: type[Operation]
    schema: str
    call: Callable[..., Call]
    #: Which arguments the operands are.
    places: tuple[int, ...]


def _gather_call(
    input: Any, dim: int, index: Any, mode: str = "raise", fill_value: Any = 0
) -> Call:
    return Gather(dim, mode, fill_value), (input, index)


def _along_call(
    arr: Any, indices: Any, axis: int = -1, mode: str = "raise", fill_value: Any = 0
) -> Call:
    return TakeAlongAxis(axis, mode, fill_value), (arr, indices)


def _tokens_call(x: Any, ids: Any, mode: str = "raise", fill_value: Any = 0) -> Call:
    return GatherTokens(1, mode, fill_value), (x, ids)


def _noise_call(seed: int, sample_ids: Any, num_tokens: Any, epoch: Any = 0) -> Call:
    return TokenNoise(seed & (2**64 - 1), epoch, num_tokens), (sample_ids,)


OPERATORS = {
    "gather": _Operator(
        Gather, f"(Tensor input, int dim, Tensor index, {_MODES}) -> Tensor", _gather_call, (0, 2)
    ),
    "take_along_axis": _Operator(
        TakeAlongAxis,
        f"(Tensor arr, Tensor indices, int axis=-1, {_MODES}) -> Tensor",
        _along_call,
        (0, 1),
    ),
    "gather_tokens": _Operator(
        GatherTokens, f"(Tensor x, Tensor ids, {_MODES}) -> Tensor", _tokens_call, (0, 1)
    ),
    "scatter": _Operator(
        Scatter,
        "(Tensor input, int dim, Tensor index, Tensor src) -> Tensor",
        lambda input, dim, index, src: (Scatter(dim), (input, index, src)),
        (0, 2, 3),
    ),
    "scatter_add": _Operator(
        ScatterAdd,
        "(Tensor input, int dim, Tensor index, Tensor src) -> Tensor",
        lambda input, dim, index, src: (ScatterAdd(dim), (input, index, src)),
        (0, 2, 3),
    ),
    "token_noise": _Operator(
        TokenNoise,
        "(int seed, Tensor sample_ids, SymInt num_tokens, *, SymInt epoch=0) -> Tensor",
        _noise_call,
        (1,),
    ),
    "rank_tokens": _Operator(
        RankTokens,
        "(Tensor scores, SymInt num_keep) -> (Tensor, Tensor, Tensor)",
        lambda scores, num_keep: (RankTokens(Keep(number=num_keep)), (scores,)),
        (0,),
    ),
    "restore_tokens": _Operator(
        RestoreTokens,
        "(Tensor x_visible, Tensor ids_restore, Tensor mask_token) -> Tensor",
        lambda x_visible, ids_restore, mask_token: (
            RestoreTokens(),
            (x_visible, ids_restore, mask_token),
        ),
        (0, 1, 2),
    ),
}


def install(container: Any) -> None:
    """Let the operators be executed by the engine that a container was made with."""
    global _container
    _container = container


def _fake(like: Any, spec: Spec) -> Any:
    return like.new_empty(spec.shape, dtype=torch_dtype(spec.dtype))


def _execute(operation: Operation, operands: tuple[Any, ...]) -> Any:
    """By the engine: the gradient has been seen to above this level."""
    container = _container.locate(operands[0], operation.names[0])
    with torch.no_grad():
        return container.run(container, operation, tuple(map(container.resolve, operands)), PLAIN)


def _define(name: str, schema: str, kernel: Any, fake: Any) -> Any:
    _library.define(name + schema)
    for device in ("CPU", "CUDA"):
        _library.impl(name, kernel, device)
    torch.library.register_fake(f"nbgather::{name}", fake, lib=_library)
    return getattr(torch.ops.nbgather, name).default


def _register(name: str, operator: _Operator) -> Any:
    """Define an operator with the rules of its operation."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        return _execute(*operator.call(*args, **kwargs))

    def fake(*args: Any, **kwargs: Any) -> Any:
        operation, operands = operator.call(*args, **kwargs)
        specs = operation.result(*map(fake_spec, operands))
        results = tuple(_fake(operands[0], spec) for spec in specs)
        return results if len(results) > 1 else results[0]

    op = _define(name, operator.schema, kernel, fake)

    def setup(ctx: Any, inputs: Any, output: Any, keyword_only_inputs: Any = None) -> None:
        operation, operands = operator.call(*inputs, **(keyword_only_inputs or {}))
        side = [k for k in range(len(operands)) if k not in operation.differentiable]
        ctx.save_for_backward(*(operands[k] for k in side))
        ctx.operation, ctx.side, ctx.arguments = operation, side, len(inputs)
        ctx.specs = tuple(map(fake_spec, operands))

    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        operation, places = ctx.operation, operator.places
        operands: list[Any] = [None] * len(ctx.specs)
        for k, tensor in zip(ctx.side, ctx.saved_tensors, strict=True):
            operands[k] = tensor
        needed = tuple(ctx.needs_input_grad[places[k]] for k in operation.differentiable)
        do = _container.apply(cotangents[0])
        gradients = operation.transpose(do, cotangents[0], ctx.specs, tuple(operands), needed)
        result = [None] * ctx.arguments
        for k, gradient in zip(operation.differentiable, gradients, strict=True):
            result[places[k]] = gradient
        return tuple(result)

    def batch(info: Any, in_dims: Any, *args: Any, **kwargs: Any) -> Any:
        operation, operands = operator.call(*args, **kwargs)
        axes = tuple(in_dims[k] for k in operator.places)
        do = _container.apply(operands[0])
        results = operation.batch(do, info.batch_size, operands, axes)
        return results, (0,) * len(results) if isinstance(results, tuple) else 0

    if operator.operation.differentiable:
        torch.library.register_autograd(op, backward, setup_context=setup, lib=_library)
    torch.library.register_vmap(op, batch, lib=_library)
    return op


OPS = {name: _register(name, operator) for name, operator in OPERATORS.items()}


# A masking by given noise: one operator of four results, of which the last is for the gradient


def _masking_kernel(x: Any, noise: Any, mask_ratio: float) -> tuple[Any, ...]:
    ids_keep, ids_restore, mask = _execute(RankTokens(Keep(ratio=mask_ratio)), (noise,))
    return _execute(GatherTokens(), (x, ids_keep)), mask, ids_restore, ids_keep


def _masking_fake(x: Any, noise: Any, mask_ratio: float) -> tuple[Any, ...]:
    spec = fake_spec(x)
    ids_keep, ids_restore, mask = ranks(Keep(ratio=mask_ratio), x.shape[0], x.shape[1], spec)
    (x_masked,) = GatherTokens().result(spec, ids_keep)
    return tuple(_fake(x, s) for s in (x_masked, mask, ids_restore, ids_keep))


random_masking = _define(
    "random_masking",
    "(Tensor x, Tensor noise, float mask_ratio)"
    " -> (Tensor x_masked, Tensor mask, Tensor ids_restore, Tensor ids_keep)",
    _masking_kernel,
    _masking_fake,
)


def _masking_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(output[3])
    ctx.spec = fake_spec(inputs[0])
    ctx.mark_non_differentiable(*output[1:])


def _masking_backward(ctx: Any, cotangent: Any, *others: Any) -> tuple[Any, ...]:
    (ids,) = ctx.saved_tensors
    do = _container.apply(cotangent)
    specs = ctx.spec, fake_spec(ids)
    return *GatherTokens().transpose(do, cotangent, specs, (None, ids), (True,)), None, None


def _masking_batch(info: Any, in_dims: Any, x: Any, noise: Any, mask_ratio: float) -> Any:
    do = Apply(
        lambda operation, *operands: random_masking(*operands, mask_ratio),
        lambda: _container.namespace(x),
    )
    results = batch_of_samples(RankTokens(Keep()), do, info.batch_size, (x, noise), in_dims[:2])
    return results, (0,) * len(results)


torch.library.register_autograd(
    random_masking, _masking_backward, setup_context=_masking_setup, lib=_library
)
torch.library.register_vmap(random_masking, _masking_batch, lib=_library)


# Noise whose seed and epoch are tensors of one int64, which a graph takes as they come


def _seeded_noise_kernel(seed: Any, epoch: Any, sample_ids: Any, num_tokens: int) -> Any:
    key, number = checks.bits64(int(seed), "seed"), checks.epoch(int(epoch))
    return _execute(TokenNoise(key, number, num_tokens), (sample_ids,))


def _seeded_noise_fake(seed: Any, epoch: Any, sample_ids: Any, num_tokens: Any) -> Any:
    return sample_ids.new_empty((sample_ids.shape[0], num_tokens), dtype=torch.float32)


seeded_noise = _define(
    "seeded_noise",
    "(Tensor seed, Tensor epoch, Tensor sample_ids, SymInt num_tokens) -> Tensor",
    _seeded_noise_kernel,
    _seeded_noise_fake,
)
