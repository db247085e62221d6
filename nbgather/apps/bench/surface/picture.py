"""The map of the surface: size of the call, length of its rows, and the ratio as a colour."""

from __future__ import annotations

from typing import Any

from nbgather import plotting
from nbgather.apps.bench.surface.summary import Call, calls_of_results, geometric_mean

__all__ = ["surface_map"]

#: The colours end at so many times slower and faster.
SLOWEST, FASTEST = 1 / 4, 4
TICKS = {0.25: "¼", 0.5: "½", 0.7: "0.7", 1: "1", 2: "2", 4: "4"}
COLUMNS = 4
FIRST_PANEL_INCHES = 2.9


def _bytes(call: Call) -> float:
    moved = call.case["bytes"]
    return float(max(1, moved["index"] + moved["source"] + moved["result"]))


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

    calls = [call for call in calls_of_results(results) if call.peer]
    names = list(dict.fromkeys(call.case["function"] for call in calls))
    rows = -(-len(names) // COLUMNS) or 1
    figure = plotting.new_figure(12, FIRST_PANEL_INCHES * rows + 0.6)
    panels = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).ravel()
    norm = LogNorm(SLOWEST, FASTEST)
    dots = None
    for axes, name in zip(panels, names, strict=False):
        chosen = sorted((c for c in calls if c.case["function"] == name), key=lambda c: -c.ratio)
        dots = axes.scatter(
            [_bytes(call) for call in chosen], [call.case["row"] for call in chosen],
            c=[min(max(call.ratio, SLOWEST), FASTEST) for call in chosen],
            cmap="RdYlGn", norm=norm, s=22, edgecolors="#555555", linewidths=0.3,
        )  # fmt: skip
        mean = geometric_mean([call.ratio for call in chosen])
        axes.set_title(f"{name}: {mean:.2f}×", fontsize=plotting.TEXT_POINTS)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.tick_params(labelsize=plotting.LABEL_POINTS)
        axes.set_facecolor("#f4f4f4")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("bytes that the call must move", fontsize=plotting.TEXT_POINTS)
    figure.supylabel("items in a row of its innermost loop", fontsize=plotting.TEXT_POINTS)
    if dots is not None:
        bar = figure.colorbar(dots, ax=list(panels), shrink=0.6, pad=0.02, extend="both")
        bar.set_ticks(list(TICKS), labels=list(TICKS.values()))
        bar.minorticks_off()
        bar.set_label("times faster than the best peer", fontsize=plotting.TEXT_POINTS)
    return plotting.png_bytes(figure)
