"""Large results come from memory that an earlier result gave back.

A fresh block of megabytes costs its pages being zeroed by the operating system, a third to two
thirds of a large gather, although every byte is about to be written. So the memory of a large
result is kept when nobody holds it any more, and handed out again, as the allocators of GPUs and
of onnxruntime do. A block is in use or free, never both: it comes back through the finaliser of the
object that every view of the result keeps alive.

``NBGATHER_RECYCLE_BYTES`` is the limit of what is kept; 0 keeps nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import numpy as np

#: Bytes below which the C library's own allocator does as well.
SMALLEST = 1 << 20
#: What is kept unless the environment says otherwise.
DEFAULT_LIMIT = 1 << 28
#: Results begin on a cache line, so that they can be written line by line.
ALIGNMENT = 64

_lock = threading.Lock()
#: Blocks that nobody uses, oldest first.
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
            "data": (start + -start % ALIGNMENT, False),
        }

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ending():  # what is below may be half gone by then
            _give_back(self.block)


def limit() -> int:
    """Bytes that may be kept: ``NBGATHER_RECYCLE_BYTES``, or the default."""
    text = os.environ.get("NBGATHER_RECYCLE_BYTES", "")
    if not text:
        return DEFAULT_LIMIT
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
    """``nbytes`` bytes of any content, on a cache line, that go back when the last view goes."""
    allowed = limit()
    block = None
    with _lock:
        fitting = [b for b in _free if nbytes + ALIGNMENT <= b.nbytes <= nbytes + nbytes // 4]
        if fitting:
            block = min(fitting, key=lambda b: b.nbytes)
            _remove(block)
        _trim(allowed)
    if block is None:
        block = np.empty(nbytes + 4096, np.uint8)
    return np.asarray(_Lease(block, nbytes))


def _remove(block: np.ndarray) -> None:
    _free[:] = [b for b in _free if b is not block]


def _trim(allowed: int) -> None:
    total = sum(b.nbytes for b in _free)
    while _free and total > allowed:
        total -= _free.pop(0).nbytes


def _give_back(block: np.ndarray) -> None:
    # A finaliser may run at any point of this very thread, under this lock too: then, as when
    # another thread has it, the block simply goes. Nothing may be raised from here.
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
