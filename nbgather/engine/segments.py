"""Reductions of segments that follow each other, and of bags of ids."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbgather.engine import apart, arrays, backends, device_segments, memo
from nbgather.engine.bad_index import raise_bad_index
from nbgather.engine.out import check_match, check_out, into
from nbgather.engine.pieces import PIECE_BYTES
from nbgather.kernels import small
from nbgather.kernels.memory import memory_address
from nbgather.operations import checks
from nbgather.operations.base import Options, Spec, is_contiguous
from nbgather.operations.reducing import COMPARED, reduction
from nbgather.operations.segments import (
    CheckedBounds,
    GatherReduce,
    SegmentReduce,
    checked_bounds,
)


def segment_reduce(
    container: Any, operation: SegmentReduce, operands: tuple[Any, ...], options: Options
) -> Any:
    """Each segment of rows by itself; by ids, or without a kernel, it is made of a scatter."""
    x, where = operands
    spec, where_spec = container.spec(x), container.spec(where)
    (result_spec,) = operation.result(spec, where_spec)
    out_spec = checked_out(container, operation, operands, result_spec, options.out)
    if container.home != "cpu":
        made = device_segments.segment_reduce(container, operation, operands, options)
        return made if made is NotImplemented else into(container, made, options.out)
    if operation.by == "ids":
        return NotImplemented
    offsets = checked_bounds(operation, arrays.integers(container, where), spec.shape[0])
    how = reduction(spec.dtype, operation.reduce, False)
    backend = backends.serving(options.backend, container.home, spec.device)
    if how is None or how.kind.startswith("c") or "segments" not in backend.DOES:
        return NotImplemented
    if how.reduce == "mean" and how.kind in COMPARED:
        return NotImplemented
    # Of offsets that are good nothing goes wrong any more.
    is_direct = _is_direct(container, options.out, out_spec)
    result = options.out if is_direct else container.empty(result_spec.shape, x)
    columns, (segments, rows) = math.prod(spec.shape[1:]), (len(offsets) - 1, spec.shape[0])
    if not segments or not columns:
        return into(container, result, options.out)
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
    return into(container, result, options.out)


def gather_reduce(
    container: Any, operation: GatherReduce, operands: tuple[Any, ...], options: Options
) -> Any:
    """Each bag by itself, its rows read where they are; or these are gathered, to be segments."""
    x, ids, where = operands
    spec, ids_spec = container.spec(x), container.spec(ids)
    where_spec = None if where is None else container.spec(where)
    (result_spec,) = operation.result(spec, ids_spec, where_spec)
    out_spec = checked_out(container, operation, operands, result_spec, options.out)
    if container.home != "cpu":
        made = device_segments.gather_reduce(container, operation, operands, options)
        return made if made is NotImplemented else into(container, made, options.out)
    if operation.mode not in checks.WRITE_MODES:
        return NotImplemented
    how = reduction(spec.dtype, operation.reduce, False)
    backend = backends.serving(options.backend, container.home, spec.device)
    if how is None or how.kind.startswith("c") or how.kind in COMPARED:
        return NotImplemented
    if "bags" not in backend.DOES:
        return NotImplemented
    total, columns = math.prod(ids_spec.shape), math.prod(spec.shape[1:])
    bags, item = result_spec.shape[0], spec.dtype.itemsize
    offsets, each, is_same = np.empty(0, np.int64), 0, True
    if where is None:
        each = ids_spec.shape[1]
    else:
        given = offsets = arrays.integers(container, where)
        is_same = operation.by == "offsets" and _are_plain(given) and total > 0 and bags > 0
        if not is_same:  # else the kernel sees whether they fit
            offsets = checked_bounds(operation, given, total)
    if not total or not columns:
        return NotImplemented
    if not is_contiguous(spec) or container.address(x) % item:
        x = container.copy(x)
    numbers = ids
    is_plain = is_contiguous(ids_spec) and ids_spec.dtype.native
    if not is_plain or container.address(ids) % ids_spec.dtype.itemsize:
        numbers = arrays.native_index(container, ids)
    is_direct = _is_direct(container, options.out, out_spec)
    if is_direct and total * ids_spec.dtype.itemsize <= 2 * bags * columns * item:
        # The kernel meets what is bad while it writes: here nothing may have been written then.
        if where is not None:
            checked_bounds(operation, given, total)
        code, address = ids_spec.dtype.integer, container.address(numbers)
        if backend.find_outside(code, address, total, spec.shape[0]):
            raise_bad_index(arrays.integers(container, ids), spec.shape[0], 0, False)
        result = options.out
    else:
        result = container.empty(result_spec.shape, x)
    empty = container.item_bits(operation.empty(x.dtype), x, "")
    addresses = tuple(map(container.address, (result, x, numbers)))
    kind = ids_spec.dtype.integer
    told = (kind, addresses[2]) if each else (f"i{offsets.itemsize}", memory_address(offsets))
    addresses = *addresses, told[1]
    call = (
        (bags, spec.shape[0], columns, each, total),
        (kind, told[0]),
        memory_address(empty),
    )
    work = 2 * total * columns * item
    if apart.is_long(work):  # a column of a bag is one thread's
        longest = each if where is None else int(np.diff(offsets).max())
        work = 2 * longest * columns * item
    owners = result, x, numbers, offsets, empty
    if apart.run(work, owners, backend.bag_reduce, how, addresses, *call):
        if where is not None:
            checked_bounds(operation, arrays.integers(container, where), total)
        raise_bad_index(arrays.integers(container, ids), spec.shape[0], 0, False)
    is_same = is_same and x is operands[0] and numbers is ids and options.out is None
    if is_same and options.backend is None and 2 * total * columns * item <= PIECE_BYTES:
        specs = spec, ids_spec, where_spec
        _keep(container, backend, operation, operands, specs, (how, call, empty))
    return into(container, result, options.out)


def checked_out(
    container: Any, operation: SegmentReduce, operands: tuple[Any, ...], result: Spec, out: Any
) -> Spec | None:
    """The specification of ``out``, which has the result's and meets no operand."""
    if out is None:
        return None
    names = ("x", "ids", operation.by) if len(operands) > 2 else ("x", operation.by)
    named = [
        (name, array, container.spec(array))
        for name, array in zip(names, operands, strict=True)
        if array is not None
    ]
    spec = check_out(container, out, named)
    check_match(spec, result)
    return spec


def _is_direct(container: Any, out: Any, spec: Spec | None) -> bool:
    """Whether kernels can write to ``out`` as it lies."""
    if spec is None or not is_contiguous(spec):
        return False
    return not container.address(out) % spec.dtype.itemsize


def _are_plain(offsets: np.ndarray) -> bool:
    """Whether kernels can read offsets as they are."""
    is_known = offsets.dtype.isnative and offsets.dtype.str[1:] in ("i4", "i8")
    return is_known and bool(offsets.flags.c_contiguous and offsets.flags.aligned)


def _keep(
    container: Any,
    backend: Any,
    operation: GatherReduce,
    operands: tuple[Any, ...],
    specs: tuple[Spec | None, ...],
    made: tuple[Any, Any, Any],
) -> None:
    """Keep a call that went well, whose kernel looks at all that its operands say."""
    head, given = memo.call_of(operation, operands)
    if head is None or not container.exact_types or not memo.again(container, head, *specs):
        return
    (how, call, empty), x = made, operands[0]
    where = small.operand(1 if specs[2] is None else 2)
    addresses = small.result(0), small.operand(0), small.operand(1), where
    step = backend.bag_reduce(how, addresses, *call, run=backend.step)
    shape = call[0][0], *x.shape[1:]
    results = [memo.Result(tuple(shape), x.dtype)]
    memo.keep(container, backend, head, given, results, [step], owner=empty)


def check_bounds(container: Any, operation: SegmentReduce, operands: tuple[Any, ...]) -> None:
    """Whether segments by offsets or counts are all of the rows, or of the ids of bags."""
    *_, rows, where = operands
    if where is not None and operation.by != "ids":
        total = math.prod(container.shape(rows)) if len(operands) > 2 else container.shape(rows)[0]
        checked_bounds(operation, arrays.integers(container, where), total)


def checked(
    container: Any, operation: CheckedBounds, operands: tuple[Any, ...], options: Options
) -> Any:
    """Offsets or counts as they came, each of a batch looked at by itself."""
    (bounds,) = operands
    given = arrays.integers(container, bounds)
    for one in given.reshape(math.prod(given.shape[:-1]), given.shape[-1]):
        checked_bounds(operation.reduction, one, operation.rows)
    return container.copy(bounds)
