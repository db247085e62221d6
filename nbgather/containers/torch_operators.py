"""``torch.ops.nbgather``: the operations as operators that torch can trace, differentiate, batch.

They are what ``torch.compile``, ``torch.export``, ``torch.func`` and the ONNX exporter see. Each is
one operation: what it computes on fake tensors, its gradient and its batches are the operation's
own rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from nbgather.containers import torch_autograd
from nbgather.containers.torch_dtypes import fake_spec, torch_dtype
from nbgather.containers.torch_state import current_transform, wants_grad
from nbgather.operations import checks, keep, scores
from nbgather.operations.base import PLAIN, Operation, Spec
from nbgather.operations.indexing import Gather, GatherTokens, Scatter, ScatterAdd, TakeAlongAxis
from nbgather.operations.keep import Keep
from nbgather.operations.on_device import OnDevice
from nbgather.operations.ranked import RankedMasking
from nbgather.operations.reducing import ScatterReduce
from nbgather.operations.scores import Score
from nbgather.operations.tokens import KeepTokens, RankTokens, RestoreTokens, TokenNoise

_library = torch.library.Library("nbgather", "FRAGMENT")
_MODES = "*, str mode='raise', Scalar fill_value=0"
#: The overload of an operator that never waits for a device: its modes are all but ``raise``.
NOWAIT = ".nowait"
_NOWAIT_MODES = "*, str mode, Scalar fill_value=0"
_STRATEGY = (
    "str strategy, SymInt[] grid, SymInt[] numbers, *, int seed, SymInt epoch=0,"
    " float? min_aspect=None"
)

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
    #: Whether a call may wait for a device, which a CUDA graph cannot hold.
    waits: bool = False


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


def _reduce_call(
    input: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True
) -> Call:
    return ScatterReduce(dim, reduce, include_self), (input, index, src)


def _scatter_caller(kind: type[Scatter], mode: str) -> Callable[..., Call]:
    def call(input: Any, dim: int, index: Any, src: Any, *, told: bool = False) -> Call:
        return kind(dim, mode=mode, told=told), (input, index, src)

    return call


def _restore_caller(errors: str) -> Callable[..., Call]:
    def call(x_visible: Any, ids_restore: Any, mask_token: Any) -> Call:
        return RestoreTokens(errors=errors), (x_visible, ids_restore, mask_token)

    return call


def _waiting(operator: _Operator, nowait: _Operator) -> dict[str, _Operator]:
    """An operator that may wait, and its overload that does not."""
    return {"": operator._replace(waits=True), NOWAIT: nowait}


def _gather_pair(kind: type[Gather], arguments: str, call: Any, places: Any) -> Any:
    """A gather in every mode, and in those that do not wait."""

    def nowait_call(*args: Any, mode: str, fill_value: Any = 0) -> Call:
        if mode == "raise":
            raise ValueError("mode 'raise' may wait: the overload nowait has the other modes")
        return call(*args, mode=mode, fill_value=fill_value)

    return _waiting(
        _Operator(kind, f"({arguments}, {_MODES}) -> Tensor", call, places),
        _Operator(kind, f"({arguments}, {_NOWAIT_MODES}) -> Tensor", nowait_call, places),
    )


def _scatter_pair(kind: type[Scatter]) -> Any:
    arguments = "Tensor input, int dim, Tensor index, Tensor src"
    schemas = {"raise": arguments, "defer": f"{arguments}, *, bool told=False"}
    return _waiting(
        *(
            _Operator(kind, f"({schema}) -> Tensor", _scatter_caller(kind, mode), (0, 2, 3))
            for mode, schema in schemas.items()
        )
    )


def _restore_pair() -> Any:
    schema = "(Tensor x_visible, Tensor ids_restore, Tensor mask_token) -> Tensor"
    return _waiting(
        *(
            _Operator(RestoreTokens, schema, _restore_caller(errors), (0, 1, 2))
            for errors in ("raise", "defer")
        )
    )


def _noise_call(seed: int, sample_ids: Any, num_tokens: Any, epoch: Any = 0) -> Call:
    tokens = checks.count(num_tokens, "num_tokens")
    return TokenNoise(seed & (2**64 - 1), checks.epoch(epoch), tokens), (sample_ids,)


def _score_call(
    sample_ids: Any,
    strategy: str,
    grid: Any,
    numbers: Any,
    *,
    seed: int,
    epoch: Any = 0,
    min_aspect: float | None = None,
) -> Call:
    key = seed & (2**64 - 1)
    score = Score(strategy, tuple(grid), tuple(numbers), key, epoch, min_aspect)
    return scores.checked(score), (sample_ids,)


_PAIRS = {
    "gather": _gather_pair(Gather, "Tensor input, int dim, Tensor index", _gather_call, (0, 2)),
    "take_along_axis": _gather_pair(
        TakeAlongAxis, "Tensor arr, Tensor indices, int axis=-1", _along_call, (0, 1)
    ),
    "gather_tokens": _gather_pair(GatherTokens, "Tensor x, Tensor ids", _tokens_call, (0, 1)),
    "scatter": _scatter_pair(Scatter),
    "scatter_add": _scatter_pair(ScatterAdd),
    "restore_tokens": _restore_pair(),
}

OPERATORS = {
    **{name + of: operator for name, pair in _PAIRS.items() for of, operator in pair.items()},
    "scatter_reduce": _Operator(
        ScatterReduce,
        "(Tensor input, int dim, Tensor index, Tensor src, str reduce, *, bool include_self=True)"
        " -> Tensor",
        _reduce_call,
        (0, 2, 3),
        waits=True,
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
    "keep_tokens": _Operator(
        KeepTokens,
        "(Tensor x, Tensor ids_keep, Tensor ids_restore, *, bool padded=False) -> Tensor",
        lambda x, ids_keep, ids_restore, padded=False: (
            KeepTokens(padded),
            (x, ids_keep, ids_restore),
        ),
        (0, 1, 2),
    ),
    "random_masking": _Operator(
        RankedMasking,
        "(Tensor x, Tensor noise, float mask_ratio)"
        " -> (Tensor x_masked, Tensor mask, Tensor ids_restore, Tensor ids_keep)",
        lambda x, noise, mask_ratio: (RankedMasking(keep.ratio(mask_ratio)), (x, noise)),
        (0, 1),
    ),
    "score": _Operator(Score, f"(Tensor sample_ids, {_STRATEGY}) -> Tensor", _score_call, (0,)),
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


#: What torch knows of an operator that no CUDA graph can hold, in the versions that have graphs
#: around such a one.
_UNSAFE = tuple(getattr(torch.Tag, tag) for tag in ("cudagraph_unsafe",) if hasattr(torch.Tag, tag))


def define(name: str, schema: str, kernel: Any, fake: Any, *, waits: bool = False) -> Any:
    """An operator of ``torch.ops.nbgather``: its kernel, and what it gives for fake tensors.

    Where it ``waits`` for a device or reads a value on the host, torch leaves it out of its graphs.
    """
    _library.define(name + schema, tags=_UNSAFE if waits else ())
    for device in ("CPU", "CUDA"):
        _library.impl(name, kernel, device)
    torch.library.register_fake(f"nbgather::{name}", fake, lib=_library)
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.nbgather, packet), overload or "default")


def batch_one_by_one(op: Any) -> None:
    """Let vmap call an operator of one result for each of a batch: each seed is one of its own."""

    def batch(info: Any, in_dims: Any, *args: Any) -> Any:
        def one(place: int) -> Any:
            chosen = zip(args, in_dims, strict=True)
            # Of a list no part is batched.
            return op(*(a.select(d, place) if isinstance(d, int) else a for a, d in chosen))

        return torch.stack([one(place) for place in range(info.batch_size)]), 0

    torch.library.register_vmap(op, batch, lib=_library)


def _register(name: str, operator: _Operator) -> Any:
    """Define an operator with the rules of its operation."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        return _execute(*operator.call(*args, **kwargs))

    def fake(*args: Any, **kwargs: Any) -> Any:
        operation, operands = operator.call(*args, **kwargs)
        specs = operation.result(*map(fake_spec, operands))
        results = tuple(_fake(operands[0], spec) for spec in specs)
        return results if len(results) > 1 else results[0]

    op = define(name, operator.schema, kernel, fake, waits=operator.waits)

    def recorded(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        operation, operands = operator.call(*args, **kwargs)
        level = current_transform()

        def compute() -> Any:
            with torch_autograd.below(level):
                keys = keyset & torch._C._after_autograd_keyset
                return op.redispatch(keys, *args, **kwargs)

        wanted = level is not None or any(wants_grad(operands[k]) for k in operation.differentiable)
        if not wanted or not operation.differentiable:
            return compute()
        return torch_autograd.record(compute, _container, operation, operands)

    def batch(info: Any, in_dims: Any, *args: Any, **kwargs: Any) -> Any:
        operation, operands = operator.call(*args, **kwargs)
        axes = tuple(in_dims[k] for k in operator.places)
        do = _container.locate(operands[0], operation.names[0]).apply(operands[0])
        results = operation.batch(do, info.batch_size, operands, axes)
        return results, (0,) * len(results) if isinstance(results, tuple) else 0

    _library.impl(name, recorded, "Autograd", with_keyset=True)
    torch.library.register_vmap(op, batch, lib=_library)
    return op


OPS = {name: _register(name, operator) for name, operator in OPERATORS.items()}


# Noise whose seed and epoch are tensors of one int64, which a graph takes as they come


def _seeded_noise_kernel(seed: Any, epoch: Any, sample_ids: Any, num_tokens: int) -> Any:
    tokens = checks.count(num_tokens, "num_tokens")
    if seed.is_cuda and seed.device == epoch.device == sample_ids.device:  # the kernel reads them
        there = OnDevice(seed.to(torch.int64)), OnDevice(epoch.to(torch.int64))
        return _execute(TokenNoise(*there, tokens), (sample_ids,))  # type: ignore[arg-type]
    key, number = checks.bits64(int(seed), "seed"), checks.epoch(int(epoch))
    return _execute(TokenNoise(key, number, tokens), (sample_ids,))


def _seeded_noise_fake(seed: Any, epoch: Any, sample_ids: Any, num_tokens: Any) -> Any:
    return sample_ids.new_empty((sample_ids.shape[0], num_tokens), dtype=torch.float32)


seeded_noise = define(
    "seeded_noise",
    "(Tensor seed, Tensor epoch, Tensor sample_ids, SymInt num_tokens) -> Tensor",
    _seeded_noise_kernel,
    _seeded_noise_fake,
    waits=True,  # the seed of a graph under capture would be the seed of every replay
)
batch_one_by_one(seeded_noise)


def require_one_device(seed: Any, epoch: Any, sample_ids: Any) -> None:
    """Refuse a seed and an epoch that are not where their noise is made."""
    devices = {tensor.device for tensor in (seed, epoch, sample_ids)}
    if len(devices) > 1:
        where = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"seed, epoch and sample_ids are on {where}: one device is needed")


def _noise_beside_kernel(seed: Any, epoch: Any, sample_ids: Any, num_tokens: int) -> Any:
    require_one_device(seed, epoch, sample_ids)
    return _seeded_noise_kernel(seed, epoch, sample_ids, num_tokens)


#: The same of a seed and an epoch on the device of the noise, for which nothing waits.
noise_beside = define(
    f"seeded_noise{NOWAIT}",
    "(Tensor seed, Tensor epoch, Tensor sample_ids, SymInt num_tokens) -> Tensor",
    _noise_beside_kernel,
    _seeded_noise_fake,
)
batch_one_by_one(noise_beside)
