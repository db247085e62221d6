"""JAX's rules of the operations: one primitive, whose rules are those of the operation it carries.

What is a result's shape, its tangent, its transpose and its batch is asked of the operation, so
that ``jit``, ``grad``, ``jvp``, ``vmap`` and what is made of them follow without rules of ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from nbgather.containers import jax_ffi, jax_mesh, jax_places
from nbgather.containers.base import IDS
from nbgather.containers.numpy import describe, item_bits
from nbgather.engine.programs import LARGE_BYTES, held, program_of
from nbgather.operations.base import (
    FLOAT32,
    INT64,
    Apply,
    Operation,
    Spec,
    contiguous_strides,
    is_array,
)
from nbgather.operations.cleared import Cleared
from nbgather.operations.indexing import Gather, Scatter
from nbgather.operations.patches import CutPatches
from nbgather.operations.scores import Tube
from nbgather.operations.tokens import ChooseTokens, RandomMasking

#: Executes an operation that no trace sees, and runs those that a rule is made of: handed down by
#: the container of JAX's arrays.
_container: Any = None

#: Operands that kernels take as float32 where they are narrower.
_SCORES = ("noise", "scores")

primitive = Primitive("nbgather")
primitive.multiple_results = True


class Spread(NamedTuple):
    """An array that is to be broadcast to a shape, and that no memory is filled with for it."""

    array: Any
    shape: tuple[int, ...]
    dtype: Any


class RuleApply(Apply):
    """What rules are made of: JAX sees it, traced or not.

    ``in_place`` says that the first operand of a scatter is made for it, and not used again.
    """

    __slots__ = ("in_place",)

    def __init__(self, run: Any, namespace: Any, in_place: bool = False) -> None:
        super().__init__(lambda operation, *operands: run(operation, operands, in_place), namespace)
        self.in_place = in_place

    def spread(self, array: Any, shape: tuple[int, ...]) -> Any:
        return Spread(array, shape, array.dtype)

    def zeros(self, shape: tuple[int, ...], like: Any) -> Any:
        # XLA's own would be in small pages.
        large = math.prod(shape) * like.dtype.itemsize >= LARGE_BYTES
        if large and jax_ffi.why_not() is None:
            return self.run(Cleared(shape), like)
        return super().zeros(shape, like)


class Call(NamedTuple):
    """An operation with the operands that are arrays; hashable but for these.

    ``places`` are the numbers of the operands that are arrays; of the others one may be a number,
    which like the value that a gather fills with is told by its bits: numbers that are equal need
    not have the same. ``spread_to`` is the shape that an index is broadcast to, and ``in_place``
    whether a scatter may have the memory of its first operand.
    """

    operation: Operation
    places: tuple[int, ...]
    item: bytes
    spread_to: tuple[int, ...] | None = None
    in_place: bool = False

    def spread(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """What is known of the arrays, each in its operand's place; None in the others."""
        operands: list[Any] = [None] * len(self.operation.names)
        for k, array in zip(self.places, arrays, strict=True):
            operands[k] = array
        return tuple(operands)

    def specs(self, arrays: Sequence[Any]) -> tuple[Spec | None, ...]:
        """The specifications of all operands."""
        specs = [spec_of(a) for a in self.spread(arrays)]
        index = specs[1] if len(specs) > 1 else None
        if self.spread_to is not None and index is not None:
            steps = zip(index.shape, index.strides, strict=True)
            strides = tuple(0 if n == 1 else s for n, s in steps)
            specs[1] = Spec(self.spread_to, strides, index.dtype)
        return tuple(specs)

    def restored(self, arrays: Sequence[Any], dtype: Any) -> tuple[Operation, tuple[Any, ...]]:
        """The operation and all of its operands; ``dtype`` is the first operand's."""
        operation, operands = self.operation, list(self.spread(arrays))
        if self.spread_to is not None:
            xp = np if type(operands[1]) is np.ndarray else jax.numpy
            operands[1] = xp.broadcast_to(operands[1], self.spread_to)
        if self.item and isinstance(operation, (Gather, Scatter)):
            value = np.frombuffer(self.item, dtype)[0]
            if isinstance(operation, Gather):
                operation = replace(operation, fill_value=value)
            else:
                operands[operation.may_be_numbers[0]] = value
        return operation, tuple(operands)


def call_of(operation: Operation, operands: Sequence[Any], in_place: bool = False) -> Call:
    """What the primitive carries; a number must go into the first operand's dtype."""
    places = tuple(k for k, o in enumerate(operands) if is_array(o))
    item = b""
    spread_to = operands[1].shape if len(operands) > 1 and is_spread(operands[1]) else None
    if isinstance(operation, Gather):
        if operation.mode == "fill" and 2 not in places:
            item = item_bits(operands[0].dtype, operation.fill_value, "fill_value").tobytes()
        operation = replace(operation, fill_value=0)
    elif isinstance(operation, Scatter) and 2 not in places:
        item = item_bits(operands[0].dtype, operands[2], "src").tobytes()
    elif isinstance(operation, CutPatches) and operation.affine is not None:
        item = np.array(operation.affine, np.float32).tobytes()  # which tells -0.0 from 0.0
    in_place = in_place and isinstance(operation, Scatter) and operands[0].ndim > 0
    return Call(operation, places, item, spread_to, in_place)


def is_spread(operand: Any) -> bool:
    """Whether an operand is an array that is still to be broadcast."""
    return isinstance(operand, Spread)


def spec_of(array: Any) -> Spec | None:
    """The specification of an array or of what JAX knows of one; None for what is none."""
    if not is_array(array):
        return None
    dtype, shape = describe(np.dtype(array.dtype)), tuple(array.shape)
    known = all(isinstance(n, int) for n in shape)
    return Spec(shape, contiguous_strides(shape, dtype.itemsize) if known else (), dtype)


def kernel_specs(call: Call, arrays: Sequence[Any]) -> tuple[Spec | None, ...]:
    """The specifications of operands as kernels take them."""
    specs = [
        None if s is None else _as_kernels_take(name, s)
        for name, s in zip(call.operation.names, call.specs(arrays), strict=True)
    ]
    if call.in_place:
        specs[0] = held(specs[0])  # type: ignore[arg-type]
    return tuple(specs)


def _as_kernels_take(name: str, spec: Spec) -> Spec:
    dtype = spec.dtype
    if name in IDS and dtype.integer != "u8":
        dtype = INT64
    if name in _SCORES and dtype.itemsize == 2:
        dtype = FLOAT32
    if dtype == spec.dtype:
        return spec
    return Spec(spec.shape, contiguous_strides(spec.shape, dtype.itemsize), dtype)


def has_program(operation: Operation, operands: Sequence[Any]) -> bool:
    """Whether compiled code can do an operation at once."""
    call = call_of(operation, operands)
    arrays = [arrays_of(operands[k]) for k in call.places]
    return program_of(call.operation, kernel_specs(call, arrays), call.item) is not None


def arrays_of(operand: Any) -> Any:
    """The array of an operand, without the shape that it is to have."""
    return operand.array if is_spread(operand) else operand


def bind(operation: Operation, operands: Sequence[Any], in_place: bool = False) -> Any:
    """An operation as JAX sees it: its result, or a tuple of them."""
    call = call_of(operation, operands, in_place)
    arrays = jax_mesh.alike([arrays_of(operands[k]) for k in call.places])
    results = primitive.bind(*arrays, **call._asdict())
    return results[0] if len(results) == 1 else tuple(results)


def _many(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def _abstract(*avals: Any, **params: Any) -> list[Any]:
    call = Call(**params)
    results = call.operation.result(*call.specs(avals))
    return [jax_mesh.result(avals[0], r.shape, jax_ffi.jax_dtype(r)) for r in results]


def _concrete(*arrays: Any, **params: Any) -> list[Any]:
    """Outside of a trace: as any other call, if all is on one device of the CPU."""
    if all(_container.is_plain(a) for a in arrays):
        operation, operands = Call(**params).restored(arrays, arrays[0].dtype)
        return list(_many(_container.run_concrete(operation, operands)))
    if any(_container.is_elsewhere(a) for a in arrays):
        jax_places.refuse_traced(type(params["operation"]).__name__, "a GPU")
    return list(jax.jit(lambda *a: primitive.bind(*a, **params))(*arrays))


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    call, do = Call(**params), _container.rule_apply()
    operation, operands = call.restored(primals, primals[0].dtype)
    given = tuple(None if isinstance(t, ad.Zero) else t for t in tangents)
    if operation.differentiable_parts and any(t is not None for t in given):
        return _jvp_of_parts(do, call, primals, given)
    results = primitive.bind(*primals, **params)
    moved = call.spread(given)
    if all(moved[k] is None for k in operation.differentiable):
        return results, [_zero(r) for r in results]
    specs = tuple(map(spec_of, operands))
    hidden = set(operation.differentiable) - set(operation.needs_values)
    sides = tuple(None if k in hidden else o for k, o in enumerate(operands))
    return results, [operation.tangent(do, moved, specs, sides)]


def _jvp_of_parts(do: Apply, call: Call, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """Of an operation whose parts have tangents."""
    moving = [k for k, t in enumerate(tangents) if t is not None]

    def parts(*values: Any) -> tuple[Any, ...]:
        arrays = list(primals)
        for k, value in zip(moving, values, strict=True):
            arrays[k] = value
        operation, operands = call.restored(arrays, primals[0].dtype)
        return _many(operation.lower(do, *operands))

    results, made = jax.jvp(
        parts, tuple(primals[k] for k in moving), tuple(tangents[k] for k in moving)
    )
    if getattr(call.operation, "affine", None) is not None:
        # XLA may round another way than kernels do where it computes with pixels.
        results = primitive.bind(*primals, **call._asdict())
    return results, [
        _zero(r) if t.dtype == jax.dtypes.float0 else t for r, t in zip(results, made, strict=True)
    ]


def _zero(result: Any) -> Any:
    """The tangent of what has none."""
    aval = jax_mesh.type_of(result)
    tangent = getattr(aval, "to_tangent_aval", None) or aval.at_least_vspace
    return ad.Zero(tangent())


def _transpose(cotangents: Sequence[Any], *arrays: Any, **params: Any) -> list[Any]:
    call, (cotangent,) = Call(**params), cotangents
    linear = [ad.is_undefined_primal(a) for a in arrays]
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(a.aval) if is_it else None for a, is_it in zip(arrays, linear, strict=True)]
    operation = call.operation
    avals = [a.aval if is_it else a for a, is_it in zip(arrays, linear, strict=True)]
    specs = call.specs(avals)
    places = operation.differentiable
    is_linear = call.spread(linear)
    sides = list(call.spread(arrays))
    if call.spread_to is not None:
        sides[1] = jax.numpy.broadcast_to(sides[1], call.spread_to)
    sides = [None if k in places else a for k, a in enumerate(sides)]
    made = operation.transpose(
        _container.rule_apply(in_place=True), cotangent, specs, tuple(sides),
        tuple(bool(is_linear[k]) for k in places),
    )  # fmt: skip
    by_place = dict(zip(places, made, strict=True))
    return [
        jax_mesh.vary_like(by_place[k], a.aval) if is_it else None
        for k, a, is_it in zip(call.places, arrays, linear, strict=True)
    ]


#: What is batched by its parts: ids that are implied count from 0 in each of a batch.
_BY_PARTS = (RandomMasking, ChooseTokens, Tube)


def _batch(arrays: Sequence[Any], axes: Sequence[Any], **params: Any) -> Any:
    call = Call(**params)
    do = _container.rule_apply(call.in_place)
    (size,) = {a.shape[k] for a, k in zip(arrays, axes, strict=True) if k is not None}
    if call.spread_to is not None:
        arrays, axes = _spread_batch(call.spread_to, size, arrays, axes)
        call = call._replace(spread_to=None)
    operation, operands = call.restored(arrays, arrays[0].dtype)
    if isinstance(operation, _BY_PARTS):
        results = jax.vmap(
            lambda *a: _many(call.restored(a, arrays[0].dtype)[0].lower(do, *call.spread(a))),
            tuple(axes),
        )(*arrays)
    else:
        if isinstance(operation, Scatter) and 2 not in call.places:
            shape = np.delete(arrays[1].shape, axes[1]) if axes[1] is not None else arrays[1].shape
            number = jax.numpy.full(tuple(map(int, shape)), operands[2], arrays[0].dtype)
            operands = (*operands[:2], number)
        results = _many(operation.batch(do, size, operands, call.spread(axes)))
    return results, (0,) * len(results)


def _spread_batch(
    shape: tuple[int, ...], size: int, arrays: Sequence[Any], axes: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """Operands of a batch, of which the index is broadcast."""
    arrays, axes = list(arrays), list(axes)
    if axes[1] is not None:
        moved = jax.numpy.moveaxis(arrays[1], axes[1], 0)
        arrays[1], axes[1] = jax.numpy.broadcast_to(moved, (size, *shape)), 0
    else:
        arrays[1] = jax.numpy.broadcast_to(arrays[1], shape)
    return arrays, axes


def _lower(ctx: Any, *values: Any, **params: Any) -> Any:
    call, avals = Call(**params), ctx.avals_in
    specs = kernel_specs(call, avals)

    def host(*views: Any) -> tuple[Any, ...]:
        """The same in Python, on what XLA has."""
        operation, operands = call.restored(list(map(np.asarray, views)), avals[0].dtype)
        results = _many(_container.run_on_host(operation, operands))
        return tuple(
            np.asarray(r, a.dtype, order="C") for r, a in zip(results, ctx.avals_out, strict=True)
        )

    made = jax_ffi.lower(ctx, values, call.operation, specs, call.item, call.in_place)
    return jax_ffi.call_back(ctx, values, host) if made is None else made


def _elsewhere(ctx: Any, *values: Any, **params: Any) -> Any:
    platforms = ", ".join(ctx.module_context.platforms)
    jax_places.refuse_traced(type(params["operation"]).__name__, platforms)


def install(container: Any) -> None:
    """Give the primitive its rules, which ask a container to run what they are made of."""
    global _container
    _container = container
    primitive.def_impl(_concrete)
    primitive.def_abstract_eval(_abstract)
    ad.primitive_jvps[primitive] = _jvp
    ad.primitive_transposes[primitive] = _transpose
    batching.primitive_batchers[primitive] = _batch
    mlir.register_lowering(primitive, _elsewhere)
    mlir.register_lowering(primitive, _lower, platform="cpu")
