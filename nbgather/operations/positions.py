"""Where an index points: the one rule of the modes, in terms of an array namespace."""

from __future__ import annotations

from typing import Any


def resolve_positions(
    xp: Any, index: Any, size: Any, mode: str, from_end: bool
) -> tuple[Any, Any | None]:
    """Positions that are all in bounds, and which of them an index really pointed to.

    Parameters
    ----------
    xp : module
        An array namespace.
    index : array of int
        Any integer dtype but the largest of uint64, which int64 cannot hold.
    size : int
        Of the dimension, at least 1.
    mode : {"raise", "clip", "wrap", "fill"}
        With ``raise`` every index is known to be in bounds.
    from_end : bool
        Whether a negative value counts from the end.

    Returns
    -------
    positions : array of int64
    inside : array of bool, or None
        None where every index points to a position.
    """
    index = xp.astype(index, xp.int64)
    if from_end:
        index = xp.where(index < 0, index + size, index)
    if mode == "clip":
        return xp.clip(index, 0, size - 1), None
    if mode == "wrap":
        return xp.remainder(index, size), None
    if mode == "fill":
        inside = (index >= 0) & (index < size)
        return xp.where(inside, index, 0), inside
    return index, None
