"""Photos and videos as arrays, by Pillow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["load_frames", "load_photo", "sample_photo"]

#: Pixels of a side, unless another number is asked for.
SIDE_PIXELS = 224


def sample_photo() -> Path:
    """The photo among matplotlib's samples.

    Returns
    -------
    path

    Raises
    ------
    ModuleNotFoundError
        matplotlib is not installed.

    Examples
    --------
    >>> from nbgather.apps.photos import sample_photo
    >>> sample_photo().name
    'grace_hopper.jpg'
    """
    from matplotlib import cbook

    return Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))


def load_photo(path: str | os.PathLike[str] | None = None, size: int = SIDE_PIXELS) -> np.ndarray:
    """Read a photo, cut its middle square out, and resize it.

    Parameters
    ----------
    path : path, optional
        PNG, JPEG or whatever else Pillow reads; by default :func:`sample_photo`.
    size : int
        Pixels of each side of the result.

    Returns
    -------
    array of float32, shape [1, 3, size, size]
        Values 0 to 1.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is not an image that Pillow reads.

    Examples
    --------
    >>> from nbgather.apps.photos import load_photo
    >>> load_photo(size=32).shape
    (1, 3, 32, 32)
    """
    return load_frames(path, size)[:, :, 0]


def load_frames(
    path: str | os.PathLike[str] | BinaryIO | None = None,
    size: int = SIDE_PIXELS,
    *,
    name: str | None = None,
) -> np.ndarray:
    """Read all the frames of a picture: one of a photo, several of an animated GIF.

    Parameters
    ----------
    path, size
        As in :func:`load_photo`; an open file, too.
    name : str, optional
        What an error calls the picture, if not by its path.

    Returns
    -------
    array of float32, shape [1, 3, T, size, size]
        Values 0 to 1.

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`load_photo`.

    Examples
    --------
    >>> from nbgather.apps.photos import load_frames
    >>> load_frames(size=32).shape
    (1, 3, 1, 32, 32)
    """
    from PIL import Image, ImageOps, ImageSequence

    source: Any = path
    if not hasattr(path, "read"):
        source = sample_photo() if path is None else Path(path)
        if not source.exists():
            raise FileNotFoundError(f"there is no file {source}")
    frames = []
    try:
        with Image.open(source) as opened:
            for frame in ImageSequence.Iterator(opened):
                photo = ImageOps.exif_transpose(frame).convert("RGB")
                square = ImageOps.fit(photo, (size, size), Image.Resampling.BICUBIC)
                frames.append(np.asarray(square, np.float32) / np.float32(255))
    except Exception as error:  # a broken file: Pillow's readers raise exceptions of many kinds
        what = source if name is None else name
        raise ValueError(f"{what} cannot be read as an image: {error}") from error
    return np.ascontiguousarray(np.stack(frames).transpose(3, 0, 1, 2))[None]
