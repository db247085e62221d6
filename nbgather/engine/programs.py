"""Operations as programs: planned from the specifications of dense arrays, before there are any.

What XLA compiles runs these (:mod:`nbgather.kernels.program`). The plans, the kernels and the steps
are those of calls on arrays; what is not here has no program, and is made of what has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nbgather.engine import backends, bad_index, patches, scores
from nbgather.engine.plan import plan_gather, results_of
from nbgather.engine.plan_scatter import plan_scatter
from nbgather.engine.scatter import combining, has_kernel
from nbgather.kernels import small
from nbgather.kernels.cpu import limits
from nbgather.kernels.memory import memory_address
from nbgather.kernels.program import PLACE, VALUE, Fault, Program
from nbgather.kernels.small import Place
from nbgather.operations.base import Operation, Spec
from nbgather.operations.cleared import Cleared
from nbgather.operations.indexing import (
    Gather,
    GatherTokens,
    Scatter,
    ScatterAdd,
    TakeAlongAxis,
    TakeInBounds,
)
from nbgather.operations.patches import CutPatches, Patchify, Unpatchify
from nbgather.operations.reducing import ScatterReduce
from nbgather.operations.scores import Score
from nbgather.operations.shapes import needs_position
from nbgather.operations.tokens import (
    ChooseTokens,
    RandomMasking,
    RankTokens,
    RestoreTokens,
    SeededNoise,
    TokenNoise,
)

Specs = tuple[Spec | None, ...]

#: What a pointer that no kernel uses points to.
_UNUSED = np.zeros(16, np.uint8)
_LOW32 = 0xFFFFFFFF
#: The bytes that buffers of XLA are aligned to, less one.
_MOST_MASK = 15
#: Bytes of a result from which on large pages are asked for, as NumPy does.
LARGE_BYTES = 1 << 22


def program_of(operation: Operation, specs: Specs, item: bytes = b"") -> Program | None:
    """The program of an operation; None where it has none.

    Parameters
    ----------
    operation : Operation
        Whatever is not known of it yet is in ``item``.
    specs : tuple of Spec or None
        Of C-contiguous arrays in native byte order; ids are int64, scores float32 or float64. An
        index may have strides of 0 where it is broadcast; see also :func:`held`.
    item : bytes
        The bits of the value that a gather fills with, or of the number that is scattered.
    """
    make = _MAKERS.get(type(operation))
    program = None if make is None else make(operation, specs, item)
    if program is None or any(step is None for step in program.steps):
        return None
    if program.mask > _MOST_MASK:
        return None
    return program._replace(steps=[*_advice(operation, specs), *program.steps])


def _advice(operation: Operation, specs: Specs) -> list[Any]:
    """The steps that ask for large pages of large results, which are in new memory."""
    first = specs[0]
    if first is not None and _is_held(first):
        return []
    steps = []
    for k, spec in enumerate(results_of(operation, *specs)):
        nbytes = math.prod(spec.shape) * spec.dtype.itemsize
        if nbytes >= LARGE_BYTES:
            steps.append(_backend().advise(small.result(k), nbytes, run=_backend().step))
    return [step for step in steps if step is not None]


def held(spec: Spec) -> Spec:
    """The specification of a scatter's input whose memory the result has: strides of 0."""
    return spec._replace(strides=(0,) * len(spec.shape))


def _is_held(spec: Spec) -> bool:
    return bool(spec.shape) and spec.strides == held(spec).strides


def _backend() -> Any:
    return backends.get("cpu")


def _of_index(index: Spec, operand: int, dim: int, size: int, from_end: bool = False) -> Fault:
    """What is said of an index that is out of bounds."""
    return Fault(
        operand, index.dtype.integer or "i8", index.shape, index.strides, size, from_end,
        bad_index.message(chr(VALUE), chr(PLACE), dim, size),
        bad_index.unseen(dim, size),
    )  # fmt: skip


def _gather(operation: Gather, specs: Specs, item: bytes) -> Program:
    x, index = specs[0], specs[1]
    assert x is not None
    assert index is not None
    restores = isinstance(operation, RestoreTokens)
    if restores:
        results_of(operation, *specs)
    kind: Any = type(operation)
    plan = plan_gather(kind, operation.dim, operation.mode, x, index, None)
    uses = (0, 1, 2) if restores else (0, 1)
    if plan.count == 0:
        return Program(uses, 1, ())
    needs_position(plan.shape, plan.size, plan.dim, plan.mode)
    limit = plan.limit if restores else plan.size
    fault = _of_index(index, 1, plan.dim, limit, plan.from_end)
    if plan.size == 0 and plan.mode == "raise":
        return Program(uses, 1, (), fault._replace(always=True))
    fill: Any = _UNUSED
    if item:
        fill = np.tile(np.frombuffer(item, np.uint8), plan.row or 1)
    aux = small.operand(2) if restores else memory_address(fill)
    backend = _backend()
    step = backend.gather(
        plan, small.result(0), small.operand(0), small.operand(1), aux, run=backend.step
    )
    mask = backend.address_mask(plan) | plan.item_mask | plan.index_mask
    return Program(uses, 1, (step,), fault, mask, owner=(plan, fill))


def _scatter(operation: Scatter, specs: Specs, item: bytes) -> Program | None:
    x, index, src = specs
    assert x is not None
    assert index is not None
    how = combining(operation, x.dtype)
    plan = plan_scatter(operation, x, index, src)
    if plan.count and not plan.nbytes:
        # XLA runs nothing whose result is empty, so that nobody would learn of it later.
        raise IndexError(bad_index.unseen(plan.dim, plan.size))
    backend, target, given = _backend(), small.result(0), small.operand(0)
    if how is NotImplemented or (isinstance(how, tuple) and not has_kernel(backend, plan, how)):
        return None
    value = np.frombuffer(item or b"\0", np.uint8)
    steps = []
    if not _is_held(x) and (not plan.copies or not plan.count):
        steps.append(backend.copy(target, given, plan.nbytes, run=backend.step))
        given = target
    mask = 0
    if plan.count:
        source = memory_address(value) if src is None else small.operand(2)
        steps.append(
            backend.scatter(plan, target, small.operand(1), source, how, given, run=backend.step)
        )
        mask = plan.item_mask | plan.index_mask
    fault = _of_index(index, 1, plan.dim, plan.size)
    uses = (0, 1) if src is None else (0, 1, 2)
    return Program(uses, 1, steps, fault, mask, floats=how is not None, owner=(plan, value))


def _cleared(operation: Cleared, specs: Specs, item: bytes) -> Program:
    (result,) = results_of(operation, *specs)
    nbytes = math.prod(result.shape) * result.dtype.itemsize
    steps = [_backend().clear(small.result(0), nbytes, run=_backend().step)] if nbytes else []
    return Program((), 1, steps)


def _key(seed: int, epoch: int) -> dict[str, int]:
    return {"epoch": epoch, "key_low": seed & _LOW32, "key_high": seed >> 32}


def _noise(operation: TokenNoise, specs: Specs, item: bytes) -> Program:
    (result,) = results_of(operation, *specs)
    if not math.prod(result.shape):
        return Program((0,), 1, ())
    backend, key = _backend(), tuple(_key(operation.seed, operation.epoch).values())
    step = backend.noise_by_address(
        result.shape, key, small.result(0), small.operand(0), run=backend.step
    )
    return Program((0,), 1, (step,), mask=7)


def _seeded(operation: SeededNoise, specs: Specs, item: bytes) -> Program:
    (result,) = results_of(operation, *specs)
    uses, scalars = (0, 1, 2), 0b110
    if not math.prod(result.shape):
        return Program(uses, 1, (), scalars=scalars)
    backend = _backend()
    key = Place(small.LOW32, 2), Place(small.LOW32, 1), Place(small.HIGH32, 1)
    step = backend.noise_by_address(
        result.shape, key, small.result(0), small.operand(0), run=backend.step
    )
    return Program(uses, 1, (step,), mask=7, scalars=scalars)


def _masked(
    operation: RankTokens | ChooseTokens | RandomMasking,
    pair: tuple[int, int],
    uses: tuple[int, ...],
    numbers: dict[str, Any],
    source: str = "seed",
    pointers: tuple[Any, Any, Any, Any] = (0, 0, 0, 0),
) -> Program:
    """The masking kernel over ``pair`` = (N, L) tokens; three results."""
    samples, length = pair
    if not samples or not length:
        return Program(uses, 3, ())
    counts = operation.keep.counts
    owner = None if counts is None else np.array(counts, np.int64)
    backend = _backend()

    def made() -> Any:
        return backend.masking(
            source, samples, *pointers, run=backend.step, length=length,
            kept=operation.keep.of(length), counts=0 if owner is None else memory_address(owner),
            **numbers,
        )  # fmt: skip

    step = made()
    if step is None:  # a step has no memory that several threads share to rank one sample
        with limits.limit_threads(1):
            step = made()
    other = f"no memory to rank {length} tokens"
    return Program(uses, 3, (step,), Fault(other=other), 7, owner=owner)


def _ranks(operation: RankTokens, specs: Specs, item: bytes) -> Program | None:
    (scores,) = specs
    assert scores is not None
    results_of(operation, scores)
    if scores.dtype.itemsize < 4:
        return None
    numbers = {"keep": small.result(0), "restore": small.result(1), "mask": small.result(2)}
    source, pointers = f"f{scores.dtype.itemsize}", (0, 0, 0, small.operand(0))
    return _masked(operation, scores.shape, (0,), numbers, source, pointers)


def _choice(operation: ChooseTokens, specs: Specs, item: bytes) -> Program:
    x, ids = specs
    assert x is not None
    operation.check(*specs)
    numbers: dict[str, Any] = {"keep": small.result(0), "restore": small.result(1)}
    numbers |= {"mask": small.result(2)}
    numbers |= _key(operation.seed, operation.epoch) | {"implied": int(ids is None)}
    pointers = (0, 0, 0 if ids is None else small.operand(0), 0)
    uses = () if ids is None else (1,)
    pair = x.shape[0], operation.num_tokens
    return _masked(operation, pair, uses, numbers, pointers=pointers)


def _masking(operation: RandomMasking, specs: Specs, item: bytes) -> Program | None:
    x, noise, ids = specs
    assert x is not None
    operation.check(x, noise, ids)
    pair, row = (x.shape[0], x.shape[1]), math.prod(x.shape[2:]) * x.dtype.itemsize
    numbers: dict[str, Any] = {"restore": small.result(2), "mask": small.result(1), "row": row}
    numbers |= {"x_n": pair[1] * row, "x_l": row}
    tokens = small.result(0), small.operand(0)
    if noise is not None:
        if noise.dtype.itemsize < 4:
            return None
        scores = f"f{noise.dtype.itemsize}"
        return _masked(operation, pair, (0, 1), numbers, scores, (*tokens, 0, small.operand(1)))
    assert operation.seed is not None
    numbers |= _key(operation.seed, operation.epoch) | {"implied": int(ids is None)}
    if ids is None:
        return _masked(operation, pair, (0,), numbers, pointers=(*tokens, 0, 0))
    return _masked(operation, pair, (0, 2), numbers, pointers=(*tokens, small.operand(1), 0))


def _cut(operation: CutPatches, specs: Specs, item: bytes) -> Program | None:
    images, ids = specs[:2]
    assert images is not None
    assert ids is not None
    (result,) = results_of(operation, *specs)
    places = small.result(0), small.operand(0), small.operand(1)
    if not math.prod(result.shape):
        return Program((0, 1), 1, ())
    step, table = patches.step_of_cut(_backend(), operation, images, ids, places)
    mask, computes = images.dtype.itemsize - 1 | 7, table is not None
    return Program((0, 1), 1, (step,), mask=mask, floats=computes, owner=table)


def _moved(operation: Patchify | Unpatchify, specs: Specs, item: bytes) -> Program | None:
    (array,) = specs
    assert array is not None
    step = patches.step_of_all(_backend(), operation, array)
    if step is None:
        return None
    return Program((0,), 1, step, mask=array.dtype.itemsize - 1)


def _score(operation: Score, specs: Specs, item: bytes) -> Program:
    (result,) = results_of(operation, *specs)
    if not math.prod(result.shape):
        return Program((0,), 1, ())
    backend, key = _backend(), tuple(_key(operation.seed, operation.epoch).values())
    make, owner = scores.step_maker(backend, operation, result.shape[0])
    step = make(key, small.result(0), small.operand(0), run=backend.step)
    other = f"no memory to order {result.shape[1]} tokens"
    return Program((0,), 1, (step,), Fault(other=other), 7, floats=True, owner=owner)


_MAKERS: dict[type[Operation], Callable[..., Program | None]] = {
    Cleared: _cleared,
    Gather: _gather,
    TakeAlongAxis: _gather,
    TakeInBounds: _gather,
    GatherTokens: _gather,
    RestoreTokens: _gather,
    Scatter: _scatter,
    ScatterAdd: _scatter,
    ScatterReduce: _scatter,
    TokenNoise: _noise,
    SeededNoise: _seeded,
    RankTokens: _ranks,
    ChooseTokens: _choice,
    RandomMasking: _masking,
    CutPatches: _cut,
    Patchify: _moved,
    Unpatchify: _moved,
    Score: _score,
}
