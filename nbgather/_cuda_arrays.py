"""Arrays in the memory of a GPU: torch tensors there, CuPy and numba arrays, and whatever else has
``__cuda_array_interface__``.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from nbgather import _plan
from nbgather._arrays import Adapter, Key, Layout, TorchAdapter, _numpy_dtype, torch_token
from nbgather.engine import backends
from nbgather.kernels.cuda import launch as cuda
from nbgather.kernels.cuda.driver import Place


class _Device(Adapter):
    """What any array on a GPU has in common."""

    home = "cuda"

    def again(self, small: dict[Any, Any], head: Any, x: Any, i: Any) -> Any:
        return None

    def integers(self, array: Any) -> np.ndarray:
        """A copy on the host, strides kept, after what the stream has still to do."""
        layout = self.layout(self.key(array))
        reach = [s * (n - 1) for n, s in zip(layout.shape, layout.strides, strict=True)]
        low = sum(min(r, 0) for r in reach)
        nbytes = sum(max(r, 0) for r in reach) + layout.dtype.itemsize - low
        (place,) = self.place(array)
        with self.on(array):
            held = cuda.driver.read(self.address(array) + low, nbytes, place)
        return np.ndarray(
            layout.shape, layout.dtype.integer or "u1", held.data, -low, layout.strides
        )

    def writeable(self, array: Any) -> bool:
        return True

    def adopt(self, array: np.ndarray, like: Any) -> Any:
        return self.from_numpy(array, like)

    def empty_large(self, shape: tuple[int, ...], like: Any, nbytes: int) -> Any:
        return self.empty(shape, like)  # the libraries' own pools know when memory is free again

    def _copied(self, array: Any) -> Any:
        """A C-contiguous copy, by a kernel."""
        layout = self.layout(self.key(array))
        made = self.empty(layout.shape, array)
        self.assign(made, array)
        return made

    def assign(self, target: Any, source: Any) -> None:
        layout = self.layout(self.key(source))
        if math.prod(layout.shape):
            to = self.layout(self.key(target)).strides
            with self.on(source):
                cuda.copy(
                    self.address(target), self.address(source), layout.shape, to, layout.strides,
                    layout.dtype.itemsize, *self.place(source),
                )  # fmt: skip

    def constant(self, array: np.ndarray, like: Any) -> Any:
        """Few float32 that are asked for again and again, beside ``like``."""
        # The stream is a part of the key: another one would not wait for the copy.
        key = (self.name, type(like).__module__, array.tobytes(), *self.place(like))
        with _constants_lock:
            held = _constants.pop(key, None)
        if held is None:
            held = self.from_numpy(array.copy(), like)
        with _constants_lock:
            _constants[key] = held  # the latest last
            while len(_constants) > _MOST_CONSTANTS:
                del _constants[next(iter(_constants))]
        return held


#: Small arrays of numbers on a device, by their bytes and where they are. Nothing of a caller's.
_constants: dict[tuple[Any, ...], Any] = {}
_constants_lock = threading.Lock()
_MOST_CONSTANTS = 64


class TorchCudaAdapter(_Device, TorchAdapter):
    """Torch tensors on a GPU; the stream is torch's own current one, asked for at every call."""

    name = "torch"

    def at(self, array: Any) -> Adapter:
        return self

    def place(self, array: Any) -> tuple[Place, ...]:
        index = array.device.index
        return (Place(index, self.torch._C._cuda_getCurrentRawStream(index)),)

    def on(self, array: Any) -> Any:
        index = array.device.index
        if index == self.torch.cuda.current_device():
            return contextlib.nullcontext()
        return self.torch.cuda.device(index)

    def _serves(self, array: Any) -> bool:
        return bool(array.is_cuda)

    def empty(self, shape: tuple[int, ...], like: Any, dtype: str | None = None) -> Any:
        kind = like.dtype if dtype is None else getattr(self.torch, dtype)
        return self.torch.empty(shape, dtype=kind, device=like.device)

    def row_bits(self, array: Any, value: Any, shape: tuple[int, ...]) -> Any:
        torch = self.torch
        if isinstance(value, (int, float, complex)):
            self.scalar_bits(array, value)
            return torch.full(shape, value, dtype=array.dtype, device=array.device)
        if not isinstance(value, torch.Tensor) or value.device != array.device:
            raise TypeError(f"x_visible is a torch array on {array.device} and mask_token is not")
        return torch_token(torch, value.detach(), array.dtype, shape).contiguous()

    def from_numpy(self, array: np.ndarray, like: Any) -> Any:
        return self.torch.from_numpy(array).to(like.device)


class InterfaceAdapter(_Device):
    """Arrays that tell of themselves by ``__cuda_array_interface__``.

    Results are CuPy arrays for CuPy arrays, and numba's for all others.
    """

    name = "CUDA"

    def key(self, array: Any) -> Key:
        backends.get("cuda")  # what can be wrong with the driver is said there
        told = array.__cuda_array_interface__
        dtype = getattr(array, "dtype", None)  # knows bfloat16, which the interface has no word for
        if not isinstance(dtype, np.dtype):
            dtype = np.dtype(told["typestr"])
        strides = told.get("strides")
        if strides is None:
            strides = _plan.contiguous_strides(told["shape"], dtype.itemsize)
        return tuple(told["shape"]), tuple(strides), dtype

    def layout(self, key: Key) -> Layout:
        return Layout(key[0], key[1], _numpy_dtype(key[2]))

    def again_key(self, head: Any, x: Any, i: Any) -> Any:
        return None

    def numpy_dtype(self, array: Any) -> Any:
        return self.key(array)[2]

    def require_strided(self, array: Any) -> None:
        self.key(array)
        if not hasattr(array, "reshape"):
            raise TypeError(f"a {type(array).__module__} array cannot be reshaped: CuPy's can")

    def address(self, array: Any) -> int:
        return int(array.__cuda_array_interface__["data"][0])

    def writeable(self, array: Any) -> bool:
        return not array.__cuda_array_interface__["data"][1]

    def place(self, array: Any) -> tuple[Place, ...]:
        backends.get("cuda")  # what can be wrong with the driver is said there
        return (_library(array).place(array),)

    def on(self, array: Any) -> Any:
        return _library(array).on(array)

    def device(self, array: Any) -> str:
        return f"cuda:{self.place(array)[0].device}"

    def empty(self, shape: tuple[int, ...], like: Any, dtype: str | None = None) -> Any:
        kind = self.key(like)[2] if dtype is None else np.dtype(dtype)
        with self.on(like):
            return _library(like).empty(shape, kind)

    def from_numpy(self, array: np.ndarray, like: Any) -> Any:
        with self.on(like):
            return _library(like).from_numpy(array)

    def contiguous(self, array: Any) -> Any:
        dtype = self.key(array)[2]
        if not dtype.isnative:
            raise TypeError(f"an array of dtype {dtype} came: a GPU has another byte order")
        return self._copied(array)

    def clone(self, array: Any) -> Any:
        return self._copied(array)

    def cast(self, array: Any, dtype: Any) -> Any:
        if not hasattr(array, "astype"):
            raise TypeError(
                f"an array of {type(array).__module__} cannot be cast to {dtype}: CuPy's and"
                " torch's can"
            )
        return array.astype(dtype)

    def scalar_bits(self, array: Any, value: Any, what: str = "fill_value") -> np.ndarray:
        from nbgather._arrays import _numpy

        return _numpy.scalar_bits(np.empty(0, self.key(array)[2]), value, what)

    def row_bits(self, array: Any, value: Any, shape: tuple[int, ...]) -> Any:
        from nbgather._arrays import _numpy

        dtype = self.key(array)[2]
        if not hasattr(value, "__cuda_array_interface__"):
            row = _numpy.row_bits(np.empty(0, dtype), value, shape)
            return self.from_numpy(row.copy(), array)
        found, strides, its_dtype = self.key(value)
        while len(found) > len(shape) and found[0] == 1:
            found, strides = found[1:], strides[1:]
        if its_dtype != dtype:
            raise TypeError(f"mask_token has dtype {its_dtype}: {dtype} is needed, as x_visible's")
        if found != shape or strides != _plan.contiguous_strides(shape, dtype.itemsize):
            raise ValueError(
                f"mask_token has shape {tuple(value.shape)}: one contiguous token of shape {shape}"
                " is needed"
            )
        return value

    def permute(self, array: Any, order: tuple[int, ...]) -> Any:
        return array.transpose(order)

    def tile(self, array: Any, times: int) -> Any:
        return self.from_numpy(np.tile(self._host(array), (1, times)), array)

    def where(self, condition: Any, array: Any, other: Any) -> Any:
        library: Any = sys.modules.get(type(array).__module__.partition(".")[0])
        if not hasattr(library, "where"):
            raise TypeError(f"valid= needs CuPy or torch arrays, not {type(array).__module__}'s")
        return library.where(condition, array, other).astype(self.key(array)[2])

    def _host(self, array: Any) -> np.ndarray:
        shape, _, dtype = self.key(array)
        return self.integers(array).view(dtype).reshape(shape)


class _Numba:
    """Arrays of numba, and of libraries that we know nothing more of."""

    def place(self, array: Any) -> Place:
        told = array.__cuda_array_interface__
        address = told["data"][0]
        return Place(cuda.driver.device_of(address) if address else 0, told.get("stream") or 0)

    def on(self, array: Any) -> Any:
        return contextlib.nullcontext()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        from numba import cuda as numba_cuda

        return numba_cuda.device_array(shape, dtype)

    def from_numpy(self, array: np.ndarray) -> Any:
        from numba import cuda as numba_cuda

        return numba_cuda.to_device(array)


class _Cupy:
    def __init__(self) -> None:
        self.cupy = sys.modules["cupy"]

    def place(self, array: Any) -> Place:
        return Place(array.device.id, self.cupy.cuda.get_current_stream().ptr)

    def on(self, array: Any) -> Any:
        return array.device

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return self.cupy.empty(shape, dtype)

    def from_numpy(self, array: np.ndarray) -> Any:
        return self.cupy.asarray(array)


#: How each library, by the name of its package, makes arrays and tells its stream.
LIBRARIES: dict[str, Callable[[], Any]] = {"cupy": _Cupy}


@functools.lru_cache(maxsize=16)
def _maker(package: str) -> Any:
    return LIBRARIES.get(package, _Numba)()


def _library(array: Any) -> Any:
    return _maker(type(array).__module__.partition(".")[0])


#: The one adapter of arrays with the interface.
interface = InterfaceAdapter()
