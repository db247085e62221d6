"""The one memo of small calls: a tiny call costs more on its way to the kernel than in it.

A call that went well is kept by its head (operation, dimension and mode, or how many tokens stay)
and by the exact types, shapes, strides and dtypes of its operands. :mod:`nbgather.dispatch` asks
once; the container says whether the operands are in the state that the call was kept for, and
whatever is not certain goes the whole way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

#: Calls that are kept; then all are forgotten.
MAX_CALLS = 4096

#: What repeats each call.
entries: dict[Any, Any] = {}


class SmallGather(NamedTuple):
    """All of a gather on the calling thread but its three addresses."""

    backend: Any  # with the drivers that repeat it
    numbers_address: int
    shape: tuple[int, ...]
    item_mask: int
    index_mask: int
    #: Bytes of an item, of the input, of an index, of all of them.
    itemsize: int
    input_nbytes: int
    index_itemsize: int
    index_nbytes: int
    owner: Any  # of the numbers


class SmallMasking(NamedTuple):
    """All of a masking by seed on the calling thread but its addresses, key and epoch."""

    run: Any
    numbers_address: int
    shape: tuple[int, ...]  # of x_masked
    pair: tuple[int, int]  # N, L
    itemsize: int  # of the tokens
    nbytes: int  # of the tokens
    owner: np.ndarray  # of the numbers


def keep(key: Any, call: Any) -> None:
    """Keep what repeats a call; a key that is None is of no call that may be repeated."""
    if key is None:
        return
    if len(entries) >= MAX_CALLS:
        entries.clear()
    entries[key] = call
