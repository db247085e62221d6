"""Launches the kernels of a scatter, by the path that serves it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from nbgather.kernels.cuda import launch, launch_radix, radix, scatter_rows, scatter_shared
from nbgather.kernels.cuda import scatter as kernels
from nbgather.kernels.cuda.driver import Place
from nbgather.kernels.cuda.folds import ITEM_BYTES, How, is_counted, sum_of
from nbgather.kernels.cuda.launch_radix import Scratch
from nbgather.kernels.cuda.scatter_paths import (
    Axis,
    Facts,
    Layout,
    bucket_bits,
    choose,
    facts_of,
    lay_out,
    patience_of,
)
from nbgather.kernels.cuda.sums import entries_of
from nbgather.kernels.plans import ScatterPlan

#: Threads of a block that adds up in shared memory, a power of two.
SHARED_THREADS = scatter_shared.SHARED_THREADS

_layout = functools.lru_cache(maxsize=1024)(lay_out)


class _Call(NamedTuple):
    """A scatter: its plan, what is done, and where everything is."""

    plan: ScatterPlan
    layout: Layout
    facts: Facts
    how: How
    out: int
    x: int
    src: int
    idx: int
    flag: int
    place: Place
    scratch: Scratch

    def run(
        self,
        key: tuple[Any, ...],
        make: Callable[..., Any],
        blocks: tuple[int, int],
        threads: tuple[int, int],
        addresses: tuple[int, ...],
        numbers: tuple[int, ...],
    ) -> None:
        """Launch the kernel that ``make`` makes of the numbers behind a key's name."""
        numbers = tuple(n & launch._64_BITS for n in numbers)
        launch.driver.launch(
            key, lambda memory: make(memory, *key[1:]), blocks, threads, self.place, addresses,
            numbers,
        )  # fmt: skip

    def with_copy(self) -> _Call:
        """The same once the input is copied to the result."""
        if self.x != self.out:
            unit = launch._width(self.plan.nbytes, self.out, self.x)
            count = self.plan.nbytes // unit
            launch.copy(self.out, self.x, (count,), (unit,), (unit,), unit, self.place)
        return self._replace(x=self.out)


def scatter(
    plan: ScatterPlan,
    out: int,
    x: int,
    src: int,
    idx: int,
    how: str | How | None,
    place: Place,
    scratch: Scratch,
    flag: int,
) -> bool:
    """Scatter by addresses into a copy of ``x``, contiguous and perhaps ``out`` itself.

    A bad index is left out, and the uint32 at ``flag`` is then not 0. False if no kernel reduces so
    many so. ``how`` is the kind of what is added, or how it is reduced, None where it replaces what
    was there; ``scratch`` gives memory for the time of the call.
    """
    operation, how = _operation(plan, how)
    layout = _layout(plan)
    processors = launch.driver.processors(place.device)
    facts = facts_of(layout, operation, how[1], processors, is_counted(how))
    path = choose(facts).name
    if path == "lowered":
        return False
    _LAUNCHES[path](_Call(plan, layout, facts, how, out, x, src, idx, flag, place, scratch))
    return True


def _operation(plan: ScatterPlan, how: str | How | None) -> tuple[int, How]:
    """What is done to an item, and how."""
    if how is None:
        return kernels.SET, sum_of(f"u{plan.itemsize}")
    if how == "bool":
        return kernels.ANY, sum_of("u1")
    if isinstance(how, str):
        return kernels.ADD, sum_of(how)
    reduce, kind, own = how
    if own and reduce == "sum":
        return kernels.ADD, sum_of(kind)
    return kernels.REDUCE, (reduce, kind, bool(own))


def _numbered(axes: list[Axis], unit: int = 1, wide: bool = False) -> tuple[int, tuple[int, ...]]:
    """How many axes there are, and their numbers, with strides in units of the result."""
    return launch._axes([(n, x // unit, i, s) for n, x, i, s in axes], wide)


def _rows(vectors: int, rows: int, place: Place) -> tuple[tuple[int, int], tuple[int, int]]:
    """Blocks and threads for rows of so many vectors: x walks a row, y the rows."""
    x = min(launch._power_of_two(vectors), 32)
    y = max(launch.THREADS_PER_BLOCK // x, 1)
    blocks = launch._divide_up(rows, y)
    return (blocks, launch._grid_y(launch._divide_up(vectors, x), blocks, place)), (x, y)


def _width(call: _Call, row: int) -> int:
    """The widest access to rows of result, input and src, in bytes."""
    strides = (axis.s for axis in call.layout.row_axes)
    return launch._width(row, call.out, call.x, call.src, *strides)


def _zeros(call: _Call, nbytes: int) -> int:
    """The address of so many bytes of zeros."""
    vectors = launch._divide_up(nbytes, 16)
    address = call.scratch(16 * vectors)
    threads = launch.THREADS_PER_BLOCK
    call.run(
        ("zeros",), kernels.make_zeros, (launch._divide_up(vectors, threads), 1), (threads, 1),
        (address,), (vectors,),
    )  # fmt: skip
    return address


def _lines(call: _Call) -> None:
    call = call.with_copy()
    plan, layout, facts = call.plan, call.layout, call.facts
    args, item, index_size = [int(a) for a in plan.args], plan.itemsize, int(plan.index[1:])
    starts = [5, *(10 + 4 * d for d in range(args[9]))]
    axes = [
        Axis(args[s], args[s + 1] * item, args[s + 2] * index_size, args[s + 3] * item)
        for s in starts
    ]
    wide = plan.count >= launch.WIDE_ELEMENTS
    count, numbers = _numbered(axes, wide=wide)
    threads = launch.THREADS_PER_BLOCK
    how = (call.how,) if facts.operation == kernels.REDUCE else ()
    call.run(
        ("lines", count, facts.operation, facts.kind, item, plan.index, wide, *how),
        kernels.make_scatter_lines, (launch._divide_up(plan.count, threads), 1), (threads, 1),
        (call.out, call.src, call.idx, call.flag),
        (plan.count, layout.size, layout.along.x, layout.along.n, layout.along.i, layout.along.s,
         *numbers),
    )  # fmt: skip


def _atomic(call: _Call) -> None:
    call = call.with_copy()
    plan, layout, facts = call.plan, call.layout, call.facts
    wide = facts.elements >= launch.WIDE_ELEMENTS
    count, numbers = _numbered(layout.axes, wide=wide)
    threads = launch.THREADS_PER_BLOCK
    call.run(
        ("atomic", count, facts.operation, plan.itemsize, plan.index, wide),
        kernels.make_scatter_atomic, (launch._divide_up(facts.elements, threads), 1),
        (threads, 1), (call.out, call.src, call.idx, call.flag),
        (facts.elements, layout.size, layout.along.x, *numbers),
    )  # fmt: skip


def _claims(call: _Call, axes: list[Axis], unit: int, winners: int) -> None:
    """Note the last element of each place, where a place is so many bytes."""
    elements = math.prod(axis.n for axis in axes)
    count, numbers = _numbered(axes, unit)
    threads = launch.THREADS_PER_BLOCK
    call.run(
        ("claim", count, call.plan.index), kernels.make_scatter_claim,
        (launch._divide_up(elements, threads), 1), (threads, 1),
        (winners, call.idx, call.flag),
        (elements, call.layout.size, call.layout.along.x // unit, *numbers),
    )  # fmt: skip


def _nowhere(call: _Call) -> None:
    _claims(call, call.layout.axes, call.plan.itemsize, 0)


def _claim(call: _Call) -> None:
    plan, layout = call.plan, call.layout
    axes, row, width = layout.axes, plan.itemsize, plan.itemsize
    if layout.row:
        axes, row = layout.row_axes, layout.row
        width = _width(call, row)
    places = layout.places * plan.itemsize // row
    winners = _zeros(call, 4 * places)
    _claims(call, axes, row, winners)
    count, numbers = _numbered(axes, row)
    vectors = row // width
    call.run(
        ("pick", count, width), kernels.make_scatter_pick, *_rows(vectors, places, call.place),
        (call.out, call.x, call.src, winners), (places, vectors, row, *numbers),
    )  # fmt: skip


def _looks(call: _Call) -> None:
    plan, layout, facts = call.plan, call.layout, call.facts
    if not layout.covers:
        call = call.with_copy()
    width = _width(call, layout.row)
    vectors, along = layout.row // width, layout.along
    rows = facts.outer * layout.size
    count, numbers = _numbered(layout.outer)
    call.run(
        ("looks", count, call.how, plan.index, width), scatter_rows.make_row_looks,
        *_rows(vectors, rows, call.place),
        (call.out, call.x, call.src, call.idx, call.flag),
        (rows, vectors, layout.row, layout.size, along.n, along.i, along.s, *numbers),
    )  # fmt: skip


def _sorted(
    call: _Call, axes: list[Axis], unit: int, carried: int, first: int, passes: int
) -> tuple[int, int, int, int]:
    """Sort elements by their places' bits from the first on; where keys, tokens and bounds are.

    Places are of so many bytes; ``carried`` are those of src that go with an element, if not its
    number.
    """
    plan, layout = call.plan, call.layout
    elements = math.prod(axis.n for axis in axes)
    count, numbers = _numbered(axes, unit)
    places = layout.places * plan.itemsize // unit  # and one behind them, for what is bad
    key = ("index", count, plan.index, carried)
    source = launch_radix.Source(
        key,
        lambda memory: scatter_rows.make_index_source(memory, *key[1:]),
        call.idx,
        call.src,
        tuple(n & launch._64_BITS for n in (layout.size, layout.along.x // unit, places, *numbers)),
    )
    steps = launch_radix.passes_of(source, first, passes)
    keys, tokens = launch_radix.sort(steps, 1, elements, call.flag, call.place, call.scratch)
    bounds = launch._divide_up(places + 1, 1 << first)
    starts = _zeros(call, 8 * bounds)
    ends = starts + 4 * bounds
    threads = launch.THREADS_PER_BLOCK
    call.run(
        ("bounds",), scatter_rows.make_bounds, (launch._divide_up(elements, threads), 1),
        (threads, 1), (keys, starts, ends), (elements, first),
    )  # fmt: skip
    return keys, tokens, starts, ends


def _by_rows(call: _Call) -> None:
    plan, layout = call.plan, call.layout
    row, axes = layout.row, layout.row_axes
    rows = layout.places * plan.itemsize // row
    passes = launch._divide_up(rows.bit_length(), 8)
    _, tokens, starts, ends = _sorted(call, axes, row, 0, 0, passes)
    width = _width(call, row)
    count, numbers = _numbered(axes, row)
    call.run(
        ("row sums", count, call.how, width, False), scatter_rows.make_row_sums,
        *_rows(row // width, rows, call.place),
        (call.out, call.x, call.src, tokens, starts, ends),
        (rows, row // width, row, *numbers),
    )  # fmt: skip


def _shared_lines(call: _Call) -> None:
    plan, layout, facts = call.plan, call.layout, call.facts
    if not layout.covers:
        call = call.with_copy()
    inner, along, lines = layout.inner, layout.along, facts.lines_per_block
    assert inner is not None
    beside = inner.n > 1
    groups = launch._divide_up(inner.n if beside else facts.outer, lines)
    count, numbers = _numbered(layout.outer)
    call.run(
        ("shared lines", count, call.how, plan.index, beside),
        scatter_shared.make_shared_lines,
        (groups * facts.outer if beside else groups, 1), (SHARED_THREADS, 1),
        (call.out, call.x, call.src, call.idx, call.flag),
        (layout.size, along.x, along.n, along.i, along.s, inner.n if beside else facts.outer, lines,
         inner.x, inner.i, inner.s, groups, patience_of(lines * layout.size), *numbers),
    )  # fmt: skip


def _buckets(call: _Call) -> None:
    layout = call.layout
    item = ITEM_BYTES[call.how[1]]
    first, passes = bucket_bits(layout.places, entries_of(call.how))
    carried = item if item <= 4 else 0
    keys, tokens, starts, ends = _sorted(call, layout.axes, item, carried, first, passes)
    count, numbers = _numbered(layout.axes)
    places = 1 << first
    call.run(
        ("buckets", count, call.how), scatter_shared.make_shared_buckets,
        (launch._divide_up(layout.places, places), 1), (SHARED_THREADS, 1),
        (call.out, call.x, call.src, keys, tokens, starts, ends),
        (layout.places, places, item, patience_of(places), *numbers),
    )  # fmt: skip


def segment_bounds(
    by: str,
    index: str,
    given: int,
    out: int,
    sizes: tuple[int, int, int],
    place: Place,
    record: int,
    call: int,
) -> None:
    """Make the offsets of :func:`segment_reduce` of offsets or counts on the device.

    ``sizes``: how many there are, the bytes from one to the next, the rows. What is bad is reported
    to a record, as that of a call; no offset is beyond the rows.
    """
    threads, (count, step, rows) = launch.THREADS_PER_BLOCK, sizes

    def bounds(by: str, index: str, given: int, count: int, step: int) -> None:
        launch.driver.launch(
            ("segment bounds", by, index),
            lambda memory: scatter_rows.make_segment_bounds(memory, by, index),
            (launch._divide_up(count, threads), 1), (threads, 1), place,
            (out, given, record, call), (count, step & launch._64_BITS, rows),
        )  # fmt: skip

    if count:
        bounds(by, index, given, count, step)
    if by == "counts":
        launch.driver.launch(
            "radix scan", radix.make_radix_scan, (1, 1), (launch_radix.RADIX_THREADS, 1), place,
            (out, out + 4 * count), (count,),
        )  # fmt: skip
        bounds("sums", "u4", out, count + 1, 4)


def segment_reduce(
    how: How, out: int, x: int, offsets: int, sizes: tuple[int, int, int], place: Place
) -> None:
    """Reduce rows that follow each other, of ``sizes``: segments, rows, bytes of a row.

    ``out`` has what stands for no rows, and ``offsets`` are uint32 `[segments + 1]`.
    """
    segments, _, row = sizes
    reduce, kind, own = how
    key = "row sums", 1, (reduce, kind, bool(own)), launch._width(row, out, x), True
    width = key[3]
    blocks, threads = _rows(row // width, segments, place)
    launch.driver.launch(
        key, lambda memory: scatter_rows.make_row_sums(memory, *key[1:]), blocks, threads, place,
        (out, out, x, 0, offsets, offsets + 4),
        (segments, row // width, row, *launch._axes([(sizes[1], 0, 0, row)], False)[1]),
    )  # fmt: skip


_LAUNCHES = {
    "nowhere": _nowhere,
    "lines": _lines,
    "atomic": _atomic,
    "claim": _claim,
    "looks": _looks,
    "rows": _by_rows,
    "shared lines": _shared_lines,
    "buckets": _buckets,
}
