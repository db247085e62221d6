"""Picks the kernel of a gather, a copy or a cut of patches, and the shape of its launch.

A call is a plan, addresses on the device, and the place to run at: its device and stream. Nothing
here waits for the device: what a kernel reports to a record is read by who gave the record.
"""

from __future__ import annotations

import functools
import math
import struct
from types import ModuleType
from typing import Any

import numpy as np

from nbgather.kernels import constants
from nbgather.kernels.cuda import driver as cuda_driver
from nbgather.kernels.cuda import gather as gather_kernels
from nbgather.kernels.cuda import patches as patch_kernels
from nbgather.kernels.cuda import reports, writes
from nbgather.kernels.cuda.driver import Launch, Place
from nbgather.kernels.cuda.gather import ELEMENTS_PER_THREAD
from nbgather.kernels.cuda.positions import reciprocal
from nbgather.kernels.cuda.writes import WRITE_BYTES
from nbgather.kernels.plans import GatherPlan

#: What compiles and launches: the driver, or a simulator.
driver: Any = cuda_driver

#: Threads of a block, unless a kernel has a number of its own.
THREADS_PER_BLOCK = 256
#: Blocks in flight that keep a multiprocessor busy.
BLOCKS_PER_MULTIPROCESSOR = 8
#: The limit of CUDA on blocks along a grid's y.
MAX_GRID_Y_BLOCKS = 65535
#: Elements of a launch from which their numbers need 64 bits.
WIDE_ELEMENTS = 1 << 32
#: Vectors that each thread of a row gather should copy before a row is split over more blocks.
VECTORS_PER_GATHER_THREAD = 4

#: Vectors of a row up to which a thread moves one of each of several rows.
MAX_SHORT_VECTORS = 32
#: Bytes that stay in the second-level cache of any device whose memory is much faster than a
#: CPU's; of the columns that are gathered at a time, of which some are at work at once; and how
#: many columns these may be: whole lines of a cache for every item.
NEAR_BYTES, PANEL_BYTES = 24 << 20, 8 << 20
PANEL_COLUMNS = (256, 128, 64, 32)
#: Bytes of a row that stay in a multiprocessor's first-level cache.
ROW_BYTES = 64 << 10

#: Launches that are kept of one plan; they differ in alignment, device and what they fill with.
MAX_LAUNCHES_OF_PLAN = 16
#: The modes that have a kernel of their own: the others fill what is out of bounds.
KERNEL_MODES = {"clip": constants.CLIP, "wrap": constants.WRAP}

_64_BITS = 0xFFFFFFFFFFFFFFFF

#: Length, and strides in input, index and output, in bytes.
Axis = tuple[int, int, int, int]


def _divide_up(n: int, step: int) -> int:
    return -(-n // step)


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def _grid_y(most: int, grid_x: int, place: Place) -> int:
    """Blocks along y: at most so many, and no more than keep the device busy."""
    busy = driver.processors(place.device) * BLOCKS_PER_MULTIPROCESSOR
    return max(min(most, _divide_up(busy, grid_x), MAX_GRID_Y_BLOCKS), 1)


def _width(*numbers: int) -> int:
    """The widest access that addresses and strides allow, in bytes."""
    return math.gcd(16, *numbers)


def _axes(axes: list[Axis], wide: bool) -> tuple[int, tuple[int, ...]]:
    """How many axes are left without those of length 1, and their numbers."""
    kept = [a for a in axes if a[0] != 1] or [(1, 0, 0, 0)]
    numbers: list[int] = []
    for axis in kept:
        numbers += [*(n & _64_BITS for n in axis), reciprocal(axis[0], wide)]
    return len(kept), tuple(numbers)


def _gather_axes(plan: GatherPlan, unit: int, index_size: int) -> list[Axis]:
    """The loop of a gather in bytes, innermost axis first."""
    args = [int(a) for a in plan.args]
    starts = [3, 7, *(14 + 4 * d for d in range(args[13]))]
    return [
        (args[s], args[s + 1] * unit, args[s + 2] * index_size, args[s + 3] * unit) for s in starts
    ]


def gather(
    plan: GatherPlan,
    out: int,
    src: int,
    idx: int,
    place: Place,
    record: int = 0,
    call: int = 0,
    fill: np.ndarray | None = None,
    row: int = 0,
) -> None:
    """Gather by addresses; a bad index is reported to a record, as that of a call.

    ``fill`` is the bits of one item, and ``row`` the address of a whole row to fill with. What is
    bad in the modes raise and defer is filled as well, so nothing is left as it was before.
    """
    align = (out | src | row) & 15, (idx | out) & 15
    key = (align, row != 0, None if fill is None else fill.tobytes(), place.device)
    launches = plan.kernel
    launch = None if launches is None else launches.get(key)
    if launch is None:
        launch = _prepared_gather(plan, key, place)
        if launches is None or len(launches) >= MAX_LAUNCHES_OF_PLAN:
            launches = plan.kernel = {}
        launches[key] = launch
    addresses = (out, src, idx, record, call)
    driver.start(launch, place, (*addresses, row) if plan.form == "rows" else addresses)


def _prepared_gather(plan: GatherPlan, key: Any, place: Place) -> Launch:
    """What all gathers by a plan share that are aligned alike and fill with the same."""
    (align, index_align), from_row, data, _ = key
    streams = plan.nbytes > driver.cache_bytes(place.device)
    mode = KERNEL_MODES.get(plan.mode, constants.FILL)
    index_size = int(plan.index[1:])
    unit = 1 if plan.form == "rows" else plan.itemsize
    axes = _gather_axes(plan, unit, index_size)
    stride = int(plan.args[2]) * unit
    data = bytes(16) if data is None else data * (16 // plan.itemsize)
    head = [plan.size, max(plan.limit, 0), stride & _64_BITS, *struct.unpack("<QQ", data)]
    if plan.form != "rows":
        total = math.prod(plan.shape)
        wide = total >= WIDE_ELEMENTS
        panels = _by_panels(axes, plan)
        count, numbers = _axes(panels or axes, wide)
        pairs = _in_pairs(panels or axes, plan, index_align)
        variant = (
            count, plan.itemsize, plan.index, mode, plan.from_end, wide, bool(panels), pairs,
            streams,
        )  # fmt: skip
        chunk = _chunk(panels or axes, plan, total, place)
        return driver.Launch(
            ("elements", *variant),
            lambda memory: gather_kernels.make_gather_elements(memory, *variant),
            (_divide_up(total, chunk), 1),
            (THREADS_PER_BLOCK, 1), 5, (total, *head, chunk, *numbers),
        )  # fmt: skip
    nbytes = axes[0][0]
    rows = math.prod(a[0] for a in axes[1:])
    width = _width(nbytes, stride, align, *(s for a in axes[1:] for s in (a[1], a[3])))
    wide = rows >= WIDE_ELEMENTS
    count, numbers = _axes(axes[1:], wide)
    row_variant = (count, width, plan.index, mode, plan.from_end, wide, from_row, streams)
    vectors = nbytes // width
    short = _short_rows(vectors, rows, place)
    if short is not None:
        return driver.Launch(
            ("short rows", *row_variant),
            lambda memory: gather_kernels.make_gather_short_rows(memory, *row_variant),
            *short, 6, (rows, *head, vectors, *numbers),
        )  # fmt: skip
    if vectors < 128:
        x = min(_power_of_two(vectors), 32)
    else:
        x = min(_power_of_two(vectors // 8 + 1), THREADS_PER_BLOCK)
    y = THREADS_PER_BLOCK // x
    blocks = _divide_up(rows, y)
    parts = _grid_y(_divide_up(vectors, x * VECTORS_PER_GATHER_THREAD), blocks, place)
    return driver.Launch(
        ("rows", *row_variant),
        lambda memory: gather_kernels.make_gather_rows(memory, *row_variant),
        (blocks, parts), (x, y), 6, (rows, *head, vectors, *numbers),
    )  # fmt: skip


def _in_pairs(axes: list[Axis], plan: GatherPlan, align: int) -> bool:
    """Whether two elements side by side have their indices in one load, and their items in a store.

    ``align`` are the low bits of the addresses of index and result.
    """
    item = plan.itemsize
    if plan.index != "i8" or item > 8 or align & 15:
        return False
    (n, _, i, o), *rest = [axis for axis in axes if axis[0] != 1] or [(1, 0, 0, 0)]
    beside = n % 2 == 0 and i == 8 and o == item
    return beside and not any(axis[2] % 16 or axis[3] % (2 * item) for axis in rest)


def _chunk(axes: list[Axis], plan: GatherPlan, total: int, place: Place) -> int:
    """The elements of a block: all of a row's, where a first-level cache holds what they are of.

    Blocks at work elsewhere would each read the row again.
    """
    usual = THREADS_PER_BLOCK * ELEMENTS_PER_THREAD
    n = axes[0][0]
    enough = driver.processors(place.device) * BLOCKS_PER_MULTIPROCESSOR
    picks = not axes[0][1] and plan.size * plan.itemsize <= ROW_BYTES
    return n if picks and n > usual and total // n >= enough else usual


def _by_panels(axes: list[Axis], plan: GatherPlan) -> list[Axis] | None:
    """The axes in another order, where rows are far apart: first some columns of all of them.

    A row is read where the index of each column says, an item at a time, of which memory gives 32
    bytes: the others are still in the second-level cache if the columns beside it come soon. None
    where it is small enough anyway, or columns cannot be parted evenly.
    """
    kept = [a for a in axes if a[0] != 1]
    item, contiguous = plan.itemsize, plan.itemsize
    for n, _, _, o in kept:
        if o != contiguous:
            return None
        contiguous *= n
    if len(kept) < 2 or kept[0][1] != item or not kept[0][2] or kept[1][1]:
        return None
    (columns, x, i, o), *rest = kept
    if plan.size * columns * item <= NEAR_BYTES:
        return None
    fitting = (n for n in PANEL_COLUMNS if n < columns and plan.size * n * item <= PANEL_BYTES)
    width = next((n for n in fitting if columns % n == 0), 0)
    if not width:
        return None
    return [(width, x, i, o), rest[0], (columns // width, x * width, i * width, o * width),
            *rest[1:]]  # fmt: skip


def _short_rows(
    vectors: int, rows: int, place: Place
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Blocks and threads for rows of a vector for each thread of x; None where rows are few."""
    x = _power_of_two(vectors)
    y = THREADS_PER_BLOCK // x
    if not y or x > MAX_SHORT_VECTORS:
        return None
    blocks = _divide_up(rows, y * gather_kernels.ROWS_PER_THREAD)
    enough = driver.processors(place.device) * BLOCKS_PER_MULTIPROCESSOR
    return ((blocks, 1), (x, y)) if blocks >= enough else None


def find_bad(
    index: str,
    idx: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    limit: int,
    place: Place,
    record: int,
    call: int,
) -> None:
    """Report the first value of an index, at an address, that is not below a limit."""
    axes = [(n, 0, s, 0) for n, s in zip(shape[::-1], strides[::-1], strict=True)]
    total = math.prod(shape)
    wide = total >= WIDE_ELEMENTS
    count, numbers = _axes(axes, wide)
    variant = (count, index, False, wide)
    driver.launch(
        ("find", *variant),
        lambda memory: reports.make_find(memory, *variant),
        (_divide_up(total, THREADS_PER_BLOCK), 1), (THREADS_PER_BLOCK, 1), place,
        (idx, record, call),
        (total, limit, *numbers),
    )  # fmt: skip


def copy(
    out: int,
    src: int,
    shape: tuple[int, ...],
    out_strides: tuple[int, ...],
    strides: tuple[int, ...],
    item: int,
    place: Place,
) -> None:
    """Copy one strided array to another of the same shape."""
    launch = _prepared_copy((out | src) & 15, shape, out_strides, strides, item)
    driver.start(launch, place, (out, src))


@functools.lru_cache(maxsize=1024)
def _prepared_copy(
    align: int,
    shape: tuple[int, ...],
    out_strides: tuple[int, ...],
    strides: tuple[int, ...],
    item: int,
) -> Launch:
    """What all copies of a layout share that are aligned alike."""
    width = _width(item, align, *out_strides, *strides)
    axes: list[Axis] = [(item // width, width, 0, width)]
    for n, x, o in zip(shape[::-1], strides[::-1], out_strides[::-1], strict=True):
        length, last_x, _, last_o = axes[-1]
        if x == last_x * length and o == last_o * length:  # the axes are one in both
            axes[-1] = (length * n, last_x, 0, last_o)
        elif n != 1:
            axes.append((n, x, 0, o))
    total = math.prod(shape) * (item // width)
    wide = total >= WIDE_ELEMENTS
    count, numbers = _axes(axes, wide)
    key = (count, width, wide)
    return driver.Launch(
        ("copy", *key),
        lambda memory: gather_kernels.make_copy(memory, *key),
        (_divide_up(total, THREADS_PER_BLOCK), 1), (THREADS_PER_BLOCK, 1), 2, (total, *numbers),
    )  # fmt: skip


def write(out: int, data: bytes, place: Place) -> None:
    """Write bytes that the host knows to an address that is a multiple of 8."""
    for first in range(0, len(data), WRITE_BYTES):
        part = data[first : first + WRITE_BYTES]
        words = np.frombuffer(part.ljust(WRITE_BYTES + 8, b"\0"), "<u8").tolist()
        words[-1] = words[len(part) // 8] if len(part) % 8 else 0
        driver.launch(
            "write", writes.make_write, (1, 1), (1, 1), place, (out + first,), (len(part), *words)
        )


_PIXELS = {"uint8": "u1", "float32": "f4"}


def patches(
    numbers: tuple[int, ...],
    count: int,
    out: int,
    images: int,
    ids_keep: int,
    item: int | str,
    affine: int | None,
    place: Place,
) -> None:
    """Cut kept patches out of images; as on the CPU, but ``affine`` is an address too."""
    operation = patch_kernels.COPY if affine is None else patch_kernels.NORMALISE
    pixel = _PIXELS[item] if isinstance(item, str) else f"u{item}"
    size = numbers[1] * math.prod(numbers[-3:])
    threads = min(max(_power_of_two(_divide_up(size, 4)), 32), THREADS_PER_BLOCK)
    out_item = 4 if affine is not None else int(pixel[1:])
    # A block for each patch: those of so many images are within the limit of a grid.
    kept, step = numbers[0], max(driver.MAX_GRID_X // numbers[0], 1) * numbers[0]
    for first in range(0, count, step):
        driver.launch(
            ("patches", operation, pixel),
            lambda memory: patch_kernels.make_patches(memory, operation, pixel),
            (min(step, count - first), 1), (threads, 1), place,
            (
                out + first * size * out_item,
                (images + first // kept * numbers[2] * int(pixel[1:])) & _64_BITS,
                ids_keep + first * 8,
                affine or 0,
            ),
            tuple(n & _64_BITS for n in numbers),
        )  # fmt: skip


def use(module: ModuleType | Any) -> Any:
    """Compile and launch by another module; the one before comes back."""
    global driver
    _prepared_copy.cache_clear()
    before, driver = driver, module
    return before
