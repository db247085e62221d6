"""Where the values of an index point: the rule of each mode, for arrays of any namespace."""

from __future__ import annotations

from typing import Any


def narrow_positions(xp: Any, index: Any, size: Any, mode: str, from_end: bool) -> tuple[Any, Any]:
    """As :func:`resolve_positions`, in the dtype of the index where it holds every position.

    ``inside`` is None where all values are, as those of ``clip`` and ``wrap``.
    """
    everywhere = mode in ("clip", "wrap") and size != 0
    # torch computes with no other integers that are narrow.
    narrow = index.dtype in (xp.int8, xp.int16, xp.int32, xp.uint8)
    if not narrow or not isinstance(size, int) or size > xp.iinfo(index.dtype).max:
        positions, inside = resolve_positions(xp, index, size, mode, from_end)
        return positions, None if everywhere else inside
    values = xp.where(index < 0, index + size, index) if from_end else index
    if everywhere:
        return xp.remainder(values, size) if mode == "wrap" else xp.clip(values, 0, size - 1), None
    inside = xp.asarray((values >= 0) & (values < size))
    return xp.where(inside, values, 0), inside


def resolve_positions(xp: Any, index: Any, size: Any, mode: str, from_end: bool) -> tuple[Any, Any]:
    """Resolve an index into positions along a dimension, and tell which values were in bounds.

    Parameters
    ----------
    xp : module
        The array namespace of the index.
    index : array of any integer dtype
        The values as they came.
    size : int
        The length of the dimension; nothing is in bounds of 0.
    mode : {"raise", "clip", "wrap", "fill"}
        ``clip`` and ``wrap`` bring every value into bounds; the other two leave it where it is.
    from_end : bool
        Negative values count from the end.

    Returns
    -------
    positions : array of int64, or of JAX's int32
        Below ``size``; 0 where the value is out of bounds.
    inside : array of bool
        Which values are in bounds.
    """
    values = xp.astype(index, xp.int64)
    # A uint64 from 2**63 on is beyond every size; its bits as int64 are 2**64 less. Where JAX has
    # no int64, the same goes for a uint32 from 2**31 on.
    bits, widest = (32, xp.uint32) if values.dtype == xp.int32 else (64, xp.uint64)
    beyond = values < 0 if index.dtype == widest else None
    if from_end and beyond is None:
        values = xp.where(values < 0, values + size, values)
    if mode == "wrap" and size != 0:
        wrapped = xp.remainder(values, size)
        if beyond is not None:
            wrapped = xp.where(
                beyond, xp.remainder(wrapped - (size - 2**bits % size), size), wrapped
            )
        values = wrapped
    elif beyond is not None:
        values = xp.where(beyond, 2 ** (bits - 1) - 1, values)
    if mode == "clip" and size != 0:
        values = xp.clip(values, 0, size - 1)
    inside = xp.asarray((values >= 0) & (values < size))
    return xp.where(inside, values, 0), inside
