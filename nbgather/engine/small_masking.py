"""Small maskings and their parts, kept to be repeated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from nbgather.engine import memo
from nbgather.engine.plan import results_of
from nbgather.kernels import small
from nbgather.kernels.small import Place
from nbgather.operations.base import FLOAT32, INT64, is_contiguous
from nbgather.operations.patches import MaskedPatchify
from nbgather.operations.tokens import RandomMasking, RankTokens

#: What a masking kernel calls scores of a dtype; those of 16 bits are widened before.
_SOURCES = {"float32": "f4", "float64": "f8", "float16": "f4", "bfloat16": "f4"}

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


def keep_scores(
    container: Any, backend: Any, head: Any, ids: Any, pair: tuple[int, int],
    step_of: Callable[..., Any], owner: Any = None,
) -> None:  # fmt: skip
    """Keep small scores by ids that went well.

    ``step_of(args, out, ids)`` makes the step, where the args are epoch and key, low and high.
    """
    if not container.exact_types or not memo.again(container, head, container.spec(ids)):
        return
    place, numbers = _drawn(3, ids)
    args = numbers["epoch"], numbers["key_low"], numbers["key_high"]
    step = step_of(args, small.result(0), place, run=backend.step)
    results = [memo.Result(pair, FLOAT32)]
    memo.keep(container, backend, head, (ids, 0, 0), results, [step], owner=owner)


def _step(
    backend: Any,
    pair: tuple[int, int],
    kept: int,
    restore: int,
    mask: int,
    *,
    drawn: tuple[Any, dict[str, Any]] | None = None,
    scores: tuple[Any, str] = (0, ""),
    tokens: tuple[Any, Any, int, int, int] = (0, 0, 0, 0, 0),
    keep: int | None = None,
) -> Any:
    """The masking kernel as a step.

    ``restore``, ``mask`` and ``keep`` are numbers of results; ``drawn`` is of :func:`_drawn`, or
    else ``scores`` of :class:`_Ranked`; ``tokens`` as the engine's masking has them.
    """
    ids, numbers = (0, {}) if drawn is None else drawn
    source = "seed" if drawn is not None else scores[1]
    target, first, row, x_n, x_l = tokens
    return backend.masking(
        source, pair[0], target, first, ids, 0 if drawn is not None else scores[0],
        run=backend.step, length=pair[1], kept=kept, row=row, x_n=x_n, x_l=x_l,
        keep=0 if keep is None else small.result(keep), restore=small.result(restore),
        mask=small.result(mask), **numbers,
    )  # fmt: skip


class _Ranked(NamedTuple):
    """Scores that are ranked without a copy by others than kernels.

    Their place and what the masking kernel calls them; the step that makes them of scores of 16
    bits, and the memory that it needs.
    """

    scores: tuple[Any, str]
    steps: tuple[Any, ...] = ()
    hidden: tuple[memo.Result, ...] = ()


def _ranked(container: Any, backend: Any, scores: Any, k: int, results: int) -> _Ranked | None:
    """The scores of operand ``k`` of a call with so many results, or None."""
    spec = container.spec(scores)
    name = spec.dtype.plain or spec.dtype.name
    if not spec.dtype.native or name not in _SOURCES or not is_contiguous(spec):
        return None
    place = small.operand(k)
    if spec.dtype.itemsize > 2:
        return _Ranked((place, _SOURCES[name]))
    wide = small.result(results)
    count = math.prod(spec.shape)
    step = backend.order_of_halves(name, count, wide, place, run=backend.step)
    hidden = memo.Result(tuple(spec.shape), FLOAT32)
    return _Ranked((wide, _SOURCES[name]), (step,), (hidden,))


def keep_ranks(container: Any, backend: Any, operation: RankTokens, scores: Any) -> None:
    """Keep small ranks that went well."""
    head, spec = memo.head(RankTokens, operation.keep.number), container.spec(scores)
    if operation.keep.number is None or 0 in spec.shape:
        return
    ranked = _ranked(container, backend, scores, 0, 3)
    if ranked is None or not memo.again(container, head, spec):
        return
    pair, kept = spec.shape, operation.keep.number
    step = _step(backend, pair, kept, 1, 2, scores=ranked.scores, keep=0)
    results = [memo.Result((pair[0], kept), INT64), memo.Result(pair, INT64)]
    results.append(memo.Result(pair, FLOAT32))
    memo.keep(
        container, backend, head, (scores,), results, [*ranked.steps, step], hidden=ranked.hidden
    )


def _head(operation: RandomMasking, *parameters: Any) -> Any:
    """What a masking is kept under; None where each sample keeps a number of its own."""
    keep = operation.keep
    if keep.counts is not None:
        return None
    return memo.head(type(operation), *parameters, keep.ratio, keep.number)


def _source_of(
    container: Any, backend: Any, operands: tuple[Any, ...], results: int
) -> tuple[tuple[Any, ...], dict[str, Any], _Ranked] | None:
    """The operands of a masking that is kept, where :func:`_step` finds the scores, and these."""
    x, noise, ids = operands
    if noise is None:
        return (x, None, ids, 0, 0), {"drawn": _drawn(5, ids)}, _Ranked((0, ""))
    ranked = _ranked(container, backend, noise, 1, results)
    if ranked is None:
        return None
    return (x, noise, None, None, 0), {"scores": ranked.scores}, ranked


def keep_masking(
    container: Any, backend: Any, operation: RandomMasking, operands: tuple[Any, ...]
) -> None:
    """Keep a small masking that went well."""
    x = operands[0]
    spec, head = container.spec(x), _head(operation)
    source = _source_of(container, backend, operands, 3)
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
    given, _, ranked = source
    memo.keep(container, backend, head, given, results, [*ranked.steps, step], hidden=ranked.hidden)


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
    source = _source_of(container, backend, operands, 4)
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
    given, places, ranked = source
    steps, owner = [*ranked.steps, _step(backend, mask, cut[1], 2, 1, keep=3, **places)], None
    if 0 not in cut:
        step, owner = cut_by(backend, operation, spec, specs[0])
        steps.append(step)
    dtype = images.dtype if operation.affine is None else FLOAT32
    results = [memo.Result(cut, dtype), memo.Result(mask, FLOAT32), memo.Result(mask, INT64)]
    hidden = [memo.Result(cut[:2], INT64), *ranked.hidden]
    memo.keep(container, backend, head, given, results, steps, hidden=hidden, owner=owner)
