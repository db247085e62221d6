"""The compiled functions that call a range kernel by its address.

``serial`` runs a range on the calling thread, ``parallel`` on numba's threads. The other two repeat
a call so small that passing its numbers is most of its time; they keep the GIL, whose release would
cost more than it gives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types

from nbgather.kernels import memory
from nbgather.kernels.cpu import compiler
from nbgather.kernels.cpu.intrinsics import call_range, call_small, int64_at, take_number

U = np.uint64

#: The block of int64 numbers that a small call takes; `call_small` reads the first four.
SMALL_CALL = ("kernel", "aux", "args", "count", "item_mask", "index_mask")
ITEM_MASK, INDEX_MASK = (SMALL_CALL.index(name) for name in ("item_mask", "index_mask"))
#: What `small_objects` returns, with nothing done, if an address is not aligned.
UNALIGNED = -1

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


def _small(out, src, idx, call):
    return call_small(out, src, idx, call)


def _make_small_objects(data_offset):
    def small_objects(result, source, index, call):
        numbers = int64_at(U(call))
        src = int64_at(U(source + data_offset))[U(0)]
        idx = int64_at(U(index + data_offset))[U(0)]
        if (src & numbers[U(ITEM_MASK)]) | (idx & numbers[U(INDEX_MASK)]):
            return UNALIGNED
        return call_small(int64_at(U(result + data_offset))[U(0)], src, idx, call)

    return small_objects


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


def small() -> Any:
    """The driver of a small call by addresses: ``(out, src, idx, call)``.

    ``call`` is the address of int64 numbers in the order of :data:`SMALL_CALL`.
    """
    return compiler.once("small", _compile_small)


def _compile_small() -> Any:
    return compiler.driver(_small, *(types.int64,) * 4, parallel=False, nogil=False)


def small_objects() -> Any | None:
    """The driver of a small call by objects: ``(id(result), id(input), id(index), call)``.

    The three must be NumPy arrays, of exactly that type, that the caller references: a result that
    it allocated, an input and an index of the layout that ``call`` was planned for. Their addresses
    are read from the objects, which saves the caller three reads through ctypes. The driver returns
    what the kernel does, or :data:`UNALIGNED`. None on an interpreter whose arrays do not have
    their address where the C API says.
    """
    return compiler.once("small objects", _compile_small_objects) if memory.DATA_OFFSET else None


def _compile_small_objects() -> Any:
    function = _make_small_objects(memory.DATA_OFFSET)
    return compiler.driver(function, *(types.int64,) * 4, parallel=False, nogil=False)
