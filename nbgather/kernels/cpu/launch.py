"""The CPU backend: picks the kernel for a call, compiles it once, runs it over all cores."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nbgather.kernels import constants, memory
from nbgather.kernels.cpu import (
    compiler,
    launch_masking,
    launch_reduce,
    limits,
    systems,
    threads,
    variants,
)
from nbgather.kernels.cpu.builtins import FASTCALL_TYPES, builtin
from nbgather.kernels.memory import memory_address
from nbgather.kernels.plans import STREAM_BYTES, GatherPlan, PatchPlan, ScatterPlan
from nbgather.kernels.small import TABLE

#: What is asked of a backend; see nbgather.engine.backends.
HOST_VIEWS = False
DOES = frozenset(
    (
        "bags",
        "checks",
        "copy",
        "frames",
        "masking",
        "means",
        "moved patches",
        "patches",
        "reduce",
        "scatter",
        "segments",
    )
)

#: What a pointer that the kernel does not use points to.
_UNUSED = np.zeros(16, np.uint8)

#: Rows shorter than the first are copied by two moves, and those shorter than the second by a loop
#: of moves, unless they are streamed; longer ones by memcpy.
SMALL_ROW_BYTES, SHORT_ROW_BYTES = 128, 2048
#: Work from which threads share the places of few lanes: each of them walks the whole index.
SHARED_MIN_BYTES = 1 << 19
#: The position in a plan's integers of whether its result is written past the caches.
STREAMS = 11

_FORMS = {
    "last": constants.LAST,
    "middle": constants.MIDDLE,
    "strided": constants.STRIDED,
}


def _gather_kernel(plan: GatherPlan) -> int:
    """The address of the kernel for a plan, compiled if it is not yet."""
    item = plan.itemsize
    # That negative indices count from the end is no other way to wrap.
    traits: tuple[Any, ...] = (
        constants.MODES.index(plan.mode),
        plan.from_end and plan.mode != "wrap",
    )
    if plan.form == "rows":
        item = 1
        source = "gather_rows", "make_gather_rows"
        if _is_by_row(plan):
            source = "gather_rows", "make_gather_short_rows"
            nbytes = plan.row_nbytes
            traits = *traits, 1 << nbytes.bit_length() - 1 if nbytes < SMALL_ROW_BYTES else 0
    else:
        streams = bool(plan.args[STREAMS]) and item < 16
        traits = *traits, item, variants.method(item, plan.work), streams
        source = "gather_staged", "make_lane_gather"
        if plan.form == "panel":
            source = "gather_staged", "make_panel_gather"
        elif plan.form != "lanes":
            source = "gather", "make_gather"
            traits = *traits, _FORMS[plan.form]
    bits = compiler.BITS[item]
    return compiler.range_kernel(*source, traits, (bits, bits, plan.index, bits))


def _is_by_row(plan: GatherPlan) -> bool:
    """Whether a position of the kernel's range is a row, and not a byte of one."""
    if plan.form != "rows" or plan.row_nbytes >= SHORT_ROW_BYTES:
        return False
    return plan.row_nbytes < SMALL_ROW_BYTES or not plan.args[STREAMS]


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


def repeating(table: np.ndarray) -> Any | None:
    """``repeat(chain, *operands)``, see :mod:`nbgather.kernels.cpu.repeat`, and what it must know.

    None where arrays are not as the C API says.
    """
    if not memory.ARRAYS_ARE_KNOWN:
        return None
    for name, value in (
        ("team", memory_address(threads.team_address)),
        ("threads", id(threads.choose)),
        ("threads_of_torch", id(threads.choose_for_tensors)),
        ("limit", id(limits.num_threads)),
        ("limit_of_torch", id(limits.num_threads_of_torch)),
    ):
        table[TABLE.index(name)] = value
    return _repeating()


@functools.cache
def _repeating() -> Any:
    head = object.__basicsize__
    function = compiler.Function("repeat", "make_repeat", (head,), FASTCALL_TYPES)
    return builtin("repeat", compiler.address(function))


#: Given as ``run=`` to a function below, it makes the function say what would be done: a Step.
step = threads.step


def gather(plan: GatherPlan, out: Any, src: Any, idx: Any, aux: Any, run: Any = threads.run) -> Any:
    """Gather by addresses; the number of bad indices."""
    plan = _planned(plan, out, src, aux)
    kernel = plan.kernel
    if kernel is None:
        kernel = plan.kernel = _gather_kernel(plan)
    count = plan.count // plan.row_nbytes if _is_by_row(plan) else plan.count
    return run(kernel, out, src, idx, aux, plan.args, count, plan.work)


#: The makers of the kernels by form, and what they take besides the action and an item's size.
_SCATTER_FORMS: dict[str, tuple[str, str, tuple[bool, ...]]] = {
    "lane": ("scatter", "make_lane_scatter", (False,)),
    "far": ("scatter", "make_lane_scatter", (True,)),
    "few": ("scatter", "make_few_scatter", ()),
    "columns": ("scatter", "make_column_scatter", ()),
    "shared": ("scatter", "make_shared_scatter", ()),
    "wide": ("scatter_wide", "make_wide_scatter", ()),
    "strided": ("scatter_wide", "make_strided_scatter", (False,)),
    "strided lanes": ("scatter_wide", "make_strided_scatter", (True,)),
}


def _scatter_kernel(plan: ScatterPlan, form: str, add: str | None) -> int:
    """The address of a form's kernel for a plan; ``add`` is how items are added, or None."""
    module, make, parameters = _SCATTER_FORMS[form]
    action = {None: constants.SET, "bool": constants.ANY}.get(add, constants.ADD)
    # Items are added as what they are, signed integers as unsigned ones of the same bits.
    item = add or compiler.BITS[plan.itemsize]
    item = "u1" if item == "bool" else item
    traits = action, plan.itemsize, *parameters
    return compiler.range_kernel(module, make, traits, (item, item, plan.index, item))


def scatter(
    plan: ScatterPlan,
    out: Any,
    idx: Any,
    src: Any,
    add: Any,
    x: Any = 0,
    run: Any = threads.run,
) -> Any:
    """Scatter by addresses; not 0 if an index was bad.

    ``add`` is how items are added, or None to replace them, or how they are reduced. ``x`` is the
    input, which is copied on the way where the plan says so; else ``out`` holds it already.
    """
    if isinstance(add, str) and (launch_reduce.are_rows(plan) or launch_reduce.are_far(plan, add)):
        add = launch_reduce.sum_of(add)
    if isinstance(add, tuple):
        return launch_reduce.scatter_reduce(plan, out, idx, src, add, x, run)
    if plan.can_share and plan.work >= SHARED_MIN_BYTES:
        most = limits.num_threads()
        if most > 1 and plan.walk_count < most:
            kernel = _scatter_kernel(plan, "shared", add)
            # One part for each thread: every part walks the whole of an index.
            count = plan.walk_count * plan.size
            bad = run(kernel, out, src, idx, x, plan.walk, count, plan.work, most)
            if isinstance(bad, int) and bad >= constants.NO_MEMORY:
                raise MemoryError("no memory to scatter")
            return bad
    kernel = _scatter_kernel(plan, plan.form, add)
    if plan.walk is None:
        return run(kernel, out, src, idx, 0, plan.args, plan.count, plan.work)
    return run(kernel, out, src, idx, x, plan.walk, plan.walk_count, plan.work)


segment_reduce, bag_reduce = launch_reduce.segment_reduce, launch_reduce.bag_reduce
reduces = launch_reduce.reduces
parts_of_lanes = launch_reduce.parts_of_lanes


def find_outside(
    index: str, idx: Any, count: int, size: int, below: int = 0, run: Any = threads.run
) -> Any:
    """Not 0 if one of ``count`` indices is not below ``size``, or lies more than ``below`` below 0.

    The indices follow each other.
    """
    kernel = compiler.range_kernel("scatter", "find_outside", None, ("u1", "u1", index, "u1"))
    numbers = np.array([size, below], np.int64)
    return run(kernel, 0, 0, idx, 0, numbers, count, count * int(index[1:]))


def copy_kernel() -> int:
    """The address of the kernel that copies bytes."""
    return compiler.range_kernel("scatter", "copy_range", None, ("u1",) * 4)


def copy(out: Any, src: Any, nbytes: int, run: Any = threads.run) -> Any:
    """Copy bytes by addresses."""
    kernel = copy_kernel()
    numbers = np.array([nbytes >= STREAM_BYTES], np.int64)
    return run(kernel, out, src, 0, 0, numbers, nbytes, 2 * nbytes)


def advise(out: Any, nbytes: int, run: Any = threads.run) -> Any:
    """Ask for large pages of a block that is new; None where the system cannot be asked."""
    pages = systems.large_pages()
    if pages is None:
        return None
    kernel = compiler.range_kernel("pages", "advise_range", None, ("u1",) * 4)
    numbers = np.array([nbytes, pages.page_bytes, pages.function, pages.advice], np.int64)
    return run(kernel, out, 0, 0, 0, numbers, 1, 0)


def clear(out: Any, nbytes: int, run: Any = threads.run) -> Any:
    """Fill a block with zeros."""
    kernel = compiler.range_kernel("pages", "clear_range", None, ("u1",) * 4)
    return run(kernel, out, 0, 0, 0, np.zeros(1, np.int64), nbytes, nbytes)


#: Maskings and their parts, which have a module of their own.
token_noise, noise_by_address = launch_masking.token_noise, launch_masking.noise_by_address
masking, rank_tokens = launch_masking.masking, launch_masking.rank_tokens
order_of_halves = launch_masking.order_of_halves
strategy, strategy_by_address = launch_masking.strategy, launch_masking.strategy_by_address


#: The types of pixels that can be normalised.
_PIXELS = {"uint8": "u1", "float32": "f4"}


def move_patches(plan: PatchPlan, out: Any, src: Any, ids: Any = 0, run: Any = threads.run) -> Any:
    """Copy patches by addresses: those that ``ids`` names, zeros for -1; all of them without."""
    by_ids = ids != 0
    bits = compiler.BITS[plan.itemsize]

    kernel = compiler.range_kernel(
        "patches", "make_patch_mover", (by_ids, *plan.block), (bits, bits, "i8", bits)
    )
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
    planes = numbers[1] if numbers[1] in (1, 3) else 0

    kernel = compiler.range_kernel(
        "patches", "make_normal_patches", (planes,), ("f4", _PIXELS[pixel], "i8", "f4")
    )
    args = np.array(numbers, np.int64)
    work = 8 * count * math.prod(numbers[9:12]) * numbers[1]
    return run(kernel, out, images, ids_keep, memory_address(affine), args, count, work)
