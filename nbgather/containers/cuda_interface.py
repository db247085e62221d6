"""Arrays that tell of themselves by ``__cuda_array_interface__``: CuPy's, numba's and others'.

Results are CuPy arrays for CuPy arrays, and numba's for all others.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from nbgather.containers.cuda_arrays import CudaArrays
from nbgather.containers.numpy import describe, item_bits
from nbgather.engine import backends
from nbgather.kernels.cuda.contexts import Place
from nbgather.operations.base import DType, Operation, Options, Spec, contiguous_strides

#: What the driver calls the legacy default stream, where an array is of no stream.
NO_STREAM = 0
#: Arrays that were made under capture into a CUDA graph. It has their addresses, and neither numba
#: nor CuPy knows how long it lives, so they are kept as long as the process does.
_of_graphs: list[Any] = []


def interface_of(array: Any) -> dict[str, Any]:
    """What an array says of itself; a TypeError or ValueError where that cannot be meant.

    An array of no library that is known may say anything, and something else at the next look.
    """
    said = array.__cuda_array_interface__
    kind = f"a {type(array).__module__}.{type(array).__qualname__}"
    if not isinstance(said, dict):
        raise TypeError(f"{kind} has {said!r} as its __cuda_array_interface__: a dict is needed")

    def refuse(name: str, need: str) -> NoReturn:
        raise ValueError(
            f"{kind} says {name} {said.get(name)!r} in its __cuda_array_interface__: {need} is"
            " needed"
        )

    shape: Any = said.get("shape")
    strides, data = said.get("strides"), said.get("data")
    if not (_are_ints(shape) and all(0 <= n < 1 << 63 for n in shape)):
        refuse("shape", "a tuple of whole numbers from 0 up")
    if strides is not None and not (_are_ints(strides) and len(strides) == len(shape)):
        refuse("strides", "None or a number of bytes for each dimension")
    if not (isinstance(data, tuple) and len(data) == 2 and _are_ints(data[:1]) and data[0] >= 0):
        refuse("data", "(an address, whether it is read-only)")
    if not (data[0] or 0 in shape):
        refuse("data", "an address of memory")
    if said.get("mask") is not None:
        refuse("mask", "None")
    try:
        is_plain = not np.dtype(said["typestr"]).hasobject
    except (KeyError, TypeError, ValueError):
        is_plain = False
    if not is_plain:
        refuse("typestr", "that of a dtype without Python's objects")
    return said


def _are_ints(values: Any) -> bool:
    is_sequence = isinstance(values, (tuple, list))
    return is_sequence and all(isinstance(v, (int, np.integer)) for v in values)


class CudaInterfaceContainer(CudaArrays):
    """Arrays with the interface, of any library."""

    name = "CUDA"

    def _described(self, array: Any) -> tuple[dict[str, Any], np.dtype[Any]]:
        interface = interface_of(array)
        dtype = getattr(array, "dtype", None)  # knows bfloat16, which the interface has no word for
        if not isinstance(dtype, np.dtype):
            dtype = np.dtype(interface["typestr"])
        return interface, dtype

    def spec(self, array: Any) -> Spec:
        backends.get("cuda")  # what can be wrong with the driver is said there
        interface, dtype = self._described(array)
        shape, strides = tuple(interface["shape"]), interface.get("strides")
        if strides is None:
            strides = contiguous_strides(shape, dtype.itemsize)
        return Spec(shape, tuple(strides), describe(dtype), self.device(array))

    def shape(self, array: Any) -> tuple[Any, ...]:
        return tuple(interface_of(array)["shape"])

    def device(self, array: Any) -> str:
        return f"cuda:{self.place(array)[0].device}"

    def address(self, array: Any) -> int:
        return int(interface_of(array)["data"][0])

    def is_writable(self, array: Any) -> bool:
        return not interface_of(array)["data"][1]

    def place(self, array: Any) -> tuple[Place, ...]:
        backends.get("cuda")  # what can be wrong with the driver is said there
        return (_library(array).place(array),)

    def empty(self, shape: tuple[int, ...], like: Any, dtype: DType | None = None) -> Any:
        kind = self._described(like)[1] if dtype is None else np.dtype(dtype.name)
        library, driver = _library(like), backends.get("cuda").driver
        place = library.place(like)
        # Under capture into a CUDA graph as well, which allocations are no part of.
        with library.context(like), driver.relaxed():
            result = library.empty(shape, kind, place)
        if driver.capturing(place):
            _of_graphs.append(result)
        return result

    def upload(self, array: np.ndarray, like: Any) -> Any:
        library = _library(like)
        with library.context(like):
            return library.from_numpy(array, library.place(like))

    def item_bits(self, value: Any, like: Any, what: str) -> np.ndarray:
        return item_bits(self._described(like)[1], value, what)

    def number_row(self, value: Any, inner: tuple[int, ...], like: Any) -> Any:
        row = super().number_row(value, inner, like)
        return self.from_numpy(row.view(self._described(like)[1]), like)

    def token_row(self, token: Any, inner: tuple[int, ...], like: Any) -> Any:
        spec, kind = self.spec(token), self.spec(like).dtype
        shape, strides = spec.shape, spec.strides
        while len(shape) > len(inner) and shape[0] == 1:
            shape, strides = shape[1:], strides[1:]
        if spec.dtype != kind:
            raise TypeError(
                f"mask_token has dtype {spec.dtype.name}: {kind.name} is needed, as x_visible's"
            )
        if shape != inner or strides != contiguous_strides(inner, kind.itemsize):
            raise ValueError(
                f"mask_token has shape {spec.shape}: one contiguous token of shape {inner} is"
                " needed"
            )
        return token

    def namespace(self, array: Any) -> Any:
        library = type(array).__module__.partition(".")[0]
        if library == "cupy":
            return importlib.import_module("array_api_compat.cupy")
        xp = sys.modules.get(library)
        return xp if hasattr(xp, "where") else _Casts(type(array).__module__)

    def computes(self, array: Any) -> bool:
        return not isinstance(self.namespace(array), _Casts)

    def execute(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        if operation.composed and not hasattr(operands[0], "reshape"):
            raise TypeError(
                f"a {type(operands[0]).__module__} array cannot be reshaped: CuPy's can"
            )
        arrays_given = [a for a in (*operands, options.out) if hasattr(type(a), "shape")]
        self._follow(operands[0], arrays_given)
        result = super().execute(operation, operands, options)
        if options.out is not None:
            self._follow(options.out, operands[:1])
        return result

    def _follow(self, first: Any, others: Sequence[Any]) -> None:
        """Let the stream of an array wait for those of other arrays, where they tell of one."""
        (place,) = self.place(first)
        streams = {self.place(other)[0].stream for other in others} - {place.stream, NO_STREAM}
        if streams:
            backends.get("cuda").driver.follow(place, sorted(streams))


class _Casts:
    """What is left of a namespace where a library has none: casts, by the arrays' own method."""

    int64, float32 = np.int64, np.float32

    def __init__(self, library: str) -> None:
        self.library = library

    def astype(self, array: Any, dtype: Any) -> Any:
        """The values in another dtype."""
        if not hasattr(array, "astype"):
            raise TypeError(
                f"an array of {self.library} cannot be cast to {np.dtype(dtype)}: CuPy's and"
                " torch's can"
            )
        return array.astype(dtype)

    def __getattr__(self, name: str) -> Any:
        raise TypeError(
            f"{self.library} has no function {name!r} for its arrays: CuPy and torch have"
        )


class _Numba:
    """Arrays of numba, and of libraries that nothing more is known of."""

    def place(self, array: Any) -> Place:
        interface = interface_of(array)
        address, stream = interface["data"][0], interface.get("stream")
        if stream is not None and stream <= 0:
            raise ValueError(
                f"a {type(array).__module__} array says that it is of stream {stream}: None, 1"
                " (the legacy default), 2 (the default of a thread) or a handle is needed"
            )
        cuda = backends.get("cuda")
        return Place(cuda.driver.device_of(address) if address else 0, stream or NO_STREAM)

    def context(self, array: Any) -> Any:
        from numba import cuda

        return cuda.gpus[self.place(array).device]

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> Any:
        from numba import cuda

        return cuda.device_array(shape, dtype, stream=self._stream(place))

    def from_numpy(self, array: np.ndarray, place: Place) -> Any:
        from numba import cuda

        return cuda.to_device(array, stream=self._stream(place))

    def _stream(self, place: Place) -> Any:
        """The stream that a new array is of, so that who takes it next can wait for it."""
        from numba import cuda

        return cuda.external_stream(place.stream) if place.stream != NO_STREAM else 0


class _Cupy:
    def __init__(self) -> None:
        self.cupy: Any = sys.modules["cupy"]

    def place(self, array: Any) -> Place:
        return Place(array.device.id, self.cupy.cuda.get_current_stream().ptr)

    def context(self, array: Any) -> Any:
        return array.device

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> Any:
        return self.cupy.empty(shape, dtype)

    def from_numpy(self, array: np.ndarray, place: Place) -> Any:
        return self.cupy.asarray(array)


#: How each library, by the name of its package, makes arrays and tells its stream.
LIBRARIES: dict[str, Callable[[], Any]] = {"cupy": _Cupy}


@functools.lru_cache(maxsize=16)
def _maker(package: str) -> Any:
    return LIBRARIES.get(package, _Numba)()


def _library(array: Any) -> Any:
    return _maker(type(array).__module__.partition(".")[0])


SERVES = CudaInterfaceContainer
