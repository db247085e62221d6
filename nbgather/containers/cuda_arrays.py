"""What arrays on a GPU have in common, whatever their library."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from nbgather.containers.base import Container
from nbgather.containers.numpy import NumpyContainer
from nbgather.engine import arrays

#: Small arrays of numbers on a device, by their bytes and where they are. Nothing of a caller's.
_constants: dict[tuple[Any, ...], Any] = {}
_constants_lock = threading.Lock()
MAX_CONSTANTS = 64


class CudaArrays(Container):
    """Arrays in the memory of a GPU."""

    home = "cuda"

    @property
    def host(self) -> Container:
        """NumPy's container, for what is made on the host."""
        return NumpyContainer(self.run)

    def copy(self, array: Any) -> Any:
        result = self.empty(self.spec(array).shape, array)
        self.assign(result, array)
        return result

    def assign(self, target: Any, source: Any) -> None:
        arrays.copy_on_device(self, target, source)

    def side(self, array: np.ndarray, like: Any) -> Any:
        return self.from_numpy(array, like)

    def recall(self, head: Any, operands: tuple[Any, ...]) -> Any:
        return None

    def constant(self, array: np.ndarray, like: Any) -> Any:
        """Few numbers that are asked for again and again, beside ``like``."""
        # The stream is a part of the key: another one would not wait for the copy.
        key = (self.name, type(like).__module__, array.tobytes(), *self.place(like))
        with _constants_lock:
            result = _constants.pop(key, None)
        if result is None:
            result = self.from_numpy(array.copy(), like)
        with _constants_lock:
            _constants[key] = result  # the latest last
            while len(_constants) > MAX_CONSTANTS:
                del _constants[next(iter(_constants))]
        return result
