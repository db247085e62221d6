"""Picks the kernel of a gather, a copy or a cut of patches, and the shape of its launch.

A call is a plan, addresses on the device, and the place to run at: its device and stream. Only a
call that must tell of a bad index waits for the device: it reads the flag that the kernel raises.
"""

from __future__ import annotations

import math
import struct
from types import ModuleType
from typing import Any

import numpy as np

from nbgather.kernels import constants
from nbgather.kernels.cuda import driver as cuda_driver
from nbgather.kernels.cuda import gather as gather_kernels
from nbgather.kernels.cuda import patches as patch_kernels
from nbgather.kernels.cuda.driver import Place
from nbgather.kernels.cuda.gather import ELEMENTS_PER_THREAD
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
        numbers += [n & _64_BITS for n in axis]
        if wide:
            numbers.append(struct.unpack("<Q", struct.pack("<d", 1.0 / axis[0]))[0])
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
    checked: bool,
    fill: np.ndarray | None = None,
    row: int = 0,
) -> bool:
    """Gather by addresses; whether an index was bad, where that is ``checked``.

    ``fill`` is the bits of one item, and ``row`` the address of a whole row to fill with.
    """
    mode = constants.MODES.index(plan.mode)
    flag = driver.lowered_flag(place) if checked else 0
    limit = plan.limit if checked else 0
    index_size = int(plan.index[1:])
    unit = 1 if plan.form == "rows" else plan.itemsize
    axes = _gather_axes(plan, unit, index_size)
    stride = int(plan.args[2]) * unit
    data = bytes(16) if fill is None else fill.tobytes() * (16 // plan.itemsize)
    head = [plan.size, limit, stride & _64_BITS, *struct.unpack("<QQ", data)]
    if plan.form == "rows":
        nbytes = axes[0][0]
        rows = math.prod(a[0] for a in axes[1:])
        width = _width(nbytes, stride, out, src, row, *(s for a in axes[1:] for s in (a[1], a[3])))
        wide = rows >= WIDE_ELEMENTS
        count, numbers = _axes(axes[1:], wide)
        key = (count, width, plan.index, mode, plan.from_end, wide, bool(row))
        vectors = nbytes // width
        if vectors < 128:
            x = min(_power_of_two(vectors), 32)
        else:
            x = min(_power_of_two(vectors // 8 + 1), THREADS_PER_BLOCK)
        y = THREADS_PER_BLOCK // x
        blocks = _divide_up(rows, y)
        parts = _grid_y(_divide_up(vectors, x * VECTORS_PER_GATHER_THREAD), blocks, place)
        driver.launch(
            ("rows", *key),
            lambda memory: gather_kernels.make_gather_rows(memory, *key),
            (blocks, parts), (x, y), place,
            (out, src, idx, flag, row),
            (rows, *head, vectors, *numbers),
        )  # fmt: skip
        return checked and bool(driver.raised(place))
    total = math.prod(plan.shape)
    wide = total >= WIDE_ELEMENTS
    count, numbers = _axes(axes, wide)
    blocks = _divide_up(total, THREADS_PER_BLOCK * ELEMENTS_PER_THREAD)
    element_key = (count, plan.itemsize, plan.index, mode, plan.from_end, wide)
    driver.launch(
        ("elements", *element_key),
        lambda memory: gather_kernels.make_gather_elements(memory, *element_key),
        (blocks, 1), (THREADS_PER_BLOCK, 1), place,
        (out, src, idx, flag),
        (total, *head, *numbers),
    )  # fmt: skip
    return checked and bool(driver.raised(place))


def may_wait(place: Place, needed: bool = True) -> bool:
    """Whether a flag can be read: not while the stream is captured into a CUDA graph.

    Where it must be, that is refused.
    """
    captured = bool(driver.capturing(place))
    if captured and needed:
        raise ValueError(
            "mode 'raise' waits for the device, which a CUDA graph under capture cannot: use the"
            " mode clip, wrap or fill"
        )
    return not captured


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
    width = _width(item, out, src, *out_strides, *strides)
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
    driver.launch(
        ("copy", *key),
        lambda memory: gather_kernels.make_copy(memory, *key),
        (_divide_up(total, THREADS_PER_BLOCK), 1), (THREADS_PER_BLOCK, 1), place,
        (out, src),
        (total, *numbers),
    )  # fmt: skip


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
    driver.launch(
        ("patches", operation, pixel),
        lambda memory: patch_kernels.make_patches(memory, operation, pixel),
        (count, 1), (threads, 1), place,
        (out, images, ids_keep, affine or 0),
        tuple(n & _64_BITS for n in numbers),
    )  # fmt: skip


def use(module: ModuleType | Any) -> Any:
    """Compile and launch by another module; the one before comes back."""
    global driver
    before, driver = driver, module
    return before
