"""What a task of a graph runs: an operation on the blocks that it was given, on one thread.

Blocks of NumPy are executed here, those of another library by its container, on its device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.containers import registry
from nbgather.containers.base import Container
from nbgather.containers.numpy import NumpyContainer
from nbgather.engine.run import run
from nbgather.kernels.cpu import limits
from nbgather.operations.base import Operation, Options

_NUMPY = NumpyContainer(run)


def is_numpy(block: Any) -> bool:
    """Whether a block, or what stands for the blocks of an array, is NumPy's."""
    return isinstance(block, (np.ndarray, np.generic))


def container_of(block: Any, what: str) -> Container:
    """What executes operations on a block."""
    return _NUMPY if is_numpy(block) else registry.find(block, what)


def execute(operation: Operation, *operands: Any, out: Any = None) -> Any:
    """Execute an operation on blocks of one library, on the calling thread and their device."""
    first, names = operands[0], operation.names
    container = container_of(first, names[0])
    for other, name in zip(operands, names, strict=False):
        # What is of one library may lie on two devices; the shapes of numbers are ().
        plain = container is _NUMPY and is_numpy(other)
        if not plain and getattr(other, "shape", ()) != ():
            registry.require_same(container, first, names[0], other, name)
    with limits.limit_threads(1):
        return container.execute(operation, operands, Options(out))


def namespace(block: Any) -> Any:
    """The functions of the library of a block."""
    return container_of(block, "a chunk").namespace(block)


def copy(block: Any) -> Any:
    """A C-contiguous copy of a block."""
    return container_of(block, "a chunk").copy(block)


def beside(array: np.ndarray, like: Any) -> Any:
    """An array of NumPy's, which says where items are, in the library of a block and beside it."""
    return container_of(like, "a chunk").from_numpy(array, like)


def brought(like: Any, array: np.ndarray) -> Any:
    """As :func:`beside`, for a task of ``functools.partial``."""
    return beside(array, like)


def item(dtype: np.dtype[Any], value: Any) -> np.ndarray:
    """A fill value as an array of one item."""
    return _NUMPY.item_bits(value, np.empty(0, dtype), "fill_value").view(dtype)
