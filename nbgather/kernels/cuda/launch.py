"""The CUDA backend: picks the kernel for a call and the shape of its launch.

A call is a plan, addresses on the device, and the place to run at. Nothing waits for the device
but :func:`refused`, which reads the flag that a kernel raises at a bad index.
"""

from __future__ import annotations

import math
import struct
from types import ModuleType
from typing import Any

import numpy as np

from nbgather.kernels import scalar
from nbgather.kernels.cuda import driver as cuda_driver
from nbgather.kernels.cuda import kernels as cuda_kernels
from nbgather.kernels.cuda.driver import Place
from nbgather.kernels.cuda.kernels import ITEMS, MAX_TOKENS, RANKERS
from nbgather.kernels.plans import GatherPlan, ScatterPlan

#: What compiles and launches: the driver, or a simulator.
driver: Any = cuda_driver

#: Threads of a block; blocks that keep a multiprocessor busy; blocks that one launch may have.
THREADS = 256
BUSY = 8
MOST_BLOCKS = 65535
#: Positions from which they are taken apart in 64 bits.
WIDE = 1 << 32
#: Vectors that a thread should have to copy before a sample's rows are split over more blocks.
WORTH = 8
#: Lanes of a scatter below which one thread for each would leave the device idle.
FEW_LANES = 1024

_LOW = 0xFFFFFFFFFFFFFFFF
Axis = tuple[int, int, int, int]


def why_not() -> str | None:
    """What keeps this machine from running kernels, in one line; None if nothing does."""
    return cuda_driver.why_not()


def _up(n: int, step: int) -> int:
    return -(-n // step)


def _power(n: int) -> int:
    """The smallest power of two that is not below ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def _width(*numbers: int) -> int:
    """The widest access that addresses and strides allow, in bytes."""
    return math.gcd(16, *numbers)


def _axes(axes: list[Axis], wide: bool) -> tuple[int, tuple[int, ...]]:
    """How many axes are left without those of length 1, and their numbers."""
    kept = [a for a in axes if a[0] != 1] or [(1, 0, 0, 0)]
    numbers: list[int] = []
    for axis in kept:
        numbers += [n & _LOW for n in axis]
        if wide:
            numbers.append(struct.unpack("<Q", struct.pack("<d", 1.0 / axis[0]))[0])
    return len(kept), tuple(numbers)


def _plan_axes(plan: GatherPlan, unit: int, index_size: int) -> list[Axis]:
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
    mode = scalar.MODES.index(plan.mode)
    flag = driver.lowered_flag(place) if checked else 0
    limit = plan.limit if checked else 0
    index_size = int(plan.index[1:])
    unit = 1 if plan.form == "rows" else plan.itemsize
    axes = _plan_axes(plan, unit, index_size)
    along = int(plan.args[2]) * unit
    data = bytes(16) if fill is None else fill.tobytes() * (16 // plan.itemsize)
    head = [plan.size, limit, along & _LOW, *struct.unpack("<QQ", data)]
    if plan.form == "rows":
        nbytes = axes[0][0]
        rows = math.prod(a[0] for a in axes[1:])
        width = _width(nbytes, along, out, src, row, *(s for a in axes[1:] for s in (a[1], a[3])))
        wide = rows >= WIDE
        count, numbers = _axes(axes[1:], wide)
        key = (count, width, plan.index, mode, plan.from_end, wide, bool(row))
        vectors = nbytes // width
        x = min(_power(vectors), 32) if vectors < 128 else min(_power(vectors // 8 + 1), THREADS)
        y = THREADS // x
        blocks = _up(rows, y)
        enough = _up(driver.processors(place.device) * BUSY, blocks)
        parts = max(min(_up(vectors, x * 4), enough, MOST_BLOCKS), 1)
        driver.launch(
            ("rows", *key),
            lambda memory: cuda_kernels.make_gather_rows(memory, *key),
            (blocks, parts), (x, y), place,
            (out, src, idx, flag, row),
            (rows, *head, vectors, *numbers),
        )  # fmt: skip
        return checked and bool(driver.raised(place))
    total = math.prod(plan.shape)
    wide = total >= WIDE
    count, numbers = _axes(axes, wide)
    element = (count, plan.itemsize, plan.index, mode, plan.from_end, wide)
    driver.launch(
        ("elements", *element),
        lambda memory: cuda_kernels.make_gather_elements(memory, *element),
        (_up(total, THREADS * ITEMS), 1), (THREADS, 1), place,
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
        last = axes[-1]
        if x == last[1] * last[0] and o == last[3] * last[0]:
            axes[-1] = (last[0] * n, *last[1:])
        elif n != 1:
            axes.append((n, x, 0, o))
    total = math.prod(shape) * (item // width)
    wide = total >= WIDE
    count, numbers = _axes(axes, wide)
    key = (count, width, wide)
    driver.launch(
        ("copy", *key),
        lambda memory: cuda_kernels.make_copy(memory, *key),
        (_up(total, THREADS), 1), (THREADS, 1), place,
        (out, src),
        (total, *numbers),
    )  # fmt: skip


def scatter(plan: ScatterPlan, out: int, src: int, idx: int, add: str | None, place: Place) -> bool:
    """Scatter by addresses; whether an index was bad. ``add`` is the kind of what is added."""
    args = [int(a) for a in plan.args]
    item, index_size = plan.itemsize, int(plan.index[1:])
    flag = driver.lowered_flag(place)
    starts = [5, *(10 + 4 * d for d in range(args[9]))]
    axes: list[Axis] = [
        (args[s], args[s + 1] * item, args[s + 2] * index_size, args[s + 3] * item) for s in starts
    ]
    lanes, steps = plan.count, args[2]
    wide = lanes >= WIDE
    count, numbers = _axes(axes, wide)
    how, kind = cuda_kernels.SET, f"u{item}"
    if add is not None:
        how = cuda_kernels.ANY if add == "bool" else cuda_kernels.ADD
        kind = "u1" if add == "bool" else add
    key = (count, how, kind, item, plan.index, wide)
    if lanes < FEW_LANES and steps >= THREADS:
        name, make = "scan", cuda_kernels.make_scatter_scan
        owners = _power(plan.size)
        parts = min(_power(_up(driver.processors(place.device), lanes)), _up(owners, THREADS))
        grid, block = (lanes, parts), (min(cuda_kernels.SCANNERS, owners), 1)
    elif plan.rows and steps > 1:
        name, make = "staged", cuda_kernels.make_scatter_staged
        grid, block = (_up(lanes, cuda_kernels.LANES), 1), (THREADS, 1)
    else:
        name, make = "lanes", cuda_kernels.make_scatter_lanes
        grid, block = (_up(lanes, THREADS), 1), (THREADS, 1)
    head = (lanes, plan.size, args[1] * item, steps, args[3] * index_size, args[4] * item)
    driver.launch(
        (name, *key),
        lambda memory: make(memory, *key),
        grid, block, place,
        (out, src, idx, flag),
        (*(n & _LOW for n in head), *numbers),
    )  # fmt: skip
    return bool(driver.raised(place))


def token_noise(
    args: tuple[int, int, int], samples: int, tokens: int, ids: int, out: int, place: Place
) -> None:
    """Noise float32 `[samples, tokens]` for ``args`` = (epoch, key low, key high)."""
    threads = min(_power(_up(tokens, 4)), THREADS)
    driver.launch(
        "noise",
        cuda_kernels.make_token_noise,
        (samples, _up(tokens, 4 * threads)), (threads, 1), place,
        (out, ids),
        (samples, tokens, *args, int(ids == 0)),
    )  # fmt: skip


_SOURCES = {
    "seed": cuda_kernels.SEED,
    "f4": cuda_kernels.FLOAT32,
    "f8": cuda_kernels.FLOAT64,
}


def masks_in_one(length: int, kept: int, row: int) -> bool:
    """Whether one launch ranks so many tokens and copies those kept, of ``row`` bytes each."""
    return length <= MAX_TOKENS and kept * row < WIDE


def masking(
    source: str,
    samples: int,
    out: int,
    x: int,
    ids: int,
    scores: int,
    place: Place,
    *,
    length: int,
    kept: int,
    epoch: int,
    key_low: int,
    key_high: int,
    row: int,
    x_n: int,
    x_l: int,
    keep: int,
    restore: int,
    mask: int,
    counts: int,
    implied: int,
) -> None:
    """Mask in one launch; the arguments are those of the CPU's, with device addresses."""
    which = _SOURCES[source]
    args, strides = (epoch, key_low, key_high), (x_n, x_l)
    if not masks_in_one(length, kept, row):
        driver.launch(
            ("ranks", which),
            lambda memory: cuda_kernels.make_rank_tiles(memory, which),
            (samples, _up(length, RANKERS)), (RANKERS, 1), place,
            (ids, scores, keep, restore, mask, counts),
            (length, kept, *args, 0, 0, 0, implied),
        )  # fmt: skip
        return
    width = _width(row, out, x, *strides) if row else 16
    threads = max(min(_power(length), RANKERS), 64)
    vectors = row // width
    enough = _up(driver.processors(place.device) * BUSY, samples)
    parts = max(min(_up(kept * vectors, threads * WORTH), enough, MOST_BLOCKS), 1)
    driver.launch(
        ("masking", which, width),
        lambda memory: cuda_kernels.make_masking(memory, which, width),
        (samples, parts), (threads, 1), place,
        (out, x, ids, scores, keep, restore, mask, counts),
        (length, kept, *args, vectors, *(s & _LOW for s in strides), implied),
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
    how = cuda_kernels.COPY if affine is None else cuda_kernels.NORMALISE
    pixel = _PIXELS[item] if isinstance(item, str) else f"u{item}"
    size = numbers[1] * math.prod(numbers[-3:])
    threads = min(max(_power(_up(size, 4)), 32), THREADS)
    driver.launch(
        ("patches", how, pixel),
        lambda memory: cuda_kernels.make_patches(memory, how, pixel),
        (count, 1), (threads, 1), place,
        (out, images, ids_keep, affine or 0),
        tuple(n & _LOW for n in numbers),
    )  # fmt: skip


def use(module: ModuleType | Any) -> Any:
    """Compile and launch by another module; the one before comes back."""
    global driver
    before, driver = driver, module
    return before
