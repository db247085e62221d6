"""Pictures, by matplotlib: what a mask hides and what comes back."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from nbgather.patches import patchify, unpatchify

__all__ = ["masking_figure", "png_bytes"]

#: The colour of what is removed, in the picture only: light enough to read as absent.
REMOVED = 0.86
#: What lies between patches that are laid out side by side.
GAP = 1.0


def masking_figure(
    photo: np.ndarray, x_masked: np.ndarray, mask: np.ndarray, restored: np.ndarray, patch_size: int
) -> Any:
    """Draw what masking did to one image.

    Four panels: the photo, the photo without the removed patches, the visible patches in the order
    of their rank, and the photo restored from them.

    Parameters
    ----------
    photo : array of float, shape [C, H, W]
        Values 0 to 1.
    x_masked : array of float, shape [K, patch_size**2 * C]
        The visible patches, in the order of their rank.
    mask : array of float, shape [L]
        0 keep, 1 remove.
    restored : array of float, shape [L, patch_size**2 * C]
        All patches, with a mask token where removed.
    patch_size : int
        p.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ModuleNotFoundError
        matplotlib is not there.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> from nbgather.figures import masking_figure
    >>> photo = np.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    >>> patches = nbgather.patchify(photo, 16)
    >>> x_masked, mask, ids_restore = nbgather.random_masking(patches, 0.5, seed=0)
    >>> restored = nbgather.restore_tokens(x_masked, ids_restore, 0.5)
    >>> figure = masking_figure(photo[0], x_masked[0], mask[0], restored[0], 16)
    >>> len(figure.axes)
    4
    """
    from matplotlib.figure import Figure

    height, width = photo.shape[1:]
    kept = x_masked.shape[0]
    hidden = np.where(mask[:, None] == 1, REMOVED, patchify(photo[None], patch_size)[0])
    panels = (
        ("photo", _pixels(photo), f"{width} × {height} pixels, {mask.size} patches"),
        (
            "masked",
            _pixels(_image(hidden, patch_size, (height, width))),
            f"{int(mask.sum())} patches removed, {kept} visible",
        ),
        ("x_masked", _tiles(x_masked, patch_size, photo.shape[0]), "visible patches, by rank"),
        (
            "restored",
            _pixels(_image(restored, patch_size, (height, width))),
            "put back by ids_restore, mean colour elsewhere",
        ),
    )
    figure = Figure(figsize=(14, 4.2), dpi=120, layout="constrained")
    for axes, (title, pixels, caption) in zip(figure.subplots(1, 4), panels, strict=True):
        axes.imshow(pixels, vmin=0, vmax=1, cmap="gray", interpolation="nearest")
        axes.set_title(title, fontsize=13, fontweight="bold")
        axes.set_xlabel(caption, fontsize=10, labelpad=8)
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_visible(False)
    return figure


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


def _image(tokens: np.ndarray, patch_size: int, size: tuple[int, int]) -> np.ndarray:
    return unpatchify(tokens[None], patch_size, size)[0]


def _pixels(image: np.ndarray) -> np.ndarray:
    pixels = np.moveaxis(image, 0, -1)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _tiles(tokens: np.ndarray, patch_size: int, channels: int) -> np.ndarray:
    """Patches side by side in reading order, with a gap between them."""
    kept = tokens.shape[0]
    columns = max(math.ceil(math.sqrt(kept)), 1)
    pitch = patch_size + max(patch_size // 8, 1)
    side = columns * pitch - (pitch - patch_size)
    sheet = np.full((side, side, channels), GAP, np.float32)
    for k, token in enumerate(tokens):
        top, left = k // columns * pitch, k % columns * pitch
        patch = token.reshape(patch_size, patch_size, channels)
        sheet[top : top + patch_size, left : left + patch_size] = patch
    return sheet[..., 0] if channels == 1 else sheet
