"""A scatter's shapes and strides as the numbers of a kernel."""

from __future__ import annotations

import functools
import math

import numpy as np

from nbgather.engine.plan import CACHE_LINE_BYTES, Axis, merged_axes
from nbgather.kernels import machine
from nbgather.kernels.plans import ScatterPlan
from nbgather.operations.base import Spec, contiguous_strides
from nbgather.operations.indexing import Scatter

#: Columns from which a row of them is walked by a loop of its own.
WIDE_COLUMNS = 16
#: Bytes of the result that a tile of columns takes, to stay in a core's second-level cache.
TILE_BYTES = machine.second_level_bytes() // 4
#: Tiles that a scatter of many columns is cut into at least, for threads to share, and the fewest
#: columns of one.
MIN_TILES, MIN_TILE_COLUMNS = 16, 8
#: Places for each step along the dimension from which on the input's copy is most of a scatter.
COPIED_STEPS = 8
#: Places of a lane up to which most sums wait for the one before, through memory, and values of a
#: lane up to which a loop over it costs more than they do.
FEW_PLACES, FEW_STEPS = 8, 16
#: Places from which a lane may be far away, so that no branch should wait for one of its items.
FAR_PLACES = 1 << 13
#: Bytes of a lane's result from which threads may share its places, each walking all of its index.
SHARED_BYTES = 1 << 18


@functools.lru_cache(maxsize=4096)
def plan_scatter(operation: Scatter, x: Spec, i: Spec, src: Spec | None) -> ScatterPlan:
    """Check the operands of a scatter by its rules, and plan it.

    Without ``src`` one item is the source. The result is C-contiguous.
    """
    operation.result(x, i, src)
    item = x.dtype.itemsize
    plan = ScatterPlan()
    plan.index = i.dtype.integer or ""
    plan.dim = operation.dim % max(len(x.shape), 1)
    plan.shape, plan.itemsize = x.shape, item
    plan.nbytes = math.prod(x.shape) * item
    plan.size = x.shape[plan.dim] if x.shape else 1
    plan.index_shape, plan.index_strides = i.shape, i.strides
    plan.src_strides = (0,) * len(i.shape) if src is None else src.strides
    plan.count = math.prod(i.shape)
    plan.form, plan.walk, plan.walk_count, plan.can_share = "strided", None, 0, False
    plan.copies = False
    if len(i.shape) == 0:  # 0-d counts as one dimension of length 1
        plan.index_shape, plan.index_strides = (1,), (i.dtype.itemsize,)
    if len(plan.src_strides) == 0:
        plan.src_strides = (item if src is not None else 0,)
    plan.needs_copy = not i.dtype.native
    if plan.count:
        _lay_out_lanes(plan, i.dtype.itemsize)
        _lay_out_walk(plan, x, i.dtype.itemsize)
    return plan


def _axes(plan: ScatterPlan) -> list[Axis]:
    """The axes of the index, with the strides of the result."""
    to = contiguous_strides(plan.shape or (1,), plan.itemsize)
    strides = zip(plan.index_shape, to, plan.index_strides, plan.src_strides, strict=True)
    return [Axis(n, x, i, o) for n, x, i, o in strides]


def _lay_out_lanes(plan: ScatterPlan, index_size: int) -> None:
    item = plan.itemsize
    axes = _axes(plan)
    along = axes.pop(plan.dim)
    lanes = merged_axes(axes)
    inner, rest = lanes[-1], lanes[-2::-1]
    plan.rows = abs(along.i) <= abs(inner.i) or inner.n == 1
    plan.form = "strided lanes" if plan.rows else "strided"
    plan.count //= along.n
    numbers = [plan.size, along.x // item, along.n, along.i // index_size, along.o // item]
    numbers += [inner.n, inner.x // item, inner.i // index_size, inner.o // item, len(rest)]
    for axis in rest:
        numbers += [axis.n, axis.x // item, axis.i // index_size, axis.o // item]
    plan.args = _constant(numbers)
    plan.needs_copy |= any(a.i % index_size or a.o % item for a in (along, *lanes))
    plan.index_mask, plan.item_mask = index_size - 1, min(item, 8) - 1
    # An item takes about twice as long as copying what is read and written for it.
    plan.work = 2 * plan.count * along.n * (3 * item + index_size) + 2 * plan.nbytes


def _lay_out_walk(plan: ScatterPlan, x: Spec, index_size: int) -> None:
    """Choose one of the forms that copy the input as they go, where the index is laid out for it.

    The index must have a lane for every one of the result, or what has none would not be copied.
    """
    shape = plan.shape or (1,)
    axes, item, dim = _axes(plan), plan.itemsize, plan.dim
    if any(a.n != n for d, (a, n) in enumerate(zip(axes, shape, strict=True)) if d != dim):
        return
    along, outer, columns = axes[dim], merged_axes(axes[:dim]), merged_axes(axes[dim + 1 :])
    if len(columns) > 1:
        return
    (inner,) = columns
    lanes, steps = math.prod(shape[:dim]), along.n
    if inner.n == 1:
        inner = Axis(1, item, index_size, item)
    if inner.o != item or inner.i not in (0, index_size):
        return
    copies = x.strides == contiguous_strides(x.shape, item)
    ends: list[int] = [len(outer)]
    for axis in outer[::-1]:
        ends += [axis.n, 0, axis.i // index_size, axis.o // item]
    head = [plan.size, steps, inner.n]
    in_order = steps == 1 or (along.i == inner.n * index_size and along.o == inner.n * item)
    if inner.n < WIDE_COLUMNS and inner.i and in_order:
        plan.form, plan.copies = _narrow_form(plan.size, steps, inner.n, lanes, outer), copies
        plan.walk, plan.walk_count = _constant([*head, int(copies), *ends]), lanes
        plan.can_share = plan.size * inner.n * item >= SHARED_BYTES
    elif inner.n > 1:
        width = _tile(plan.size, steps, inner.n, lanes, item)
        plan.form, plan.copies = "wide", copies
        strides = along.i // index_size, along.o // item, inner.i // index_size
        plan.walk = _constant([*head, *strides, width, int(copies), *ends])
        plan.walk_count = lanes * -(-inner.n // width)


def _narrow_form(size: int, steps: int, columns: int, lanes: int, outer: list[Axis]) -> str:
    if columns > 1:
        return "columns"
    if (size <= FEW_PLACES or steps <= FEW_STEPS) and lanes > 1 and len(outer) == 1:
        return "few"
    return "far" if size >= FAR_PLACES else "lane"


def _tile(size: int, steps: int, columns: int, lanes: int, item: int) -> int:
    """Columns of a tile: its part of the result fits a cache, and there is a tile for each thread.

    A part that does not fit even if it is as narrow as a few cache lines is not cut for it, and no
    part is narrower where most of the time goes to the copy of the input.
    """
    line = max(CACHE_LINE_BYTES // item, 1)
    width = TILE_BYTES // max(size * item, 1) // line * line
    if width < 4 * line:
        width = columns
    wanted = -(-columns * lanes // MIN_TILES)
    least = 4 * line if COPIED_STEPS * steps <= size else MIN_TILE_COLUMNS
    width = min(width, max(-(-wanted // line) * line, least))
    return min(width, columns)


def _constant(numbers: list[int]) -> np.ndarray:
    result = np.array(numbers, np.int64)
    result.flags.writeable = False
    return result
