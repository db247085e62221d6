"""Whether results can be written to what was given as ``out=``."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nbgather.engine import arrays
from nbgather.operations.base import Spec

#: Steps that NumPy may take to tell two arrays apart.
MAX_OVERLAP_WORK = 10_000


def check_out(container: Any, out: Any, operands: list[tuple[str, Any, Spec]]) -> Spec:
    """The specification of ``out``, which is writable and overlaps neither itself nor an operand.

    ``operands`` are (name, array, specification). That it fits the result is checked by
    :func:`check_match`.
    """
    if not container.is_writable(out):
        raise ValueError("out is read-only: it must be writable")
    spec: Spec = container.spec(out)
    _check_distinct(spec)
    low, high = _extent(spec)
    start = container.address(out)
    for name, array, its_spec in operands:
        its_low, its_high = _extent(its_spec)
        its_start = container.address(array)
        if start + low < its_start + its_high and its_start + its_low < start + high:
            _check_apart(arrays.bits(container, out), arrays.bits(container, array), name)
    return spec


def check_match(spec: Spec, result: Spec) -> None:
    """Whether ``out`` has the shape and dtype of the result."""
    if spec.shape != result.shape:
        raise ValueError(f"out has shape {spec.shape}: the result has shape {result.shape}")
    if spec.dtype.name != result.dtype.name:
        raise ValueError(
            f"out has dtype {spec.dtype.name}: the result has dtype {result.dtype.name}"
        )


def into(container: Any, result: Any, out: Any) -> Any:
    """The result, or ``out`` with it: nothing is written to it before all has gone well."""
    if out is None or result is out:
        return result
    container.assign(out, result)
    return out


def _check_apart(out: np.ndarray, operand: np.ndarray, name: str) -> None:
    """Refuse an ``out`` that shares an element with an operand whose extent it meets."""
    try:
        shared = np.shares_memory(out, operand, max_work=MAX_OVERLAP_WORK)  # type: ignore[arg-type]
    except (np.exceptions.TooHardError, ValueError):
        shared = True  # telling them apart is too much work
    if shared:
        raise ValueError(f"out overlaps {name} in memory: it must overlap no operand")


@functools.lru_cache(maxsize=1024)
def _extent(spec: Spec) -> tuple[int, int]:
    """The bytes that an array reaches, as an offset from its address and one past the last."""
    if 0 in spec.shape:
        return 0, 0
    steps = [s * (n - 1) for n, s in zip(spec.shape, spec.strides, strict=True)]
    return sum(min(s, 0) for s in steps), sum(max(s, 0) for s in steps) + spec.dtype.itemsize


@functools.lru_cache(maxsize=1024)
def _check_distinct(spec: Spec) -> None:
    """Refuse an ``out`` that overlaps itself."""
    if _overlaps_itself(spec.shape, spec.strides, spec.dtype.itemsize):
        raise ValueError(
            f"out overlaps itself (shape {spec.shape}, strides {spec.strides} bytes): every element"
            " must have a place of its own"
        )


def _overlaps_itself(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    if math.prod(shape) < 2:
        return False
    axes = sorted((abs(s), n) for s, n in zip(strides, shape, strict=True) if n > 1)
    # Sufficient, not necessary: each stride steps over all that the smaller ones reach.
    reach = itemsize
    for stride, n in axes:
        if stride < reach:
            return True
        reach += stride * (n - 1)
    return False
