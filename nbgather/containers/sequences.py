"""Lists, tuples and ranges of numbers as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np


def from_sequence(values: Any, what: str) -> np.ndarray:
    """A list, tuple or range of numbers as an array; an empty one counts as integers."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        raise ValueError(
            f"{what} is a {type(values).__name__} that is no array: rows of one length are needed"
        ) from None
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{what} is a {type(values).__name__} of dtype {array.dtype}: numbers of at most 64"
            " bits are needed"
        )
    return array if array.size else array.astype(np.int64)
