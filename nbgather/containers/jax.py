"""JAX arrays: on the CPU read where they lie, and results handed over where they lie.

The kernels run on NumPy views of the arrays. A result that begins on a cache line, as those of a
megabyte and more do, becomes a JAX array without a copy. What JAX traces becomes part of what XLA
compiles, see :mod:`nbgather.containers.jax_rules`. Those on a GPU have a container of their own,
:mod:`nbgather.containers.jax_cuda`.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from nbgather.containers import jax_calls, jax_cuda, jax_places, jax_rules
from nbgather.containers.base import IDS, Container, HostViews, Run
from nbgather.containers.numpy import NumpyContainer
from nbgather.kernels.cpu import floats
from nbgather.operations.base import PLAIN, Apply, Operation, Options

#: Dtypes of which a byte holds more than one item, or part of one.
_PACKED = ("int1", "uint1", "int2", "uint2", "int4", "uint4", "float4_e2m1fn")
#: Functions of a namespace that make an array on a device.
_MAKERS = ("arange", "asarray", "full", "zeros")


class _Namespace:
    """jax.numpy, whose int64 is int32 where JAX has no other.

    ``placed`` says whether new arrays go where they are asked for: what a traced array says of its
    device is for JAX alone.
    """

    def __init__(self, placed: bool) -> None:
        self._placed = placed

    @property
    def int64(self) -> Any:
        return jax.dtypes.canonicalize_dtype(np.int64)

    def __getattr__(self, name: str) -> Any:
        function = getattr(jax.numpy, name)
        if self._placed or name not in _MAKERS:
            return function
        return lambda *args, device=None, **options: function(*args, **options)


_NAMESPACE, _NAMESPACE_OF_GPUS = _Namespace(placed=False), _Namespace(placed=True)


class JaxContainer(HostViews):
    """JAX arrays on one CPU device, and traced ones. Where one lies is looked at every time."""

    name = "JAX"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.numpy = NumpyContainer(run)
        self.on_gpu = jax_cuda.JaxCudaContainer(run, _NAMESPACE_OF_GPUS)
        jax_rules.install(self)

    def serves(self, kind: type) -> bool:
        return issubclass(kind, (jax.Array, jax.core.Tracer))

    def locate(self, array: Any, what: str) -> Container:
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended) or array.dtype.name in _PACKED:
            raise TypeError(
                f"{what} is a JAX array of dtype {array.dtype}: plain numbers are needed"
            )
        if isinstance(array, jax.core.Tracer):
            return self
        places = array.devices()
        platforms = set(map(jax_places.platform_of, places))
        if platforms == {"cpu"}:
            return self
        if platforms == {"cuda"} and len(places) == 1:
            return self.on_gpu.locate(array, what)
        names = ", ".join(sorted(map(str, places)))
        raise TypeError(
            f"{what} is a JAX array on {names}: one on the CPU or on one CUDA GPU is needed, as"
            f" jax.device_put({what}, jax.devices('cpu')[0])"
        )

    def device(self, array: Any) -> str:
        # Asked for a message about two places, of which one is a GPU.
        if isinstance(array, jax.core.Tracer):
            jax_places.refuse_traced("an operand", "a GPU")
        return super().device(array)

    def is_plain(self, array: Any) -> bool:
        """Whether an array has its values in memory, of one device of the CPU."""
        if isinstance(array, jax.core.Tracer) or not isinstance(array, jax.Array):
            return False
        return len(array.devices()) == 1 and not self.is_elsewhere(array)

    def is_elsewhere(self, array: Any) -> bool:
        """Whether an array that is not traced lies on other devices than the CPU's."""
        if isinstance(array, jax.core.Tracer) or not isinstance(array, jax.Array):
            return False  # or a constant of JAX's own
        return any(jax_places.platform_of(d) != "cpu" for d in array.devices())

    def require_strided(self, array: Any) -> None:
        """All of JAX's can be reshaped."""

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
        place = next(iter(like.devices())) if self.is_plain(like) else jax.devices("cpu")[0]
        return jax.device_put(array, place)

    def namespace(self, array: Any) -> Any:
        return _NAMESPACE

    def host_scalar(self, array: Any) -> Any:
        self._require_value(array, "a scalar")
        return super().host_scalar(array)

    def host_integers(self, array: Any, what: str) -> np.ndarray:
        self._require_value(array, what)
        return super().host_integers(array, what)

    def _require_value(self, array: Any, what: str) -> None:
        if isinstance(array, jax.core.Tracer):
            raise TypeError(
                f"{what} came as an array that JAX traces, which does not know its values: a number"
                " of Python is needed, or a list of them"
            )

    def execute(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        if not all(self.is_plain(o) for o in operands if isinstance(o, jax.Array)):
            return jax_calls.call(self, operation, operands, options)
        return super().execute(operation, operands, options)

    def apply(self, array: Any, backend: str | None = None) -> Apply:
        return self.rule_apply()

    def rule_apply(self, in_place: bool = False) -> Apply:
        """What rules are made of, see :class:`nbgather.containers.jax_rules.RuleApply`."""
        return jax_rules.RuleApply(
            lambda operation, operands, in_place: jax_calls.run(
                self, operation, operands, in_place
            ),
            lambda: _NAMESPACE,
            in_place,
        )

    def run_concrete(self, operation: Operation, operands: tuple[Any, ...]) -> Any:
        """An operation on arrays that nothing traces."""
        return super().execute(operation, operands, PLAIN)

    def run_on_host(self, operation: Operation, views: tuple[Any, ...]) -> Any:
        """An operation on NumPy arrays, in the middle of what XLA executes."""
        ready = tuple(
            self.ids_view(v) if name in IDS else v
            for name, v in zip(operation.names, views, strict=True)
        )
        with floats.default_environment():
            return self.numpy.execute(operation, ready, PLAIN)


SERVES = JaxContainer
