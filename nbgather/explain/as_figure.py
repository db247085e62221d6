"""An explanation as a matplotlib figure."""

from __future__ import annotations

from typing import Any

from nbgather import plotting
from nbgather.explain.cells import Cell, Panel

#: Sizes in inches: a cell, and a line of text below the arrays.
CELL_WIDTH_IN, CELL_HEIGHT_IN, LINE_IN = 0.62, 0.42, 0.32
#: Inches for an average character of a line of text.
CHARACTER_IN = 0.1
#: Rows of cells that the title of a slice takes the height of.
SLICE_TITLE_ROWS = 0.8


def draw(panels: list[Panel], lines: list[str]) -> Any:
    """The arrays side by side, and the lines below them."""
    columns = [max(panel.columns, 2) for panel in panels]
    tallest = max(sum(len(rows) + SLICE_TITLE_ROWS for _, rows in p.slices) for p in panels)
    below = LINE_IN * len(lines) + 0.2
    width = max(CELL_WIDTH_IN * (sum(columns) + len(columns)), CHARACTER_IN * max(map(len, lines)))
    height = CELL_HEIGHT_IN * tallest + below + 0.5
    figure = plotting.new_figure(width, height, constrained=False)
    left, bottom = 0.3 / width, below / height
    for panel, count in zip(panels, columns, strict=True):
        share = CELL_WIDTH_IN * count / width
        axes = figure.add_axes((left, bottom, share, 1 - bottom - 0.4 / height))
        left += share + 0.5 / width
        _draw_panel(axes, panel)
        axes.set_xlim(-0.05, count)
        axes.set_ylim(tallest, -0.05)
        axes.set_axis_off()
    for k, line in enumerate(lines):
        y = bottom - (k + 0.9) * LINE_IN / height
        figure.text(0.3 / width, y, line, fontsize=plotting.TEXT_POINTS, family="monospace")
    return figure


def _draw_panel(axes: Any, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=plotting.HEADING_POINTS, fontweight="bold", loc="left")
    y = 0.0
    for name, rows in panel.slices:
        if name:
            axes.text(
                0, y + 0.5, name, fontsize=plotting.SMALL_POINTS, va="center", color=plotting.MUTED
            )
            y += SLICE_TITLE_ROWS
        for row in rows:
            for x, cell in enumerate(row):
                _draw_cell(axes, cell, x, y)
            y += 1


def _draw_cell(axes: Any, cell: Cell, x: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    outline, stroke = (plotting.MARKED, 2.5) if cell.marked else (plotting.OUTLINE, 0.8)
    outlined = Rectangle((x, y), 0.96, 0.94, edgecolor=outline, linewidth=stroke)
    outlined.set_facecolor(cell.colour)
    axes.add_patch(outlined)
    axes.text(
        x + 0.48, y + 0.5, cell.text, ha="center", va="center", fontsize=plotting.SMALL_POINTS,
        color="black",
    )  # fmt: skip
