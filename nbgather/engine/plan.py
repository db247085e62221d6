"""Shapes and strides become one canonical loop of numbers.

A gather is one loop over the result's positions with three strides an axis (input, index, output;
the input's is 0 along the gathered dimension) and one more stride, ``along``, that the index value
is multiplied by. Axes that can be walked as one are merged, so most calls end as *outer × along ×
inner*. Every decision about strides is taken here, once per layout: plans are kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from nbgather.engine.out import check_match
from nbgather.kernels import machine
from nbgather.kernels.constants import EACH_FETCHED, ROWS_FETCHED
from nbgather.kernels.plans import STREAM_BYTES, GatherPlan
from nbgather.operations.base import Operation, Spec, contiguous_strides, is_contiguous
from nbgather.operations.indexing import Gather
from nbgather.operations.tokens import RestoreTokens

#: The shortest rows, in bytes, that are copied as such on a GPU; shorter ones go item by item.
MIN_DEVICE_ROW_BYTES = 16
#: Rows of so many bytes are moved as one item on the host.
ITEM_NBYTES = (1, 2, 4, 8, 16)
CACHE_LINE_BYTES = 64
#: Bytes of a panel, which a core's second-level cache must hold beside the index and the output.
PANEL_BYTES = machine.second_level_bytes()
#: Bytes of input that are as near where they lie as in a copy.
CACHED_BYTES = PANEL_BYTES // 4
#: Bytes that a gather moves from which on they are prefetched.
FETCH_BYTES = STREAM_BYTES * 3 // 4
#: Bytes of input that no cache near a core holds, and the items of a call from which on it pays to
#: fetch them from anywhere there.
APART_BYTES, APART_ITEMS = 8 * PANEL_BYTES, 1 << 10
#: Items of a row that are worth to be fetched each.
MANY_ITEMS = 64
#: Bytes of a step along the gathered dimension that leaves the page; and of one from which on rows
#: that leave the cache use few of its sets, or so many pages that their addresses are waited for.
PAGE_BYTES, CLASHING_BYTES = 1 << 12, 1 << 10
#: Bytes that are moved in the time in which an item is read from another page than the one before.
FAR_BYTES = 64
#: So many rows of items below 8 bytes are read as fast from where they lie.
FEW_ROWS = 32


class Axis:
    """One axis of the loop: its length and its strides in input, index and output."""

    __slots__ = ("i", "n", "o", "x")

    def __init__(self, n: int, x: int, i: int, o: int) -> None:
        self.n, self.x, self.i, self.o = n, x, i, o


def merged_axes(axes: Sequence[Axis]) -> list[Axis]:
    """Drop axes of length 1 and join neighbours that one stride can walk; outermost first."""
    merged: list[Axis] = []
    for axis in axes:
        if axis.n == 1:
            continue
        if merged:
            last = merged[-1]
            if (
                last.x == axis.x * axis.n
                and last.i == axis.i * axis.n
                and last.o == axis.o * axis.n
            ):
                merged[-1] = Axis(last.n * axis.n, axis.x, axis.i, axis.o)
                continue
        merged.append(axis)
    return merged or [Axis(1, 0, 0, 0)]


@functools.lru_cache(maxsize=4096)
def results_of(operation: Operation, *specs: Spec | None) -> tuple[Spec, ...]:
    """What an operation says of its results, asked once for each layout of its operands."""
    return operation.result(*specs)


@functools.lru_cache(maxsize=4096)
def plan_gather(
    kind: type[Gather], dim: int, mode: str, x: Spec, i: Spec, out: Spec | None
) -> GatherPlan:
    """Check the operands of a gather by its rules, and plan it; its fill value does not enter."""
    operation = kind(dim, mode)
    if mode == "defer" and not x.device.startswith("cuda"):
        mode = "raise"  # where a call is done when it comes back, nothing is gained by waiting
    operation.check_dtypes(x, i)
    loop = operation.loop(x, i)
    if out is not None:
        check_match(out, Spec(loop.shape, (), x.dtype))
    plan = GatherPlan()
    plan.index = i.dtype.integer or ""
    plan.mode, plan.from_end = mode, operation.from_end
    plan.itemsize, plan.kernel = x.dtype.itemsize, None
    plan.needs_copy, plan.width, plan.indices = not i.dtype.native, 0, 0
    plan.shape, plan.dim, plan.size = loop.shape, loop.dim, loop.size
    plan.index_strides = loop.index_strides
    restores = isinstance(operation, RestoreTokens)
    plan.limit = -1
    if restores:
        plan.limit = i.shape[1]
    elif mode in ("raise", "defer"):
        plan.limit = plan.size
    plan.count = math.prod(plan.shape)
    plan.nbytes = plan.count * plan.itemsize
    if plan.count:
        strides = contiguous_strides(plan.shape, plan.itemsize) if out is None else out.strides
        plan.input_strides = loop.input_strides
        if 0 in x.shape:  # NumPy gives every axis of an empty array stride 0
            plan.input_strides = contiguous_strides(x.shape, plan.itemsize)
        _lay_out(plan, strides, i.dtype.itemsize, restores, x.device)
        same = plan.size == 1 and mode != "fill" and not restores and not plan.needs_copy
        if same and math.prod(x.shape) * plan.itemsize == plan.nbytes:
            plain = all(map(is_contiguous, (x, i) if out is None else (x, i, out)))
            plan.indices = math.prod(i.shape) if plain else 0
    return plan


def _lay_out(
    plan: GatherPlan, out_strides: tuple[int, ...], index_size: int, always_rows: bool, device: str
) -> None:
    """Merge the loop's axes, choose its form, and write down the kernel's integers."""
    item = plan.itemsize
    plan.input_strides = plan.input_strides or (item,)  # 0-d counts as one dimension of length 1
    along = plan.input_strides[plan.dim]
    axes = [
        Axis(n, 0 if d == plan.dim else xs, is_, os)
        for d, (n, xs, is_, os) in enumerate(
            zip(plan.shape, plan.input_strides, plan.index_strides, out_strides, strict=False)
        )
    ]
    if always_rows:
        # An axis of length 1 must not vanish here: it is the row.
        row = merged_axes(axes[2:])
        axes = [*merged_axes(axes[:2]), *(row if row[0].n > 1 else [Axis(1, item, 0, item)])]
    else:
        axes = merged_axes(axes)
    inner = axes[-1]
    run = inner.i == 0 and inner.x == item and inner.o == item
    if always_rows:
        plan.needs_copy |= not (run and len(row) == 1)
    least = MIN_DEVICE_ROW_BYTES if device.startswith("cuda") else 2 * item
    plan.as_items, plan.row, plan.row_nbytes = None, 0, 0
    if always_rows or (run and inner.n * item >= least):
        nbytes = inner.n * item
        _write_rows(plan, axes, along, index_size)
        if nbytes in ITEM_NBYTES and not plan.needs_copy:
            plan.as_items = _rows_as_items(plan, axes[:-1], along, index_size)
    else:
        _write_items(plan, axes, along, index_size)


def _write_rows(plan: GatherPlan, axes: list[Axis], along: int, index_size: int) -> None:
    """Rows are counted and walked in bytes."""
    inner = axes[-1]
    plan.form, plan.row, plan.row_nbytes = "rows", inner.n, inner.n * plan.itemsize
    plan.item_mask = 0
    plan.work = plan.nbytes
    plan.count *= plan.itemsize
    _write(plan, [*axes[:-1], Axis(plan.row_nbytes, 1, 0, 1)], along, 1, index_size)


def _write_items(plan: GatherPlan, axes: list[Axis], along: int, index_size: int) -> None:
    item = plan.itemsize
    plan.form = _element_form(axes[-1], along, item, index_size)
    plan.item_mask = min(item, 8) - 1  # 16-byte items are moved as two words
    plan.needs_copy |= along % item != 0 or any(a.x % item or a.o % item for a in axes)
    second = axes[-2] if len(axes) > 1 else Axis(1, 0, 0, 0)
    _stage(plan, axes[-1], second, along, item, index_size)
    plan.work = plan.nbytes + plan.nbytes // item * index_size
    if plan.form == "strided" and abs(axes[-1].x) >= PAGE_BYTES:
        plan.work += plan.nbytes // item * FAR_BYTES  # each is read from a page of its own
    _write(plan, axes, along, item, index_size, _fetched(plan, axes[-1], along, index_size))


def _rows_as_items(
    plan: GatherPlan, axes: list[Axis], along: int, index_size: int
) -> GatherPlan | None:
    """The plan of rows as items of so many bytes, if their strides allow it."""
    item = plan.row_nbytes
    axes = axes or [Axis(1, 0, 0, 0)]  # the row may be all there is
    if along % item or any(a.x % item or a.o % item for a in axes):
        return None
    wide = GatherPlan()
    for name in GatherPlan.__slots__:
        if hasattr(plan, name):
            setattr(wide, name, getattr(plan, name))
    wide.itemsize, wide.row, wide.row_nbytes = item, 0, 0
    wide.count = plan.count // item
    _write_items(wide, axes, along, index_size)
    return wide


def _write(
    plan: GatherPlan,
    axes: list[Axis],
    along: int,
    unit: int,
    index_size: int,
    fetched: int = 0,
) -> None:
    """The kernel's integers, from strides in bytes to those in units and indices."""
    plan.index_mask = index_size - 1
    plan.needs_copy |= any(a.i % index_size for a in axes)
    inner, second = axes[-1], axes[-2] if len(axes) > 1 else Axis(1, 0, 0, 0)
    rest = axes[-3::-1] if len(axes) > 2 else []
    numbers = [plan.size, plan.limit, along // unit]
    for axis in (inner, second):
        numbers += [axis.n, axis.x // unit, axis.i // index_size, axis.o // unit]
    numbers += [int(plan.nbytes >= STREAM_BYTES), plan.width or fetched, len(rest)]
    for axis in rest:
        numbers += [axis.n, axis.x // unit, axis.i // index_size, axis.o // unit]
    plan.args = np.array(numbers, np.int64)
    plan.args.flags.writeable = False


def _element_form(inner: Axis, along: int, item: int, index_size: int) -> str:
    if inner.i == index_size and inner.o == item:
        if inner.x == 0:
            return "last" if along == item else "across"
        if inner.x == item:
            return "middle"
    return "strided"


def _fetched(plan: GatherPlan, inner: Axis, along: int, index_size: int) -> int:
    """What is prefetched beside the index: nothing of what the caches hold.

    Rows along the dimension are, as a whole, where that is up to a cache line for each index, and a
    row is still in a cache when its turn comes. Otherwise it is what each index stands for, unless
    a row is short and few of it are asked for: the processor finds these by itself.
    """
    if plan.form not in ("last", "middle", "strided"):
        return 0
    if plan.size * abs(along) >= APART_BYTES and plan.count >= APART_ITEMS:
        return EACH_FETCHED
    row = plan.size * plan.itemsize
    whole = plan.count // (plan.shape[plan.dim] if plan.shape else 1) * row
    read, fetched = min(plan.count * CACHE_LINE_BYTES, whole), EACH_FETCHED
    if plan.form == "last":
        if row <= min(CACHE_LINE_BYTES * inner.n, 2 * PANEL_BYTES):
            read, fetched = whole, ROWS_FETCHED
        elif inner.n < MANY_ITEMS:
            return 0
    is_large = read + plan.nbytes + plan.count * index_size >= FETCH_BYTES
    return fetched if is_large else 0


def _stage(
    plan: GatherPlan, inner: Axis, second: Axis, along: int, item: int, index_size: int
) -> None:
    """Choose a form that first copies parts of the input together, where that pays.

    It does when a part is read about as often as it is long, and when the input as it lies is more
    than a cache near a core holds.
    """
    line = max(CACHE_LINE_BYTES // item, 1)
    lanes = plan.count // inner.n
    # Items of 8 bytes take as long to copy together as others are waited for.
    is_wide = plan.size * inner.n * item >= PANEL_BYTES and item < 8
    apart = CLASHING_BYTES if is_wide else PAGE_BYTES
    if (
        plan.form == "middle"
        and second.x == 0
        and abs(along) >= apart
        and 2 * second.n >= plan.size
        and (plan.size > FEW_ROWS or item == 8)
    ):
        fits = PANEL_BYTES // (plan.size * item) // line * line
        if fits and plan.size * inner.n * item > CACHED_BYTES and inner.n >= 4 * line:
            plan.form, plan.width = "panel", min(fits, 4 * line)
            plan.count = lanes // second.n * (-(-inner.n // plan.width) + 1)
    elif plan.form == "across":
        plan.form = "strided"
        neighbours = abs(second.x) <= CACHE_LINE_BYTES and 2 * inner.n >= plan.size
        if (
            neighbours
            and plan.size * line * item <= PANEL_BYTES
            and plan.size * second.n * item > CACHED_BYTES
        ):
            plan.form, plan.width = "lanes", line
            plan.count = lanes // second.n * -(-second.n // line)
