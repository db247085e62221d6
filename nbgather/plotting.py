"""How every matplotlib figure of this package looks, and how one becomes a PNG file.

Nothing here imports matplotlib before a figure is drawn.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

DPI = 120
TITLE_POINTS, HEADING_POINTS, TEXT_POINTS, SMALL_POINTS, LABEL_POINTS = 13, 12, 10, 9, 8

#: What reached its goal and what did not.
GOOD, BAD = "#2a7f62", "#c0504d"
#: The outline of a cell, of the cell that a formula is about, and text that stands back.
OUTLINE, MARKED, MUTED = "#888888", "#c0392b", "#666666"


def new_figure(width: float, height: float, *, constrained: bool = True) -> Any:
    """An empty figure of so many inches, which belongs to no window and no global state.

    Its axes are laid out by matplotlib, unless ``constrained`` is False.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained" if constrained else None)


def show_pixels(axes: Any, image: np.ndarray) -> None:
    """Draw an image ``[C, H, W]`` of values 0 to 1 and 1 or 3 channels, pixel by pixel."""
    pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    axes.imshow(pixels, vmin=0, vmax=1, cmap="gray", interpolation="nearest")


def hide_frame(axes: Any) -> None:
    """Take the ticks and the frame away, and leave the labels."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def png_bytes(figure: Any) -> bytes:
    """Render a figure as PNG, with nothing in it that changes from run to run.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What to render.

    Returns
    -------
    bytes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from nbgather.figures import png_bytes
    >>> png_bytes(Figure())[1:4]
    b'PNG'
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
