"""The CPU backend: picks the kernel for a call, compiles it once, runs it over all cores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from nbgather.kernels import scalar
from nbgather.kernels.cpu import chunks as chunk_kernels
from nbgather.kernels.cpu import compiler, launch_masking, repeat, threads, variants
from nbgather.kernels.cpu import gather as gather_kernels
from nbgather.kernels.cpu import gather_rows as row_kernels
from nbgather.kernels.cpu import gather_staged as staged_kernels
from nbgather.kernels.cpu import patches as patch_kernels
from nbgather.kernels.cpu import scatter as scatter_kernels
from nbgather.kernels.cpu import scatter_wide as wide_kernels
from nbgather.kernels.memory import memory_address
from nbgather.kernels.plans import STREAM_BYTES, GatherPlan, PatchPlan, ScatterPlan

#: What is asked of a backend; see nbgather.engine.backends.
HOST_VIEWS = False
DOES = frozenset(("copy", "masking", "moved patches", "patches", "scatter"))

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


#: What a pointer that the kernel does not use points to.
_UNUSED = np.zeros(16, np.uint8)

#: Rows shorter than this are copied by moves of their own; longer ones by memcpy.
SMALL_ROW_BYTES = 128
#: The position in a plan's integers of whether its result is written past the caches.
STREAMS = 11

_FORMS = {
    "last": gather_kernels.LAST,
    "middle": gather_kernels.MIDDLE,
    "strided": gather_kernels.STRIDED,
}


def _gather_kernel(plan: GatherPlan) -> int:
    """The address of the kernel for a plan, compiled if it is not yet."""
    mode, from_end, item = scalar.MODES.index(plan.mode), plan.from_end, plan.itemsize
    make: Any
    traits: tuple[Any, ...] = mode, from_end
    if plan.form == "rows":
        item = 1
        make = row_kernels.make_gather_rows
        if _are_small(plan):
            make = row_kernels.make_gather_small_rows
            traits = *traits, 1 << (plan.row_nbytes.bit_length() - 1)
    else:
        streams = bool(plan.args[STREAMS]) and item < 16
        traits = *traits, item, variants.method(item, plan.work), streams
        make = staged_kernels.make_lane_gather
        if plan.form == "panel":
            make = staged_kernels.make_panel_gather
        elif plan.form != "lanes":
            make = gather_kernels.make_gather
            traits = *traits, _FORMS[plan.form]
    bits = compiler.BITS[item]

    def build() -> tuple[int, Any]:
        return compiler.range_kernel(make(*traits), bits, bits, INDEX_TYPES[plan.index], bits)

    return compiler.once((plan.form, plan.index, traits), build)[0]


def _are_small(plan: GatherPlan) -> bool:
    """Whether the kernel of small rows takes a plan's rows."""
    return plan.form == "rows" and plan.row_nbytes < SMALL_ROW_BYTES


def _planned(plan: GatherPlan, *addresses: Any) -> GatherPlan:
    """The plan by elements where rows are such and lie where elements must.

    Of a place, which is of a call to be repeated, `address_mask` says where it must be.
    """
    items = plan.as_items
    if items is None or any(isinstance(a, int) and a & items.item_mask for a in addresses):
        return plan
    return items


def address_mask(plan: GatherPlan) -> int:
    """The bits that must be 0 in the addresses of input, result and fill of a repeated gather."""
    return int((plan.as_items or plan).item_mask)


#: The function that repeats small calls.
repeating = repeat.repeating
#: Given as ``run=`` to a function below, it makes the function say what would be done: a Step.
step = threads.step


def gather(plan: GatherPlan, out: Any, src: Any, idx: Any, aux: Any, run: Any = threads.run) -> Any:
    """Gather by addresses; the number of bad indices."""
    plan = _planned(plan, out, src, aux)
    kernel = plan.kernel
    if kernel is None:
        kernel = plan.kernel = _gather_kernel(plan)
    count = plan.count // plan.row_nbytes if _are_small(plan) else plan.count
    return run(kernel, out, src, idx, aux, plan.args, count, plan.work)


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


#: The makers of the kernels, and what they take besides the action and the size of an item.
_SCATTER_FORMS: dict[str, tuple[Callable[..., Any], tuple[bool, ...]]] = {
    "lane": (scatter_kernels.make_lane_scatter, (False,)),
    "far": (scatter_kernels.make_lane_scatter, (True,)),
    "few": (scatter_kernels.make_few_scatter, ()),
    "columns": (scatter_kernels.make_column_scatter, ()),
    "shared": (scatter_kernels.make_shared_scatter, ()),
    "wide": (wide_kernels.make_wide_scatter, ()),
    "strided": (wide_kernels.make_strided_scatter, (False,)),
    "strided lanes": (wide_kernels.make_strided_scatter, (True,)),
}


def _scatter_kernel(plan: ScatterPlan, form: str, add: str | None) -> int:
    """The address of a form's kernel for a plan; ``add`` is a key of the types above, or None."""
    action = (
        scatter_kernels.SET
        if add is None
        else scatter_kernels.ANY
        if add == "bool"
        else scatter_kernels.ADD
    )
    item = compiler.BITS[plan.itemsize] if add is None else _ADD_TYPES[add]

    def build() -> tuple[int, Any]:
        make, parameters = _SCATTER_FORMS[form]
        kernel = make(action, plan.itemsize, *parameters)
        return compiler.range_kernel(kernel, item, item, INDEX_TYPES[plan.index], item)

    return compiler.once(("scatter", form, action, item, plan.index), build)[0]


def scatter(
    plan: ScatterPlan,
    out: Any,
    idx: Any,
    src: Any,
    add: str | None,
    x: Any = 0,
    run: Any = threads.run,
) -> Any:
    """Scatter by addresses; not 0 if an index was bad.

    ``add`` is how items are added, or None to replace them. ``x`` is the input, which is copied on
    the way where the plan says so; else ``out`` holds it already.
    """
    if plan.can_share and threads.splits(plan.work):
        most = threads.num_threads()
        if most > 1 and plan.walk_count < 2 * most:
            kernel = _scatter_kernel(plan, "shared", add)
            # One part for each thread: every part walks the whole of an index.
            count = plan.walk_count * plan.size
            bad = run(kernel, out, src, idx, x, plan.walk, count, plan.work, most)
            # None is of a step, which is not taken over several threads.
            if bad is not None and bad >= scatter_kernels.NO_MEMORY:
                raise MemoryError("no memory to scatter")
            return bad
    kernel = _scatter_kernel(plan, plan.form, add)
    if plan.walk is None:
        return run(kernel, out, src, idx, 0, plan.args, plan.count, plan.work)
    return run(kernel, out, src, idx, x, plan.walk, plan.walk_count, plan.work)


def copy(out: Any, src: Any, nbytes: int, run: Any = threads.run) -> Any:
    """Copy bytes by addresses."""
    u1 = types.uint8
    kernel, _ = compiler.once(
        "copy", lambda: compiler.range_kernel(scatter_kernels.copy_range, u1, u1, u1, u1)
    )
    numbers = np.array([nbytes >= STREAM_BYTES], np.int64)
    return run(kernel, out, src, 0, 0, numbers, nbytes, 2 * nbytes)


#: Maskings and their parts, which have a module of their own.
token_noise, noise_by_address = launch_masking.token_noise, launch_masking.noise_by_address
masking, rank_tokens = launch_masking.masking, launch_masking.rank_tokens
strategy = launch_masking.strategy


#: The types of pixels that can be normalised.
_PIXELS = {"uint8": types.uint8, "float32": types.float32}


def move_patches(plan: PatchPlan, out: Any, src: Any, ids: Any = 0, run: Any = threads.run) -> Any:
    """Copy patches by addresses: those that ``ids`` names, zeros for -1; all of them without."""
    by_ids = ids != 0
    bits = compiler.BITS[plan.itemsize]

    def build() -> tuple[int, Any]:
        kernel = patch_kernels.make_patch_mover(by_ids, *plan.block)
        return compiler.range_kernel(kernel, bits, bits, types.int64, bits)

    kernel, _ = compiler.once(("patches", by_ids, plan.block, plan.itemsize), build)
    aux = memory_address(_UNUSED)  # zeros, which take the place of what is not kept
    return run(kernel, out, src, ids, aux, plan.args, plan.patches, plan.work)


def normal_patches(
    numbers: tuple[int, ...],
    count: int,
    out: Any,
    images: Any,
    ids_keep: Any,
    pixel: str,
    affine: np.ndarray,
    run: Any = threads.run,
) -> Any:
    """Cut kept patches out of images and normalise them.

    ``numbers`` are the arguments of :mod:`nbgather.kernels.cpu.patches`, ``count`` is N * K,
    ``pixel`` the name of the pixels' dtype, ``affine`` the scale, means and stds as float32.
    """
    planes = 3 if numbers[1] == 3 else 0

    def build() -> tuple[int, Any]:
        kernel = patch_kernels.make_normal_patches(planes)
        return compiler.range_kernel(
            kernel, types.float32, _PIXELS[pixel], types.int64, types.float32
        )

    kernel, _ = compiler.once(("normal patches", planes, pixel), build)
    args = np.array(numbers, np.int64)
    work = 8 * count * math.prod(numbers[9:12]) * numbers[1]
    return run(kernel, out, images, ids_keep, memory_address(affine), args, count, work)
