"""The scores of masking strategies: the places of tokens in an order."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nbgather.engine import apart, arrays, backends, device_errors, masking, small_masking
from nbgather.operations import checks
from nbgather.operations.base import FLOAT32, Options, contiguous_strides
from nbgather.operations.scores import Score, Tube, check_frame
from nbgather.operations.tokens import TokenNoise

#: Aspect ratios that blocks are drawn from.
NUM_ASPECTS = 1024
#: What ordering a token costs, in bytes that are moved meanwhile.
ORDER_BYTES = 150
_LOW32 = 0xFFFFFFFF


@functools.lru_cache(maxsize=64)
def _aspects(least: float | None) -> np.ndarray:
    """Aspect ratios, even on a logarithmic scale, the same bits on every machine."""
    if least is None:
        return np.ones(1)
    import decimal

    with decimal.localcontext(decimal.Context(prec=40)):
        log, last = decimal.Decimal(least).ln(), decimal.Decimal(NUM_ASPECTS - 1)
        steps = [log - log * k / last * 2 for k in range(NUM_ASPECTS)]
        return np.array([float(step.exp()) for step in steps])


def step_maker(backend: Any, operation: Score, samples: int) -> tuple[Any, Any]:
    """What makes the step that scores so many samples, and memory that it refers to.

    It is called as :func:`nbgather.engine.small_masking.keep_scores` calls it.
    """
    order = *operation.order[:3], _aspects(operation.min_aspect)
    return functools.partial(backend.strategy_by_address, *order, samples), order


def score(container: Any, operation: Score, operands: tuple[Any, ...], options: Options) -> Any:
    """Float32 `[N, L]`: each token's place in the order."""
    (ids,) = operands
    spec = container.spec(ids)
    checks.sample_ids(spec.shape, spec.dtype.name)
    if container.home != "cpu":
        return _score_on_device(container, operation, ids, options)
    ids = arrays.int64_ids(container, ids)
    scores = container.empty((spec.shape[0], operation.num_tokens), ids, FLOAT32)
    backend = backends.serving(options.backend, "cpu")
    if spec.shape[0]:
        args = operation.epoch, operation.seed & _LOW32, operation.seed >> 32
        aspects = _aspects(operation.min_aspect)
        views = arrays.views(container, ids, scores)
        work = operation.num_tokens * ORDER_BYTES
        apart.run(work, scores, backend.strategy, *operation.order[:3], aspects, args, *views)
        if options.backend is None and ids is operands[0] and operation.num_tokens:
            step, owner = step_maker(backend, operation, spec.shape[0])
            pair, head = (spec.shape[0], operation.num_tokens), operation.order
            small_masking.keep_scores(container, backend, head, ids, pair, step, owner=owner)
    return scores


def _score_on_device(container: Any, operation: Score, ids: Any, options: Options) -> Any:
    """By its own kernels, or where that takes too long on the host."""
    spec, order = container.spec(ids), operation.order
    is_own = options.backend in (None, "cuda")
    if not is_own or not backends.get("cuda").scores_here(*order[:3]):
        host = arrays.integers(container, ids)
        return container.from_numpy(container.host.execute(operation, (host,), options), ids)
    backend = backends.serving(options.backend, container.home, spec.device)
    (place,) = container.place(ids)
    device_errors.poll(backend, place)
    ids = arrays.int64_ids(container, ids)
    scores = container.empty((spec.shape[0], operation.num_tokens), ids, FLOAT32)
    if not spec.shape[0] or not operation.num_tokens:
        return scores
    args = operation.epoch, operation.seed & _LOW32, operation.seed >> 32
    aspects = None
    if order.strategy == "block":
        aspects = container.constant(_aspects(operation.min_aspect), ids)
    backend.strategy(
        *order[:3], 0 if aspects is None else container.address(aspects), args,
        container.address(ids), container.address(scores), spec.shape[0], place,
        arrays.scratch_beside(container, ids),
    )  # fmt: skip
    return scores


def _tube_on_device(
    container: Any, operation: Tube, operands: tuple[Any, ...], options: Options
) -> Any:
    """The scores of a frame, copied for each."""
    frame, spatial = operation.grid[1:], operation.spatial
    tokens = math.prod(frame)
    if spatial is None:
        noise = TokenNoise(checks.bits64(operation.seed, "seed"), operation.epoch, tokens)
        scores = container.apply(operands[0], options.backend).run(noise, *operands)
    else:
        scores = spatial(
            operation.seed, *operands, frame, epoch=operation.epoch, backend=operation.backend
        )
        check_frame(scores, tokens)
    spec = container.spec(scores)
    shape, item = (spec.shape[0], operation.grid[0], tokens), spec.dtype.itemsize
    result = container.empty((shape[0], operation.num_tokens), scores)
    if 0 not in shape:
        backends.get("cuda").copy(
            container.address(result), container.address(scores), shape,
            contiguous_strides(shape, item), (spec.strides[0], 0, spec.strides[1]), item,
            *container.place(scores),
        )  # fmt: skip
    return result


def tube(container: Any, operation: Tube, operands: tuple[Any, ...], options: Options) -> Any:
    """A frame's noise for all frames at once, where noise is what scores it."""
    (ids,) = operands
    spec = container.spec(ids)
    if container.home != "cpu":
        return _tube_on_device(container, operation, operands, options)
    backend = backends.serving(options.backend, container.home, spec.device)
    if operation.spatial is not None or "frames" not in backend.DOES:
        return NotImplemented
    checks.sample_ids(spec.shape, spec.dtype.name)
    ids = arrays.int64_ids(container, ids)
    pair, frames = (spec.shape[0], operation.num_tokens), operation.grid[0]
    scores = container.empty(pair, ids, FLOAT32)
    if 0 in pair:
        return scores
    key = checks.bits64(operation.seed, "seed")
    args = operation.epoch, key & _LOW32, key >> 32
    step = functools.partial(backend.noise_by_address, pair, frames=frames)
    work = operation.num_tokens * masking.NOISE_BYTES
    apart.run(work, (scores, ids), step, args, container.address(scores), container.address(ids))
    if options.backend is None and ids is operands[0]:
        head = Tube, operation.grid
        small_masking.keep_scores(container, backend, head, ids, pair, step)
    return scores
