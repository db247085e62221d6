"""Arrays by specification and address: NumPy views of the host's memory, and copies anywhere.

Every function takes the array's container (:class:`nbgather.containers.base.Container`), which
tells the specification and the address, and makes new arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nbgather.engine import backends
from nbgather.kernels.memory import bits_dtype, view_memory
from nbgather.operations.base import INT64, Spec, is_contiguous
from nbgather.operations.on_device import OnDevice


def bits(container: Any, array: Any) -> np.ndarray:
    """An array's items as unsigned integers (16-byte ones as void), strides kept."""
    spec = container.spec(array)
    dtype = bits_dtype(spec.dtype.itemsize)
    return view_memory(container.address(array), spec.shape, spec.strides, dtype, array)


def integers(container: Any, array: Any) -> np.ndarray:
    """An array of integers on the host: a view, or of a device's array a copy."""
    spec = container.spec(array)
    code = spec.dtype.integer or "u1"
    if container.home == "cuda":
        return _device_integers(container, array, spec, code)
    dtype = np.dtype(code) if spec.dtype.native else np.dtype(code).newbyteorder()
    return view_memory(container.address(array), spec.shape, spec.strides, dtype, array)


def _device_integers(container: Any, array: Any, spec: Spec, code: str) -> np.ndarray:
    """A copy on the host, strides kept, after what the stream has still to do."""
    if 0 in spec.shape:
        return np.empty(spec.shape, code)
    reach = [s * (n - 1) for n, s in zip(spec.shape, spec.strides, strict=True)]
    low = sum(min(r, 0) for r in reach)
    nbytes = sum(max(r, 0) for r in reach) + spec.dtype.itemsize - low
    cuda = backends.get("cuda")
    (place,) = container.place(array)
    if cuda.driver.capturing(place):
        raise ValueError(
            "the values of an array on a GPU are needed on the host, which a CUDA graph under"
            " capture cannot give: make the call before"
        )
    memory = cuda.driver.read(container.address(array) + low, nbytes, place)
    return np.ndarray(spec.shape, code, memory.data, -low, spec.strides)


def number_on_host(container: Any, value: Any) -> Any:
    """A seed or an epoch as a number of Python, also where only a device knows it."""
    if type(value) is not OnDevice:
        return value
    return int(integers(container, value.array)) & (2**64 - 1)


def copy_on_device(container: Any, target: Any, source: Any) -> None:
    """Copy the items of an array on a GPU into another of the same shape and dtype, by a kernel."""
    spec = container.spec(source)
    if not math.prod(spec.shape):
        return
    backends.get("cuda").copy(
        container.address(target), container.address(source), spec.shape,
        container.spec(target).strides, spec.strides, spec.dtype.itemsize,
        *container.place(source),
    )  # fmt: skip


def scratch_beside(container: Any, like: Any) -> Callable[[int], int]:
    """What gives the address of so many bytes on the device of ``like``, as long as it is kept."""
    held = []

    def scratch(nbytes: int) -> int:
        held.append(container.empty((max(-(-nbytes // 8), 1),), like, INT64))
        return int(container.address(held[-1]))

    return scratch


def native_index(container: Any, index: Any) -> Any:
    """An index that kernels can walk: aligned, C-contiguous, in this machine's byte order."""
    spec = container.spec(index)
    if spec.dtype.native:
        return container.copy(index)
    if container.home != "cpu":
        raise TypeError(f"an array of dtype {spec.dtype.name} came: a GPU has another byte order")
    code = np.dtype(spec.dtype.integer)
    return container.from_numpy(integers(container, index).astype(code, order="C"), index)


def int64_ids(container: Any, ids: Any) -> Any:
    """Sample ids as a contiguous array of native int64; of the largest uint64 the bits count."""
    spec = container.spec(ids)
    if spec.dtype == INT64 or spec.dtype.integer == "u8":
        aligned = is_contiguous(spec) and not container.address(ids) % 8
        if aligned and spec.dtype.native:
            return ids  # whose bits are what the kernels read
    if container.home == "cpu":
        values = integers(container, ids).astype(np.int64, order="C")
        return container.from_numpy(values, ids)
    if spec.dtype.integer in ("i8", "u8"):
        return container.copy(ids)
    xp = container.namespace(ids)
    return xp.astype(ids, xp.int64)


def views(container: Any, *arrays: Any) -> list[np.ndarray]:
    """NumPy views of contiguous arrays that the engine made, or of int64 ids."""
    result = []
    for array in arrays:
        spec = container.spec(array)
        name = "int64" if spec.dtype.integer == "u8" else spec.dtype.name
        address = container.address(array)
        result.append(view_memory(address, spec.shape, spec.strides, name, array))
    return result
