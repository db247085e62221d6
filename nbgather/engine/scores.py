"""The scores of masking strategies: the places of tokens in an order, and what is made of noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from nbgather.engine import apart, arrays, backends, device_errors, masking, small_masking
from nbgather.engine.masking import key_of
from nbgather.operations import checks
from nbgather.operations.base import FLOAT32, Options, contiguous_strides
from nbgather.operations.blocks import MultiBlock, MultiBlockIds
from nbgather.operations.scores import OwnScores, Score, Stripes, Tube, check_frame
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
    order = operation.order
    if not _by_kernels(options) or not backends.get("cuda").scores_here(*order[:3]):
        return _on_host(container, operation, ids, options)

    def launch(backend: Any, args: Any, ids: Any, out: int, samples: int, place: Any) -> None:
        aspects = None
        if order.strategy == "block":
            aspects = container.constant(_aspects(operation.min_aspect), ids)
        backend.strategy(
            *order[:3], 0 if aspects is None else container.address(aspects), args,
            container.address(ids), out, samples, place, arrays.scratch_beside(container, ids),
        )  # fmt: skip

    return _launched(container, operation, ids, options, launch)


def _by_kernels(options: Options) -> bool:
    """Whether a call is for the kernels of a GPU, where the ids are on one."""
    return options.backend in (None, "cuda")


def _launched(
    container: Any,
    operation: Score | Stripes | MultiBlock,
    ids: Any,
    options: Options,
    launch: Callable[..., None],
) -> Any:
    """Scores float32 `[N, L]` that a launch fills where there are some.

    It is given the backend, (epoch, key low, key high, what is told of these), ids, the address of
    the scores, the number of samples, and the place.
    """
    spec = container.spec(ids)
    checks.sample_ids(spec.shape, spec.dtype.name)
    backend = backends.serving(options.backend, container.home, spec.device)
    (place,) = container.place(ids)
    device_errors.poll(backend, place)
    ids = arrays.int64_ids(container, ids)
    scores = container.empty((spec.shape[0], operation.num_tokens), ids, FLOAT32)
    if spec.shape[0] and operation.num_tokens:
        args = key_of(container, operation.seed, operation.epoch)
        launch(backend, args, ids, container.address(scores), spec.shape[0], place)
    return scores


def _on_host(container: Any, operation: Any, ids: Any, options: Options) -> Any:
    """Scored on the host, which waits for the ids; the scores are copied to where these are."""
    spec = container.spec(ids)
    checks.sample_ids(spec.shape, spec.dtype.name)
    on_host = Options(backend=None if _by_kernels(options) else options.backend)
    host = arrays.integers(container, ids)
    known = {
        name: arrays.number_on_host(container, getattr(operation, name))
        for name in ("seed", "epoch")
    }
    operation = replace(operation, **known)
    results = container.host.execute(operation, (host,), on_host)
    if isinstance(results, tuple):
        return tuple(container.from_numpy(result, ids) for result in results)
    return container.from_numpy(results, ids)


def stripes(container: Any, operation: Stripes, operands: tuple[Any, ...], options: Options) -> Any:
    """On a GPU by kernels; elsewhere by what they are made of."""
    (ids,) = operands
    if container.home == "cpu":
        return NotImplemented
    if not _by_kernels(options) or not backends.get("cuda").axes_here(operation.grid):
        return _on_host(container, operation, ids, options)

    def launch(backend: Any, args: Any, ids: Any, out: int, samples: int, place: Any) -> None:
        backend.stripes(
            operation.grid, operation.kept, args, container.address(ids), out, samples, place,
            arrays.scratch_beside(container, ids),
        )  # fmt: skip

    return _launched(container, operation, ids, options, launch)


def multiblock(
    container: Any, operation: MultiBlock, operands: tuple[Any, ...], options: Options
) -> Any:
    """The same of several blocks."""
    (ids,) = operands
    if container.home == "cpu":
        return NotImplemented
    if not _by_kernels(options):
        return _on_host(container, operation, ids, options)

    def launch(backend: Any, args: Any, ids: Any, out: int, samples: int, place: Any) -> None:
        drawn = operation.blocks.numbers
        backend.multiblock(drawn, args, container.address(ids), out, samples, place)

    return _launched(container, operation, ids, options, launch)


def multiblock_ids(
    container: Any, operation: MultiBlockIds, operands: tuple[Any, ...], options: Options
) -> Any:
    """The ids of these blocks, and how many each has."""
    (ids,) = operands
    if container.home == "cpu":
        return NotImplemented
    if not _by_kernels(options):
        return _on_host(container, operation, ids, options)
    specs = operation.result(container.spec(ids))
    backend = backends.serving(options.backend, container.home, container.spec(ids).device)
    (place,) = container.place(ids)
    device_errors.poll(backend, place)
    ids = arrays.int64_ids(container, ids)
    results = tuple(container.empty(spec.shape, ids, spec.dtype) for spec in specs)
    (samples, most), (_, _, each) = specs[0].shape, specs[1].shape
    if samples:
        context, targets, kept, numbers = map(container.address, results)
        backend.multiblock_ids(
            operation.blocks.numbers, (most, each),
            key_of(container, operation.seed, operation.epoch), container.address(ids),
            (context, targets, kept, numbers), samples, place,
        )  # fmt: skip
    return results


def own_scores(
    container: Any, operation: OwnScores, operands: tuple[Any, ...], options: Options
) -> Any:
    """By somebody's function of the ids' own arrays; of NumPy's, where these compute nothing."""
    (ids,) = operands
    if container.home == "cpu" or container.computes(ids):
        return NotImplemented
    return _on_host(container, operation, ids, options)


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
