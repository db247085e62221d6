"""JAX arrays on one CUDA GPU, read where they lie; what JAX traces there is refused.

XLA computes on a stream of its own, and frees memory in the order of that stream alone. So nothing
of another stream may be left undone where XLA goes on: a kernel is launched when its operands are
computed, and a call ends when its results are. Results are in memory that JAX makes, as arrays that
nobody else has seen yet.
"""

from __future__ import annotations

import importlib
from typing import Any

import jax
import numpy as np

from nbgather.containers import jax_calls
from nbgather.containers.base import IDS, Container, Run
from nbgather.containers.cuda_arrays import CudaArrays
from nbgather.containers.numpy import describe, item_bits
from nbgather.engine import backends
from nbgather.kernels.cuda.driver import Place
from nbgather.operations.base import DType, Operation, Options, Spec

#: The legacy default stream.
STREAM = 0

# An older JAX has it elsewhere.
_enable_x64: Any = getattr(jax, "enable_x64", None)
if _enable_x64 is None:
    _enable_x64 = importlib.import_module("jax.experimental").enable_x64


class JaxCudaContainer(CudaArrays):
    """JAX arrays in the memory of one CUDA GPU."""

    name = "JAX"
    takes_numpy, takes_out = True, False  # NumPy beside a GPU is refused in words of its own

    def __init__(self, run: Run, namespace: Any) -> None:
        super().__init__(run)
        self._namespace = namespace

    def locate(self, array: Any, what: str) -> Container:
        kind = array.sharding.memory_kind
        if kind not in (None, "device"):
            raise TypeError(
                f"{what} is a JAX array in memory of the kind {kind}: one in the GPU's own is"
                f" needed, as jax.device_put({what}, jax.devices('gpu')[0])"
            )
        return self

    def spec(self, array: Any) -> Spec:
        backends.get("cuda")  # what can be wrong with the driver is said there
        dtype, shape = describe(np.dtype(array.dtype)), tuple(array.shape)
        return Spec(shape, _strides(array, dtype.itemsize), dtype, self.device(array))

    def ordinal(self, array: Any) -> int:
        """CUDA's number of the device that an array is on."""
        (device,) = array.devices()
        return int(device.local_hardware_id)

    def device(self, array: Any) -> str:
        return f"cuda:{self.ordinal(array)}"

    def place(self, array: Any) -> tuple[Place, ...]:
        return (Place(self.ordinal(array), STREAM),)

    def address(self, array: Any) -> int:
        # Asked for before a kernel is launched that reads or writes there.
        jax.block_until_ready(array)
        return int(array.unsafe_buffer_pointer())

    def empty(self, shape: tuple[int, ...], like: Any, dtype: DType | None = None) -> Any:
        kind = like.dtype if dtype is None else jax.numpy.dtype(dtype.name)
        (device,) = like.devices()
        with _enable_x64(True):
            return jax.numpy.empty(shape, kind, device=device)

    def from_numpy(self, array: np.ndarray, like: Any) -> Any:
        (device,) = like.devices()
        if array.dtype == np.dtype("V16"):  # the bits of an item
            array = array.view(np.complex128)
        with _enable_x64(True):
            return jax.device_put(array, device)

    def item_bits(self, value: Any, like: Any, what: str) -> np.ndarray:
        return item_bits(np.dtype(like.dtype), value, what)

    def number_row(self, value: Any, inner: tuple[int, ...], like: Any) -> Any:
        row = super().number_row(value, inner, like)
        return self.from_numpy(row.view(np.dtype(like.dtype)).reshape(inner), like)

    def token_row(self, token: Any, inner: tuple[int, ...], like: Any) -> Any:
        return jax_calls.token_of(token, inner, like.dtype)

    def namespace(self, array: Any) -> Any:
        return self._namespace

    def execute(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        if options.out is not None:
            raise ValueError(f"out= was given for {self.name} arrays: they cannot be written to")
        ready = tuple(
            _as_int64(o) if name in IDS and o is not None else o
            for name, o in zip(operation.names, operands, strict=True)
        )
        driver = backends.get("cuda").driver
        try:
            results = super().execute(operation, ready, options)
        finally:
            driver.synchronize(*self.place(operands[0]))
        return tuple(map(_back, results)) if isinstance(results, tuple) else _back(results)


def _strides(array: Any, itemsize: int) -> tuple[int, ...]:
    """Strides in bytes, of whatever order the dimensions have in memory."""
    form = getattr(array, "format", None) or getattr(array, "layout", None)
    layout = getattr(form, "layout", None) or getattr(form, "device_local_layout", None)
    order = getattr(layout, "major_to_minor", None)
    strides, step = [0] * array.ndim, itemsize
    for d in reversed(range(array.ndim) if order is None else order):
        strides[d] = step
        step *= max(array.shape[d], 1)
    return tuple(strides)


def _as_int64(ids: Any) -> Any:
    """Ids as kernels take them, also where JAX has no int64 of its own."""
    if ids.dtype.kind not in "iu" or ids.dtype.itemsize == 8:
        return ids
    with _enable_x64(True):
        return ids.astype(np.int64)


def _back(result: Any) -> Any:
    """A result as JAX has it: int32 for int64 where x64 is off."""
    if result.dtype != np.int64 or jax.config.jax_enable_x64:
        return result
    with _enable_x64(True):
        return jax.block_until_ready(result.astype(np.int32))
