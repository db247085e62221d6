"""A library with arrays on the simulated GPU that behave as CuPy's do, for chunks of Dask.

Its functions are NumPy's on the arrays behind, and refuse what is in the host's memory; NumPy's own
functions come here by ``__array_function__``, as Dask calls them. Nothing becomes a NumPy array by
itself.
"""

from __future__ import annotations

from typing import Any

import array_api_compat.numpy as host
import numpy as np
from dask.array.dispatch import concatenate_lookup, to_numpy_dispatch
from simulator import DeviceArray, _Library

from nbgather.kernels.cuda.contexts import Place


class Ndarray(np.lib.mixins.NDArrayOperatorsMixin, DeviceArray):
    """An array on the simulated GPU, with what CuPy's have."""

    device = None
    size = property(lambda self: self.array.size)
    nbytes = property(lambda self: self.array.nbytes)

    def view_of(self, array: np.ndarray) -> Ndarray:
        view = Ndarray.__new__(Ndarray)
        view.array, view.device_id, view.owner = array, self.device_id, self
        view.stream = self.stream
        return view

    def reshape(self, *shape: Any) -> Ndarray:
        array = self.array.reshape(*shape)
        return self.view_of(array) if np.shares_memory(array, self.array) else _here(array)

    def astype(self, dtype: Any, **options: Any) -> Ndarray:
        return _here(self.array.astype(dtype))

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return _call(getattr(ufunc, method), inputs, options)

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        return _call(function, inputs, options)

    def __getitem__(self, key: Any) -> Any:
        return self.view_of(np.asarray(self.array[_there(key)]))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.array[_there(key)] = _there(value)

    def __len__(self) -> int:
        return len(self.array)

    def __bool__(self) -> bool:
        return bool(self.array)

    def __int__(self) -> int:
        return int(self.array)

    def __reduce__(self) -> Any:
        return asarray, (self.array,)


class Library(_Library):
    """How nbgather makes such arrays."""

    def empty(self, shape: Any, dtype: Any, place: Any) -> Ndarray:
        return Ndarray(super().empty(shape, dtype, place).array, padded=True, stream=place.stream)


_PLACE = Place(0, 7)


def _here(array: np.ndarray) -> Ndarray:
    """A copy on the simulated GPU."""
    made = Library().empty(array.shape, array.dtype, _PLACE)
    made.array[...] = array
    return made


def _there(value: Any) -> Any:
    """The array behind; the host's arrays are refused."""
    if isinstance(value, Ndarray):
        return value.array
    if isinstance(value, (list, tuple)):
        return type(value)(map(_there, value))
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def _call(function: Any, inputs: Any, options: Any) -> Any:
    options = {k: _there(v) for k, v in options.items() if k != "device"}
    result = function(*map(_there, inputs), **options)
    if isinstance(result, tuple):
        return tuple(map(_here, result))
    return _here(np.asarray(result)) if isinstance(result, (np.ndarray, np.generic)) else result


def asarray(array: Any, **options: Any) -> Ndarray:
    """The one way from the host to this library."""
    return array if isinstance(array, Ndarray) else _here(np.asarray(array, **options))


def asnumpy(array: Ndarray) -> np.ndarray:
    """The one way back."""
    assert isinstance(array, Ndarray), type(array)
    return np.array(array.array)


def __getattr__(name: str) -> Any:
    function = getattr(host, name)
    if isinstance(function, type) or not callable(function):
        return function
    return lambda *inputs, **options: _call(function, inputs, options)


@concatenate_lookup.register(Ndarray)
def concatenate(arrays: Any, axis: int = 0) -> Ndarray:
    return _call(np.concatenate, (list(arrays),), {"axis": axis})


to_numpy_dispatch.register(Ndarray, lambda array, **options: asnumpy(array))
