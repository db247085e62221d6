"""Reductions of segments that follow each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbgather.engine import arrays, backends, bad_index
from nbgather.kernels.memory import memory_address
from nbgather.operations.base import Options, is_contiguous
from nbgather.operations.reducing import COMPARED, reduction
from nbgather.operations.segments import SegmentReduce


def segment_reduce(
    container: Any, operation: SegmentReduce, operands: tuple[Any, ...], options: Options
) -> Any:
    """Each segment of rows by itself; by ids, or without a kernel, it is made of a scatter."""
    x, where = operands
    spec, where_spec = container.spec(x), container.spec(where)
    (result_spec,) = operation.result(spec, where_spec)
    if container.home != "cpu":
        return NotImplemented
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
        x = container.copy(x)
    empty = container.item_bits(operation.empty(container.namespace(x), x.dtype), x, "")
    addresses = container.address(result), container.address(x), memory_address(offsets)
    backend.segment_reduce(
        how, (*addresses, memory_address(empty)), (segments, rows, columns), spec.dtype.itemsize
    )
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
