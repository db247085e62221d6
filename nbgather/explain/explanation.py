"""The explanation as the user gets it: text, SVG, HTML or a matplotlib figure of the same cells."""

from __future__ import annotations

from typing import Any

from nbgather.explain import as_figure, as_svg, as_text
from nbgather.explain.cells import Panel


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
    >>> explanation = explain_gather(np.array([10, 20, 30]), 0, np.array([2, 0]))
    >>> print(explanation)
    input           index    output
    <10> [20] [30]  [2] <0>  [30] <10>
    <BLANKLINE>
    out[i] = input[index[i]]
    out[1] = input[index[1]] = input[0] = 10
    """

    def __init__(self, panels: list[Panel], lines: list[str]) -> None:
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
        return as_text.draw(self._panels, self.lines, colour)

    def svg(self) -> str:
        """Draw as SVG.

        Returns
        -------
        str
            A whole document, which an HTML page can hold as it is.
        """
        return as_svg.draw(self._panels, self.lines)

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
            matplotlib is not installed.
        """
        return as_figure.draw(self._panels, self.lines)
