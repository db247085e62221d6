"""The compiled functions that call a range kernel by its address.

``serial`` runs a range on the calling thread, ``parallel`` on numba's threads. Calls so small that
passing their numbers is most of their time are repeated by :mod:`nbgather.kernels.cpu.repeat`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types

from nbgather.kernels.cpu import compiler
from nbgather.kernels.cpu.intrinsics import call_range, take_number

_INTS = (types.int64,) * 5 + (types.Array(types.int64, 1, "C", readonly=True),)


def _serial(kernel, out, src, idx, aux, args, lo, hi):
    return call_range(kernel, out, src, idx, aux, args, lo, hi)


def _parallel(kernel, out, src, idx, aux, args, count, chunks, threads):
    # Each thread takes the next chunk when it is free: a thread that has to be woken first, or
    # shares its core with others, delays the call by one chunk at most.
    counter = np.zeros(8, np.int64)
    bad = 0
    for _ in prange(threads):
        thread_bad = 0
        chunk = take_number(counter.ctypes.data)
        while chunk < chunks:
            # Not chunk * count // chunks, which overflows for the largest counts.
            step = count // chunks
            extra = count - step * chunks
            lo = chunk * step + min(chunk, extra)
            hi = lo + step + (1 if chunk < extra else 0)
            thread_bad += call_range(kernel, out, src, idx, aux, args, lo, hi)
            chunk = take_number(counter.ctypes.data)
        bad += thread_bad
    return bad


def serial() -> Any:
    """The driver on the calling thread: ``(kernel, out, src, idx, aux, args, lo, hi)``."""
    return compiler.once("serial", _compile_serial)


def _compile_serial() -> Any:
    return compiler.driver(_serial, *_INTS, types.int64, types.int64, parallel=False)


def parallel() -> Any:
    """The driver on all threads: ``(kernel, out, src, idx, aux, args, count, chunks, threads)``."""
    return compiler.once("parallel", _compile_parallel)


def _compile_parallel() -> Any:
    return compiler.driver(_parallel, *_INTS, *[types.int64] * 3, parallel=True)
