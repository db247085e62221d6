"""Picks the kernels of a scatter and the shapes of their launches."""

from __future__ import annotations

from nbgather.kernels.cuda import launch
from nbgather.kernels.cuda import scatter as scatter_kernels
from nbgather.kernels.cuda.driver import Place
from nbgather.kernels.plans import ScatterPlan

#: Lines of a scatter below which a thread for each would leave the device idle.
SCAN_BELOW_LINES = 1024


def scatter(
    plan: ScatterPlan, out: int, src: int, idx: int, add: str | None, place: Place, flag: int
) -> None:
    """Scatter by addresses; ``add`` is the kind of what is added.

    A bad index is skipped, and the uint32 at ``flag`` is no longer 0.
    """
    args = [int(a) for a in plan.args]
    item, index_size = plan.itemsize, int(plan.index[1:])
    starts = [5, *(10 + 4 * d for d in range(args[9]))]
    axes: list[launch.Axis] = [
        (args[s], args[s + 1] * item, args[s + 2] * index_size, args[s + 3] * item) for s in starts
    ]
    lines, steps = plan.count, args[2]
    wide = lines >= launch.WIDE_ELEMENTS
    count, numbers = launch._axes(axes, wide)
    operation, kind = scatter_kernels.SET, f"u{item}"
    if add == "bool":
        operation, kind = scatter_kernels.ANY, "u1"
    elif add is not None:
        operation, kind = scatter_kernels.ADD, add
    key = (count, operation, kind, item, plan.index, wide)
    threads = launch.THREADS_PER_BLOCK
    if lines < SCAN_BELOW_LINES and steps >= launch.THREADS_PER_BLOCK:
        name, make = "scan", scatter_kernels.make_scatter_scan
        # The owners of a line's places are threads of as many blocks as there are multiprocessors.
        owners = launch._power_of_two(plan.size)
        parts = launch._power_of_two(
            launch._divide_up(launch.driver.processors(place.device), lines)
        )
        grid = lines, min(parts, launch._divide_up(owners, launch.THREADS_PER_BLOCK))
        threads = min(scatter_kernels.SCAN_THREADS, owners)
    elif plan.rows and steps > 1:
        name, make = "staged", scatter_kernels.make_scatter_staged
        grid = launch._divide_up(lines, scatter_kernels.LINES_PER_TILE), 1
    else:
        name, make = "lines", scatter_kernels.make_scatter_lines
        grid = launch._divide_up(lines, launch.THREADS_PER_BLOCK), 1
    head = (lines, plan.size, args[1] * item, steps, args[3] * index_size, args[4] * item)
    launch.driver.launch(
        (name, *key),
        lambda memory: make(memory, *key),
        grid, (threads, 1), place,
        (out, src, idx, flag),
        (*(n & launch._64_BITS for n in head), *numbers),
    )  # fmt: skip
