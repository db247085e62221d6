"""Where the values of an index point: the rule of each mode, for NumPy arrays."""

from __future__ import annotations

import numpy as np


def resolve_positions(
    index: np.ndarray, size: int, mode: str, from_end: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Resolve an index into positions along a dimension.

    Parameters
    ----------
    index : ndarray of any integer dtype
        The values as they came.
    size : int
        The length of the dimension; nothing is in bounds of 0.
    mode : {"raise", "clip", "wrap", "fill"}
        ``clip`` and ``wrap`` bring every value into bounds; the other two leave it where it is.
    from_end : bool
        Negative values count from the end.

    Returns
    -------
    positions : ndarray of int64
        Below ``size``; 0 where the value is out of bounds.
    inside : ndarray of bool
        Which values are in bounds.
    """
    if size == 0:
        return np.zeros(index.shape, np.int64), np.zeros(index.shape, bool)
    if index.dtype == np.uint64:
        # Values above the largest int64 are beyond every size, and so is that one.
        largest = np.uint64(2**63 - 1)
        index = index % np.uint64(size) if mode == "wrap" else np.minimum(index, largest)
    values = index.astype(np.int64, copy=False)
    if from_end:
        values = values + np.where(values < 0, size, 0)
    if mode == "clip":
        values = np.clip(values, 0, size - 1)
    elif mode == "wrap":
        values = values % size
    inside = np.asarray((values >= 0) & (values < size))
    return np.where(inside, values, 0), inside
