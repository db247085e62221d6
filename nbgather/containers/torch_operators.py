"""``torch.ops.nbgather``: the operations as operators that torch can trace, differentiate, batch.

They are what ``torch.compile``, ``torch.export``, ``torch.func`` and the ONNX exporter see. Each is
one operation: what it computes on fake tensors, its gradient and its batches are the operation's
own rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from nbgather.containers.torch_dtypes import describe, torch_dtype
from nbgather.operations import checks
from nbgather.operations.base import PLAIN, Apply, Operation, Options, Spec, batch_of_samples
from nbgather.operations.indexing import Gather, GatherTokens, Scatter, ScatterAdd, TakeAlongAxis
from nbgather.operations.infer import InferGather
from nbgather.operations.keep import Keep
from nbgather.operations.scores import Score
from nbgather.operations.tokens import (
    RandomMasking,
    RankTokens,
    RestoreTokens,
    TokenNoise,
    castable_token,
    one_token,
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


def _fake_spec(tensor: Any) -> Any:
    """What is known of a tensor that may have no memory; None for what is none."""
    if not isinstance(tensor, torch.Tensor):
        return None
    return Spec(tuple(tensor.shape), (), describe(tensor.dtype), str(tensor.device))


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
        specs = operation.result(*map(_fake_spec, operands))
        results = tuple(_fake(operands[0], spec) for spec in specs)
        return results if len(results) > 1 else results[0]

    op = _define(name, operator.schema, kernel, fake)

    def setup(ctx: Any, inputs: Any, output: Any, keyword_only_inputs: Any = None) -> None:
        operation, operands = operator.call(*inputs, **(keyword_only_inputs or {}))
        side = [k for k in range(len(operands)) if k not in operation.differentiable]
        ctx.save_for_backward(*(operands[k] for k in side))
        ctx.operation, ctx.side, ctx.arguments = operation, side, len(inputs)
        ctx.specs = tuple(map(_fake_spec, operands))

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


_OPS = {name: _register(name, operator) for name, operator in OPERATORS.items()}


# A masking by given noise: one operator of four results, of which the last is for the gradient


def _masking_kernel(x: Any, noise: Any, mask_ratio: float) -> tuple[Any, ...]:
    ids_keep, ids_restore, mask = _execute(RankTokens(Keep(ratio=mask_ratio)), (noise,))
    return _execute(GatherTokens(), (x, ids_keep)), mask, ids_restore, ids_keep


def _masking_fake(x: Any, noise: Any, mask_ratio: float) -> tuple[Any, ...]:
    spec = _fake_spec(x)
    ids_keep, ids_restore, mask = ranks(Keep(ratio=mask_ratio), x.shape[0], x.shape[1], spec)
    (x_masked,) = GatherTokens().result(spec, ids_keep)
    return tuple(_fake(x, s) for s in (x_masked, mask, ids_restore, ids_keep))


_random_masking = _define(
    "random_masking",
    "(Tensor x, Tensor noise, float mask_ratio)"
    " -> (Tensor x_masked, Tensor mask, Tensor ids_restore, Tensor ids_keep)",
    _masking_kernel,
    _masking_fake,
)


def _masking_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(output[3])
    ctx.spec = _fake_spec(inputs[0])
    ctx.mark_non_differentiable(*output[1:])


def _masking_backward(ctx: Any, cotangent: Any, *others: Any) -> tuple[Any, ...]:
    (ids,) = ctx.saved_tensors
    do = _container.apply(cotangent)
    specs = ctx.spec, _fake_spec(ids)
    return *GatherTokens().transpose(do, cotangent, specs, (None, ids), (True,)), None, None


def _masking_batch(info: Any, in_dims: Any, x: Any, noise: Any, mask_ratio: float) -> Any:
    do = Apply(
        lambda operation, *operands: _random_masking(*operands, mask_ratio),
        lambda: _container.namespace(x),
    )
    results = batch_of_samples(RankTokens(Keep()), do, info.batch_size, (x, noise), in_dims[:2])
    return results, (0,) * len(results)


torch.library.register_autograd(
    _random_masking, _masking_backward, setup_context=_masking_setup, lib=_library
)
torch.library.register_vmap(_random_masking, _masking_batch, lib=_library)


# Noise whose seed and epoch are tensors of one int64, which a graph takes as they come


def _seeded_noise_kernel(seed: Any, epoch: Any, sample_ids: Any, num_tokens: int) -> Any:
    key, number = checks.bits64(int(seed), "seed"), checks.epoch(int(epoch))
    return _execute(TokenNoise(key, number, num_tokens), (sample_ids,))


def _seeded_noise_fake(seed: Any, epoch: Any, sample_ids: Any, num_tokens: Any) -> Any:
    return sample_ids.new_empty((sample_ids.shape[0], num_tokens), dtype=torch.float32)


_seeded_noise = _define(
    "seeded_noise",
    "(Tensor seed, Tensor epoch, Tensor sample_ids, SymInt num_tokens) -> Tensor",
    _seeded_noise_kernel,
    _seeded_noise_fake,
)


def drawn_seed() -> Any:
    """A seed from torch's generator of the CPU, as a tensor."""
    return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu")


def seeded_masking(
    x: Any, mask_ratio: float, seed: Any, epoch: Any, ids: Any, number: int | None
) -> tuple[Any, ...]:
    """A masking whose seed and epoch are tensors, so that a graph serves every epoch."""
    ratio = mask_ratio if number is None else None
    operation = RandomMasking(Keep(ratio=ratio, number=number), seed=0)
    operation.check(_fake_spec(x), None, _fake_spec(ids))
    noise = _seeded_noise(seed, epoch, ids, x.shape[1])
    return _call_masking(operation, (x, noise, None))


# What a call becomes where torch traces it

_REFUSALS = {
    InferGather: "infer_gather cannot be traced by torch: call it outside",
    Score: "a strategy cannot be traced by torch: score the tokens outside, and give them as noise",
}


def has_operator(operation: Operation) -> bool:
    """Whether torch's modes can see an operation."""
    return type(operation) not in _REFUSALS


def call(container: Any, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
    """A call by its operator, or by those it is made of, under the checks of the eager one."""
    if options.out is not None or options.backend is not None:
        raise ValueError(
            "out= or backend= was given where torch traces the call (torch.compile, torch.export,"
            " torch.func): neither is an operator's"
        )
    refusal = _REFUSALS.get(type(operation))
    if refusal is not None:
        raise NotImplementedError(refusal)
    if isinstance(operation, RandomMasking):
        return _call_random_masking(container, operation, operands)
    caller = _CALLERS.get(type(operation))
    if caller is not None:
        return caller(operation, operands)
    operation.check(*map(_fake_spec, operands))
    return operation.lower(container.apply(operands[0]), *operands)


def _call_random_masking(container: Any, operation: Any, operands: tuple[Any, ...]) -> Any:
    x, noise, ids = operands
    operation.check(*map(_fake_spec, operands))
    if noise is None:
        length = operation.tokens(tuple(x.shape)) if hasattr(operation, "tokens") else x.shape[1]
        if ids is None:
            ids = torch.arange(x.shape[0], device=x.device)
        if operation.seed is None:
            zero = torch.zeros((), dtype=torch.int64, device="cpu")
            noise = _seeded_noise(drawn_seed(), zero + operation.epoch, ids, length)
        else:
            noise = _OPS["token_noise"](
                checks.signed64(operation.seed), ids, length, epoch=operation.epoch
            )
        operands = x, noise, None
    if type(operation) is RandomMasking:
        return _call_masking(operation, operands)
    results = operation.lower(container.apply(x), *operands)
    return _with_valid(operation, results, x)


def _call_masking(operation: RandomMasking, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    x, noise, _ = operands
    keep = operation.keep
    if keep.ratio is not None:
        return tuple(_random_masking(x, noise, keep.ratio)[:3])
    ids_keep, ids_restore, mask = _call_ranks(RankTokens(keep), (noise,))
    x_masked = _OPS["gather_tokens"](x, ids_keep, mode=operation.fill_mode)
    return _with_valid(operation, (x_masked, mask, ids_restore), x)


def _with_valid(operation: RandomMasking, results: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
    if operation.keep.counts is None:
        return results
    return *results, _valid(operation.keep, x.device)


def _valid(keep: Keep, device: Any) -> Any:
    """Which slots hold a token where each sample keeps a number of its own: bool `[N, max K]`."""
    numbers = torch.tensor(keep.counts, dtype=torch.int64, device=device)[:, None]
    return torch.arange(keep.of(0), device=device) < numbers


def _call_ranks(operation: RankTokens, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    (scores,) = operands
    operation.check(_fake_spec(scores))
    keep = operation.keep
    ids_keep, ids_restore, mask = _OPS["rank_tokens"](scores, keep.of(scores.shape[1]))
    if keep.counts is None:
        return ids_keep, ids_restore, mask
    numbers = torch.tensor(keep.counts, dtype=torch.int64, device=scores.device)[:, None]
    ids_keep = torch.where(_valid(keep, scores.device), ids_keep, -1)
    return ids_keep, ids_restore, (ids_restore >= numbers).to(torch.float32)


def _call_scatter(operation: Scatter, operands: tuple[Any, ...]) -> Any:
    x, index, src = operands
    if not isinstance(src, torch.Tensor):
        src = torch.full_like(index, src, dtype=x.dtype)
    name = "scatter_add" if isinstance(operation, ScatterAdd) else "scatter"
    return _OPS[name](x, operation.dim, index, src)


def _call_restore(operation: RestoreTokens, operands: tuple[Any, ...]) -> Any:
    x, ids, token = operands
    inner = tuple(x.shape[2:])
    operation.shape(tuple(x.shape), tuple(ids.shape))
    if isinstance(token, torch.Tensor):
        castable_token(_can_cast(token.dtype, x.dtype), token.dtype, x.dtype)
        one_token(tuple(token.shape), inner)
        token = token.to(x.dtype)
        while token.ndim > len(inner):
            token = token[0]
    else:
        token = torch.full((), token, dtype=x.dtype, device=x.device)
    return _OPS["restore_tokens"](x, ids, token.expand(inner))


@torch.compiler.assume_constant_result
def _can_cast(dtype: Any, other: Any) -> bool:
    return torch.can_cast(dtype, other)


_CALLERS: dict[type[Operation], Callable[..., Any]] = {
    Gather: lambda o, p: _OPS["gather"](p[0], o.dim, p[1], mode=o.mode, fill_value=o.fill_value),
    TakeAlongAxis: lambda o, p: _OPS["take_along_axis"](
        *p, o.dim, mode=o.mode, fill_value=o.fill_value
    ),
    GatherTokens: lambda o, p: _OPS["gather_tokens"](*p, mode=o.mode, fill_value=o.fill_value),
    Scatter: _call_scatter,
    ScatterAdd: _call_scatter,
    TokenNoise: lambda o, p: _OPS["token_noise"](
        checks.signed64(o.seed), *p, o.num_tokens, epoch=o.epoch
    ),
    RankTokens: _call_ranks,
    RestoreTokens: _call_restore,
}
