"""The kernels of reductions: which one is for a plan of a scatter, and its call."""

from __future__ import annotations

from typing import Any

from nbgather.kernels import constants
from nbgather.kernels.cpu import compiler, limits, threads
from nbgather.kernels.cpu.folds import is_half
from nbgather.kernels.plans import ScatterPlan

#: Work from which threads share the places of few lanes: each of them walks the whole index.
SHARED_MIN_BYTES = 1 << 19
#: The maker of the kernel for each form of a scatter, and the module that has it.
_LANES = "reduce", "make_lane_reduce"
_FORMS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("lane", "far", "few", "columns"), _LANES),
    "shared": ("reduce", "make_place_reduce"),
    "wide": ("reduce_wide", "make_wide_reduce"),
    "rows": ("reduce_wide", "make_row_reduce"),
    **dict.fromkeys(("strided", "strided lanes"), ("reduce_wide", "make_strided_reduce")),
}
#: The position in a wide scatter's integers of the stride of the index between columns.
_COLUMN_STRIDE = 5


def _kernel(plan: ScatterPlan, form: str, how: tuple[str, str, bool]) -> int:
    reduce, kind, include_self = how
    item = "u2" if is_half(kind) else kind
    traits = reduce, kind, plan.itemsize, include_self
    return compiler.range_kernel(*_FORMS[form], traits, (item, item, plan.index, item))


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
    elif form == "wide" and not args[_COLUMN_STRIDE]:
        form = "rows"
    if plan.can_share and plan.work >= SHARED_MIN_BYTES and count < limits.num_threads():
        # One part for each thread: every part walks the whole of an index.
        form, parts, count = "shared", limits.num_threads(), count * plan.size
    bad = run(_kernel(plan, form, how), out, src, idx, x, args, count, plan.work, parts)
    if isinstance(bad, int) and bad >= constants.NO_MEMORY:
        raise MemoryError("no memory to reduce")
    return bad
