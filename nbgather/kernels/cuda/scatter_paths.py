"""How a scatter is laid out for a GPU, and which kernels serve it: a table with its reasons.

The sums of a place are taken in row-major order of the index, whatever the path, so that the bits
are those of the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from nbgather.kernels.cuda import radix, scatter, scatter_shared
from nbgather.kernels.cuda.folds import HALVES
from nbgather.kernels.cuda.sums import ENTRIES
from nbgather.kernels.plans import ScatterPlan

#: Numbers of elements and places are kept in 32 bits.
MAX_COUNT = 1 << 32
#: The shortest rows, in bytes, that are added by owners: half of what memory is read by.
MIN_ROW_BYTES = 16
#: Up to so many looks of owners of rows at an index the sort of it takes longer: eight launches.
MAX_LOOKS = 1 << 23
#: Lines from which a thread for each keeps a device busy, though each waits for memory.
MANY_LINES = 1 << 17
#: Elements that a block may add up while others wait for it: some tenths of a millisecond.
MAX_ALONE = 1 << 16
#: Elements beside each other that are read at once by 4 and more bytes each.
BESIDE = 8


class Axis(NamedTuple):
    """An axis: its length, and its strides in result, index and src in bytes."""

    n: int
    x: int
    i: int
    s: int


class Layout(NamedTuple):
    """A scatter as axes, innermost first.

    Attributes
    ----------
    along : Axis
        The dimension; ``x`` is the result's stride.
    size : int
        Of the dimension, in the result.
    elements, places : int
        Of the index and the result.
    axes : list of Axis
        Of the elements in row-major order; the result's stride along the dimension is 0.
    inner : Axis or None
        The dimensions behind it as one, or None where they are not.
    outer : list of Axis
        Those before it.
    row : int
        Bytes of a row of the result if all of it has one index, else 0.
    covers : bool
        Whether there are elements on every line of the result.
    """

    along: Axis
    size: int
    elements: int
    places: int
    axes: list[Axis]
    inner: Axis | None
    outer: list[Axis]
    row: int
    covers: bool

    @property
    def row_axes(self) -> list[Axis]:
        """The axes of rows that have one index each."""
        return merged([self.along._replace(x=0), *self.outer])


def merged(axes: list[Axis]) -> list[Axis]:
    """Axes without those of length 1, and joined where one stride walks both; innermost first."""
    result: list[Axis] = []
    for axis in axes:
        if axis.n == 1:
            continue
        if result:
            n, *strides = result[-1]
            if all(s * n == t for s, t in zip(strides, axis[1:], strict=True)):
                result[-1] = Axis(n * axis.n, *strides)
                continue
        result.append(axis)
    return result


def lay_out(plan: ScatterPlan) -> Layout:
    """The layout of a plan that has elements."""
    shape, item, dim = plan.shape or (1,), plan.itemsize, plan.dim
    strides = [math.prod(shape[d + 1 :]) * item for d in range(len(shape))]
    axes = [
        Axis(*numbers)
        for numbers in zip(
            plan.index_shape, strides, plan.index_strides, plan.src_strides, strict=True
        )
    ]
    along = axes[dim]
    behind, before = merged(axes[:dim:-1]), merged(axes[:dim][::-1])
    inner = Axis(1, item, 0, item) if not behind else behind[0] if len(behind) == 1 else None
    columns = math.prod(shape[dim + 1 :])
    row = 0
    if inner is not None and inner.i == 0 and inner.n == columns and inner[1::2] == (item, item):
        row = columns * item
    covers = all(
        n == m for d, (n, m) in enumerate(zip(plan.index_shape, shape, strict=True)) if d != dim
    )
    return Layout(
        along, plan.size, math.prod(plan.index_shape), math.prod(shape),
        merged([*behind, along._replace(x=0), *before]), inner, before, row, covers,
    )  # fmt: skip


class Facts(NamedTuple):
    """What a path is chosen by; ``outer`` are places before the dimension that elements have.

    ``counted`` says whether a place keeps how many values it has.
    """

    operation: int
    kind: str
    size: int
    steps: int
    outer: int
    inner: int
    row: int
    elements: int
    places: int
    processors: int
    counted: bool = False

    @property
    def lines(self) -> int:
        """Elements at one step; 0 where those behind the dimension are no one axis."""
        return self.outer * self.inner

    @property
    def room(self) -> int:
        """Lines of the result that a block has room for."""
        entries = ENTRIES.get(self.kind, 1) + self.counted
        return scatter_shared.SHARED_ENTRIES // (entries * max(self.size, 1))

    @property
    def lines_per_block(self) -> int:
        """Lines that a block adds up: with fewer, too few blocks would be busy."""
        wanted = -(-self.lines // (2 * self.processors))
        if self.inner > 1:
            return min(self.room, self.inner, max(wanted, BESIDE))
        return min(self.room, max(wanted, 1))

    @property
    def alone(self) -> int:
        """Elements of a block that adds up whole lines, where there are too few of them."""
        groups = -(-self.inner // self.lines_per_block) * self.outer
        if self.inner == 1:
            groups = -(-self.outer // self.lines_per_block)
        return 0 if groups >= self.processors else self.lines_per_block * self.steps


def facts_of(
    layout: Layout, operation: int, kind: str, processors: int, counted: bool = False
) -> Facts:
    """What a layout is chosen a path by."""
    inner = 0 if layout.inner is None else layout.inner.n
    outer = math.prod(axis.n for axis in layout.outer)
    return Facts(
        operation, kind, layout.size, layout.along.n, outer, inner, layout.row,
        layout.elements, layout.places, processors, counted,
    )  # fmt: skip


class Path(NamedTuple):
    """A way to scatter, when it is taken, and why."""

    name: str
    serves: Callable[[Facts], bool]
    why: str


def _is_huge(f: Facts) -> bool:
    each = f.inner if f.row >= MIN_ROW_BYTES else 1  # rows are counted as one
    return max(f.elements, f.places) // each >= MAX_COUNT - 1


#: The first that serves is taken.
PATHS = (
    Path(
        "nowhere", lambda f: f.places == 0, "every index is bad: each says so, nothing is written"
    ),
    Path(
        "lowered",
        lambda f: _is_huge(f) and (f.kind in HALVES or f.counted),
        "what walks lines reduces in the result itself: no room for float32, or how many there are",
    ),
    Path("lines", _is_huge, "positions of 32 bits do not reach; so many lines are never few"),
    Path(
        "claim",
        lambda f: f.operation == scatter.SET,
        "the last of a place is the largest of their numbers, which atomics find in any order; then"
        " each place is written once, by whoever owns it",
    ),
    Path(
        "atomic",
        lambda f: (
            f.operation == scatter.ANY
            or (f.operation == scatter.ADD and f.kind in ("u4", "u8") and f.row < MIN_ROW_BYTES)
        ),
        "sums of integers have the same bits in any order, and bools are only made true; bytes and"
        " pairs of them have no atomics",
    ),
    Path(
        "looks",
        lambda f: f.row >= MIN_ROW_BYTES and f.outer * f.size * f.steps <= MAX_LOOKS,
        "a row's owner looks through the few indices of its line: one launch, nothing is sorted",
    ),
    Path(
        "rows",
        lambda f: f.row >= MIN_ROW_BYTES,
        "only the indices are sorted, a fraction of the rows' bytes; rows are read once, in order",
    ),
    Path(
        "shared lines",
        lambda f: f.inner > 0 and f.room > 0 and f.alone <= MAX_ALONE,
        "a block has room for whole lines of the result, and blocks are enough: all is read and"
        " written once",
    ),
    Path(
        "lines",
        lambda f: (
            f.operation == scatter.ADD
            and f.lines >= MANY_LINES
            and f.room == 0
            and f.kind not in HALVES
        ),
        "a thread for each line, and enough of them to wait for memory together",
    ),
    Path(
        "buckets",
        lambda f: True,
        "elements are put together by the high bits of their places, stably; then a block has room"
        " for the places of each",
    ),
)


def choose(facts: Facts) -> Path:
    """The path that serves a scatter."""
    return next(path for path in PATHS if path.serves(facts))


def bucket_bits(places: int, entries: int) -> tuple[int, int]:
    """How many low bits of a place are within a bucket, and in how many passes the others sort.

    A bucket has room in shared memory, where a place takes so many entries. It is as small as the
    passes that it takes allow, for more blocks to be busy.
    """
    bits = places.bit_length()  # that of the place behind the last, too
    room = (scatter_shared.SHARED_ENTRIES // entries).bit_length() - 1
    passes = max(-(-(bits - room) // radix.DIGIT_BITS), 1)
    return max(bits - passes * radix.DIGIT_BITS, 0), passes


def patience_of(places: int) -> int:
    """How many rounds add an element of each place of a block, before one adds all of its place."""
    return scatter_shared.PATIENCE if 8 * places >= scatter_shared.SHARED_THREADS else 0
