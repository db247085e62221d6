"""What an explanation consists of: arrays as panels of coloured cells."""

from __future__ import annotations

import colorsys
from typing import Any, NamedTuple

import numpy as np

#: Cells of an array that can still be told apart in a picture.
MAX_CELLS = 256
#: Characters of a value that are shown.
MAX_CHARACTERS = 9
#: The colour of a cell that has no source.
UNCOLOURED = "#ffffff"


class Cell(NamedTuple):
    """One element: its position in the array, its value as text, and how it is drawn."""

    position: tuple[int, ...]
    text: str
    colour: str
    marked: bool


class Panel(NamedTuple):
    """An array as rows of cells: a 3-d one slice by slice, with a title each."""

    title: str
    slices: list[tuple[str, list[list[Cell]]]]

    @property
    def columns(self) -> int:
        """Cells of the longest row."""
        return max(map(len, self.rows()), default=0)

    def rows(self) -> list[list[Cell]]:
        """The rows of all slices."""
        return [row for _, rows in self.slices for row in rows]

    def longest_text(self) -> int | None:
        """Characters of the longest value; None where there is no cell."""
        return max((len(cell.text) for row in self.rows() for cell in row), default=None)


def checked(name: str, array: Any) -> np.ndarray:
    """An operand as a NumPy array; ValueError if it is too large to be shown."""
    values = np.asarray(array)
    if values.ndim > 3 or values.size > MAX_CELLS:
        raise ValueError(
            f"{name} has shape {values.shape}: at most 3 dimensions and {MAX_CELLS} cells can be"
            " shown"
        )
    return values


def source_colours(shape: tuple[int, ...], size: int) -> np.ndarray:
    """A colour for each cell of the input: light, and as unlike its neighbours as can be."""
    return np.array([_colour(k, size) for k in range(size)]).reshape(shape)


def _colour(k: int, count: int) -> str:
    red, green, blue = colorsys.hls_to_rgb(k / max(count, 1), 0.78 - 0.1 * (k % 2), 0.72)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def value_text(value: Any) -> str:
    """A value in at most nine characters."""
    text = f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def make_panel(
    title: str, array: np.ndarray, colours: np.ndarray | None, marked: tuple[int, ...] | None
) -> Panel:
    """A panel of an array; ``colours`` has its shape, ``marked`` is the cell to point out."""

    def cell(position: tuple[int, ...]) -> Cell:
        colour = UNCOLOURED if colours is None else str(colours[position])
        return Cell(position, value_text(array[position]), colour, position == marked)

    def rows(slice_: tuple[int, ...], shape: tuple[int, ...]) -> list[list[Cell]]:
        if not shape:
            return [[cell(slice_)]]
        lines = [slice_] if len(shape) == 1 else [(*slice_, r) for r in range(shape[0])]
        return [[cell((*line, c)) for c in range(shape[-1])] for line in lines]

    if array.ndim < 3:
        return Panel(title, [("", rows((), array.shape))])
    slices = range(array.shape[0])
    return Panel(title, [(f"{title}[{s}]", rows((s,), array.shape[1:])) for s in slices])
