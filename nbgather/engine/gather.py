"""Gather, take along an axis, gather tokens, and restore them: one plan, one kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nbgather.engine import apart, arrays, backends, device_errors, memo
from nbgather.engine.bad_index import raise_bad_index
from nbgather.engine.out import check_out
from nbgather.engine.plan import plan_gather, results_of
from nbgather.kernels import small
from nbgather.kernels.memory import bits_dtype, memory_address, view_memory
from nbgather.kernels.plans import GatherPlan
from nbgather.operations.base import Options, is_array, is_contiguous
from nbgather.operations.indexing import Gather
from nbgather.operations.shapes import needs_position
from nbgather.operations.tokens import KeepTokens, RestoreTokens

#: What an unused pointer points to.
_UNUSED = np.zeros(16, np.uint8)
_UNUSED_ADDRESS = memory_address(_UNUSED)


def gather(container: Any, operation: Gather, operands: tuple[Any, ...], options: Options) -> Any:
    """Gather items or tokens."""
    return _gather(container, operation, operands, None, options)


def keep(container: Any, operation: KeepTokens, operands: tuple[Any, ...], options: Options) -> Any:
    """Gather the tokens that a ranking keeps."""
    return _gather(container, operation.gather, operands[:2], None, options)


def restore(
    container: Any, operation: RestoreTokens, operands: tuple[Any, ...], options: Options
) -> Any:
    """Gather tokens where they are visible, and the mask token elsewhere."""
    x, ids, token = operands
    spec = container.spec(x)
    inner = spec.shape[2:]
    results_of(
        operation, spec, container.spec(ids), container.spec(token) if is_array(token) else None
    )
    if is_array(token):
        row = container.token_row(token, inner, x)
    else:
        row = container.number_row(token, inner, x)
    return _gather(container, operation, (x, ids), row, options, token)


def _gather(
    container: Any,
    operation: Gather,
    operands: tuple[Any, ...],
    row: Any,
    options: Options,
    token: Any = None,
) -> Any:
    """``row`` is what restoring fills with, bits or an array of one token; ``token`` as it came."""
    x, i = operands
    x_spec, i_spec = container.spec(x), container.spec(i)
    out, out_spec = options.out, None
    if out is not None:
        x_name, i_name = operation.names[:2]
        out_spec = check_out(container, out, [(x_name, x, x_spec), (i_name, i, i_spec)])
    kind: Any = type(operation)
    plan = plan_gather(kind, operation.dim, operation.mode, x_spec, i_spec, out_spec)
    backend = backends.serving(options.backend, container.home, x_spec.device)
    if plan.count == 0:
        return container.empty(plan.shape, x) if out is None else out
    x_address, i_address = container.address(x), container.address(i)
    place = container.place(x)
    # A GPU moves 16 bytes as one item, the host as two words.
    item_mask = plan.itemsize - 1 if place and plan.item_mask else plan.item_mask
    if plan.needs_copy or x_address & item_mask or i_address & plan.index_mask:
        return _gather_copies(container, operation, operands, row, options)
    waits = False
    if place:
        device_errors.poll(backend, *place)
        mode = operation.errors if isinstance(operation, RestoreTokens) else operation.mode
        waits = device_errors.may_wait(backend, place[0], mode, needed=row is None)
    result = container.empty(plan.shape, x) if out is None else out
    out_address = container.address(result)
    if out_address & item_mask:
        return _gather_copies(container, operation, operands, row, options)
    needs_position(plan.shape, plan.size, plan.dim, plan.mode)
    fill = None
    told = operation.fill_value
    # Nothing is put off on the host; a zero that is not asked for need not fit, as in structs.
    unused = operation.mode == "defer" and not place and type(told) is int and told == 0
    if operation.mode in ("fill", "defer") and row is None and not unused:
        fill = container.item_bits(operation.fill_value, x, "fill_value")
        fill = fill if place or operation.mode == "fill" else None
    bad = 0
    if place:
        launch = functools.partial(
            backend.gather, plan, out_address, x_address, i_address, *place, fill=fill,
            row=0 if row is None else container.address(row),
        )  # fmt: skip
        if plan.limit < 0:
            launch()
        else:
            device_errors.run(
                backend, *place, waits, launch, _kind_on_device, kind.__name__, plan, i_spec.shape
            )
    elif plan.size == 0 and plan.mode == "raise":
        bad = 1
    elif backend.HOST_VIEWS:
        bad = _run_on_views(container, backend, plan, (result, x, i), fill, row)
    else:
        aux = _UNUSED_ADDRESS
        if row is not None:
            aux = memory_address(row) if type(row) is np.ndarray else container.address(row)
        elif fill is not None:
            fill = np.repeat(fill, plan.row) if plan.row else fill
            aux = memory_address(fill)
        ways = _ways_to_copy(backend, plan, out_address, x_address, i_address)
        bad = any(way() for way in ways)
        if bad or not ways:
            bad = backend.gather(plan, out_address, x_address, i_address, aux)
    if bad:
        size = plan.limit if row is not None else plan.size
        raise_bad_index(arrays.integers(container, i), size, plan.dim, plan.from_end)
    if options.backend is None and container.exact_types and not place:
        head, _ = memo.call_of(operation, (x, i, token))
        if head is not None and memo.again(container, head, x_spec, i_spec, out_spec):
            token = token if is_array(token) else None
            _keep(container, backend, head, plan, (x, i, out, token), fill if row is None else row)
    return result


def _kind_on_device(
    name: str, plan: GatherPlan, index_shape: tuple[int, ...]
) -> device_errors.Kind:
    """What the message of a bad index needs of a gather by a plan."""
    function = device_errors.function_name(name)
    return device_errors.Kind(
        function, plan.shape, plan.row or 1, index_shape, plan.index, plan.dim, plan.limit
    )


def _ways_to_copy(
    backend: Any, plan: GatherPlan, out: Any, x: Any, i: Any
) -> list[Callable[..., Any]]:
    """The calls that copy the input to the result where that is all there is to do, else none.

    Each is made if none before it found a bad index.
    """
    if not plan.indices or "copy" not in backend.DOES:
        return []
    copy = functools.partial(backend.copy, out, x, plan.nbytes)
    if plan.mode != "raise":
        return [copy]
    below = plan.size if plan.from_end and plan.index.startswith("i") else 0
    check = plan.index, i, plan.indices, plan.size, below
    return [functools.partial(backend.find_outside, *check), copy]


def _keep(
    container: Any, backend: Any, head: Any, plan: GatherPlan, operands: tuple[Any, ...], fill: Any
) -> None:
    """Keep a small call that went well; ``fill`` is what it filled with, an item or a token."""
    x, i, out, token = operands
    target, results = small.result(0), [memo.Result(plan.shape, x.dtype)]
    aux: Any = _UNUSED_ADDRESS
    given = [x, i]
    if out is not None:
        target, results = small.operand(2), []
        given.append(out)
    if token is not None:
        if not _is_a_row(container, token, x, plan.row):
            return
        aux = small.operand(2)
        given.append(token)
    elif fill is not None:
        aux = memory_address(fill)
    source, index = small.operand(0), small.operand(1)
    ways = _ways_to_copy(backend, plan, target, source, index)
    ways = ways or [functools.partial(backend.gather, plan, target, source, index, aux)]
    steps = [way(run=backend.step) for way in ways]
    memo.keep(
        container, backend, head, given, results, steps, out=2 if out is not None else -1,
        owner=(plan, fill), masks={0: backend.address_mask(plan), 2: backend.address_mask(plan)},
    )  # fmt: skip


def _is_a_row(container: Any, token: Any, x: Any, items: int) -> bool:
    """Whether a mask token is as kernels read it: one token of x's dtype, without gaps."""
    spec = container.spec(token)
    same = spec.dtype == container.spec(x).dtype
    return same and is_contiguous(spec) and math.prod(spec.shape) == items


def _gather_copies(
    container: Any, operation: Gather, operands: tuple[Any, ...], row: Any, options: Options
) -> Any:
    """For strides or addresses that no kernel can walk: gather between plain copies."""
    x, i = apart.copy(container, operands[0]), arrays.native_index(container, operands[1])
    result = _gather(container, operation, (x, i), row, options._replace(out=None))
    if options.out is None:
        return result
    container.assign(options.out, result)
    return options.out


def _run_on_views(
    container: Any,
    backend: Any,
    plan: GatherPlan,
    operands: tuple[Any, Any, Any],
    fill: np.ndarray | None,
    row: Any,
) -> int:
    """Run a backend that takes NumPy views, at the shape of the result."""
    result, x, i = operands
    bits = bits_dtype(plan.itemsize)
    x_shape = (*plan.shape[: plan.dim], plan.size, *plan.shape[plan.dim + 1 :])
    index_shape, index_strides = plan.shape, plan.index_strides
    out_view = arrays.bits(container, result)
    if plan.shape == ():
        x_shape, index_shape, index_strides = (plan.size,), (1,), (0,)
        out_view = out_view.reshape(1)
    x_strides = plan.input_strides[: len(x_shape)]
    x_view = view_memory(container.address(x), x_shape, x_strides, bits, x)
    index = view_memory(container.address(i), index_shape, index_strides, plan.index, i)
    aux = np.zeros(1, bits) if fill is None else fill
    if row is not None:
        is_bits = type(row) is np.ndarray
        aux = row.reshape(-1).view(bits) if is_bits else arrays.bits(container, row).reshape(-1)
    return int(backend.gather(plan, out_view, x_view, index, aux))
