"""Memory of large results, reused by later ones.

The operating system zeroes the pages of a new block, which takes a third to two thirds of a large
gather although every byte is overwritten. So the memory of a large result is kept when the result
is no longer referenced, and used again, as the allocators of GPUs and of onnxruntime do. A block is
in use or free, never both: a weak reference to the array that every view of the result keeps alive
frees it.

``NBGATHER_RECYCLE_BYTES`` limits the memory kept; 0 keeps none.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from nbgather.kernels.environment import Variable
from nbgather.kernels.memory import memory_address

#: Smaller results are left to the C library's allocator, which is as fast for them.
MIN_BYTES = 1 << 20
#: The limit of the memory kept, unless the environment sets it.
DEFAULT_LIMIT_BYTES = 1 << 28
#: Results start at a cache line, as non-temporal stores require.
ALIGNMENT_BYTES = 64

VARIABLE = Variable("NBGATHER_RECYCLE_BYTES")
_BYTE = np.dtype(np.uint8)
_lock = threading.Lock()
#: Blocks not in use, oldest first.
_free: list[_Block] = []
#: Those in use.
_leases: dict[int, _Lease] = {}


class _Block:
    """Memory, and where in it results begin."""

    __slots__ = ("memory", "nbytes", "offset")

    def __init__(self, nbytes: int) -> None:
        memory = np.empty(nbytes, np.uint8)
        self.memory = memory.data
        self.nbytes = nbytes
        self.offset = -memory_address(memory) % ALIGNMENT_BYTES


class _Lease(weakref.ref[np.ndarray]):
    """A block in use. It knows the array that every view of the block keeps alive."""

    __slots__ = ("block",)

    block: _Block


def limit() -> int:
    """The most bytes that are kept: ``NBGATHER_RECYCLE_BYTES``, or the default."""
    text = VARIABLE.text()
    if not text:
        return DEFAULT_LIMIT_BYTES
    if not text.isdigit():
        raise ValueError(
            f"{VARIABLE.name} is {text!r}: a whole number from 0 up is needed (0: off)"
        )
    return int(text)


def kept() -> int:
    """Bytes that are kept at present."""
    with _lock:
        return sum(block.nbytes for block in _free)


def empty(nbytes: int) -> np.ndarray:
    """``nbytes`` bytes of any content from the start of a cache line, kept after the last view."""
    return array((nbytes,), _BYTE)


def array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """A new array in such memory."""
    nbytes = math.prod(shape) * dtype.itemsize
    allowed = limit()
    least, most = nbytes + ALIGNMENT_BYTES, nbytes * 5 // 4
    block = None
    with _lock:
        # Of equal ones the latest, which the caches may still hold.
        for free in reversed(_free):
            if least <= free.nbytes <= most and (block is None or free.nbytes < block.nbytes):
                block = free
        if block is not None:
            _free.remove(block)
        _trim(allowed)
    if block is None:
        block = _Block(nbytes + 4096)
    # What has no array as its base is the base of its views.
    memory = np.frombuffer(block.memory, _BYTE, nbytes, block.offset)
    lease = _Lease(memory, _give_back)
    lease.block = block
    _leases[id(lease)] = lease
    return np.ndarray(shape, dtype, memory)


def maker(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Callable[..., np.ndarray], Any]:
    """A function and its arguments that give a new array, from here if it is large."""
    is_large = math.prod(shape) * dtype.itemsize >= MIN_BYTES
    return (array if is_large else np.empty), (shape, dtype)


def _trim(allowed: int) -> None:
    total = sum(b.nbytes for b in _free)
    while _free and total > allowed:
        total -= _free.pop(0).nbytes


def _give_back(lease: _Lease) -> None:
    # This may run at any point, also while this thread holds the lock. A block is not kept when the
    # lock is held, by this thread or another. Nothing may be raised here.
    _leases.pop(id(lease), None)
    block = lease.block
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
