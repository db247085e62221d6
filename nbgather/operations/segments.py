"""Segments and bags of rows, each reduced to one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from nbgather.operations import checks
from nbgather.operations.base import (
    Apply,
    Operation,
    Spec,
    Tuple,
    device_of,
    fresh,
    known,
    to_front,
)
from nbgather.operations.indexing import Gather, Scatter, ScatterAdd, TakeInBounds
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
        _check_rows(x, self.reduce, "segment_reduce")
        size = _num_segments(self.by, where)
        if self.by == "ids":
            if known(size) and known(x.shape[0]) and size != x.shape[0]:
                raise ValueError(
                    f"ids has {size} items and x {x.shape[0]} rows: one for each is needed"
                )
            size = self.num_segments
        return (_rows_of(size, x, "segments"),)

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
            counts = _counts(self.by, where)
            size = counts.shape[0]
            where = repeated(xp, xp.arange(size, device=device), counts, rows)
        elif x.ndim > 1:
            where = _checked(do, where, size, x)
        first = xp.full((size, *x.shape[1:]), self.empty(x.dtype), dtype=x.dtype, device=device)
        if known(rows) and rows == 0:
            return first
        return do.run(self.scatter, first, _spread(do, where, tuple(x.shape)), x)

    @property
    def scatter(self) -> Scatter:
        """What adds the rows to rows of what stands for none, which is no value of a segment."""
        if self.reduce == "sum":
            return ScatterAdd(0)
        return ScatterReduce(0, self.reduce, self.reduce == "prod")


@dataclass(frozen=True)
class GatherReduce(SegmentReduce):
    """Operands (x `[L, ...]`, ids, where): the result is `[S, ...]`, a row for each bag of ids.

    ids is `[S, K]` and ``where`` None; or ids is `[T]` and ``where`` as of segments: the offsets of
    the bags, or the counts of their ids. ``mode`` is a gather's.
    """

    mode: str = field(default="raise", kw_only=True)
    fill_value: Any = field(default=0, kw_only=True)

    names: ClassVar[tuple[str, ...]] = ("x", "ids", "bags")
    sides: ClassVar[tuple[int, ...]] = (1, 2)
    optional: ClassVar[tuple[int, ...]] = (2,)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.mode(self.mode)

    @property
    def mode_at_once(self) -> str:
        """As of a gather."""
        return Gather(0, self.mode).mode_at_once

    @property
    def differentiable_parts(self) -> bool:  # type: ignore[override]
        """Sums have a rule of their own, which needs none of the rows, for ids within bounds."""
        return self.mode != "raise" or self.reduce not in ("sum", "mean")

    def result(self, x: Spec, ids: Spec, where: Spec | None) -> tuple[Spec, ...]:  # type: ignore[override]
        _check_rows(x, self.reduce, "gather_reduce")
        checks.index_dtype(ids.dtype, "ids")
        if where is None:
            if len(ids.shape) != 2:
                raise ValueError(
                    f"ids has shape {ids.shape}: [S, K] is needed, or [T] with offsets or counts"
                )
            return (_rows_of(ids.shape[0], x, "bags"),)
        size = _num_segments(self.by, where)
        if len(ids.shape) != 1:
            raise ValueError(f"ids has shape {ids.shape}: with {self.by} one dimension is needed")
        return (_rows_of(size, x, "bags"),)

    def _segments(self, do: Apply, ids: Any, where: Any) -> Any:
        """How many ids each bag has."""
        if where is not None:
            return _counts(self.by, where)
        return do.xp.full(tuple(ids.shape[:1]), 1, device=device_of(ids)) * ids.shape[1]

    def lower(self, do: Apply, *operands: Any) -> Any:
        """The rows that the ids name, as segments."""
        x, ids, where = operands
        if self.mode == "defer":
            ids = _checked(do, ids, x.shape[0], x, Gather(0, "defer", -1))
            return do.run(replace(self, mode="fill"), x, ids, where)
        within = None if self.mode == "raise" else self._within(do, x, ids)
        if within is not None:
            return do.run(replace(self, mode="raise", fill_value=0), *within, where)
        by = self.by
        if where is None:
            by, where = "counts", self._segments(do, ids, where)
        if self.mode == "raise" and (x.ndim > 1 or ids.ndim > 1):
            ids = _checked(do, ids, x.shape[0], x)
        flat = do.xp.reshape(ids, (-1,))
        rows = self._rows(do, x, flat)
        return do.run(SegmentReduce(self.reduce, by), rows, where)

    def _rows(self, do: Apply, x: Any, ids: Any) -> Any:
        """The rows of some ids, those that are filled with among them."""
        gather = Gather(0, self.mode, self.fill_value)
        return do.run(gather, x, _spread(do, ids, (*ids.shape, *x.shape[1:])))

    def _within(self, do: Apply, x: Any, ids: Any) -> tuple[Any, Any] | None:
        """Rows and ids within bounds that stand for the same; None where that costs more memory.

        Behind the rows is then the one that is filled with.
        """
        xp, size, shape = do.xp, x.shape[0], tuple(ids.shape)
        fills, device = self.mode == "fill", device_of(x)
        if fills and not (all(map(known, (size, *shape))) and size < math.prod(shape)):
            return None
        gather, places = Gather(0, self.mode, size if fills else 0), xp.arange(size, device=device)
        positions = xp.reshape(do.run(gather, places, xp.reshape(ids, (-1,))), shape)
        if fills:
            none = xp.full((1,), -1, dtype=xp.int32, device=device)
            x = xp.concat([x, self._rows(do, x, none)], axis=0)
        return x, positions

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        """What each bag got, added to its rows; a mean's divided by how many there are."""
        _, ids, where = operands
        counts = self._segments(do, ids, where)
        if self.reduce == "mean":
            cotangent = cotangent / self._divisor(do, counts, cotangent)
        xp, shape = do.xp, tuple(cotangent.shape[1:])
        flat = xp.reshape(ids, (-1,))
        bags = xp.arange(counts.shape[0], device=device_of(cotangent))
        bags = repeated(xp, bags, counts, flat.shape[0])
        zeros = do.zeros(specs[0].shape, cotangent)
        full = (*flat.shape, *shape)
        got = do.run(Gather(0), cotangent, _spread(do, bags, full))
        return (do.run(ScatterAdd(0), zeros, _spread(do, flat, full), got),)

    def tangent(self, do: Apply, tangents: Tuple, specs: Tuple, operands: Tuple) -> Any:
        moved = do.run(replace(self, reduce="sum"), tangents[0], *operands[1:])
        if self.reduce == "sum":
            return moved
        return moved / self._divisor(do, self._segments(do, *operands[1:]), moved)

    def _divisor(self, do: Apply, counts: Any, like: Any) -> Any:
        """The count of each bag, at the shape of its row; 1 where there is none."""
        xp = do.xp
        some = xp.astype(xp.where(counts == 0, 1, counts), like.dtype)
        return xp.reshape(some, (-1, *(1,) * (like.ndim - 1)))


def _check_rows(x: Spec, reduce: str, name: str) -> None:
    if not x.shape:
        raise ValueError("x has shape (): [N, ...] is needed")
    check_numbers(x.dtype, reduce, name, "x")


def _num_segments(by: str, where: Spec) -> Any:
    """How many segments there are by offsets or counts; of ids how many these are."""
    checks.index_dtype(where.dtype, by)
    if len(where.shape) != 1:
        raise ValueError(f"{by} has shape {where.shape}: one dimension is needed")
    size = where.shape[0]
    if by == "offsets":
        if known(size) and size < 1:
            raise ValueError("offsets is empty: where each segment begins and the last ends")
        return size - 1 if known(size) or checks.is_open(size) else None
    return size


def _rows_of(size: Any, x: Spec, what: str) -> Spec:
    """So many rows like those of x."""
    shape = (size, *x.shape[1:])
    if all(map(known, shape)) and math.prod(shape) * x.dtype.itemsize >= 1 << 63:
        raise ValueError(f"{size} {what} are too many: no memory holds a result of {shape}")
    return fresh(shape, x.dtype, x)


def checked_bounds(operation: SegmentReduce, given: np.ndarray, rows: int) -> np.ndarray:
    """The offsets as int64, which rise from 0 to the number of rows."""
    name = operation.by
    total = "N" if type(operation) is SegmentReduce else "the number of ids"
    if name == "counts":
        bad = np.flatnonzero((given < 0) | (given > rows))
        if bad.size:
            k = int(bad[0])
            raise ValueError(
                f"counts[{k}] is {given[k]}: it must be between 0 and {total} = {rows}"
            )
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(given, dtype=np.int64)])
        if offsets[-1] != rows:
            raise ValueError(f"counts sum to {offsets[-1]}: {total} = {rows} is needed")
        return offsets
    bad = np.flatnonzero((given < 0) | (given > rows))
    if bad.size:
        k = int(bad[0])
        raise ValueError(f"offsets[{k}] is {given[k]}: it must be between 0 and {total} = {rows}")
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
            f"offsets go from {offsets[0]} to {offsets[-1]}: 0 to {total} = {rows} is needed"
        )
    return offsets


@dataclass(frozen=True)
class CheckedBounds(Operation):
    """Operand offsets or counts, `[..., S]`: the same, once they are seen to fit so many rows.

    For a library that knows their values only where the segments are reduced.
    """

    reduction: SegmentReduce
    rows: int

    names: ClassVar[tuple[str, ...]] = ("bounds",)

    def result(self, bounds: Spec) -> tuple[Spec, ...]:
        return (fresh(bounds.shape, bounds.dtype, bounds),)

    def batch(self, do: Apply, size: int, operands: Tuple, axes: Tuple) -> Any:
        return do.run(self, to_front(do, operands[0], axes[0], size))


def _counts(by: str, where: Any) -> Any:
    return where[1:] - where[:-1] if by == "offsets" else where


def _spread(do: Apply, ids: Any, shape: tuple[Any, ...]) -> Any:
    """Ids of rows as an index of all their items."""
    return do.spread(do.xp.reshape(ids, (-1, *(1,) * (len(shape) - 1))), shape)


#: A gather that says of a bad index where it is.
_TELLS = Gather(0)


def _checked(do: Apply, ids: Any, size: Any, x: Any, gather: Gather = _TELLS) -> Any:
    """The ids of rows, below ``size``: a bad one is told of by its own place, not by an item's."""
    if known(ids.shape[0]) and 0 in ids.shape:
        return ids
    places = do.xp.arange(size, device=device_of(x))
    places = do.xp.reshape(places, (-1, *(1,) * (ids.ndim - 1)))
    if "jax" in type(ids).__module__:  # where no input is broadcast without memory
        return do.run(TakeInBounds(0, gather.mode, gather.fill_value), places, ids)
    return do.run(gather, do.xp.broadcast_to(places, (size, *ids.shape[1:])), ids)


def repeated(xp: Any, values: Any, counts: Any, total: Any) -> Any:
    """Each of some values as often as its count says, ``total`` in all."""
    if hasattr(xp, "repeat_interleave"):  # torch
        return xp.repeat_interleave(values, counts, output_size=total)
    if "jax" in type(values).__module__:
        return xp.repeat(values, counts, total_repeat_length=total)
    return xp.repeat(values, counts)
