"""The CPU backend: picks the kernel for a call, compiles it once, runs it over all cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from nbgather.kernels import scalar
from nbgather.kernels.cpu import chunks as chunk_kernels
from nbgather.kernels.cpu import compiler, threads
from nbgather.kernels.cpu import gather as gather_kernels
from nbgather.kernels.cpu import masking as masking_kernels
from nbgather.kernels.cpu import patches as patch_kernels
from nbgather.kernels.cpu import philox as noise_kernels
from nbgather.kernels.cpu import ranking as ranking_kernels
from nbgather.kernels.cpu import scatter as scatter_kernels
from nbgather.kernels.cpu import split_sample as split_kernels
from nbgather.kernels.cpu import strategies as strategy_kernels
from nbgather.kernels.memory import memory_address
from nbgather.kernels.plans import STREAM_BYTES, GatherPlan, ScatterPlan

#: What is asked of a backend; see nbgather.engine.backends.
HOST_VIEWS = False
DOES = frozenset(("copy", "masking", "patches", "scatter"))

INDEX_TYPES = {
    "i1": types.int8,
    "i2": types.int16,
    "i4": types.int32,
    "i8": types.int64,
    "u1": types.uint8,
    "u2": types.uint16,
    "u4": types.uint32,
    "u8": types.uint64,
}

#: Tokens from which on a sample is worth being ranked by several threads.
SPLIT_SAMPLE_TOKENS = 16384

#: What a pointer that the kernel does not use points to.
_UNUSED = np.zeros(16, np.uint8)

_FORMS = {
    "last": gather_kernels.LAST,
    "middle": gather_kernels.MIDDLE,
    "strided": gather_kernels.STRIDED,
}


def _gather_kernel(plan: GatherPlan) -> int:
    """The address of the kernel for a plan, compiled if it is not yet."""
    mode, from_end, item = scalar.MODES.index(plan.mode), plan.from_end, plan.itemsize
    make: Callable[[], Callable[..., Any]]
    if plan.form == "rows":
        item = 1
        make = lambda: gather_kernels.make_gather_rows(mode, from_end)  # noqa: E731
    elif plan.form == "panel":
        make = lambda: gather_kernels.make_panel_gather(mode, from_end, item)  # noqa: E731
    elif plan.form == "lanes":
        make = lambda: gather_kernels.make_lane_gather(mode, from_end, item)  # noqa: E731
    else:
        form = _FORMS[plan.form]
        make = lambda: gather_kernels.make_gather(mode, from_end, form, item)  # noqa: E731
    bits = compiler.BITS[item]

    def build() -> tuple[int, Any]:
        return compiler.range_kernel(make(), bits, bits, INDEX_TYPES[plan.index], bits)

    return compiler.once(("gather", plan.form, item, plan.index, mode, from_end), build)[0]


def gather(plan: GatherPlan, out: int, src: int, idx: int, aux: int) -> int:
    """Gather by addresses; the number of bad indices."""
    kernel = plan.kernel
    if kernel is None:
        kernel = plan.kernel = _gather_kernel(plan)
    return threads.run(kernel, out, src, idx, aux, plan.args, plan.count, plan.work)


def small_call(plan: GatherPlan) -> np.ndarray | None:
    """The numbers that repeat a planned gather at the least cost; None if it takes several threads.

    :func:`small` takes their address, and :func:`small_objects`. They refer to the plan's memory:
    keep it.
    """
    if plan.kernel is None or threads.splits(plan.work):
        return None
    masks = plan.item_mask, plan.index_mask
    numbers = plan.kernel, memory_address(_UNUSED), memory_address(plan.args), plan.count, *masks
    return np.array(numbers, np.int64)


#: What repeats a small gather, by three addresses, or by three NumPy arrays' ids.
small, small_objects = threads.small, threads.small_objects


def gather_chunks(
    itemsize: int,
    index: str,
    mode: str,
    from_end: bool,
    addresses: tuple[int, int, int, int],
    args: np.ndarray,
    rows: int,
) -> int:
    """Gather from chunks along the dimension, on the calling thread; not 0 if an index was bad.

    ``addresses`` are those of the result, the first chunk, the index and the fill.
    """
    number = scalar.MODES.index(mode)
    bits = compiler.BITS[itemsize]

    def build() -> tuple[int, Any]:
        kernel = chunk_kernels.make_gather_chunks(number, from_end)
        return compiler.range_kernel(kernel, bits, bits, INDEX_TYPES[index], bits)

    kernel, _ = compiler.once(("chunks", number, from_end, itemsize, index), build)
    return int(threads.serial()(kernel, *addresses, args, 0, rows))


#: The types that items are added in, signed integers as unsigned ones of the same bits.
_ADD_TYPES = {
    "bool": types.uint8,
    "u1": types.uint8,
    "u2": types.uint16,
    "u4": types.uint32,
    "u8": types.uint64,
    "f4": types.float32,
    "f8": types.float64,
    "c8": types.complex64,
    "c16": types.complex128,
}


def scatter(plan: ScatterPlan, out: int, idx: int, src: int, add: str | None) -> int:
    """Scatter by addresses; not 0 if an index was bad. ``add``: a key of the types above."""
    rows = int(plan.rows)
    action = (
        scatter_kernels.SET
        if add is None
        else scatter_kernels.ANY
        if add == "bool"
        else scatter_kernels.ADD
    )
    item = compiler.BITS[plan.itemsize] if add is None else _ADD_TYPES[add]

    def build() -> tuple[int, Any]:
        kernel = scatter_kernels.make_scatter(action, rows)
        return compiler.range_kernel(kernel, item, item, INDEX_TYPES[plan.index], types.uint8)

    kernel, _ = compiler.once(("scatter", action, rows, item, plan.index), build)
    return threads.run(kernel, out, src, idx, 0, plan.args, plan.count, plan.work)


def copy(out: int, src: int, nbytes: int) -> None:
    """Copy bytes by addresses."""
    u1 = types.uint8
    kernel, _ = compiler.once(
        "copy", lambda: compiler.range_kernel(scatter_kernels.copy_range, u1, u1, u1, u1)
    )
    numbers = np.array([nbytes >= STREAM_BYTES], np.int64)
    threads.run(kernel, out, src, 0, 0, numbers, nbytes, 2 * nbytes)


def token_noise(args: tuple[int, int, int], ids: np.ndarray, out: np.ndarray) -> None:
    """Fill float32 ``out`` `[N, L]` for ``args`` = (epoch, key low, key high)."""
    u1 = types.uint8
    kernel, _ = compiler.once(
        "token_noise",
        lambda: compiler.range_kernel(
            noise_kernels.token_noise_range, types.float32, u1, types.int64, u1
        ),
    )
    numbers = np.array([out.shape[1], *args], np.int64)
    # A counter's ten rounds cost about what 40 bytes of copying do.
    work = out.size * 10
    threads.run(kernel, memory_address(out), 0, memory_address(ids), 0, numbers, out.shape[0], work)


_STRATEGIES = {
    "grid": strategy_kernels.GRID,
    "block": strategy_kernels.BLOCK,
    "lines": strategy_kernels.LINES,
}


def strategy(
    name: str,
    sizes: tuple[int, ...],
    numbers: tuple[int, int, int],
    aspects: np.ndarray,
    args: tuple[int, int, int],
    ids: np.ndarray,
    out: np.ndarray,
) -> None:
    """Order a grid's tokens, as `nbgather.kernels.views.reference.strategy` does."""
    u1 = types.uint8
    build = lambda: compiler.range_kernel(  # noqa: E731
        strategy_kernels.make_strategy(_STRATEGIES[name]),
        types.float32,
        u1,
        types.int64,
        types.float64,
    )
    kernel, _ = compiler.once(("strategy", name), build)
    planned = np.array([out.shape[1], *args, len(sizes), *numbers, *sizes], np.int64)
    pointers = memory_address(out), 0, memory_address(ids), memory_address(aspects)
    # Ordering a token costs about what 256 bytes of copying do.
    if threads.run(kernel, *pointers, planned, out.shape[0], out.size * 256):
        raise MemoryError(f"no memory to order {out.shape[1]} tokens")


#: The masking kernels by where the scores come from, and the type of the scores' bits.
_SOURCES = {
    "seed": (masking_kernels.SEED, types.uint8),
    "f4": (masking_kernels.FLOAT32, types.uint32),
    "f8": (masking_kernels.FLOAT64, types.uint64),
}


def _masking_kernel(source: str) -> int:
    scores, bits = _SOURCES[source]
    u1 = types.uint8
    build = lambda: compiler.range_kernel(  # noqa: E731
        masking_kernels.make_masking(scores), u1, u1, types.int64, bits
    )
    return compiler.once(("masking", source), build)[0]


def _masking_args(samples: int, numbers: dict[str, int]) -> np.ndarray:
    length, moved = numbers["length"], samples * numbers["kept"] * numbers.get("row", 0)
    values = {
        "bits": ranking_kernels.slot_bits(length),
        "nt": int(moved >= STREAM_BYTES),
        **numbers,
    }
    return np.array([values.get(name, 0) for name in masking_kernels.MASKING_ARGS], np.int64)


def _masking_work(samples: int, numbers: dict[str, int]) -> int:
    # Drawing and ranking a token costs about what 32 bytes of copying do.
    return samples * (numbers["length"] * 32 + numbers["kept"] * numbers.get("row", 0))


def masking(
    source: str, samples: int, out: int, src: int, idx: int, aux: int, **numbers: int
) -> None:
    """Mask in one pass; the numbers are those of :data:`nbgather.kernels.cpu.masking.MASKING_ARGS`.

    ``source`` is ``seed``, with the address of the sample ids in ``idx``, or ``f4`` or ``f8``, with
    that of contiguous scores in ``aux``.
    """
    work = _masking_work(samples, numbers)
    parts = _parts_of_samples(samples, numbers["length"], work)
    if parts > 1:
        _split_masking(source, samples, (out, src, idx, aux), parts, numbers)
        return
    kernel, args = _masking_kernel(source), _masking_args(samples, numbers)
    if threads.run(kernel, out, src, idx, aux, args, samples, work):
        raise MemoryError(f"no memory to rank {numbers['length']} tokens")


def _parts_of_samples(samples: int, length: int, work: int) -> int:
    """By how many threads each sample is ranked: by one, unless there are fewer than threads."""
    if length < SPLIT_SAMPLE_TOKENS or not threads.splits(work):
        return 1
    count = threads.num_threads()
    return 1 if samples >= count else min(count, split_kernels.MAX_PARTS)


def _split_masking(
    source: str,
    samples: int,
    pointers: tuple[int, int, int, int],
    parts: int,
    numbers: dict[str, int],
) -> None:
    scores, bits = _SOURCES[source]
    u1 = types.uint8
    build = lambda: compiler.range_kernel(  # noqa: E731
        split_kernels.make_split_masking(scores), u1, u1, types.int64, bits
    )
    kernel, _ = compiler.once(("split masking", source), build)
    slot_bits = ranking_kernels.slot_bits(numbers["length"]) - 2  # each part counts all slots
    nbytes = split_kernels.shared_bytes(numbers["length"], slot_bits, parts)
    shared = np.empty((samples, nbytes), np.uint8)
    shared[:, : 8 * split_kernels.EXTREMES] = 0
    masking_args = _masking_args(samples, {**numbers, "bits": slot_bits})
    args = np.array([*masking_args, memory_address(shared), parts], np.int64)
    tasks = samples * parts * split_kernels.PHASES
    threads.run_tasks(kernel, *pointers, args, tasks, parts)


def small_masking(samples: int, **numbers: int) -> tuple[Any, np.ndarray] | None:
    """How to repeat a masking by seed at the least cost; None if it runs on several threads.

    A function of the addresses of x_masked, x, sample ids, ids_restore and mask, of epoch and key,
    and of the address of the numbers that come with it.
    """
    if threads.splits(_masking_work(samples, numbers)):
        return None
    args = _masking_args(samples, numbers)
    planned = np.array([_masking_kernel("seed"), samples, *args], np.int64)
    return compiler.once("small masking", _small_masking_driver), planned


def _small_masking_driver() -> Any:
    numbers = (*[types.int64] * 6, types.uint64, types.int64)
    # With the GIL, as the drivers of other small calls.
    return compiler.driver(masking_kernels.small_masking, *numbers, parallel=False, nogil=False)


def rank_tokens(
    scores: np.ndarray,
    ids_keep: np.ndarray,
    ids_restore: np.ndarray,
    mask: np.ndarray,
    counts: np.ndarray | None = None,
) -> None:
    """Rank contiguous float32 or float64 scores `[N, L]`; ``counts`` as in the reference."""
    masking(
        f"f{scores.itemsize}",
        scores.shape[0],
        *(0, 0, 0, memory_address(scores)),
        length=scores.shape[1],
        kept=ids_keep.shape[1],
        keep=memory_address(ids_keep),
        restore=memory_address(ids_restore),
        mask=memory_address(mask),
        counts=0 if counts is None else memory_address(counts),
    )


#: The types of pixels that can be normalised.
_PIXELS = {"uint8": types.uint8, "float32": types.float32}


def patches(
    numbers: tuple[int, ...],
    count: int,
    out: int,
    images: int,
    ids_keep: int,
    item: int | str,
    affine: np.ndarray | None,
) -> None:
    """Cut kept patches out of images.

    ``numbers`` are the arguments of :mod:`nbgather.kernels.cpu.patches`, ``count`` is N * K.
    ``item`` is the size of an item in bytes; with ``affine``, the scale, means and stds as float32,
    it is the name of the pixels' dtype.
    """
    planes = 3 if numbers[1] == 3 else 0
    conversion = patch_kernels.COPY if affine is None else patch_kernels.NORMALISE

    def build() -> tuple[int, Any]:
        kernel = patch_kernels.make_patches(conversion, planes)
        if isinstance(item, str):
            f4 = types.float32
            return compiler.range_kernel(kernel, f4, _PIXELS[item], types.int64, f4)
        bits = compiler.BITS[item]
        return compiler.range_kernel(kernel, bits, bits, types.int64, bits)

    kernel, _ = compiler.once(("patches", conversion, planes, item), build)
    aux = _UNUSED if affine is None else affine
    args = np.array(numbers, np.int64)
    size = 4 if isinstance(item, str) else item
    work = 2 * count * size * int(np.prod(numbers[-3:])) * numbers[1]
    threads.run(kernel, out, images, ids_keep, memory_address(aux), args, count, work)
