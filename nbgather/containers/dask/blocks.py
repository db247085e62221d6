"""What a task of a graph runs: an operation on the blocks that it was given, on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.containers.numpy import NumpyContainer
from nbgather.engine.run import run
from nbgather.kernels.cpu import limits
from nbgather.operations.base import Operation, Options

_NUMPY = NumpyContainer(run)


def execute(operation: Operation, *operands: Any, out: Any = None) -> Any:
    """Execute an operation on NumPy arrays, on the calling thread."""
    with limits.limit_threads(1):
        return _NUMPY.execute(operation, operands, Options(out))


def item(dtype: np.dtype[Any], value: Any) -> np.ndarray:
    """A fill value as an array of one item."""
    return _NUMPY.item_bits(value, np.empty(0, dtype), "fill_value").view(dtype)
