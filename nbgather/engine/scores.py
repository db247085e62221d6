"""The orders of masking strategies, which are made on the host."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nbgather.engine import arrays, backends
from nbgather.kernels.memory import memory_address
from nbgather.operations import checks
from nbgather.operations.base import FLOAT32, Options
from nbgather.operations.scores import Score

#: Aspect ratios that blocks are drawn from.
NUM_ASPECTS = 1024
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


def step_of(
    backend: Any, operation: Score, pair: tuple[int, ...], out: Any, ids: Any
) -> tuple[Any, Any]:
    """What scores the tokens ``pair`` = `[N, L]` by int64 ids: a step, and memory it refers to."""
    aspects = _aspects(operation.min_aspect)
    args = operation.epoch, operation.seed & _LOW32, operation.seed >> 32
    step = backend.strategy_by_address(
        operation.strategy, operation.grid, operation.numbers, memory_address(aspects), args,
        pair, out, ids, run=backend.step,
    )  # fmt: skip
    return step, aspects


def score(container: Any, operation: Score, operands: tuple[Any, ...], options: Options) -> Any:
    """Float32 `[N, L]`: each token's place in the order."""
    (ids,) = operands
    spec = container.spec(ids)
    checks.sample_ids(spec.shape, spec.dtype.name)
    if container.home != "cpu":  # scores are made where the samples are loaded
        host = arrays.integers(container, ids)
        return container.from_numpy(container.host.execute(operation, (host,), options), ids)
    ids = arrays.int64_ids(container, ids)
    scores = container.empty((spec.shape[0], operation.num_tokens), ids, FLOAT32)
    backend = backends.serving(options.backend, "cpu")
    if spec.shape[0]:
        args = operation.epoch, operation.seed & _LOW32, operation.seed >> 32
        backend.strategy(
            operation.strategy, operation.grid, operation.numbers, _aspects(operation.min_aspect),
            args, *arrays.views(container, ids, scores),
        )  # fmt: skip
    return scores
