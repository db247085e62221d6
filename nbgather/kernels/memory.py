"""The host's memory by address, and NumPy's views of it."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np


class _Memory:
    """Memory that NumPy can view without owning it; its owner is kept alive."""

    def __init__(self, interface: dict[str, Any], owner: object) -> None:
        self.__array_interface__ = interface
        self.owner = owner


def view_memory(
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any] | str,
    owner: object,
) -> np.ndarray:
    """View memory as an array of any strides, in bytes. The caller has checked the bounds."""
    if 0 in shape:
        return np.empty(shape, dtype)
    interface = {
        "version": 3,
        "shape": shape,
        "strides": strides,
        "typestr": np.dtype(dtype).str,
        "data": (address, False),
    }
    return np.asarray(_Memory(interface, owner))


def bits_dtype(itemsize: int) -> np.dtype[Any]:
    """The dtype that carries the bits of an item: unsigned, or 16 bytes of void."""
    return np.dtype(f"u{itemsize}" if itemsize <= 8 else "V16")


_OBJECT_HEAD_BYTES = object.__basicsize__


def _data_pointer_is_where_the_c_api_says() -> bool:
    probe = np.empty(3)
    try:
        value = ctypes.c_void_p.from_address(id(probe) + _OBJECT_HEAD_BYTES).value
    except (AttributeError, ValueError):
        return False
    return sys.implementation.name == "cpython" and value == probe.ctypes.data


#: Bytes from the start of an ndarray object (its ``id``) to the pointer to its data, which is the
#: first field after the object's head; None on an interpreter where that does not hold.
DATA_OFFSET = _OBJECT_HEAD_BYTES if _data_pointer_is_where_the_c_api_says() else None

_read_pointer = ctypes.c_size_t.from_address


def _address_from_struct(array: np.ndarray) -> int:
    # PyArray_DATA. `array.ctypes.data` and `__array_interface__` give the same for 0.8 us each, a
    # tenth of a whole call.
    return _read_pointer(id(array) + _OBJECT_HEAD_BYTES).value


def _address_from_ctypes(array: np.ndarray) -> int:
    return int(array.ctypes.data)


#: The address of a NumPy array's first element.
memory_address = _address_from_ctypes if DATA_OFFSET is None else _address_from_struct
