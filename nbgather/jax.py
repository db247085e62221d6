"""For JAX: what must be imported where a compiled function is loaded, and not traced.

The functions of :mod:`nbgather` take JAX's arrays themselves, and inside ``jax.jit``, ``jax.grad``,
``jax.jvp``, ``jax.vmap``, ``jax.shard_map`` and what is made of them become part of what XLA
compiles for the CPU: it calls our kernels on its buffers, without Python. Nothing need be imported
for that but :mod:`nbgather`.

An executable that was saved, or an exported function, holds these calls by the name ``nbgather``.
Who loads one, by ``jax.export.deserialize`` or ``jax.experimental.serialize_executable``, must
``import nbgather.jax`` first, else XLA says that it has no such function. ``jax.export.export``
wants to be told that the name is meant, by ``disabled_checks=[
jax.export.DisabledSafetyCheck.custom_call("nbgather")]``.
"""

from __future__ import annotations

import jax

import nbgather.dispatch  # noqa: F401  which hands the engine to containers
from nbgather.containers import jax_ffi, registry
from nbgather.results import MaskedTokens, PaddedTokens, TokenMask

__all__ = ["why_not"]

#: The container of JAX's arrays, whose module gives JAX its rules, with the engine behind them.
_CONTAINER = registry.load(registry.MODULES["jax"])

if hasattr(jax, "export") and hasattr(jax.export, "register_namedtuple_serialization"):
    for _kind in (MaskedTokens, PaddedTokens, TokenMask):
        jax.export.register_namedtuple_serialization(
            _kind, serialized_name=f"nbgather.{_kind.__name__}"
        )


def why_not() -> str | None:
    """Why XLA does not call the kernels itself here; None if it does.

    Calls then go from what XLA compiled back into Python, by ``jax.pure_callback``: with the same
    results, and slower.

    Returns
    -------
    str or None

    Examples
    --------
    >>> import nbgather.jax
    >>> nbgather.jax.why_not() is None
    True
    """
    return jax_ffi.why_not()


why_not()
