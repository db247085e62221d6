"""The picture of the rows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from nbgather import plotting
from nbgather.apps.bench.report import ratio

__all__ = ["picture"]

#: One for each machine.
MARKERS = "oDs^v"


def picture(runs: Mapping[str, dict[str, Any]]) -> bytes:
    """The ratios as a PNG: a line for each row on a log scale, a mark on it for each run.

    Parameters
    ----------
    runs : mapping of str to dict
        What ``scripts/bench.py --json`` writes, by the name of the machine.

    Returns
    -------
    bytes

    Examples
    --------
    >>> from nbgather.apps.bench import picture
    >>> times = {"nbgather": {"min": 1e-3, "median": 2e-3}, "torch": {"min": 3e-3, "median": 3e-3}}
    >>> row = {"name": "r", "group": "gather", "about": "x", "bytes": 8, "floor": 5e-4,
    ...        "seconds": times, "targets": {"best": 1.0}}
    >>> picture({"a machine": {"facts": {}, "rows": [row]}})[1:4]
    b'PNG'
    """
    names = list(dict.fromkeys(row["name"] for run in runs.values() for row in run["rows"]))[::-1]
    figure = plotting.new_figure(10, 0.3 * len(names) + 1.6)
    axes = figure.subplots()
    places = {name: k for k, name in enumerate(names)}
    widest: dict[str, list[float]] = {name: [] for name in names}
    for (title, run), marker in zip(runs.items(), itertools.cycle(MARKERS), strict=False):
        ratios = {row["name"]: ratio(row) or 1.0 for row in run["rows"]}
        colours = [plotting.GOOD if r >= 1 else plotting.BAD for r in ratios.values()]
        heights = [places[name] for name in ratios]
        axes.scatter(
            list(ratios.values()), heights, s=36, c=colours, marker=marker, label=title, zorder=3
        )
        for name, r in ratios.items():
            widest[name].append(r)
    for name, ratios_of_row in widest.items():
        ends = min(1.0, *ratios_of_row), max(1.0, *ratios_of_row)
        axes.plot(ends, [places[name]] * 2, color="#cccccc", linewidth=2, zorder=1)
        text = "   ".join(f"{r:.2f}×" for r in ratios_of_row)
        axes.text(ends[1] * 1.12, places[name], text, va="center", fontsize=plotting.LABEL_POINTS)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1, zorder=2)
    every = [r for ratios_of_row in widest.values() for r in ratios_of_row]
    low, high = min([0.4, *every]), max([2.0, *every])
    axes.set_xlim(low * 0.9, high * (1.6 + 0.6 * len(runs)))
    axes.set_ylim(-0.8, len(names) - 0.2)
    axes.set_yticks(range(len(names)), names)
    ticks = [t for t in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if low * 0.9 <= t <= high * 1.5]
    axes.set_xticks(ticks, [f"{t:g}×" for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("times faster than the best peer (log scale; right of the line is faster)")
    axes.spines[["top", "right"]].set_visible(False)
    if len(runs) > 1:
        legend = axes.legend(loc="lower right", fontsize=plotting.SMALL_POINTS)
        for handle in legend.legend_handles:
            handle.set_color(plotting.MUTED)
    return plotting.png_bytes(figure)
