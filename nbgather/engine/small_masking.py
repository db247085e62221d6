"""Small maskings and their parts, kept to be repeated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nbgather.engine import arrays, memo
from nbgather.engine.plan import results_of
from nbgather.kernels import small
from nbgather.kernels.small import Place
from nbgather.operations.base import FLOAT32, INT64
from nbgather.operations.patches import MaskedPatchify
from nbgather.operations.tokens import RandomMasking, RankTokens, TokenNoise

#: What a masking kernel calls scores of a dtype.
_SOURCES = {"float32": "f4", "float64": "f8"}

#: The last three operands of a call that is drawn: sample ids, seed and epoch.
_IDS, _SEED, _EPOCH = -3, -2, -1


def _drawn(count: int, ids: Any) -> tuple[Any, dict[str, Any]]:
    """The place of the sample ids, and the numbers of a draw, of a call with ``count`` operands."""
    seed = count + _SEED
    numbers = {
        "epoch": Place(small.LOW32, count + _EPOCH),
        "key_low": Place(small.LOW32, seed),
        "key_high": Place(small.HIGH32, seed),
        "implied": int(ids is None),
    }
    return (0 if ids is None else small.operand(count + _IDS)), numbers


def keep_noise(
    container: Any, backend: Any, operation: TokenNoise, ids: Any, pair: tuple[int, int]
) -> None:
    """Keep small noise that went well."""
    head = memo.head(TokenNoise, operation.num_tokens)
    if not container.exact_types or not memo.again(container, head, container.spec(ids)):
        return
    place, numbers = _drawn(3, ids)
    args = numbers["epoch"], numbers["key_low"], numbers["key_high"]
    step = backend.noise_by_address(args, pair, small.result(0), place, run=backend.step)
    memo.keep(container, backend, head, (ids, 0, 0), [memo.Result(pair, FLOAT32)], [step])


def _step(
    backend: Any,
    pair: tuple[int, int],
    kept: int,
    restore: int,
    mask: int,
    *,
    drawn: tuple[Any, dict[str, Any]] | None = None,
    scores: tuple[int, str] = (0, ""),
    tokens: tuple[Any, Any, int, int, int] = (0, 0, 0, 0, 0),
    keep: int | None = None,
) -> Any:
    """The masking kernel as a step.

    ``restore``, ``mask`` and ``keep`` are numbers of results; ``drawn`` is of :func:`_drawn`, or
    else ``scores`` are an operand's number and dtype; ``tokens`` as the engine's masking has them.
    """
    ids, numbers = (0, {}) if drawn is None else drawn
    source = "seed" if drawn is not None else _SOURCES[scores[1]]
    target, first, row, x_n, x_l = tokens
    return backend.masking(
        source, pair[0], target, first, ids, 0 if drawn is not None else small.operand(scores[0]),
        run=backend.step, length=pair[1], kept=kept, row=row, x_n=x_n, x_l=x_l,
        keep=0 if keep is None else small.result(keep), restore=small.result(restore),
        mask=small.result(mask), **numbers,
    )  # fmt: skip


def _is_ranked_as_it_is(container: Any, scores: Any) -> bool:
    """Whether a kernel ranks scores without a copy of them."""
    spec = container.spec(scores)
    return spec.dtype.native and spec.dtype.name in _SOURCES and arrays.is_contiguous(spec)


def keep_ranks(container: Any, backend: Any, operation: RankTokens, scores: Any) -> None:
    """Keep small ranks that went well."""
    head, spec = memo.head(RankTokens, operation.keep.number), container.spec(scores)
    if operation.keep.number is None or not _is_ranked_as_it_is(container, scores):
        return
    if 0 in spec.shape or not memo.again(container, head, spec):
        return
    pair, kept = spec.shape, operation.keep.number
    step = _step(backend, pair, kept, 1, 2, scores=(0, spec.dtype.name), keep=0)
    results = [memo.Result((pair[0], kept), INT64), memo.Result(pair, INT64)]
    results.append(memo.Result(pair, FLOAT32))
    memo.keep(container, backend, head, (scores,), results, [step])


def _head(operation: RandomMasking, *parameters: Any) -> Any:
    """What a masking is kept under; None where each sample keeps a number of its own."""
    keep = operation.keep
    if keep.counts is not None:
        return None
    return memo.head(type(operation), *parameters, keep.ratio, keep.number)


def _source_of(
    container: Any, operation: RandomMasking, operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The operands of a masking that is kept, and where :func:`masking_step` finds the scores."""
    x, noise, ids = operands
    if noise is None:
        return (x, None, ids, 0, 0), {"drawn": _drawn(5, ids)}
    if not _is_ranked_as_it_is(container, noise):
        return None
    return (x, noise, None, None, 0), {"scores": (1, container.spec(noise).dtype.name)}


def keep_masking(
    container: Any, backend: Any, operation: RandomMasking, operands: tuple[Any, ...]
) -> None:
    """Keep a small masking that went well."""
    x = operands[0]
    spec, head = container.spec(x), _head(operation)
    source = _source_of(container, operation, operands)
    if head is None or source is None or 0 in spec.shape[:2]:
        return
    if not memo.again(
        container, head, *[None if o is None else container.spec(o) for o in operands]
    ):
        return
    pair, inner = spec.shape[:2], spec.shape[2:]
    kept, row = operation.keep.of(pair[1]), math.prod(inner) * spec.dtype.itemsize
    tokens = small.result(0), small.operand(0), row, *spec.strides[:2]
    step = _step(backend, pair, kept, 2, 1, tokens=tokens, **source[1])
    results = [memo.Result((pair[0], kept, *inner), x.dtype), memo.Result(pair, FLOAT32)]
    results.append(memo.Result(pair, INT64))
    memo.keep(container, backend, head, source[0], results, [step])


def keep_masked_patches(
    container: Any,
    backend: Any,
    operation: MaskedPatchify,
    operands: tuple[Any, ...],
    cut_by: Callable[..., Any],
) -> None:
    """Keep small patches, masked and cut, that went well; their ids are left between the steps.

    ``cut_by`` is of :mod:`nbgather.engine.patches`.
    """
    images, noise, ids = operands
    spec = container.spec(images)
    head = _head(operation, *operation.patch_size, *(operation.affine or ()))
    source = _source_of(container, operation, operands)
    item = spec.dtype.itemsize
    if head is None or source is None or any(s % item for s in spec.strides):
        return
    if not memo.again(
        container, head, *[None if o is None else container.spec(o) for o in operands]
    ):
        return
    specs = results_of(
        operation, spec, None if noise is None else container.spec(noise),
        None if ids is None else container.spec(ids),
    )  # fmt: skip
    cut, mask = specs[0].shape, specs[1].shape
    if 0 in mask:
        return
    steps, owner = [_step(backend, mask, cut[1], 2, 1, keep=3, **source[1])], None
    if 0 not in cut:
        step, owner = cut_by(backend, operation, spec, specs[0])
        steps.append(step)
    dtype = images.dtype if operation.affine is None else FLOAT32
    results = [memo.Result(cut, dtype), memo.Result(mask, FLOAT32), memo.Result(mask, INT64)]
    hidden = [memo.Result(cut[:2], INT64)]
    memo.keep(container, backend, head, source[0], results, steps, hidden=hidden, owner=owner)
