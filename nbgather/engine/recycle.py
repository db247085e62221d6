"""Memory of large results, reused by later ones.

The operating system zeroes the pages of a new block, which takes a third to two thirds of a large
gather although every byte is overwritten. So the memory of a large result is kept when the result
is no longer referenced, and used again, as the allocators of GPUs and of onnxruntime do. A block is
in use or free, never both: the finaliser of the object that every view of the result keeps alive
frees it.

``NBGATHER_RECYCLE_BYTES`` limits the memory kept; 0 keeps none.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

#: Smaller results are left to the C library's allocator, which is as fast for them.
MIN_BYTES = 1 << 20
#: The limit of the memory kept, unless the environment sets it.
DEFAULT_LIMIT_BYTES = 1 << 28
#: Results start at a cache line, as non-temporal stores require.
ALIGNMENT_BYTES = 64

_lock = threading.Lock()
#: Blocks not in use, oldest first.
_free: list[np.ndarray] = []


class _Lease:
    """A block in use. NumPy keeps this object alive for as long as a view of the block is."""

    def __init__(self, block: np.ndarray, nbytes: int) -> None:
        self.block = block
        start = block.__array_interface__["data"][0]
        self.__array_interface__ = {
            "version": 3,
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (start + -start % ALIGNMENT_BYTES, False),
        }

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ending():  # this module may be torn down by then
            _give_back(self.block)


def limit() -> int:
    """The most bytes that are kept: ``NBGATHER_RECYCLE_BYTES``, or the default."""
    text = os.environ.get("NBGATHER_RECYCLE_BYTES", "")
    if not text:
        return DEFAULT_LIMIT_BYTES
    if not text.isdigit():
        raise ValueError(
            f"NBGATHER_RECYCLE_BYTES is {text!r}: a whole number from 0 up is needed (0: off)"
        )
    return int(text)


def kept() -> int:
    """Bytes that are kept at present."""
    with _lock:
        return sum(block.nbytes for block in _free)


def empty(nbytes: int) -> np.ndarray:
    """``nbytes`` bytes of any content from the start of a cache line, kept after the last view."""
    allowed = limit()
    block = None
    with _lock:
        fitting = [b for b in _free if nbytes + ALIGNMENT_BYTES <= b.nbytes <= nbytes * 5 // 4]
        if fitting:
            block = min(fitting, key=lambda b: b.nbytes)
            _remove(block)
        _trim(allowed)
    if block is None:
        block = np.empty(nbytes + 4096, np.uint8)
    return np.asarray(_Lease(block, nbytes))


def array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """A new array in such memory."""
    return empty(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


def maker(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Callable[..., np.ndarray], Any]:
    """A function and its arguments that give a new array, from here if it is large."""
    is_large = math.prod(shape) * dtype.itemsize >= MIN_BYTES
    return (array if is_large else np.empty), (shape, dtype)


def _remove(block: np.ndarray) -> None:
    _free[:] = [b for b in _free if b is not block]


def _trim(allowed: int) -> None:
    total = sum(b.nbytes for b in _free)
    while _free and total > allowed:
        total -= _free.pop(0).nbytes


def _give_back(block: np.ndarray) -> None:
    # A finaliser may run at any point, also while this thread holds the lock. A block is not kept
    # when the lock is held, by this thread or another. Nothing may be raised here.
    if not _lock.acquire(blocking=False):
        return
    try:
        allowed = limit()
        if block.nbytes <= allowed:
            _free.append(block)
            _trim(allowed)
    except ValueError:
        _free.clear()
    finally:
        _lock.release()


def _renew_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _free.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)
