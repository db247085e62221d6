"""An explanation as SVG, written by hand: the same bytes everywhere."""

from __future__ import annotations

from html import escape

from nbgather import plotting
from nbgather.explain.cells import Panel

#: Sizes in pixels: a cell, the space between arrays, and a line of text.
CELL_WIDTH_PX, CELL_HEIGHT_PX, GAP_PX, LINE_PX = 52, 30, 36, 22


def draw(panels: list[Panel], lines: list[str]) -> str:
    """The arrays side by side, and the lines below them."""
    body, width, height = [], GAP_PX, 0
    for panel in panels:
        parts, panel_width, panel_bottom = _panel(panel, width, GAP_PX)
        body += parts
        width += panel_width + GAP_PX
        height = max(height, panel_bottom)
    for k, line in enumerate(lines):
        y = height + GAP_PX + LINE_PX * k
        body.append(
            f'<text x="{GAP_PX}" y="{y}" font-family="monospace" font-size="14"'
            f' fill="currentColor">{escape(line)}</text>'
        )
        width = max(width, GAP_PX * 2 + round(8.6 * len(line)))
    total = height + GAP_PX + LINE_PX * len(lines) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}"'
        f' viewBox="0 0 {width} {total}" role="img">' + "".join(body) + "</svg>"
    )


def _panel(panel: Panel, left: int, top: int) -> tuple[list[str], int, int]:
    """An array's shapes, its width, and the y coordinate where it ends."""
    longest = panel.longest_text()
    width = max(CELL_WIDTH_PX, 9 * (1 if longest is None else longest) + 14)
    parts = [
        f'<text x="{left}" y="{top - 10}" font-family="sans-serif" font-size="15"'
        f' font-weight="bold" fill="currentColor">{escape(panel.title)}</text>'
    ]
    y = top
    for name, rows in panel.slices:
        if name:
            parts.append(
                f'<text x="{left}" y="{y + 15}" font-family="sans-serif" font-size="12"'
                f' fill="{plotting.OUTLINE}">{escape(name)}</text>'
            )
            y += LINE_PX
        for row in rows:
            for k, cell in enumerate(row):
                x = left + k * width
                outline, stroke = (plotting.MARKED, 3) if cell.marked else (plotting.OUTLINE, 1)
                parts.append(
                    f'<rect x="{x + 1}" y="{y + 1}" width="{width - 2}"'
                    f' height="{CELL_HEIGHT_PX - 2}" rx="3" fill="{cell.colour}"'
                    f' stroke="{outline}" stroke-width="{stroke}"/>'
                    f'<text x="{x + width / 2:g}" y="{y + CELL_HEIGHT_PX / 2 + 5:g}"'
                    ' text-anchor="middle" font-family="monospace" font-size="14" fill="#000000">'
                    f"{escape(cell.text)}</text>"
                )
            y += CELL_HEIGHT_PX
        y += 6
    return parts, max(panel.columns * width, 9 * len(panel.title)), y
