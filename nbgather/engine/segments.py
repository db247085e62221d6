"""Reductions of segments that follow each other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from nbgather.engine import apart, arrays, backends, bad_index
from nbgather.engine.plan_scatter import plan_scatter
from nbgather.engine.scatter import combining_on_device, scatter_on_device
from nbgather.kernels.memory import memory_address
from nbgather.operations.base import Options, is_contiguous
from nbgather.operations.reducing import COMPARED, ScatterReduce, reduction
from nbgather.operations.segments import SegmentReduce

#: Items from which on positions of 32 bits do not reach.
MAX_ON_DEVICE = (1 << 32) - 1


def segment_reduce(
    container: Any, operation: SegmentReduce, operands: tuple[Any, ...], options: Options
) -> Any:
    """Each segment of rows by itself; by ids, or without a kernel, it is made of a scatter."""
    x, where = operands
    spec, where_spec = container.spec(x), container.spec(where)
    (result_spec,) = operation.result(spec, where_spec)
    if container.home != "cpu":
        return _on_device(container, operation, operands, options)
    if operation.by == "ids":
        # The scatter that it is made of would name a place of the index that it spreads them to.
        ids = arrays.integers(container, where)
        if bad_index.first_bad_index(ids, result_spec.shape[0], False) is not None:
            bad_index.raise_bad_index(ids, result_spec.shape[0], 0, False)
        return NotImplemented
    offsets = _offsets(operation, arrays.integers(container, where), spec.shape[0])
    how = reduction(spec.dtype, operation.reduce, False)
    backend = backends.serving(options.backend, container.home, spec.device)
    if how is None or how.kind.startswith("c") or "segments" not in backend.DOES:
        return NotImplemented
    if how.reduce == "mean" and how.kind in COMPARED:
        return NotImplemented
    result = container.empty(result_spec.shape, x)
    columns, (segments, rows) = math.prod(spec.shape[1:]), (len(offsets) - 1, spec.shape[0])
    if not segments or not columns:
        return result
    if not is_contiguous(spec) or container.address(x) % spec.dtype.itemsize:
        x = apart.copy(container, x)
    empty = container.item_bits(operation.empty(x.dtype), x, "")
    addresses = container.address(result), container.address(x), memory_address(offsets)
    # A column of a segment is one thread's.
    longest = int(np.diff(offsets).max()) * columns * spec.dtype.itemsize
    apart.run(
        2 * longest, (result, x, offsets, empty), backend.segment_reduce,
        how, (*addresses, memory_address(empty)), (segments, rows, columns), spec.dtype.itemsize,
    )  # fmt: skip
    return result


def _on_device(
    container: Any, operation: SegmentReduce, operands: tuple[Any, ...], options: Options
) -> Any:
    """On a GPU: by ids a scatter, and else the rows of each segment one after the other."""
    x, where = operands
    spec, where_spec = container.spec(x), container.spec(where)
    (result_spec,) = operation.result(spec, where_spec)
    reduce, (place,) = operation.reduce, container.place(x)
    # What stands for no rows is no value of a segment, but where it changes none.
    as_scatter = ScatterReduce(0, reduce, reduce in ("sum", "prod"))
    by_ids = operation.by == "ids"
    how = combining_on_device(
        as_scatter if by_ids else replace(as_scatter, include_self=False), spec.dtype
    )
    backend = backends.serving(options.backend, container.home, spec.device)
    if how is NotImplemented or math.prod(spec.shape) >= MAX_ON_DEVICE:
        return NotImplemented
    offsets = None
    if not by_ids:
        # Which are told of as on the CPU: the host has to see them.
        offsets = _offsets(operation, arrays.integers(container, where), spec.shape[0])
    result = container.empty(result_spec.shape, x)
    if not math.prod(result_spec.shape):
        return result
    item = spec.dtype.itemsize
    empty = container.bytes_beside(container.item_bits(operation.empty(x.dtype), x, ""), x)
    backend.copy(
        container.address(result), container.address(empty),
        result_spec.shape, result_spec.strides, (0,) * len(result_spec.shape), item, place,
    )  # fmt: skip
    if not spec.shape[0]:
        return result
    if container.address(x) % item or not (by_ids or is_contiguous(spec)):
        x = container.copy(x)
        spec = container.spec(x)
    if offsets is None:
        strides = where_spec.strides + (0,) * (len(spec.shape) - 1)
        index = where_spec._replace(shape=spec.shape, strides=strides)
        plan = plan_scatter(as_scatter, result_spec, index, spec)
        given = result, where, x
        return scatter_on_device(
            container, backend, as_scatter, plan, given, (result_spec, spec), how
        )
    bounds = container.from_numpy(offsets.astype(np.uint32), x)
    addresses = container.address(result), container.address(x), container.address(bounds)
    sizes = len(offsets) - 1, spec.shape[0], math.prod(spec.shape[1:]) * item
    backend.segment_reduce(how, *addresses, sizes, place)
    return result


def _offsets(operation: SegmentReduce, given: np.ndarray, rows: int) -> np.ndarray:
    """The offsets as int64, which rise from 0 to the number of rows."""
    name = operation.by
    if name == "counts":
        bad = np.flatnonzero((given < 0) | (given > rows))
        if bad.size:
            k = int(bad[0])
            raise ValueError(f"counts[{k}] is {given[k]}: it must be between 0 and N = {rows}")
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(given, dtype=np.int64)])
        if offsets[-1] != rows:
            raise ValueError(f"counts sum to {offsets[-1]}: N = {rows} is needed")
        return offsets
    bad = np.flatnonzero((given < 0) | (given > rows))
    if bad.size:
        k = int(bad[0])
        raise ValueError(f"offsets[{k}] is {given[k]}: it must be between 0 and N = {rows}")
    offsets = np.ascontiguousarray(given, np.int64)
    falls = np.flatnonzero(offsets[1:] < offsets[:-1])
    if falls.size:
        k = int(falls[0])
        raise ValueError(
            f"offsets[{k + 1}] is {offsets[k + 1]}, less than offsets[{k}], {offsets[k]}: they"
            " must not fall"
        )
    if offsets[0] != 0 or offsets[-1] != rows:
        raise ValueError(
            f"offsets go from {offsets[0]} to {offsets[-1]}: 0 to N = {rows} is needed"
        )
    return offsets
