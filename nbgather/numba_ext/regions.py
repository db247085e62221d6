"""Whether Python is asked from within a parallel loop of numba."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any


def is_inside() -> bool:
    """Whether this thread runs iterations of a parallel loop, or may do so.

    OpenMP's main thread does, and says so. TBB's does too and says nothing, so that with it every
    call counts as such. The main thread of the workqueue runs none.
    """
    if "numba.np.ufunc.tbbpool" in sys.modules:
        return True
    if "numba.np.ufunc.omppool" not in sys.modules:
        return False
    ask = _in_openmp()
    return ask is None or bool(ask())


@functools.cache
def _in_openmp() -> Any:
    try:
        library = ctypes.CDLL(sys.modules["numba.np.ufunc.omppool"].__file__)
        return library.omp_in_parallel
    except (AttributeError, OSError):
        return None
