"""What a call becomes where JAX traces it: the primitive, or the operations that it is made of."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from nbgather.containers import jax_rules
from nbgather.containers.numpy import item_bits
from nbgather.operations.base import Operation, Options, Spec, is_array
from nbgather.operations.infer import InferGather
from nbgather.operations.segments import (
    CheckedBounds,
    GatherReduce,
    SegmentReduce,
    checked_bounds,
)
from nbgather.operations.tokens import RandomMasking, RestoreTokens, castable_token, one_token


def call(container: Any, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
    """A call that JAX traces, under the checks of any other."""
    if options.out is not None:
        raise ValueError("out= was given for JAX arrays: they cannot be written to")
    if options.backend not in (None, "cpu"):
        raise ValueError(
            f"backend={options.backend!r} was given where JAX traces the call: the kernels of the"
            " CPU alone can be compiled into it"
        )
    if isinstance(operation, InferGather):
        raise NotImplementedError(
            "infer_gather cannot be traced by JAX, since how many solutions there are depends on"
            " values: call it outside"
        )
    if isinstance(operation, RandomMasking) and operation.seed is None and operands[1] is None:
        raise ValueError(
            "neither noise nor seed was given where JAX traces the call: what is drawn now would be"
            " the same in every call, so give one of them"
        )
    arrays = tuple(
        as_jax(o, name) if is_array(o) else o
        for o, name in zip(operands, operation.names, strict=True)
    )
    if isinstance(operation, SegmentReduce) and operation.by != "ids" and operands[-1] is not None:
        return _of_segments(container, operation, arrays, operands[-1])
    return run(container, operation, arrays)


def _of_segments(
    container: Any, operation: SegmentReduce, arrays: tuple[Any, ...], given: Any
) -> Any:
    """Segments by offsets or counts, which are looked at now, or else where they are known."""
    _check(operation, arrays)
    *_, rows, bounds = arrays
    total = rows.size if isinstance(operation, GatherReduce) else rows.shape[0]
    if container.is_plain(given) or not isinstance(given, jax.Array):
        checked_bounds(operation, np.asarray(given), total)
        return run(container, operation, arrays)
    segments = bounds.shape[0] - (operation.by == "offsets")
    if not segments:
        # Of nothing that comes out: the rows alone say whether there is any that fit.
        checked_bounds(operation, np.zeros(bounds.shape, np.int64), total)
    bounds = run(container, CheckedBounds(operation, total), (bounds,))
    result = run(container, operation, (*arrays[:-1], bounds))
    if total and segments > 1:
        return result
    # Here the result is the same whatever they are, and XLA leaves out what nothing depends on.
    other = int(operation.reduce not in ("prod", "amin"))  # than that of no rows
    xp = jax.numpy
    return xp.where((bounds < 0).any(), xp.full_like(result, other), result)


def _check(operation: Operation, arrays: tuple[Any, ...]) -> None:
    """What can be known of the operands while they are traced."""
    specs = tuple(map(jax_rules.spec_of, arrays))
    operation.check(*specs)
    for spec, name in zip(specs, operation.names, strict=True):
        if spec is not None:
            _require_sizes(spec, name)


def run(
    container: Any, operation: Operation, arrays: tuple[Any, ...], in_place: bool = False
) -> Any:
    """An operation on arrays of JAX: bound as one where it has a program, else made of others."""
    if isinstance(operation, RestoreTokens):
        arrays = _with_token(operation, arrays)
    _check(operation, arrays)
    pads = operation.may_pad and operation.keep.counts is not None  # type: ignore[attr-defined]
    is_call = isinstance(operation, CheckedBounds) or jax_rules.has_program(operation, arrays)
    if not pads and is_call:
        return jax_rules.bind(operation, arrays, in_place)
    arrays = tuple(
        jax.numpy.broadcast_to(a.array, a.shape) if jax_rules.is_spread(a) else a for a in arrays
    )
    results = operation.lower(container.rule_apply(), *arrays)
    if not pads:
        return results
    slots = operation.keep.valid_slots()  # type: ignore[attr-defined]
    return *results, jax.numpy.asarray(slots)


def _require_sizes(spec: Spec, name: str) -> None:
    if not all(isinstance(n, int) for n in spec.shape):
        raise TypeError(
            f"{name} has shape {tuple(map(str, spec.shape))} where JAX traces the call: sizes must"
            " be known, symbolic ones are not served"
        )


def as_jax(array: Any, what: str) -> Any:
    """An operand as JAX's: NumPy's may say where items are, if no value of it is lost."""
    if isinstance(array, jax.Array):
        return array
    array = np.asarray(array)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    narrow = array.astype(dtype)
    if dtype != array.dtype and not (dtype.kind in "iu" and np.array_equal(narrow, array)):
        raise TypeError(
            f"{what} is a NumPy array of dtype {array.dtype}, whose values JAX's {dtype} cannot"
            " hold: jax.config.update('jax_enable_x64', True) gives it 64 bits"
        )
    return jax.numpy.asarray(narrow)


def _with_token(operation: RestoreTokens, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The mask token as an array of one token, of x's dtype."""
    x, ids, token = operands
    inner = tuple(x.shape[2:])
    operation.check(*map(jax_rules.spec_of, (x, ids)))
    if not is_array(token):
        bits = item_bits(x.dtype, token, "mask_token").tobytes()
        token = jax.numpy.asarray(np.frombuffer(bits, x.dtype)[0])
        return x, ids, jax.numpy.broadcast_to(token, inner)
    return x, ids, token_of(token, inner, x.dtype)


def token_of(token: Any, inner: tuple[int, ...], dtype: Any) -> Any:
    """An array with a mask token as one token, of a dtype that holds its values."""
    castable_token(np.can_cast(token.dtype, dtype, "safe"), token.dtype, dtype)
    one_token(tuple(token.shape), inner)
    token = token.astype(dtype)
    while token.ndim > len(inner):
        token = token[0]
    return jax.numpy.broadcast_to(token, inner)
