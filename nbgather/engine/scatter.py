"""Scatter and scatter_add into a copy."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nbgather.engine import apart, arrays, backends, device_errors, memo, pieces, recycle
from nbgather.engine.bad_index import raise_bad_index
from nbgather.engine.out import check_match, check_out, into
from nbgather.engine.plan_scatter import plan_scatter
from nbgather.kernels import small
from nbgather.kernels.memory import bits_dtype, memory_address, view_memory
from nbgather.kernels.plans import ScatterPlan
from nbgather.operations.base import DType, Options, Spec, is_array, is_contiguous
from nbgather.operations.indexing import WIDENED, Scatter, ScatterAdd, added_kind
from nbgather.operations.reducing import COMPARED, Reduction, ScatterReduce, reduction

#: What a GPU's kernels call the numbers that are computed with in float32.
_HALVES = {"float16": "f2", "bfloat16": "b2"}


def scatter(container: Any, operation: Scatter, operands: tuple[Any, ...], options: Options) -> Any:
    """Scatter ``src`` into a copy of the input, or sum or reduce into it."""
    x, i, src = operands
    x_spec, i_spec = container.spec(x), container.spec(i)
    is_number = not is_array(src)
    src_spec = None
    if is_number:
        src = container.item_bits(src, x, "src")
    else:
        src_spec = container.spec(src)
    out, out_spec = options.out, None
    if out is not None:
        named = [("input", x, x_spec), ("index", i, i_spec)]
        named += [] if src_spec is None else [("src", src, src_spec)]
        out_spec = check_out(container, out, named)
        check_match(out_spec, x_spec)
    plan = plan_scatter(operation, x_spec, i_spec, src_spec)
    backend = backends.serving(options.backend, container.home, x_spec.device)
    if "scatter" not in backend.DOES:
        raise ValueError(
            f"backend {options.backend!r} cannot scatter: cpu, reference and torch can"
        )
    place = container.place(x)
    how = (combining_on_device if place else combining)(operation, x_spec.dtype)
    is_lacking = isinstance(how, tuple) and not has_kernel(backend, plan, how)
    if is_lacking or how is NotImplemented:
        return into(container, _lowered(container, operation, operands, options), out)
    if plan.count and _must_copy(container, plan, i, src, src_spec):
        i = arrays.native_index(container, i)
        src = operands[2] if src_spec is None else apart.copy(container, src)
        return scatter(container, operation, (x, i, src), options)
    if place:
        specs_given = x_spec, src_spec
        result = scatter_on_device(
            container, backend, operation, plan, (x, i, src), specs_given, how
        )
        if result is NotImplemented:
            result = _lowered(container, operation, operands, options)
        return into(container, result, out)
    direct = _is_direct(container, backend, plan, (x_spec, i_spec, out_spec))
    direct = direct and (pieces.may_cut(how) or not apart.is_long(pieces.work_of_lane(plan)))
    if direct and backend.find_outside(*_index_of(plan, container.address(i))):
        raise_bad_index(arrays.integers(container, i), plan.size, plan.dim, False)
    if plan.copies and "copy" in backend.DOES:
        # The kernel copies as it goes.
        result = out if direct else container.empty(x_spec.shape, x)
    elif direct:
        backend.copy(container.address(out), container.address(x), plan.nbytes)
        result = x = out
    else:
        result = _copy(container, backend, x, x_spec, plan.nbytes)
        x = result
    if not plan.count:
        return into(container, result, out)
    address = memory_address(src) if src_spec is None else container.address(src)
    if backend.HOST_VIEWS:
        bad = _run_on_views(container, backend, plan, (result, i), (address, src), how)
    else:
        addresses = container.address(result), container.address(i), address
        scatter_to = plan, *addresses, how, container.address(x)
        if plan.work > pieces.PIECE_BYTES and pieces.may_cut(how):
            bad = pieces.scatter(backend, *scatter_to)
        else:
            owners = result, i, src, x
            bad = apart.run(pieces.work_of_lane(plan), owners, backend.scatter, *scatter_to)
    if bad:
        raise_bad_index(arrays.integers(container, i), plan.size, plan.dim, False)
    if not direct:
        result = into(container, result, out)
    is_plain = options.backend is None and is_contiguous(x_spec)
    if is_plain and (out_spec is None or is_contiguous(out_spec)):
        specs = x_spec, i_spec, src_spec, out_spec
        _keep(container, backend, operation, operands, specs, plan, out, direct)
    return result


def combining(operation: Scatter, dtype: DType) -> Any:
    """How items are combined: None to replace, the kind of a sum, a `Reduction`.

    NotImplemented where it is made of other operations.
    """
    if isinstance(operation, ScatterReduce):
        how = reduction(dtype, operation.reduce, operation.include_self)
        return NotImplemented if how is None else how
    if not isinstance(operation, ScatterAdd):
        return None
    return NotImplemented if dtype.plain in WIDENED else added_kind(dtype)


def has_kernel(backend: Any, plan: ScatterPlan, how: Any) -> bool:
    """Whether a backend reduces so by itself; where not, it is made of other operations."""
    if "reduce" not in backend.DOES:
        return False
    if "means" in backend.DOES:
        return bool(backend.reduces(plan, how))
    return how.reduce != "mean" or how.kind not in COMPARED


def combining_on_device(operation: Scatter, dtype: DType) -> Any:
    """The same for kernels of a GPU, which have floats of 16 bits and round them once."""
    how, kind = combining(operation, dtype), _HALVES.get(dtype.plain)
    is_mean = isinstance(how, Reduction) and how.reduce == "mean"
    if kind is None or not (how is NotImplemented or is_mean):
        return how
    if isinstance(operation, ScatterReduce):
        return Reduction(operation.reduce, kind, operation.include_self)
    return kind


def _kind_on_device(name: str, plan: ScatterPlan, given: tuple[int, ...]) -> device_errors.Kind:
    """What the message of a bad index needs of a scatter by a plan, and by an index of a shape."""
    function = device_errors.function_name(name)
    return device_errors.Kind(function, plan.index_shape, 1, given, plan.index, plan.dim, plan.size)


def _lowered(
    container: Any, operation: Scatter, operands: tuple[Any, ...], options: Options
) -> Any:
    """By what it is made of: of halves, sums of float32 that are rounded once."""
    return operation.lower(container.apply(operands[0], options.backend), *operands)


def scatter_on_device(
    container: Any,
    backend: Any,
    operation: Scatter,
    plan: ScatterPlan,
    operands: tuple[Any, Any, Any],
    specs: tuple[Spec, Spec | None],
    how: Any,
) -> Any:
    """A new array; NotImplemented where no kernel has such sums.

    Index and src are read by the plan alone, whatever shape they have.
    """
    (x, i, src), (x_spec, src_spec) = operands, specs
    (place,) = container.place(x)
    device_errors.poll(backend, place)
    waits = device_errors.may_wait(backend, place, operation.mode)
    if not plan.count or not is_contiguous(x_spec):
        x = container.copy(x)
    if not plan.count:
        return x
    if container.address(x) % plan.itemsize:
        x = container.copy(x)
    if src_spec is None:
        src = container.bytes_beside(src, x)
    result = container.empty(x_spec.shape, x)
    scratch = arrays.scratch_beside(container, x)
    addresses = tuple(container.address(a) for a in (result, x, src, i))
    launched = device_errors.run_flagged(
        backend, place, waits, operation.told,
        functools.partial(backend.scatter, plan, *addresses, how, place, scratch),
        functools.partial(
            backend.find_bad, plan.index, addresses[3], plan.index_shape, plan.index_strides,
            plan.size, place,
        ),
        _kind_on_device, type(operation).__name__, plan, container.spec(i).shape,
    )  # fmt: skip
    return result if launched else NotImplemented


def _index_of(plan: ScatterPlan, at: Any) -> tuple[str, Any, int, int]:
    """A contiguous index as a check takes it."""
    return plan.index, at, math.prod(plan.index_shape), plan.size


def _is_direct(
    container: Any, backend: Any, plan: ScatterPlan, specs: tuple[Spec, Spec, Spec | None]
) -> bool:
    """Whether to look through the index first, and then to scatter into ``out``.

    Else the result is made apart and copied, so that nothing is written where an index is bad. The
    first reads the index twice, the second the result.
    """
    x, index, out = specs
    return (
        out is not None
        and "checks" in backend.DOES
        and math.prod(index.shape) * index.dtype.itemsize <= 2 * plan.nbytes
        and all(map(is_contiguous, (x, index, out)))
    )


def _keep(
    container: Any,
    backend: Any,
    operation: Scatter,
    operands: tuple[Any, ...],
    specs: tuple[Spec | None, ...],
    plan: ScatterPlan,
    out: Any,
    direct: bool,
) -> None:
    """Keep a call that went well: a copy of the input, the scatter into it, and a copy to ``out``.

    Nothing is written to ``out`` before all has gone well; if ``direct``, before the index was
    looked through.
    """
    x, _, src = operands
    if not plan.count or plan.work > pieces.PIECE_BYTES:
        return
    head, given = memo.call_of(operation, operands)
    if head is None or not container.exact_types or not memo.again(container, head, *specs):
        return
    source: Any = small.operand(2)
    item = None
    if specs[2] is None:
        item = container.item_bits(src, x, "src")
        source = memory_address(item)
    how = combining(operation, specs[0].dtype)  # type: ignore[union-attr]
    if backend.parts_of_lanes(plan, how) > 1:
        return  # a step has no memory that its parts share
    target, given_x = small.result(0), small.operand(0)
    steps = []
    if direct:
        target = small.operand(len(given))
        steps.append(backend.find_outside(*_index_of(plan, small.operand(1)), run=backend.step))
    if not plan.copies:  # the kernel copies as it goes
        steps.append(backend.copy(target, given_x, plan.nbytes, run=backend.step))
        given_x = target
    steps.append(
        backend.scatter(plan, target, small.operand(1), source, how, given_x, run=backend.step)
    )
    results = [memo.Result(tuple(x.shape), x.dtype)]
    if out is None:
        memo.keep(container, backend, head, given, results, steps, owner=item)
        return
    if direct:
        results = []
    else:
        steps.append(backend.copy(small.operand(len(given)), target, plan.nbytes, run=backend.step))
    memo.keep(
        container, backend, head, (*given, out), [], steps,
        out=len(given), hidden=results, owner=item,
    )  # fmt: skip


def _must_copy(container: Any, plan: ScatterPlan, i: Any, src: Any, src_spec: Spec | None) -> bool:
    """Whether no kernel can walk the index or src as they are."""
    if plan.needs_copy or container.address(i) & plan.index_mask:
        return True
    mask = plan.itemsize - 1 if container.home == "cuda" else plan.item_mask
    return bool(src_spec is not None and container.address(src) & mask)


def _copy(container: Any, backend: Any, x: Any, spec: Spec, nbytes: int) -> Any:
    """A C-contiguous copy of ``x``, by all cores if it is large and contiguous."""
    is_plain = container.home == "cpu" and is_contiguous(spec)
    if nbytes < recycle.MIN_BYTES or not is_plain or "copy" not in backend.DOES:
        return container.copy(x)
    result = container.empty(spec.shape, x)
    backend.copy(container.address(result), container.address(x), nbytes)
    return result


def _run_on_views(
    container: Any,
    backend: Any,
    plan: ScatterPlan,
    operands: tuple[Any, Any],
    source: tuple[int, Any],
    how: Any,
) -> int:
    """Run a backend that takes NumPy views, at the shape of the index."""
    result, i = operands
    kind = how if how is None or isinstance(how, str) else how.kind
    items = bits_dtype(plan.itemsize) if kind is None or kind in COMPARED else np.dtype(kind)
    target = arrays.bits(container, result).reshape(plan.shape or (1,)).view(items)
    index = view_memory(container.address(i), plan.index_shape, plan.index_strides, plan.index, i)
    src = view_memory(source[0], plan.index_shape, plan.src_strides, items, source[1])
    return int(backend.scatter(plan, target, index, src, how))
