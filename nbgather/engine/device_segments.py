"""Reductions of segments and of bags on a GPU: rows that follow each other, reduced by a kernel."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from nbgather.engine import arrays, backends, device_errors
from nbgather.engine.plan import plan_gather
from nbgather.engine.plan_scatter import plan_scatter
from nbgather.engine.scatter import combining_on_device, scatter_on_device
from nbgather.operations.base import INT64, Options, Spec, is_contiguous
from nbgather.operations.indexing import GatherTokens
from nbgather.operations.reducing import ScatterReduce
from nbgather.operations.segments import GatherReduce, SegmentReduce, checked_bounds
from nbgather.operations.shapes import needs_position

#: Items from which on positions of 32 bits do not reach.
MAX_ON_DEVICE = (1 << 32) - 1


def segment_reduce(
    container: Any, operation: SegmentReduce, operands: tuple[Any, ...], options: Options
) -> Any:
    """By ids a scatter, and else the rows of each segment one after the other."""
    x, where = operands
    spec, where_spec = container.spec(x), container.spec(where)
    by_ids, (result_spec,) = operation.by == "ids", operation.result(spec, where_spec)
    backend = backends.serving(options.backend, container.home, spec.device)
    bounds = None
    if not by_ids:
        device_errors.poll(backend, *container.place(x))
        bounds = _bounds_of(container, backend, operation, where, spec.shape[0], x)
    how = _combining(operation, spec, by_ids)
    if how is NotImplemented or math.prod(spec.shape) >= MAX_ON_DEVICE:
        return NotImplemented
    result = _of_no_rows(container, backend, operation, result_spec, x)
    if not math.prod(result_spec.shape) or not spec.shape[0]:
        return result
    if container.address(x) % spec.dtype.itemsize or not (by_ids or is_contiguous(spec)):
        x = container.copy(x)
        spec = container.spec(x)
    if by_ids:
        as_scatter = _scatter(operation)
        strides = where_spec.strides + (0,) * (len(spec.shape) - 1)
        index = where_spec._replace(shape=spec.shape, strides=strides)
        plan = plan_scatter(as_scatter, result_spec, index, spec)
        given = result, where, x
        return scatter_on_device(
            container, backend, as_scatter, plan, given, (result_spec, spec), how
        )
    _reduce(container, backend, how, result, x, bounds)
    return result


def gather_reduce(
    container: Any, operation: GatherReduce, operands: tuple[Any, ...], options: Options
) -> Any:
    """The rows that the ids name are gathered, and are then segments."""
    x, ids, where = operands
    spec, ids_spec = container.spec(x), container.spec(ids)
    where_spec = None if where is None else container.spec(where)
    (result_spec,) = operation.result(spec, ids_spec, where_spec)
    total, (place,) = math.prod(ids_spec.shape), container.place(x)
    backend = backends.serving(options.backend, container.home, spec.device)
    device_errors.poll(backend, place)
    how = _combining(operation, spec, False)
    if how is NotImplemented or total * math.prod(spec.shape[1:]) >= MAX_ON_DEVICE:
        return NotImplemented
    bounds = None
    if where is not None:
        bounds = _bounds_of(container, backend, operation, where, total, x)
    rows = None
    if total:
        rows = _gathered(container, backend, operation, (x, ids))
    result = _of_no_rows(container, backend, operation, result_spec, x)
    if rows is None or not math.prod(result_spec.shape):
        return result
    if where is None:
        bounds = _even_bounds(container, backend, ids_spec.shape, x)
    _reduce(container, backend, how, result, rows, bounds)
    return result


def _scatter(operation: SegmentReduce) -> ScatterReduce:
    """What stands for no rows is no value of a segment, but where it changes none."""
    return ScatterReduce(0, operation.reduce, operation.reduce in ("sum", "prod"))


def _combining(operation: SegmentReduce, spec: Spec, by_ids: bool) -> Any:
    as_scatter = _scatter(operation)
    return combining_on_device(
        as_scatter if by_ids else replace(as_scatter, include_self=False), spec.dtype
    )


def _of_no_rows(
    container: Any, backend: Any, operation: SegmentReduce, spec: Spec, like: Any
) -> Any:
    """A result of segments that have no rows."""
    result = container.empty(spec.shape, like)
    if math.prod(spec.shape):
        bits = container.item_bits(operation.empty(like.dtype), like, "")
        empty = container.bytes_beside(bits, like)
        backend.copy(
            container.address(result), container.address(empty), spec.shape, spec.strides,
            (0,) * len(spec.shape), spec.dtype.itemsize, *container.place(like),
        )  # fmt: skip
    return result


def _reduce(container: Any, backend: Any, how: Any, result: Any, rows: Any, bounds: Any) -> None:
    """Reduce contiguous rows to a result of no rows, by offsets on the device."""
    spec = container.spec(rows)
    sizes = (
        container.shape(result)[0], spec.shape[0], math.prod(spec.shape[1:]) * spec.dtype.itemsize
    )  # fmt: skip
    addresses = map(container.address, (result, rows, bounds))
    backend.segment_reduce(how, *addresses, sizes, *container.place(rows))


def _gathered(
    container: Any, backend: Any, operation: GatherReduce, operands: tuple[Any, Any]
) -> Any:
    """The rows that ids name, ``[T, ...]``: tokens, which all samples take from the same rows."""
    x, ids = operands
    spec, ids_spec = container.spec(x), container.spec(ids)
    mode, (place,), (size, *inner) = operation.mode, container.place(x), spec.shape
    plan = plan_gather(GatherTokens, 1, mode, *_as_tokens(spec, ids_spec), None)
    shape = *ids_spec.shape, *inner
    rows = container.empty((math.prod(ids_spec.shape), *inner), x)
    needs_position(ids_spec.shape, size, 0, mode)
    if plan.count:
        item_mask = plan.itemsize - 1 if plan.item_mask else 0
        is_odd = container.address(x) & item_mask or container.address(ids) & plan.index_mask
        if plan.needs_copy or is_odd:
            plain = container.copy(x), arrays.native_index(container, ids)
            return _gathered(container, backend, operation, plain)
        fill = None
        if mode in ("fill", "defer"):
            fill = container.item_bits(operation.fill_value, x, "fill_value")
        addresses = map(container.address, (rows, x, ids))
        launch = functools.partial(backend.gather, plan, *addresses, place, fill=fill)
    else:  # rows of no items, of which a gather reads no ids
        shape, ids = ids_spec.shape, arrays.native_index(container, ids)
        ids_spec = container.spec(ids)
        launch = functools.partial(
            backend.find_bad, plan.index, container.address(ids), shape, ids_spec.strides, size,
            place,
        )  # fmt: skip
    if plan.limit >= 0:
        waits = device_errors.may_wait(backend, place, mode)
        device_errors.run(
            backend, place, waits, launch, device_errors.Kind, "gather_reduce", shape,
            (plan.count and plan.row) or 1, ids_spec.shape, plan.index, 0, size,
        )  # fmt: skip
    elif plan.count:
        launch()
    return rows


def _as_tokens(x: Spec, ids: Spec) -> tuple[Spec, Spec]:
    """Rows as the tokens of as many samples as there are bags of ids, or of one."""
    if len(ids.shape) == 1:
        ids = ids._replace(shape=(1, *ids.shape), strides=(0, *ids.strides))
    shape, strides = (ids.shape[0], *x.shape), (0, *x.strides)
    return x._replace(shape=shape, strides=strides), ids


def _bounds_of(
    container: Any, backend: Any, operation: SegmentReduce, where: Any, rows: int, like: Any
) -> Any:
    """The offsets of segments, or bags, as uint32 on the device."""
    (place,) = container.place(like)
    if device_errors.may_wait(backend, place, "raise"):
        # What is bad is told of as on the CPU, so that the host has to see them.
        offsets = checked_bounds(operation, arrays.integers(container, where), rows)
        return container.from_numpy(offsets.astype(np.uint32), like)
    # Those that no host has seen: what is bad is told of by a later call.
    spec = container.spec(where)
    (count,), (step,), code = spec.shape, spec.strides, spec.dtype.integer
    if not spec.dtype.native or container.address(where) % spec.dtype.itemsize:
        where = arrays.native_index(container, where)
        step = spec.dtype.itemsize
    bounds = _room(container, count + (operation.by == "counts"), like)

    def launch(record: int, call: int) -> None:
        addresses = container.address(where), container.address(bounds)
        backend.segment_bounds(
            operation.by, code, *addresses, (count, step, rows), place, record, call
        )

    name = device_errors.function_name(type(operation).__name__)
    device_errors.run(
        backend, place, False, launch, device_errors.kind_of_segments, name, operation.by, count,
        rows, code,
    )  # fmt: skip
    return bounds


def _even_bounds(container: Any, backend: Any, shape: tuple[int, int], like: Any) -> Any:
    """The offsets of bags of the same size: of one count, which is read for each of them."""
    bags, size = shape
    (place,) = container.place(like)
    bounds, count = _room(container, bags + 1, like), np.array([size], np.int64)
    one = container.bytes_beside(count, like)
    addresses = container.address(one), container.address(bounds)
    record = backend.driver.records.ignored(place.device).address  # nothing can be bad
    backend.segment_bounds("counts", "i8", *addresses, (bags, 0, bags * size), place, record, 0)
    return bounds


def _room(container: Any, count: int, like: Any) -> Any:
    """Memory for so many uint32 on the device."""
    return container.empty((max(-(-count // 2), 1),), like, INT64)
