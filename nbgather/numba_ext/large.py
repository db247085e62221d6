"""What compiled code asks of Python where it has its lock: large calls, as the engine makes them.

An answer of None says that it is to be done over there, with the error there is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather import indexing
from nbgather.kernels.constants import MODES
from nbgather.kernels.cpu import limits
from nbgather.numba_ext import regions

#: Calls that move so many bytes are made here: for less, the way here takes longer.
LARGE_BYTES = 1 << 18


def _run(call: Any, *operands: Any, **options: Any) -> Any:
    try:
        if regions.is_inside():
            with limits.limit_threads(1):
                return call(*operands, **options)
        return call(*operands, **options)
    except Exception:
        return None


def gather(x: Any, dim: int, index: Any, mode: int, fill_value: Any = 0) -> Any:
    return _run(indexing.gather, x, dim, index, mode=MODES[mode], fill_value=fill_value)


def take_along_axis(x: Any, axis: int, index: Any, mode: int, fill_value: Any = 0) -> Any:
    return _run(indexing.take_along_axis, x, index, axis, mode=MODES[mode], fill_value=fill_value)


def gather_tokens(x: Any, dim: int, ids: Any, mode: int, fill_value: Any = 0) -> Any:
    return _run(indexing.gather_tokens, x, ids, mode=MODES[mode], fill_value=fill_value)
