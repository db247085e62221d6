"""What arrays on a GPU have in common, whatever their library."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from nbgather.containers.base import Container
from nbgather.containers.numpy import NumpyContainer, describe
from nbgather.engine import arrays, backends
from nbgather.operations.base import DType

#: Small arrays of numbers on a device, by their bytes and where they are. Nothing of a caller's.
_constants: dict[tuple[Any, ...], Any] = {}
_constants_lock = threading.Lock()
MAX_CONSTANTS = 64
#: Bytes of the host that a CUDA graph under capture can be given: a launch writes 256 of them.
MAX_CAPTURED_BYTES = 1 << 16

_BYTE = DType("uint8", 1)


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

    def from_numpy(self, array: np.ndarray, like: Any) -> Any:
        # A structured dtype has no name that an empty array could be made by.
        if array.dtype.names or not self._comes_as_arguments(array.nbytes, like):
            return self.upload(array, like)
        result = self.empty(array.shape, like, describe(array.dtype))
        self._write(result, array)
        return result

    def upload(self, array: np.ndarray, like: Any) -> Any:
        """A copy of a NumPy array by the library itself."""
        raise NotImplementedError

    def bytes_beside(self, array: np.ndarray, like: Any) -> Any:
        """The bytes of a small NumPy array, of any dtype, where kernels can read them."""
        result = self.empty((array.nbytes,), like, _BYTE)
        self._write(result, array)
        return result

    def _write(self, result: Any, array: np.ndarray) -> None:
        backend = backends.get("cuda")
        backend.write(self.address(result), array.tobytes(), *self.place(result))

    def _comes_as_arguments(self, nbytes: int, like: Any) -> bool:
        """Whether so many bytes of the host are written by a kernel, and not copied.

        Few are faster so; and a CUDA graph under capture cannot wait for a copy.
        """
        backend = backends.get("cuda")
        if nbytes <= backend.WRITE_BYTES:
            return nbytes > 0
        if not backend.driver.capturing(*self.place(like)):
            return False
        if nbytes > MAX_CAPTURED_BYTES:
            raise ValueError(
                f"{nbytes} bytes of the host are needed on the GPU, and a CUDA graph under capture"
                f" takes {MAX_CAPTURED_BYTES}: give arrays that are on the GPU"
            )
        return True

    def recall(self, head: Any, operands: tuple[Any, ...]) -> Any:
        return None

    def constant(self, array: np.ndarray, like: Any) -> Any:
        """Few numbers that are asked for again and again, beside ``like``."""
        if backends.get("cuda").driver.capturing(*self.place(like)):
            return self.from_numpy(array, like)  # which is the graph's own, as long as it lives
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
