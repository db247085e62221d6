"""An explanation as lines of text, for a terminal."""

from __future__ import annotations

from nbgather.explain.cells import UNCOLOURED, Cell, Panel


def draw(panels: list[Panel], lines: list[str], colour: bool) -> str:
    """The arrays side by side, then the lines; with ANSI escapes if ``colour``."""
    blocks = [_block(panel, colour) for panel in panels]
    height = max(len(block) for block, _ in blocks)
    rows = []
    for k in range(height):
        parts = []
        for block, width in blocks:
            text, length = block[k] if k < len(block) else ("", 0)
            parts.append(text + " " * (width - length))
        rows.append("  ".join(parts).rstrip())
    return "\n".join([*rows, "", *lines])


def _block(panel: Panel, colour: bool) -> tuple[list[tuple[str, int]], int]:
    """The lines of an array as text, each with its visible length; and the longest length."""
    lines = [(panel.title, len(panel.title))]
    width = panel.longest_text() or 0
    for name, rows in panel.slices:
        if name:
            lines.append((name, len(name)))
        for row in rows:
            text = " ".join(_cell(cell, width, colour) for cell in row)
            lines.append((text, max((width + 3) * len(row) - 1, 0)))
    return lines, max(length for _, length in lines)


def _cell(cell: Cell, width: int, colour: bool) -> str:
    opening, closing = "<>" if cell.marked else "[]"
    text = f"{opening}{cell.text:>{width}}{closing}"
    if not colour or cell.colour == UNCOLOURED:
        return text
    red, green, blue = (int(cell.colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"\x1b[48;2;{red};{green};{blue}m\x1b[30m{text}\x1b[0m"
