"""What a call becomes where torch traces it: operators, under the checks of the eager call."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nbgather.containers.torch_dtypes import fake_spec
from nbgather.containers.torch_operators import NOWAIT, OPS, noise_beside, seeded_noise
from nbgather.containers.torch_state import constant_in_graphs
from nbgather.operations import checks
from nbgather.operations.base import Operation, Options
from nbgather.operations.indexing import Gather, GatherTokens, Scatter, ScatterAdd, TakeAlongAxis
from nbgather.operations.infer import InferGather
from nbgather.operations.keep import Keep
from nbgather.operations.patches import MaskedPatchify
from nbgather.operations.ranked import RankedMasking
from nbgather.operations.reducing import ScatterReduce
from nbgather.operations.scores import Score
from nbgather.operations.tokens import (
    KeepTokens,
    RandomMasking,
    RankTokens,
    RestoreTokens,
    TokenNoise,
    castable_token,
)


def drawn_seed(device: Any = "cpu") -> Any:
    """A seed from torch's generator of a device, as a tensor there."""
    return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device=device)


def seed_beside(x: Any) -> Any:
    """A seed drawn for tokens; none is drawn where nothing is computed."""
    if x.is_meta:
        return torch.empty((), dtype=torch.int64, device="meta")
    return drawn_seed(x.device if x.is_cuda else "cpu")


def _noise(seed: Any, epoch: Any, ids: Any, length: Any) -> Any:
    """The noise of a seed and an epoch that are tensors, read on the host or where it is made."""
    there = seed.is_cuda and epoch.is_cuda
    return (noise_beside if there else seeded_noise)(seed, epoch, ids, length)


def seeded_masking(
    x: Any, mask_ratio: float, seed: Any, epoch: Any, ids: Any, number: int | None
) -> tuple[Any, ...]:
    """A masking whose seed and epoch are tensors, so that a graph serves every epoch."""
    ratio = mask_ratio if number is None else None
    operation = RandomMasking(Keep(ratio=ratio, number=number), seed=0)
    operation.check(fake_spec(x), None, fake_spec(ids))
    noise = _noise(seed, epoch, ids, x.shape[1])
    return _call_masking(operation, (x, noise, None))


# What a call becomes where torch traces it

_REFUSALS: dict[type[Operation], str] = {
    InferGather: "infer_gather cannot be traced by torch: call it outside",
}


@functools.cache
def event_name(kind: str) -> str:
    """What torch's profiler calls an operation."""
    return "nbgather::" + re.sub(r"\B([A-Z])", r"_\1", kind).lower()


def has_operator(operation: Operation) -> bool:
    """Whether torch's modes can see an operation."""
    return type(operation) not in _REFUSALS


def call(container: Any, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
    """A call by its operator, or by those it is made of, under the checks of the eager one."""
    if options.out is not None or options.backend is not None:
        raise ValueError(
            "out= or backend= was given where torch traces the call (torch.compile, torch.export,"
            " torch.func, a mode, a subclass): neither is an operator's"
        )
    refusal = _REFUSALS.get(type(operation))
    if refusal is not None:
        raise NotImplementedError(refusal)
    if isinstance(operation, RandomMasking):
        return _call_random_masking(container, operation, operands)
    operation.check(*map(fake_spec, operands))
    caller = _CALLERS.get(type(operation))
    if caller is not None:
        return caller(operation, operands)
    return operation.lower(container.apply(operands[0]), *operands)


def _call_random_masking(container: Any, operation: Any, operands: tuple[Any, ...]) -> Any:
    x, noise, ids = operands
    operation.check(*map(fake_spec, operands))
    if noise is None:
        length = x.shape[1]
        if isinstance(operation, MaskedPatchify):
            length = operation.tokens(tuple(x.shape))
        if ids is None:
            ids = torch.arange(x.shape[0], device=x.device)
        if operation.seed is None:
            seed = seed_beside(x)
            zero = torch.zeros((), dtype=torch.int64, device=seed.device if x.is_cuda else "cpu")
            noise = _noise(seed, zero + operation.epoch, ids, length)
        else:
            noise = OPS["token_noise"](
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
        return tuple(OPS["random_masking"](x, noise, keep.ratio)[:3])
    ids_keep, ids_restore, mask = _call_ranks(RankTokens(keep), (noise,))
    x_masked = OPS["keep_tokens"](x, ids_keep, ids_restore, padded=keep.counts is not None)
    return _with_valid(operation, (x_masked, mask, ids_restore), x)


def _with_valid(operation: RandomMasking, results: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
    if operation.keep.counts is None or not operation.may_pad:
        return results
    return *results, _valid(operation.keep, x.device)


def _valid(keep: Keep, device: Any) -> Any:
    """Which slots hold a token where each sample keeps a number of its own: bool `[N, max K]`."""
    numbers = torch.tensor(keep.counts, dtype=torch.int64, device=device)[:, None]
    return torch.arange(keep.of(0), device=device) < numbers


def _call_ranks(operation: RankTokens, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    (scores,) = operands
    keep = operation.keep
    ids_keep, ids_restore, mask = OPS["rank_tokens"](scores, keep.of(scores.shape[1]))
    if keep.counts is None:
        return ids_keep, ids_restore, mask
    numbers = torch.tensor(keep.counts, dtype=torch.int64, device=scores.device)[:, None]
    ids_keep = torch.where(_valid(keep, scores.device), ids_keep, -1)
    return ids_keep, ids_restore, (ids_restore >= numbers).to(torch.float32)


def _call_scatter(operation: Scatter, operands: tuple[Any, ...]) -> Any:
    x, index, src = operands
    if not isinstance(src, torch.Tensor):
        src = torch.full_like(index, _held(src, x.dtype, "src"), dtype=x.dtype)
    name = "scatter_add" if isinstance(operation, ScatterAdd) else "scatter"
    told = {"told": True} if operation.told else {}
    return _overload(name, operation.mode)(x, operation.dim, index, src, **told)


def _call_restore(operation: RestoreTokens, operands: tuple[Any, ...]) -> Any:
    x, ids, token = operands
    inner = tuple(x.shape[2:])
    if isinstance(token, torch.Tensor):
        castable_token(_can_cast(token.dtype, x.dtype), token.dtype, x.dtype)
        token = token.to(x.dtype)
        while token.ndim > len(inner):
            token = token[0]
    else:
        token = _held(token, x.dtype, "mask_token")
        token = torch.full((), token, dtype=x.dtype, device=x.device)
    return _overload("restore_tokens", operation.errors)(x, ids, token.expand(inner))


def _number(value: Any) -> Any:
    """A scalar as Python's, which is what an operator takes."""
    return value.item() if isinstance(value, np.generic) else value


def _mode(operation: Gather, x: Any) -> dict[str, Any]:
    """What to do with an index that is out of bounds, as the operators take it."""
    filled = operation.mode in ("fill", "defer")
    value = _held(operation.fill_value, x.dtype, "fill_value") if filled else 0
    return {"mode": operation.mode, "fill_value": value}


def _overload(name: str, mode: str) -> Any:
    """An operator for a mode: where that cannot wait for a device, one that a CUDA graph holds."""
    return OPS[name if mode == "raise" else name + NOWAIT]


def _held(value: Any, dtype: torch.dtype, what: str) -> Any:
    """A number that a dtype can hold; as the eager call says it where it cannot."""
    number = _number(value)
    if isinstance(number, complex) and not dtype.is_complex and not number.imag:
        number = number.real
    is_number = isinstance(number, (int, float, complex))
    if not is_number or (isinstance(number, int) and not -(2**63) <= number < 2**64):
        fits = False
    elif dtype.is_complex or dtype.is_floating_point:
        fits = dtype.is_complex or not isinstance(number, complex)
        if fits and dtype in (torch.float32, torch.complex64):  # narrower ones become infinite
            fits = not torch.finfo(torch.float32).max < abs(number) < math.inf
    elif isinstance(number, complex) or dtype == torch.bool:
        fits = number in (0, 1)
    else:
        limits = torch.iinfo(dtype)
        fits = limits.min <= number <= limits.max and number == int(number)
    if not fits:
        raise ValueError(f"{what} {value!r} cannot be held in dtype {dtype}")
    return number


@constant_in_graphs
def _can_cast(dtype: Any, other: Any) -> bool:
    return torch.can_cast(dtype, other)


_CALLERS: dict[type[Operation], Callable[..., Any]] = {
    Gather: lambda o, p: _overload("gather", o.mode)(p[0], o.dim, p[1], **_mode(o, p[0])),
    TakeAlongAxis: lambda o, p: _overload("take_along_axis", o.mode)(*p, o.dim, **_mode(o, p[0])),
    GatherTokens: lambda o, p: _overload("gather_tokens", o.mode)(*p, **_mode(o, p[0])),
    Scatter: _call_scatter,
    ScatterAdd: _call_scatter,
    ScatterReduce: lambda o, p: OPS["scatter_reduce"](
        p[0], o.dim, p[1], p[2], o.reduce, include_self=o.include_self
    ),
    TokenNoise: lambda o, p: OPS["token_noise"](
        checks.signed64(o.seed), *p, o.num_tokens, epoch=o.epoch
    ),
    Score: lambda o, p: OPS["score"](
        *p,
        o.strategy,
        o.grid,
        o.numbers,
        seed=checks.signed64(o.seed),
        epoch=o.epoch,
        min_aspect=o.min_aspect,
    ),
    RankTokens: _call_ranks,
    RestoreTokens: _call_restore,
    KeepTokens: lambda o, p: OPS["keep_tokens"](*p, padded=o.padded),
    RankedMasking: lambda o, p: OPS["random_masking"](*p, o.ratio),
}
