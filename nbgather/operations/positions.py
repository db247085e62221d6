"""Where an index points: the one rule of the modes, in terms of an array namespace."""

from __future__ import annotations

from typing import Any

_INT64_MAX = 2**63 - 1


def resolve_positions(xp: Any, index: Any, size: Any, mode: str, from_end: bool) -> Any:
    """The positions that an index points to, as int64.

    Parameters
    ----------
    xp : module
        An array namespace.
    index : array of int
        Any integer dtype.
    size : int
        Of the dimension; at least 1 for ``clip`` and ``wrap``.
    mode : {"raise", "clip", "wrap", "fill"}
    from_end : bool
        Whether a negative value counts from the end.

    Returns
    -------
    array of int64
        In bounds for ``clip`` and ``wrap``; else what is below 0 or not below ``size`` points
        nowhere.
    """
    is_uint64 = index.dtype == xp.uint64
    values = xp.astype(index, xp.int64)
    # A uint64 from 2**63 on is beyond every size; its bits as int64 are 2**64 less.
    beyond = values < 0 if is_uint64 else None
    if from_end and not is_uint64:
        values = xp.where(values < 0, values + size, values)
    if mode == "wrap":
        wrapped = xp.remainder(values, size)
        if beyond is None:
            return wrapped
        return xp.where(beyond, xp.remainder(wrapped + 2**64 % size, size), wrapped)
    if beyond is not None:
        values = xp.where(beyond, _INT64_MAX, values)
    return xp.clip(values, 0, size - 1) if mode == "clip" else values
