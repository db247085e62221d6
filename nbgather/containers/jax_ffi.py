"""Operations in what XLA compiles for the CPU: one function for all of them.

XLA's foreign function interface calls it with a text that says what is to be done
(:mod:`nbgather.engine.call_text`) and the addresses of the buffers. Where XLA's version of the
interface is none that is known, or an operation is beyond what the function can run, JAX calls
back into Python instead: the same results, slower.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

from nbgather.engine.call_text import key_of, program_of_text, text_of
from nbgather.engine.programs import Specs, program_of
from nbgather.kernels.cpu import programs
from nbgather.kernels.program import API_VERSIONS
from nbgather.operations.base import Operation, Spec

#: The name of the function in what XLA compiles.
TARGET = "nbgather"
#: Where XLA's header is, in the folder of JAX's.
HEADER = "xla/ffi/api/c_api.h"


#: Held by the thread that registers the function: XLA takes it once.
_registering = threading.Lock()


def why_not() -> str | None:
    """Register the function with XLA: None, or why calls go back into Python instead."""
    with _registering:
        return registered()


@functools.cache
def registered() -> str | None:
    """See :func:`why_not`, which is for any thread."""
    ffi = getattr(jax, "ffi", None)
    if ffi is None:
        return f"JAX {jax.__version__} has no jax.ffi"
    version = _version(Path(ffi.include_dir()) / HEADER)
    if version is not None and version < API_VERSIONS[0]:
        return f"XLA's interface is of version {version}, and {API_VERSIONS[0]} is needed"
    if version not in API_VERSIONS:
        # XLA says itself whether it still knows ours, and at once where it is running: else it
        # would be the reason why it does not start.
        jax.devices("cpu")
        version = API_VERSIONS[-1]
    try:
        address = programs.handler(program_of_text)
        programs.tell_version(*version)
        ffi.register_ffi_target(TARGET, ffi.pycapsule(address), platform="cpu", api_version=1)
    except Exception as error:  # of whatever kind jaxlib raises
        return f"XLA refused the function: {error}"
    return None


def _version(header: Path) -> tuple[int, int] | None:
    """The version of XLA's interface by its header; None where that does not say."""
    try:
        text = header.read_text()
    except OSError:
        return None
    found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    major, minor = (-1 if number is None else int(number[1]) for number in found)
    return None if min(major, minor) < 0 else (major, minor)


def published(operation: Operation, specs: Specs, item: bytes) -> tuple[str, Any] | None:
    """The text of a call, and its program, which compiled code can find now; None without one."""
    program = program_of(operation, specs, item)
    if program is None or why_not() is not None:
        return None
    text = text_of(operation, specs, item)
    key = key_of(text)
    return (key + text, program) if programs.publish(key.encode(), program) else None


def _element(dtype: np.dtype[Any]) -> Any:
    return mlir.dtype_to_ir_type(dtype)


def _as(value: Any, dtype: np.dtype[Any]) -> Any:
    """A value of the graph in another dtype, which JAX itself need not have."""
    kind = ir.RankedTensorType(value.type)
    if kind.element_type == _element(dtype):
        return value
    return stablehlo.convert(ir.RankedTensorType.get(kind.shape, _element(dtype)), value)


def numpy_dtype(spec: Spec) -> np.dtype[Any]:
    """The NumPy dtype of a specification, JAX's own among them."""
    return np.dtype(jax.numpy.dtype(spec.dtype.name))


def jax_dtype(spec: Spec) -> np.dtype[Any]:
    """The dtype that JAX has for a specification: int32 for int64 where x64 is off."""
    return np.dtype(jax.dtypes.canonicalize_dtype(numpy_dtype(spec)))


def lower(
    ctx: Any,
    values: Sequence[Any],
    operation: Operation,
    specs: Specs,
    item: bytes,
    in_place: bool,
) -> Sequence[Any] | None:
    """A call in the graph; None where the function cannot do it.

    ``specs`` say what the kernels take, None for an array that is not given. ``in_place``: the
    first operand's memory becomes the result's, XLA copying it where it is used again.
    """
    made = published(operation, specs, item)
    if made is None:
        return None
    text, program = made
    given: dict[int, Any] = {}
    remaining = iter(values)
    for k, spec in enumerate(specs):
        if spec is not None:
            given[k] = _as(next(remaining), numpy_dtype(spec))
    used = [given[k] for k in program.uses]
    results = operation.result(*specs)
    types = [ir.RankedTensorType.get(r.shape, _element(numpy_dtype(r))) for r in results]
    rule = jax.ffi.ffi_lowering(
        TARGET,
        operand_layouts=[_dense(specs[k]) for k in program.uses],
        result_layouts=[_dense(r) for r in results],
        result_types=types,
        operand_output_aliases={0: 0} if in_place else None,
    )
    made_by_xla = rule(ctx, *used, call=text)
    return [_as(v, a.dtype) for v, a in zip(made_by_xla, ctx.avals_out, strict=True)]


def call_back(ctx: Any, values: Sequence[Any], host: Callable[..., Any]) -> Sequence[Any]:
    """A call in the graph that goes back into Python: ``host`` on NumPy arrays.

    On one device XLA's memory is handed over as it is. ``jax.pure_callback`` makes arrays of JAX of
    it, for which its threads are needed: of a large one it waits for ever where there is one.
    """
    if getattr(ctx.module_context.axis_context, "num_devices", 0) == 1:
        return mlir.emit_python_callback(
            ctx, host, None, list(values), ctx.avals_in, ctx.avals_out, has_side_effect=False
        )[0]
    shapes = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in ctx.avals_out)
    return mlir.lower_fun(lambda *a: jax.pure_callback(host, shapes, *a), multiple_results=True)(
        ctx, *values
    )


def _dense(spec: Any) -> tuple[int, ...]:
    """XLA's name for row-major order."""
    return tuple(reversed(range(len(spec.shape))))
