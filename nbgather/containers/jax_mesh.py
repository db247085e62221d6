"""What a type of JAX says besides shape and dtype: over which axes of a mesh a value varies.

Inside of ``jax.shard_map`` a value is the same on all devices along an axis, or it varies; operands
of one operation must agree. JAX has had several names for this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax


def type_of(array: Any) -> Any:
    """What JAX knows of an array."""
    function = getattr(jax, "typeof", None) or jax.core.get_aval
    return function(array)


def _axes(aval: Any) -> frozenset[str]:
    """The axes along which a value varies."""
    kind = getattr(aval, "manual_axis_type", None)
    varying = getattr(aval, "vma", frozenset()) if kind is None else kind.varying
    return frozenset(varying)


def _varied(array: Any, axes: frozenset[str]) -> Any:
    """An array as one that varies along more axes."""
    missing = tuple(sorted(axes - _axes(type_of(array))))
    if not missing:
        return array
    cast = getattr(jax.lax, "pcast", None)
    return jax.lax.pvary(array, missing) if cast is None else cast(array, missing, to="varying")


def alike(arrays: Sequence[Any]) -> list[Any]:
    """Operands that vary along the same axes."""
    axes = frozenset[str]().union(*(_axes(type_of(a)) for a in arrays))
    return [_varied(a, axes) for a in arrays] if axes else list(arrays)


def vary_like(array: Any, aval: Any) -> Any:
    """A cotangent as its primal's type has it."""
    axes = _axes(aval)
    if axes:
        array = _varied(array, axes)
    wanted, own = (getattr(a, "sharding", None) for a in (aval, type_of(array)))
    reshard = getattr(jax, "reshard", None) or getattr(jax.sharding, "reshard", None)
    if reshard is None or wanted is None or wanted == own or not _is_explicit(wanted):
        return array
    return reshard(array, wanted)


def _is_explicit(sharding: Any) -> bool:
    """Whether how a value is sharded belongs to its type."""
    kinds = getattr(sharding.mesh, "axis_types", None) or ()
    return any(str(kind).endswith("Explicit") for kind in kinds)


def result(aval: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The type of a result beside an operand of the type ``aval``; whole on every device."""
    sharding = getattr(aval, "sharding", None)
    if sharding is None:
        return jax.core.ShapedArray(shape, dtype)
    whole = jax.sharding.PartitionSpec(*(None,) * len(shape))
    return aval.update(
        shape=shape, dtype=dtype, weak_type=False,
        sharding=jax.sharding.NamedSharding(sharding.mesh, whole),
    )  # fmt: skip
