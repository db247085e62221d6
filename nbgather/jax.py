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

from typing import Any

import jax
import numpy as np

import nbgather.dispatch  # which hands the engine to containers
from nbgather.containers import jax_calls, jax_ffi, registry
from nbgather.operations import checks
from nbgather.operations.base import PLAIN
from nbgather.operations.tokens import SeededNoise, token_noise
from nbgather.results import MaskedTokens, PackedTokens, PaddedTokens, TokenMask

__all__ = ["seeded_noise", "why_not"]

#: The container of JAX's arrays, whose module gives JAX its rules, with the engine behind them.
_CONTAINER = registry.load(registry.MODULES["jax"])

try:
    from jax import export
except ModuleNotFoundError:  # 0.4.31 needs absl-py for it, and does not say so
    export = None
_register = getattr(export, "register_namedtuple_serialization", None)  # not in the oldest
if _register is not None:
    for _kind in (MaskedTokens, PackedTokens, PaddedTokens, TokenMask):
        _register(_kind, serialized_name=f"nbgather.{_kind.__name__}")


def seeded_noise(seed: Any, sample_ids: Any, num_tokens: int, *, epoch: Any = 0) -> jax.Array:
    """:func:`nbgather.token_noise` with a seed and an epoch that JAX may trace.

    One compiled function then serves every seed and epoch. As ``noise`` of
    :func:`nbgather.random_masking` it gives the mask of ``seed=`` and ``epoch=``.

    Parameters
    ----------
    seed : int or array of int, shape []
        64 bits, signed or unsigned; of fewer bits a number stands for itself.
    sample_ids : array or sequence of int, shape [N], or int
        The samples' ids in the dataset; an int N stands for 0 to N-1.
    num_tokens : int
        L.
    epoch : int or array of int, shape []
        Its lower 32 bits count.

    Returns
    -------
    jax.Array of float32, shape [N, L]

    Raises
    ------
    TypeError, ValueError
        What is no whole number, or has the wrong shape.

    Examples
    --------
    >>> import jax
    >>> import nbgather.jax
    >>> noise = jax.jit(lambda seed: nbgather.jax.seeded_noise(seed, 1, 4))
    >>> noise(0).tolist()
    [[0.3990464210510254, 0.8805201649665833, 0.7357127666473389, 0.6054818034172058]]
    """
    ids = nbgather.dispatch.array_of_ids(sample_ids)
    ids = jax_calls.as_jax(ids, "sample_ids")
    if isinstance(seed, int) and isinstance(epoch, int):
        container = _CONTAINER.locate(ids, "sample_ids")
        result: jax.Array = container.execute(token_noise(seed, epoch, num_tokens), (ids,), PLAIN)
        return result
    operands = ids, _scalar(seed, "seed"), _scalar(epoch, "epoch")
    operation = SeededNoise(checks.count(num_tokens, "num_tokens"))
    result = _CONTAINER.execute(operation, operands, PLAIN)
    return result


def _scalar(value: Any, what: str) -> Any:
    """A whole number as an array of JAX."""
    return jax_calls.as_jax(np.asarray(value) if isinstance(value, int) else value, what)


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
