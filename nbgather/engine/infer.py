"""The inverse of gather: which dimension and index made this output?

Every value becomes its rank among the input's distinct values; a lane and a rank together are one
integer key. Along each dimension the input's keys are sorted once, stably, and every output cell
looks its key up: the first of equal keys is the lowest index, and the key after it tells whether
it is the only one. Everything is O(n log n).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.engine import apart, arrays
from nbgather.operations.base import Options
from nbgather.operations.infer import GatherSolution, InferGather

#: What an item costs, in bytes that are moved meanwhile.
ITEM_BYTES = 1000


def infer_gather(
    container: Any, operation: InferGather, operands: tuple[Any, ...], options: Options
) -> list[GatherSolution]:
    """Every solution, with indices of the container."""
    x, y = operands
    spec = container.spec(x)
    if container.home != "cpu":
        raise TypeError(f"input is on {spec.device}: infer_gather looks at the host's memory")
    operation.check(spec, container.spec(y))
    bits = arrays.bits(container, x), arrays.bits(container, y)
    work = sum(a.size for a in bits) * ITEM_BYTES
    solutions = apart.run(work, operands, infer_bits, *bits)
    return [s._replace(index=container.from_numpy(s.index, y)) for s in solutions]


def infer_bits(x: np.ndarray, y: np.ndarray) -> list[GatherSolution]:
    """Every solution for input bits ``x`` and output bits ``y`` of the same dtype and rank."""
    shape = y.shape
    # 0-d counts as one dimension of length 1.
    x, y = (a.reshape(1) if a.ndim == 0 else a for a in (x, y))
    fitting = [
        d
        for d in range(x.ndim)
        if all(m <= n for e, (m, n) in enumerate(zip(y.shape, x.shape, strict=True)) if e != d)
    ]
    if y.size == 0:
        return [GatherSolution(d, np.empty(shape, np.int64), True) for d in fitting]
    if not fitting or x.size == 0:
        return []
    ranks = _ranks(x, y)
    if ranks is None:
        return []
    solutions = []
    for d in fitting:
        solution = _along(*ranks, d)
        if solution is not None:
            solutions.append(GatherSolution(d, solution[0].reshape(shape), solution[1]))
    return solutions


def _ranks(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Each item's rank among the input's distinct values; None if the output has another value."""
    if x.itemsize == 16:
        # Halves rank separately, then as pairs: void items have no fast order.
        halves = []
        both = [np.ascontiguousarray(a).view(np.uint64).reshape(*a.shape, 2) for a in (x, y)]
        for word in (0, 1):
            half = _ranks(both[0][..., word], both[1][..., word])
            if half is None:
                return None
            halves.append(half)
        (x0, y0, _), (x1, y1, count) = halves
        x, y = x0 * count + x1, y0 * count + y1
    apart.check()
    values, inverse = np.unique(x, return_inverse=True)
    apart.check()
    position = np.searchsorted(values, y.reshape(-1))
    position[position == values.size] = 0
    if not np.array_equal(values[position], y.reshape(-1)):
        return None
    return inverse.reshape(x.shape).astype(np.int64), position.reshape(y.shape), values.size


def _along(x: np.ndarray, y: np.ndarray, distinct: int, d: int) -> tuple[np.ndarray, bool] | None:
    """The lowest index of ``y`` in ``x`` along ``d`` and whether it is the only one, or None."""
    apart.check()
    # Only the lanes of the input that the output reaches.
    x = x[tuple(slice(None) if e == d else slice(n) for e, n in enumerate(y.shape))]
    x, y = np.moveaxis(x, d, -1), np.moveaxis(y, d, -1)
    size = x.shape[-1]
    lanes = x.size // size
    lane = np.arange(lanes, dtype=np.int64)[:, None] * distinct
    keys = (x.reshape(lanes, size) + lane).reshape(-1)
    sought = (y.reshape(lanes, -1) + lane).reshape(-1)
    order = np.argsort(keys, kind="stable")
    apart.check()
    keys = keys[order]
    position = np.searchsorted(keys, sought)
    position[position == keys.size] = 0
    if not np.array_equal(keys[position], sought):
        return None
    index = (order[position] % size).reshape(y.shape)
    following = np.minimum(position + 1, keys.size - 1)
    repeated = (following > position) & (keys[following] == sought)
    return np.ascontiguousarray(np.moveaxis(index, -1, d)), not bool(repeated.any())
