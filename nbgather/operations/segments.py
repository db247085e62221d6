"""Segments of rows, each reduced to one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from nbgather.operations import checks
from nbgather.operations.base import Apply, Operation, Spec, device_of, fresh, known
from nbgather.operations.indexing import ScatterAdd
from nbgather.operations.reducing import ScatterReduce, check_numbers, checked_reduce, neutral


@dataclass(frozen=True)
class SegmentReduce(Operation):
    """Operands (x `[N, ...]`, where): the result is `[S, ...]`, a row for each segment.

    ``where`` is the segment of each row, `[N]`; or where each begins and the last ends, `[S + 1]`;
    or how many rows each has, `[S]`.
    """

    reduce: str
    by: str
    num_segments: Any = None

    names: ClassVar[tuple[str, ...]] = ("x", "segments")
    sides: ClassVar[tuple[int, ...]] = (1,)
    differentiable: ClassVar[tuple[int, ...]] = (0,)
    differentiable_parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checked_reduce(self.reduce)

    def result(self, x: Spec, where: Spec) -> tuple[Spec, ...]:
        if not x.shape:
            raise ValueError("x has shape (): [N, ...] is needed")
        check_numbers(x.dtype, self.reduce, "segment_reduce")
        checks.index_dtype(where.dtype, self.by)
        if len(where.shape) != 1:
            raise ValueError(f"{self.by} has shape {where.shape}: one dimension is needed")
        size = where.shape[0]
        if self.by == "ids":
            if known(size) and known(x.shape[0]) and size != x.shape[0]:
                raise ValueError(
                    f"ids has {size} items and x {x.shape[0]} rows: one for each is needed"
                )
            size = self.num_segments
        elif self.by == "offsets":
            if known(size) and size < 1:
                raise ValueError("offsets is empty: where each segment begins and the last ends")
            size = size - 1
        shape = (size, *x.shape[1:])
        if all(map(known, shape)) and math.prod(shape) * x.dtype.itemsize >= 1 << 63:
            raise ValueError(f"{size} segments are too many: no memory holds a result of {shape}")
        return (fresh(shape, x.dtype, x),)

    def empty(self, dtype: Any) -> Any:
        """What stands for a segment of no rows."""
        if self.reduce == "mean":
            return 0 if "int" in str(dtype) else float("nan")
        return neutral(self.reduce, dtype)

    def lower(self, do: Apply, *operands: Any) -> Any:
        """A scatter of the rows to their segments."""
        x, where = operands
        xp, device = do.xp, device_of(x)
        size, rows = self.num_segments, x.shape[0]
        if self.by != "ids":
            counts = where[1:] - where[:-1] if self.by == "offsets" else where
            size = counts.shape[0]
            where = repeated(xp, xp.arange(size, device=device), counts, rows)
        first = xp.full((size, *x.shape[1:]), self.empty(x.dtype), dtype=x.dtype, device=device)
        if known(rows) and rows == 0:
            return first
        index = do.spread(xp.reshape(where, (-1, *(1,) * (x.ndim - 1))), tuple(x.shape))
        if self.reduce == "sum":
            return do.run(ScatterAdd(0), first, index, x)
        # What stands for no rows is no value of a segment.
        return do.run(ScatterReduce(0, self.reduce, self.reduce == "prod"), first, index, x)


def repeated(xp: Any, values: Any, counts: Any, total: Any) -> Any:
    """Each of some values as often as its count says, ``total`` in all."""
    if hasattr(xp, "repeat_interleave"):  # torch
        return xp.repeat_interleave(values, counts, output_size=total)
    if "jax" in type(values).__module__:
        return xp.repeat(values, counts, total_repeat_length=total)
    return xp.repeat(values, counts)
