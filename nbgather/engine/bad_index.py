"""The IndexError that names the first bad index in row-major order."""

from __future__ import annotations

from typing import NoReturn

import numpy as np


def first_bad_index(index: np.ndarray, size: int, from_end: bool) -> tuple[int, int] | None:
    """The flat row-major position and value of the first index that is out of bounds."""
    low = -size if from_end else 0
    flags = ["external_loop", "buffered", "zerosize_ok"]
    start = 0
    # A buffered walk: a broadcast index of 2**31 elements is never made real.
    for chunk in np.nditer(index, flags=flags, order="C", buffersize=1 << 16):  # type: ignore[call-overload]
        bad = (chunk < low) | (chunk >= size)
        if bad.any():
            k = int(bad.argmax())
            return start + k, int(chunk[k])
        start += chunk.size
    return None


def message(value: int | str, place: str, dim: int, size: int) -> str:
    """What is said of an index that is out of bounds."""
    return f"index {value} at {place} is out of bounds for dimension {dim} with size {size}"


def unseen(dim: int, size: int) -> str:
    """What is said where the kernel saw a value that is gone."""
    return f"an index was out of bounds for dimension {dim} with size {size}"


def raise_bad_index(index: np.ndarray, size: int, dim: int, from_end: bool) -> NoReturn:
    """Raise the IndexError that names the first bad position of ``index``."""
    bad = first_bad_index(index, size, from_end)
    if bad is None:
        # The kernel saw a value that is gone: somebody writes to the index meanwhile.
        raise IndexError(unseen(dim, size))
    position, value = bad
    where = tuple(int(p) for p in np.unravel_index(position, index.shape)) if index.ndim else ()
    raise IndexError(message(value, str(where), dim, size))
