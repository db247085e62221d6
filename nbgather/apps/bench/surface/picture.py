"""The map of the surface: size of the call, length of its rows, and the ratio as a colour."""

from __future__ import annotations

from typing import Any

from nbgather import plotting
from nbgather.apps.bench.surface.summary import Call, calls_of_results, geometric_mean

__all__ = ["surface_map"]

#: The colours end at so many times slower and faster.
SLOWEST, FASTEST = 1 / 4, 4
TICKS = {0.25: "¼×", 0.5: "½×", 0.7: "0.7×", 1: "1×", 2: "2×", 4: "4×"}
SIZES = {1e2: "100 B", 1e4: "10 kB", 1e6: "1 MB", 1e8: "100 MB"}
ROWS = {1: "1", 1e2: "100", 1e4: "10⁴", 1e6: "10⁶"}
COLUMNS, PANEL_INCHES = 5, 2.5


def _dot(calls: list[Call]) -> tuple[float, float, float]:
    """Bytes, length of the rows, and the ratio of a case: the mean over its calls."""
    case = calls[0].case
    ratio = geometric_mean([call.ratio for call in calls])
    return max(1, sum(case["bytes"].values())), case["row"], ratio


def surface_map(results: dict[str, Any]) -> bytes:
    """A PNG with a panel for each function and a dot for each call.

    Parameters
    ----------
    results : dict
        Of :func:`run_surface`.

    Returns
    -------
    bytes

    Examples
    --------
    >>> from nbgather.apps.bench.surface.picture import surface_map
    >>> case = {"function": "gather", "text": "x", "row": 4, "loads": 4, "spread": 64,
    ...         "bytes": {"index": 8, "source": 4, "result": 4},
    ...         "seconds": {"nbgather numpy": 4e-6, "numpy": 8e-6}}
    >>> surface_map({"cases": [case]})[1:4]
    b'PNG'
    """
    from matplotlib.colors import LogNorm

    functions: dict[str, dict[int, list[Call]]] = {}
    for call in calls_of_results(results):
        if call.peer:
            cases = functions.setdefault(call.case["function"], {})
            cases.setdefault(id(call.case), []).append(call)
    rows = -(-len(functions) // COLUMNS) or 1
    figure = plotting.new_figure(COLUMNS * PANEL_INCHES + 0.6, rows * PANEL_INCHES + 1.4)
    grid = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True)
    panels, dots = list(grid.ravel()), None
    for axes, (name, cases) in zip(panels, functions.items(), strict=False):
        sizes, lengths, ratios = zip(*(_dot(calls) for calls in cases.values()), strict=True)
        dots = axes.scatter(
            sizes, lengths, c=ratios, s=26, cmap="coolwarm_r", norm=LogNorm(SLOWEST, FASTEST),
            edgecolors="#444444", linewidths=0.4,
        )  # fmt: skip
        every = [call.ratio for calls in cases.values() for call in calls]
        title = f"{name}: {geometric_mean(every):.2f}×"
        axes.set_title(title, fontsize=plotting.SMALL_POINTS)
        _label(axes)
    for place, axes in enumerate(panels):
        axes.set_visible(place < len(functions))
        if place + COLUMNS >= len(functions):  # nothing is drawn below it
            axes.tick_params(labelbottom=True)
    figure.supxlabel("bytes that the call must move", fontsize=plotting.TEXT_POINTS)
    figure.supylabel("items in a row of its innermost loop", fontsize=plotting.TEXT_POINTS)
    if dots is not None:
        bar = figure.colorbar(
            dots, ax=panels, location="top", shrink=0.6, aspect=45, pad=0.02, extend="both"
        )
        bar.set_ticks(list(TICKS), labels=list(TICKS.values()))
        bar.minorticks_off()
        bar.set_label(
            "times faster than the best peer: a dot for each random call, blue where nbgather is"
            " faster; the geometric mean above each panel",
            fontsize=plotting.TEXT_POINTS,
        )
    return plotting.png_bytes(figure)


def _label(axes: Any) -> None:
    """Logarithmic axes whose few ticks are in words."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(SIZES), list(SIZES.values()), fontsize=plotting.LABEL_POINTS)
    axes.set_yticks(list(ROWS), list(ROWS.values()), fontsize=plotting.LABEL_POINTS)
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
