"""Pictures, by matplotlib: what a mask hides and what comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nbgather import plotting
from nbgather.explain import explain_gather, explain_inverse
from nbgather.patches import patchify, unpatchify
from nbgather.plotting import png_bytes

__all__ = [
    "contact_sheet",
    "explain_gather",
    "explain_inverse",
    "masking_figure",
    "png_bytes",
    "show_masking",
    "strategies_figure",
]

#: The grey of a removed patch, in the picture only: light enough to read as absent.
REMOVED_GREY = 0.86
#: The grey between patches that are laid out side by side.
GAP_GREY = 1.0
#: Frames of a video that are drawn.
MAX_FRAMES = 8
#: Pictures side by side on a contact sheet, and letters of their names.
SHEET_COLUMNS, NAME_LETTERS = 4, 36


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
        matplotlib is not installed.

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
    height, width = photo.shape[1:]
    kept = x_masked.shape[0]
    hidden = np.where(mask[:, None] == 1, REMOVED_GREY, patchify(photo[None], patch_size)[0])
    panels = (
        ("photo", photo, f"{width} × {height} pixels, {mask.size} patches"),
        (
            "masked",
            _image(hidden, patch_size, (height, width)),
            f"{int(mask.sum())} patches removed, {kept} visible",
        ),
        ("x_masked", _tiles(x_masked, patch_size, photo.shape[0]), "visible patches, by rank"),
        (
            "restored",
            _image(restored, patch_size, (height, width)),
            "put back by ids_restore, mean colour elsewhere",
        ),
    )
    figure = plotting.new_figure(14, 4.2)
    for axes, (title, image, caption) in zip(figure.subplots(1, 4), panels, strict=True):
        plotting.show_pixels(axes, image)
        axes.set_title(title, fontsize=plotting.TITLE_POINTS, fontweight="bold")
        axes.set_xlabel(caption, fontsize=plotting.TEXT_POINTS, labelpad=8)
        plotting.hide_frame(axes)
    return figure


def show_masking(
    image: np.ndarray, mask: np.ndarray, patch_size: int | tuple[int, ...], *, title: str = ""
) -> Any:
    """Draw images or the frames of a video beside what a mask leaves of them.

    Parameters
    ----------
    image : array of float, shape [C, H, W] or [C, T, H, W]
        Values 0 to 1, of 1 or 3 channels.
    mask : array of float, shape [L]
        0 keep, 1 remove; over the patches in the order of :func:`nbgather.patchify`.
    patch_size : int or sequence of int
        As in :func:`nbgather.patchify`.
    title : str
        What the picture is called.

    Returns
    -------
    matplotlib.figure.Figure
        Side by side; of a video one below the other, at most 8 frames of it.

    Raises
    ------
    ValueError
        A mask that does not fit the image.
    ModuleNotFoundError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> from nbgather.figures import show_masking
    >>> image = np.linspace(0, 1, 3 * 32 * 48).reshape(3, 32, 48)
    >>> scores = nbgather.strategies.block(0, 1, (4, 6))
    >>> figure = show_masking(image, nbgather.rank_tokens(scores, 10).mask[0], 8)
    >>> len(figure.axes)
    2
    """
    masked = _masked(image, mask, patch_size)
    if image.ndim == 3:
        panels = [[image, masked]]
    else:
        shown = (
            np.linspace(0, image.shape[1] - 1, min(image.shape[1], MAX_FRAMES)).round().astype(int)
        )
        panels = [[pixels[:, t] for t in shown] for pixels in (image, masked)]
    rows, columns = len(panels), len(panels[0])
    width = 9.0 if columns > 1 else 4.5
    height = width / columns * image.shape[-2] / image.shape[-1] * rows + 0.8
    figure = plotting.new_figure(width, height)
    if title:
        figure.suptitle(title, fontsize=plotting.HEADING_POINTS)
    for line, axes_line in zip(panels, figure.subplots(rows, columns, squeeze=False), strict=True):
        for pixels, axes in zip(line, axes_line, strict=True):
            plotting.show_pixels(axes, pixels)
            axes.set_axis_off()
    removed = int(mask.sum())
    figure.supxlabel(f"{removed} of {mask.size} patches removed", fontsize=plotting.TEXT_POINTS)
    return figure


def strategies_figure(
    image: np.ndarray, masks: Mapping[str, np.ndarray], patch_size: int | tuple[int, int]
) -> Any:
    """Draw what several masks leave of one image, side by side.

    Parameters
    ----------
    image : array of float, shape [C, H, W]
        Values 0 to 1, of 1 or 3 channels.
    masks : mapping of str to array of float, shape [L]
        What each is called, and 0 keep, 1 remove.
    patch_size : int or pair of int
        As in :func:`nbgather.patchify`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        A mask that does not fit the image.
    ModuleNotFoundError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.figures import strategies_figure
    >>> figure = strategies_figure(np.zeros((3, 32, 32)), {"all": np.ones(16)}, 8)
    >>> figure.axes[0].get_title()
    'all'
    """
    height = 12 / len(masks) * image.shape[1] / image.shape[2] + 0.6
    figure = plotting.new_figure(12, height)
    every = figure.subplots(1, len(masks), squeeze=False)[0]
    for axes, (name, mask) in zip(every, masks.items(), strict=True):
        plotting.show_pixels(axes, _masked(image, mask, patch_size))
        axes.set_title(name, fontsize=plotting.HEADING_POINTS)
        removed = f"{int(mask.sum())} of {mask.size} patches removed"
        axes.set_xlabel(removed, fontsize=plotting.SMALL_POINTS)
        plotting.hide_frame(axes)
    return figure


def contact_sheet(pictures: Sequence[tuple[str, Any]], *, title: str = "") -> Any:
    """Draw many pictures, each beside what a mask leaves of it; of a video the first frame.

    Parameters
    ----------
    pictures : sequence of (str, picture)
        What each is called, and it itself: ``frames`` `[C, T, H, W]` of values 0 to 1, ``mask``
        `[L]` and ``patch_size``, as :class:`nbgather.apps.albums.MaskedPicture` has them.
    title : str
        What the sheet is called.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ModuleNotFoundError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.apps.albums import mask_picture
    >>> from nbgather.figures import contact_sheet
    >>> frames = np.zeros((1, 3, 1, 32, 32), np.float32)
    >>> picture = mask_picture(frames, 0, strategy="block", ratio=0.5, patch=8)
    >>> contact_sheet([("a.png", picture)]).axes[0].get_title()
    'a.png'
    """
    columns = min(len(pictures), SHEET_COLUMNS)
    rows = -(-len(pictures) // columns)
    figure = plotting.new_figure(3 * max(columns, 2), 1.75 * rows + 0.5)
    if title:
        figure.suptitle(title, fontsize=plotting.HEADING_POINTS)
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in every:
        axes.set_axis_off()
    for axes, (name, picture) in zip(every, pictures, strict=False):
        size = picture.patch_size if len(picture.patch_size) == 3 else (1, *picture.patch_size)
        frames, masked = picture.frames, _masked(picture.frames, picture.mask, size)
        gap = np.full((*frames.shape[:1], frames.shape[2], frames.shape[3] // 28 + 1), GAP_GREY)
        plotting.show_pixels(axes, np.concatenate([frames[:, 0], gap, masked[:, 0]], axis=2))
        axes.set_title(_shortened(name), fontsize=plotting.LABEL_POINTS)
    return figure


def _shortened(name: str) -> str:
    """The end of a long name, which tells it from others."""
    return name if len(name) <= NAME_LETTERS else f"…{name[1 - NAME_LETTERS :]}"


def _masked(image: np.ndarray, mask: np.ndarray, patch_size: int | tuple[int, ...]) -> np.ndarray:
    """An image or video with its removed patches in grey."""
    patches = patchify(image[None], patch_size)[0]
    if mask.shape != patches.shape[:1]:
        raise ValueError(f"mask has shape {mask.shape}: [{len(patches)}] is needed, the patches")
    hidden = np.where(mask[:, None] == 1, REMOVED_GREY, patches)
    return unpatchify(hidden[None], patch_size, image.shape[1:])[0]


def _image(tokens: np.ndarray, patch_size: int, size: tuple[int, int]) -> np.ndarray:
    return unpatchify(tokens[None], patch_size, size)[0]


def _tiles(tokens: np.ndarray, patch_size: int, channels: int) -> np.ndarray:
    """Patches side by side in reading order, with a gap between them: an image ``[C, H, W]``."""
    columns = max(math.ceil(math.sqrt(len(tokens))), 1)
    pitch = patch_size + max(patch_size // 8, 1)
    side = columns * pitch - (pitch - patch_size)
    sheet = np.full((channels, side, side), GAP_GREY, np.float32)
    for k, token in enumerate(tokens):
        top, left = k // columns * pitch, k % columns * pitch
        patch = token.reshape(patch_size, patch_size, channels)
        sheet[:, top : top + patch_size, left : left + patch_size] = np.moveaxis(patch, -1, 0)
    return sheet
