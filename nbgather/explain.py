"""Small gathers cell by cell: where each output came from, and which gathers could have made it.

An explanation prints as text, shows itself as SVG in a notebook, and draws as a matplotlib figure.
"""

from __future__ import annotations

import colorsys
import itertools
import math
from html import escape
from typing import Any, NamedTuple

import numpy as np

from nbgather.indexing import gather, infer_gather
from nbgather.operations import checks

__all__ = ["Explanation", "explain_gather", "explain_inverse"]

#: Cells of an array that can still be told apart in a picture.
MOST = 256
#: Pixels of a cell, of the space between arrays, and of a line of text.
WIDTH, HEIGHT, GAP, LINE = 52, 30, 36, 22
PLAIN, MARKED = "#ffffff", "#c0392b"
LETTERS = "ijk"


class _Cell(NamedTuple):
    place: tuple[int, ...]
    text: str
    colour: str
    marked: bool


class _Panel(NamedTuple):
    """An array as rows of cells: a 3-d one slice by slice, with a title each."""

    title: str
    slices: list[tuple[str, list[list[_Cell]]]]

    @property
    def columns(self) -> int:
        return max((len(row) for _, rows in self.slices for row in rows), default=0)


class Explanation:
    """A picture of a small gather, as text, SVG, HTML or a matplotlib figure.

    Attributes
    ----------
    lines : list of str
        What is said below the arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.explain import explain_gather
    >>> made = explain_gather(np.array([10, 20, 30]), 0, np.array([2, 0]))
    >>> print(made)
    input           index    output
    <10> [20] [30]  [2] <0>  [30] <10>
    <BLANKLINE>
    out[i] = input[index[i]]
    out[1] = input[index[1]] = input[0] = 10
    """

    def __init__(self, panels: list[_Panel], lines: list[str]) -> None:
        self._panels, self.lines = panels, lines

    def __str__(self) -> str:
        return self.text()

    def text(self, colour: bool = False) -> str:
        """Lay the arrays out side by side.

        Parameters
        ----------
        colour : bool
            Colour the cells by ANSI escapes, for a terminal.

        Returns
        -------
        str
        """
        blocks = [_block(panel, colour) for panel in self._panels]
        height = max(len(block) for block, _ in blocks)
        rows = []
        for k in range(height):
            parts = []
            for block, width in blocks:
                text, length = block[k] if k < len(block) else ("", 0)
                parts.append(text + " " * (width - length))
            rows.append("  ".join(parts).rstrip())
        return "\n".join([*rows, "", *self.lines])

    def svg(self) -> str:
        """Draw as SVG.

        Returns
        -------
        str
            A whole document, which an HTML page can hold as it is.
        """
        body, width, height = [], GAP, 0
        for panel in self._panels:
            parts, wide, high = _panel_svg(panel, width, GAP)
            body += parts
            width += wide + GAP
            height = max(height, high)
        for k, line in enumerate(self.lines):
            y = height + GAP + LINE * k
            body.append(
                f'<text x="{GAP}" y="{y}" font-family="monospace" font-size="14"'
                f' fill="currentColor">{escape(line)}</text>'
            )
            width = max(width, GAP * 2 + round(8.6 * len(line)))
        total = height + GAP + LINE * len(self.lines) + 8
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}"'
            f' viewBox="0 0 {width} {total}" role="img">' + "".join(body) + "</svg>"
        )

    def html(self) -> str:
        """Draw as a whole HTML page.

        Returns
        -------
        str
        """
        return f'<!doctype html><meta charset="utf-8"><title>gather</title>{self.svg()}\n'

    def _repr_svg_(self) -> str:
        return self.svg()

    def figure(self) -> Any:
        """Draw by matplotlib.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ModuleNotFoundError
            matplotlib is not there.
        """
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

        columns = [max(panel.columns, 2) for panel in self._panels]
        tall = max(sum(len(rows) + 0.8 for _, rows in p.slices) for p in self._panels)
        lines = 0.32 * len(self.lines) + 0.2
        wide = max(0.62 * (sum(columns) + len(columns)), 0.1 * max(map(len, self.lines)))
        size = wide, 0.42 * tall + lines + 0.5
        figure = Figure(figsize=size, dpi=120)
        left, bottom = 0.3 / size[0], lines / size[1]
        for panel, count in zip(self._panels, columns, strict=True):
            share = 0.62 * count / size[0]
            axes = figure.add_axes((left, bottom, share, 1 - bottom - 0.4 / size[1]))
            left += share + 0.5 / size[0]
            axes.set_title(panel.title, fontsize=12, fontweight="bold", loc="left")
            y = 0.0
            for name, rows in panel.slices:
                if name:
                    axes.text(0, y + 0.5, name, fontsize=9, va="center", color="#666666")
                    y += 0.8
                for row in rows:
                    for x, cell in enumerate(row):
                        edge, width = (MARKED, 2.5) if cell.marked else ("#888888", 0.8)
                        axes.add_patch(
                            Rectangle((x, y), 0.96, 0.94, facecolor=cell.colour, edgecolor=edge,
                                      linewidth=width)
                        )  # fmt: skip
                        axes.text(x + 0.48, y + 0.5, cell.text, ha="center", va="center",
                                  fontsize=9, color="black")  # fmt: skip
                    y += 1
            axes.set_xlim(-0.05, count)
            axes.set_ylim(tall, -0.05)
            axes.set_axis_off()
        for k, line in enumerate(self.lines):
            figure.text(
                0.3 / size[0], bottom - (k + 0.9) * 0.32 / size[1], line, fontsize=10,
                family="monospace",
            )  # fmt: skip
        return figure


def _block(panel: _Panel, colour: bool) -> tuple[list[tuple[str, int]], int]:
    """The lines of an array as text and their visible lengths; and the longest."""
    lines = [(panel.title, len(panel.title))]
    cells = [cell for _, rows in panel.slices for row in rows for cell in row]
    width = max((len(cell.text) for cell in cells), default=0)
    for name, rows in panel.slices:
        if name:
            lines.append((name, len(name)))
        for row in rows:
            texts = []
            for cell in row:
                marks = "<>" if cell.marked else "[]"
                text = f"{marks[0]}{cell.text:>{width}}{marks[1]}"
                if colour and cell.colour != PLAIN:
                    red, green, blue = (int(cell.colour[k : k + 2], 16) for k in (1, 3, 5))
                    text = f"\x1b[48;2;{red};{green};{blue}m\x1b[30m{text}\x1b[0m"
                texts.append(text)
            length = max((width + 3) * len(row) - 1, 0)
            lines.append((" ".join(texts), length))
    return lines, max(length for _, length in lines)


def _panel_svg(panel: _Panel, left: int, top: int) -> tuple[list[str], int, int]:
    """An array's shapes, its width, and where it ends below."""
    widest = max((len(c.text) for _, rows in panel.slices for row in rows for c in row), default=1)
    width = max(WIDTH, 9 * widest + 14)
    parts = [
        f'<text x="{left}" y="{top - 10}" font-family="sans-serif" font-size="15"'
        f' font-weight="bold" fill="currentColor">{escape(panel.title)}</text>'
    ]
    y = top
    for name, rows in panel.slices:
        if name:
            parts.append(
                f'<text x="{left}" y="{y + 15}" font-family="sans-serif" font-size="12"'
                f' fill="#888888">{escape(name)}</text>'
            )
            y += LINE
        for row in rows:
            for k, cell in enumerate(row):
                x = left + k * width
                edge, thick = (MARKED, 3) if cell.marked else ("#888888", 1)
                parts.append(
                    f'<rect x="{x + 1}" y="{y + 1}" width="{width - 2}" height="{HEIGHT - 2}"'
                    f' rx="3" fill="{cell.colour}" stroke="{edge}" stroke-width="{thick}"/>'
                    f'<text x="{x + width / 2:g}" y="{y + HEIGHT / 2 + 5:g}" text-anchor="middle"'
                    f' font-family="monospace" font-size="14" fill="#000000">'
                    f"{escape(cell.text)}</text>"
                )
            y += HEIGHT
        y += 6
    return parts, max(panel.columns * width, 9 * len(panel.title)), y


def _colour(k: int, count: int) -> str:
    """The colour of source cell ``k`` of so many: light, and as unlike its neighbours as can be."""
    red, green, blue = colorsys.hls_to_rgb(k / max(count, 1), 0.78 - 0.1 * (k % 2), 0.72)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _shown(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)
    return text if len(text) <= 9 else text[:8] + "…"


def _panel(
    title: str, array: np.ndarray, colours: np.ndarray | None, marked: tuple[int, ...] | None
) -> _Panel:
    def cell(place: tuple[int, ...]) -> _Cell:
        colour = PLAIN if colours is None else str(colours[place])
        return _Cell(place, _shown(array[place]), colour, place == marked)

    if array.ndim < 3:
        rows = [()] if array.ndim < 2 else [(r,) for r in range(array.shape[0])]
        columns = range(array.shape[-1]) if array.ndim else None
        made = [[cell((*row, c)) for c in columns] if columns is not None else [cell(())]
                for row in rows]  # fmt: skip
        return _Panel(title, [("", made)])
    slices = [
        (f"{title}[{s}]", [[cell((s, r, c)) for c in range(array.shape[2])]
                           for r in range(array.shape[1])])
        for s in range(array.shape[0])
    ]  # fmt: skip
    return _Panel(title, slices)


def _small(name: str, array: Any) -> np.ndarray:
    made = np.asarray(array)
    if made.ndim > 3 or made.size > MOST:
        raise ValueError(
            f"{name} has shape {made.shape}: at most 3 dimensions and {MOST} cells can be shown"
        )
    return made


def _at(name: str, place: tuple[Any, ...]) -> str:
    return name + "".join(f"[{p}]" for p in place)


def explain_gather(
    input: Any, dim: int, index: Any, *, cell: tuple[int, ...] | None = None
) -> Explanation:
    """Show where each cell of a gather came from, with the formula filled in for one of them.

    Parameters
    ----------
    input, dim, index
        As in :func:`nbgather.gather`; at most 3 dimensions and 256 cells.
    cell : tuple of int, optional
        The output cell that the formula is filled in for; the last one by default.

    Returns
    -------
    Explanation
        Each output cell has the colour of its source.

    Raises
    ------
    TypeError, ValueError, IndexError
        As :func:`nbgather.gather`; arrays too large to be shown; no such cell.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.explain import explain_gather
    >>> x = np.array([[1, 2, 3], [4, 5, 6]])
    >>> explain_gather(x, 1, np.array([[2, 0], [1, 1]])).lines[-1]
    'out[1][1] = input[1][index[1][1]] = input[1][1] = 5'
    """
    x, i = _small("input", input), _small("index", index)
    out = gather(x, dim, i)
    axis = checks.dim(checks.integer(dim, "dim"), x.ndim)
    source = gather(np.arange(x.size).reshape(x.shape), dim, i)
    colours = np.array([_colour(k, x.size) for k in range(x.size)]).reshape(x.shape)
    lines = [_formula(out.ndim, axis)]
    chosen = cell
    if cell is None and out.size:
        chosen = tuple(n - 1 for n in out.shape)
    come_from = None
    if chosen is not None:
        chosen = tuple(checks.integer(c, "cell") for c in chosen)
        if len(chosen) != out.ndim or not all(0 <= c < n for c, n in zip(chosen, out.shape)):
            raise ValueError(f"cell is {chosen}: it must be within the output's shape {out.shape}")
        come_from = tuple(int(p) for p in np.unravel_index(int(source[chosen]), x.shape))
        inner = _at("index", chosen)
        middle = tuple(inner if d == axis else c for d, c in enumerate(chosen)) or (inner,)
        lines.append(
            f"{_at('out', chosen)} = {_at('input', middle)} = {_at('input', come_from)}"
            f" = {_shown(out[chosen])}"
        )
    flat = np.asarray(colours.reshape(-1)[source] if out.size else np.empty(out.shape, "<U7"))
    panels = [
        _panel("input", x, colours, come_from),
        _panel("index", i, flat, chosen),
        _panel("output", out, flat, chosen),
    ]
    return Explanation(panels, lines)


def _formula(ndim: int, axis: int) -> str:
    """``out[i][j][k] = input[i][index[i][j][k]][k]``."""
    letters = tuple(LETTERS[:ndim])
    inner = _at("index", letters)
    places = tuple(inner if d == axis else letter for d, letter in enumerate(letters)) or (inner,)
    return f"{_at('out', letters)} = {_at('input', places)}"


def explain_inverse(input: Any, output: Any) -> Explanation:
    """Show which gathers could have made an output: each dim, and why it fits or what is against.

    Parameters
    ----------
    input, output
        As in :func:`nbgather.infer_gather`; at most 3 dimensions and 256 cells.

    Returns
    -------
    Explanation
        With the index of every dim that fits, and the first cell that rules out one that does not.

    Raises
    ------
    TypeError, ValueError
        As :func:`nbgather.infer_gather`; arrays too large to be shown.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.explain import explain_inverse
    >>> made = explain_inverse(np.array([[1, 2], [3, 4]]), np.array([[3, 2], [1, 4]]))
    >>> print(*made.lines, sep=chr(10))
    dim 0 fits: index [[1, 0], [0, 1]], the only one
    dim 1 does not: output[0][0] = 3 is not in input[0][:]
    """
    x, y = _small("input", input), _small("output", output)
    found = {solution.dim: solution for solution in infer_gather(x, y)}
    colours = np.array([_colour(k, x.size) for k in range(x.size)]).reshape(x.shape)
    lines, marked, first = [], None, None
    for dim in range(max(x.ndim, 1)):
        solution = found.get(dim)
        if solution is not None:
            first = first or solution
            unique = "the only one" if solution.is_unique else "the lowest of several"
            lines.append(f"dim {dim} fits: index {solution.index.tolist()}, {unique}")
            continue
        reason, place = _against(x, y, dim)
        marked = place if marked is None else marked
        lines.append(f"dim {dim} does not: {reason}")
    panels = [_panel("input", x, colours, None)]
    flat = None
    if first is not None:
        marked = None
        source = gather(np.arange(x.size).reshape(x.shape), first.dim, first.index)
        flat = np.asarray(colours.reshape(-1)[source]) if y.size else None
        panels.append(_panel(f"index, dim {first.dim}", np.asarray(first.index), flat, None))
    panels.append(_panel("output", y, flat, marked))
    return Explanation(panels, lines)


def _against(x: np.ndarray, y: np.ndarray, dim: int) -> tuple[str, tuple[int, ...] | None]:
    """What rules a dim out, and the output's cell that does, if it is one."""
    if x.ndim != y.ndim:
        return f"input has {x.ndim} dimensions and output {y.ndim}", None
    for d, (n, m) in enumerate(zip(x.shape, y.shape, strict=True)):
        if d != dim and m > n:
            return f"output has {m} cells along dimension {d} and input {n}", None
    bits = np.dtype(f"V{x.dtype.itemsize}")
    a, b = np.ascontiguousarray(x).view(bits), np.ascontiguousarray(y).view(bits)
    for place in itertools.product(*map(range, y.shape)):
        lane = tuple(slice(None) if d == dim else p for d, p in enumerate(place))
        if not (a[lane] == b[place]).any():
            where = tuple(":" if d == dim else p for d, p in enumerate(place))
            return (
                f"{_at('output', place)} = {_shown(y[place])} is not in {_at('input', where)}",
                place,
            )
    return "the shapes do not fit", None


def worked_example() -> tuple[np.ndarray, int, np.ndarray]:
    """The gather of torch's own documentation, one size up."""
    x = np.arange(math.prod((2, 3, 4))).reshape(2, 3, 4)
    return x, 1, np.array([[[0, 1, 2, 0], [2, 0, 0, 1]], [[1, 1, 0, 2], [0, 2, 1, 0]]])
