"""JAX arrays on the CPU: read where they lie, and results handed over where they lie.

The kernels run on NumPy views of the arrays. A result that begins on a cache line, as those of a
megabyte and more do, becomes a JAX array without a copy.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from nbgather.containers.base import Container, HostViews, Run
from nbgather.containers.numpy import NumpyContainer


class JaxContainer(HostViews):
    """JAX arrays on one CPU device. Where one lies is looked at every time."""

    name = "JAX"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.numpy = NumpyContainer(run)

    def serves(self, kind: type) -> bool:
        return issubclass(kind, (jax.Array, jax.core.Tracer))

    def locate(self, array: Any, what: str) -> Container:
        if isinstance(array, jax.core.Tracer):
            raise TypeError(
                f"{what} is traced by JAX, which cannot run a kernel: wrap the call in"
                " jax.pure_callback(function, jax.ShapeDtypeStruct(shape, dtype), ...)"
            )
        if type(array).__name__ != "ArrayImpl":
            raise TypeError(
                f"{what} is a JAX array of dtype {array.dtype}: plain numbers are needed"
            )
        places = array.devices()
        if {d.platform for d in places} != {"cpu"} or len(places) > 1:
            raise TypeError(
                f"{what} is a JAX array on {', '.join(sorted(map(str, places)))}: one CPU device is"
                " needed"
            )
        return self

    def view(self, array: Any) -> Any:
        return np.asarray(array) if isinstance(array, jax.Array) else array

    def ids_view(self, ids: Any) -> Any:
        # Without x64 JAX has no int64.
        array = self.view(ids)
        return array.astype(np.int64) if getattr(array, "dtype", None) == np.int32 else array

    def back(self, array: np.ndarray, like: Any) -> Any:
        # int64 becomes int32 where JAX has x64 turned off.
        if array.dtype == np.int64 and not jax.config.jax_enable_x64:
            array = array.astype(np.int32)
        return jax.device_put(array, jax.devices("cpu")[0])

    def namespace(self, array: Any) -> Any:
        return jax.numpy


SERVES = JaxContainer
