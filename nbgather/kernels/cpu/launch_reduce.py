"""The kernels of reductions: which one is for a plan of a scatter, and its call."""

from __future__ import annotations

import functools
import math
import platform
from typing import Any

import numpy as np

from nbgather.kernels import constants, machine
from nbgather.kernels.cpu import compiler, limits, loader, threads
from nbgather.kernels.memory import memory_address
from nbgather.kernels.plans import ScatterPlan

CACHE_LINE_BYTES = 64
#: By the kinds of :mod:`nbgather.kernels.cpu.folds` that are no dtypes: what has their bits.
_HALVES = {"half": "u2", "brain": "u2"}
#: Work from which threads share the places of few lanes: each of them walks the whole index.
SHARED_MIN_BYTES = 1 << 19
#: Threads for each lane from which on they do: to leave out what is another's takes as long as to
#: reduce it, but where the last cache has no room for the places: each thread waits for its own.
SHARED_MIN_THREADS, SHARED_FAR_THREADS = 4, 2
#: Bytes of the places from which on that is so: the index and the values pass through, too.
FAR_BYTES = machine.last_level_bytes() // 3
#: Bytes of a lane's places from which on their sums go by the kernel of reductions.
FAR_LANE_BYTES = 3 << 17
#: Work from which threads share the index of few lanes, each with a copy of their places; and how
#: many values each has at least for every place. That takes no more than twice what is read.
PARTED_MIN_BYTES, PART_VALUES = 1 << 22, 1
#: The maker of the kernel for each form of a scatter, and the module that has it.
_LANES = "reduce", "make_lane_reduce"
_FORMS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("lane", "far", "few", "columns"), _LANES),
    "shared": ("reduce_shared", "make_place_reduce"),
    "parts": ("reduce_shared", "make_part_reduce"),
    "wide": ("reduce_wide", "make_wide_reduce"),
    "rows": ("reduce_wide", "make_row_reduce"),
    **dict.fromkeys(("strided", "strided lanes"), ("reduce_wide", "make_strided_reduce")),
}
#: The positions in a wide scatter's integers of the columns, of the stride of the index between
#: them, and of the columns of a tile.
_COLUMNS, _COLUMN_STRIDE, _TILE = 2, 5, 6
#: Bytes of a row from which on threads share the columns of few lanes, not the places.
SHARED_ROW_BYTES = 1024
#: Bytes of the places that a tile of columns has at first, to stay in a core's first-level cache;
#: its columns at least, since memory gives narrow parts of rows slowly, and at most, since that
#: cache has to hold the rows fetched ahead as well; and tiles for each thread.
TILE_BYTES, TILE_COLUMNS, TILES_PER_THREAD = 1 << 15, (128, 256), 2
#: Bytes of the places up to which rows of no more columns are not cut: those of the result, each
#: of which is new, and those of a mean's pairs, which serve one tile after the other.
WHOLE_BYTES, WHOLE_PAIR_BYTES = 1 << 18, 1 << 21
#: Of bags, bytes of rows that are prefetched ahead where the last cache has all rows, and where it
#: has not; how many rows these are at least and at most; and bytes of all rows up to which none
#: are, since the second-level cache has them.
CACHED_AHEAD_BYTES, FAR_AHEAD_BYTES, FETCHED_ROWS = 1 << 12, 1 << 14, (8, 48)
NEAR_BYTES = machine.second_level_bytes() // 2
#: Ids of bags that are looked at before the first of their rows is read, and bags at most.
CHECKED_IDS, MAX_BAGS = 512, 64
#: Bytes that a core moves in the time that a narrow row takes.
LEAST_ROW_BYTES = 32
#: Lanes for each thread from which on parts may be as many as of any call: a part that begins or
#: ends within a lane walks all of its index.
LANES_PER_THREAD = 8


def _kernel(plan: ScatterPlan, form: str, how: tuple[str, str, bool]) -> int:
    reduce, kind, include_self = how
    item = _HALVES.get(kind, kind)
    traits = reduce, kind, plan.itemsize, include_self
    return compiler.range_kernel(*_FORMS[form], traits, (item, item, plan.index, item))


def are_rows(plan: ScatterPlan) -> bool:
    """Whether all columns of a row have the same index."""
    return plan.form == "wide" and not plan.walk[_COLUMN_STRIDE]  # type: ignore[index]


def are_far(plan: ScatterPlan, kind: str) -> bool:
    """Whether sums of lanes go by the kernel of reductions, which reads ahead.

    That pays for floating numbers where a lane's places fill much of the second-level cache and
    not the last, and each may get a value. One thread then takes less time than a few that each
    walk the whole index.
    """
    if plan.form not in ("lane", "far") or plan.walk is None or kind not in ("f4", "f8"):
        return False
    if plan.work < SHARED_MIN_BYTES or plan.index_shape[plan.dim] < plan.size:
        return False
    if not FAR_LANE_BYTES <= plan.size * plan.itemsize < FAR_BYTES:
        return False
    return _sharing_threads(plan, sum_of(kind)) * plan.walk_count > limits.num_threads()


def sum_of(kind: str) -> tuple[str, str, bool]:
    """How items of a kind are added, as a reduction."""
    return ("amax", "u1", True) if kind == "bool" else ("sum", kind, True)


def scatter_reduce(
    plan: ScatterPlan, out: Any, idx: Any, src: Any, how: Any, x: Any, run: Any = threads.run
) -> Any:
    """Reduce by addresses into ``out``; not 0 if an index was bad.

    ``how`` is the reduction, the kind of the numbers, and whether the input counts; ``x`` is as of
    a scatter.
    """
    args, count, form, parts = plan.walk, plan.walk_count, plan.form, None
    if args is None:
        args, count, x = plan.args, plan.count, 0
    elif are_rows(plan):
        form = "rows"
        args, count, parts = _rows(plan, limits.num_threads())
    elif form == "wide":
        args, count = _tiles(plan, limits.num_threads(), _words(how))
    elif run is threads.run and parts_of_lanes(plan, how) > 1:
        return _by_parts(plan, out, idx, src, how, x)
    elif (
        plan.can_share
        and plan.work >= SHARED_MIN_BYTES
        and _sharing_threads(plan, how) * count <= limits.num_threads()
    ):
        # One part for each thread: every part walks the whole of an index.
        form, parts, count = "shared", limits.num_threads(), count * plan.size
    bad = run(_kernel(plan, form, how), out, src, idx, x, args, count, plan.work, parts)
    if isinstance(bad, int) and bad >= constants.NO_MEMORY:
        raise MemoryError("no memory to reduce")
    return bad


def _sharing_threads(plan: ScatterPlan, how: tuple[str, str, bool]) -> int:
    """How many threads for each lane share its places, at least."""
    is_far = plan.nbytes * _words(how) >= FAR_BYTES
    return SHARED_FAR_THREADS if is_far else SHARED_MIN_THREADS


def _words(how: tuple[str, str, bool]) -> int:
    """Items' sizes that a place takes while it is reduced: a mean's sum and count."""
    if how[0] != "mean":
        return 1
    return 4 if how[1] in _HALVES else 2


@functools.cache
def _has_halves() -> bool:
    """Whether the processor that is compiled for has float16; without, that calls a library."""
    if any(loader.told()):
        return False
    names = {"x86_64": "f16c", "AMD64": "f16c"}
    return loader.has_features((names.get(platform.machine(), "neon"),))


def reduces(plan: ScatterPlan, how: tuple[str, str, bool]) -> bool:
    """Whether there is a kernel for a mean.

    There is not where rows of 16 bits would be summed in place, nor where a count in so few bits
    may come round to 0, which stands for a place without values.
    """
    reduce, kind, include_self = how
    if reduce != "mean":
        return True
    if kind not in _HALVES:
        is_narrow = kind[0] in "iu" and not include_self
        return not (is_narrow and plan.index_shape[plan.dim] >> 8 * plan.itemsize)
    return not are_rows(plan) and (kind == "brain" or _has_halves())


def parts_of_lanes(plan: ScatterPlan, how: Any) -> int:
    """In how many parts the index of each lane is reduced, where threads share what has any order.

    One where a lane is not cut.
    """
    if plan.work < PARTED_MIN_BYTES or not plan.copies or plan.form == "wide":
        return 1
    if not isinstance(how, tuple) or how[0] not in ("amax", "amin"):
        return 1
    lanes, places = plan.walk_count, plan.nbytes // plan.itemsize
    values = math.prod(plan.index_shape)
    return min(-(-limits.num_threads() // lanes), values // (PART_VALUES * max(places, 1)))


def _by_parts(plan: ScatterPlan, out: int, idx: int, src: int, how: Any, x: int) -> int:
    parts, lanes = parts_of_lanes(plan, how), plan.walk_count
    head, room = (_whole_lines(n) for n in (8 * (parts + 1), plan.nbytes // lanes))
    shared = np.empty((lanes, head + (parts - 1) * room), np.uint8)
    shared[:, :8] = 0
    numbers = parts, memory_address(shared), head, room
    args = np.array([*plan.walk, *numbers], np.int64)  # type: ignore[misc]
    kernel, tasks = _kernel(plan, "parts", how), 2 * parts * lanes
    return threads.run_tasks(kernel, out, src, idx, x, args, tasks, threads.choose())


def _whole_lines(nbytes: int) -> int:
    return -(-nbytes // CACHE_LINE_BYTES) * CACHE_LINE_BYTES


def segment_reduce(
    how: tuple[str, str, bool],
    addresses: tuple[int, int, int, int],
    sizes: tuple[int, int, int],
    itemsize: int,
    run: Any = threads.run,
) -> None:
    """Reduce segments of rows by addresses: those of the result, the rows, the offsets, the number
    that stands for no rows. ``sizes`` are the segments, all rows, and the columns."""
    (reduce, kind, _), (segments, rows, columns) = how, sizes
    item = _HALVES.get(kind, kind)
    kernel = compiler.range_kernel(
        "segments", "make_segment_reduce", (reduce, kind), (item, item, "i8", item)
    )
    tiles = max(min(columns * itemsize // SHARED_ROW_BYTES, limits.num_threads() // segments), 1)
    width = -(-columns // tiles)
    args = np.array([columns, width], np.int64)
    work = (2 * rows + segments) * columns * itemsize
    run(kernel, *addresses, args, segments * -(-columns // width), work)


@functools.cache
def _block_bytes() -> int:
    """How many bytes of a row the registers hold: half of them where they are half as wide."""
    return 1 << 10 if loader.has_features(("avx512f",)) else 1 << 9


def bag_reduce(
    how: tuple[str, str, bool],
    addresses: tuple[Any, Any, Any, Any],
    sizes: tuple[int, int, int, int, int],
    indices: tuple[str, str],
    empty: int,
    run: Any = threads.run,
) -> Any:
    """Reduce bags of rows by addresses: of the result, the rows, the ids, and where bags begin.

    ``sizes`` are the bags, all rows, the columns, the ids of each bag or 0, and all ids;
    ``indices`` the kinds of these and of what tells where bags begin; ``empty`` is the address of
    what stands for no rows. Not 0 if an id was bad, or bags are not all of the ids in their order.
    """
    (reduce, kind, _), (bags, rows, columns, each, total) = how, sizes
    kernel = compiler.range_kernel(
        "bags", "make_bag_reduce", (reduce, kind), (kind, kind, *indices)
    )
    item = np.dtype(kind).itemsize
    nbytes = columns * item
    tiles = max(min(nbytes // SHARED_ROW_BYTES, limits.num_threads() // bags), 1)
    width = -(-columns // tiles)
    is_cached = rows * nbytes <= machine.last_level_bytes()
    ahead = (CACHED_AHEAD_BYTES if is_cached else FAR_AHEAD_BYTES) // (width * item)
    ahead = min(max(ahead, FETCHED_ROWS[0]), FETCHED_ROWS[1])
    limit = total if rows * nbytes > NEAR_BYTES else 0
    together = min(max(CHECKED_IDS * bags // total, 1), MAX_BAGS)
    numbers = (
        columns, width, rows, each, total, bags, empty, _block_bytes() // item, ahead, limit,
        together,
    )  # fmt: skip
    args = np.array(numbers, np.int64)
    work = (total + bags) * max(nbytes, LEAST_ROW_BYTES)
    return run(kernel, *addresses, args, bags * -(-columns // width), work)


def _tiled(plan: ScatterPlan, width: int) -> tuple[np.ndarray, int]:
    """The integers of a kernel of columns with tiles of about so many, and how many tiles."""
    args = plan.walk.copy()  # type: ignore[union-attr]
    lanes, columns = _lanes(plan)
    line = max(CACHE_LINE_BYTES // plan.itemsize, 1)
    args[_TILE] = width = min(-(-width // line) * line, columns)
    return args, lanes * -(-columns // width)


def _lanes(plan: ScatterPlan) -> tuple[int, int]:
    """The lanes of a scatter of columns, and its columns."""
    columns, width = int(plan.walk[_COLUMNS]), int(plan.walk[_TILE])  # type: ignore[index]
    return plan.walk_count // -(-columns // width), columns


@functools.lru_cache(maxsize=1024)
def _tiles(plan: ScatterPlan, threads: int, words: int) -> tuple[np.ndarray, int]:
    """The same where each column has its own index, and ``words`` numbers for each place.

    There are some tiles for each thread.
    """
    lanes, columns = _lanes(plan)
    place = max(plan.size * words * plan.itemsize, 1)
    least, most = TILE_COLUMNS
    width = min(max(TILE_BYTES // place, least), most)
    if columns <= most and columns * place <= (WHOLE_PAIR_BYTES if words > 1 else WHOLE_BYTES):
        width = columns
    return _tiled(plan, min(width, -(-columns // -(-TILES_PER_THREAD * threads // lanes))))


@functools.lru_cache(maxsize=1024)
def _rows(plan: ScatterPlan, threads: int) -> tuple[np.ndarray, int, int | None]:
    """The integers of a reduction of rows, the length of its range, and its parts.

    Where lanes are few each thread has a part of the columns, where a part is not too narrow, or
    some have the places of one: they all walk the index. A thread that reads rows ahead takes most
    of what the memory of few cores gives, so for one more that is not worth it, but where the index
    rises and each has its own part of it.
    """
    lanes, columns = _lanes(plan)
    most = max(columns * plan.itemsize // SHARED_ROW_BYTES, 1)
    args, tiles = _tiled(plan, -(-columns // min(-(-threads // lanes), most)))
    parts = None
    if lanes < LANES_PER_THREAD * threads:
        parts = threads if threads >= SHARED_MIN_THREADS * tiles else tiles
        if tiles == 1 and parts < threads:
            parts, args[_COLUMN_STRIDE] = threads, 1
    return args, tiles * plan.size, parts
