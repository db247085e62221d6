"""The items of a scatter as bits, and what becomes of those of one place in shared memory.

How they are reduced is told in :mod:`nbgather.kernels.cuda.folds`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbgather.kernels.cuda.folds import (
    HALVES,
    ITEM_BYTES,
    How,
    identity,
    is_counted,
    make_finish,
    make_fold,
    make_halves,
)
from nbgather.kernels.cuda.positions import u32, u64

#: The 32-bit entries of shared memory that an item takes.
ENTRIES = {kind: max(size // 4, 1) for kind, size in ITEM_BYTES.items()}

_LOW = u64(0xFFFFFFFF)
_32 = u64(32)


def entries_of(how: How) -> int:
    """The entries that a place takes: its item, and where it matters how many values it has."""
    return ENTRIES[how[1]] + is_counted(how)


def make_bits(memory: Any, item: int) -> Any:
    """The bits of an item as two halves."""
    load = memory.LOAD[f"u{item}"]
    if item == 16:
        return load

    @memory.INLINE
    def bits(address):
        return u64(load(address)), u64(0)

    return bits


def make_read_bits(memory: Any, item: int) -> Any:
    """The same of what the kernel may write to."""
    read = memory.READ[f"u{item}"]
    if item == 16:
        return read

    @memory.INLINE
    def bits(address):
        return u64(read(address)), u64(0)

    return bits


def make_store_bits(memory: Any, item: int) -> Any:
    """Store the two halves of an item."""
    store = memory.STORE[f"u{item}"]
    if item == 16:

        @memory.INLINE
        def store_bits(address, low, high):
            store(address, (low, high))

    else:

        @memory.INLINE
        def store_bits(address, low, high):
            store(address, low)

    return store_bits


def _make_access(memory: Any, kind: str, stride: int) -> tuple[Any, Any]:
    """``put`` and ``take`` of :func:`make_item`, of items so many entries apart."""
    as_f4, f4_bits, step = memory.AS_F4, memory.F4_BITS, u64(stride)
    if kind in HALVES:
        widen, narrow = make_halves(memory, kind)

        @memory.INLINE
        def put(array, k, low, high):
            array[step * k] = f4_bits(widen(low))

        @memory.INLINE
        def take(array, k):
            return narrow(as_f4(array[step * k])), u64(0)

    elif ENTRIES[kind] == 1:

        @memory.INLINE
        def put(array, k, low, high):
            array[step * k] = u32(low)

        @memory.INLINE
        def take(array, k):
            return u64(array[step * k]), u64(0)

    elif ENTRIES[kind] == 2:

        @memory.INLINE
        def put(array, k, low, high):
            array[step * k] = u32(low & _LOW)
            array[step * k + u64(1)] = u32(low >> _32)

        @memory.INLINE
        def take(array, k):
            return u64(array[step * k]) | (u64(array[step * k + u64(1)]) << _32), u64(0)

    else:

        @memory.INLINE
        def put(array, k, low, high):
            array[step * k] = u32(low & _LOW)
            array[step * k + u64(1)] = u32(low >> _32)
            array[step * k + u64(2)] = u32(high & _LOW)
            array[step * k + u64(3)] = u32(high >> _32)

        @memory.INLINE
        def take(array, k):
            low = u64(array[step * k]) | (u64(array[step * k + u64(1)]) << _32)
            high = u64(array[step * k + u64(2)]) | (u64(array[step * k + u64(3)]) << _32)
            return low, high

    return put, take


def make_item(memory: Any, how: How) -> SimpleNamespace:
    """Items in shared memory, arrays of uint32: *places* that are reduced to, and *values*.

    ``begin(places, k, low, high)`` gives a place the bits of the input's item, ``put(values, q,
    low, high)`` a value its own; ``add(places, k, values, q)`` adds value q to place k, and
    ``finish(places, k, low, high)`` gives the bits of the result's item, told the input's again.
    """
    kind, own, counted = how[1], how[2], is_counted(how)
    entries, stride = ENTRIES[kind], entries_of(how)
    fold, finish_item = make_fold(memory, how), make_finish(memory, how)
    wide = "f4" if kind in HALVES else kind  # what is narrower stays float32 until it is taken
    put, _ = _make_access(memory, kind, entries)
    _, take_value = _make_access(memory, wide, entries)
    put_first, take_place = _make_access(memory, kind, stride)
    put_again, take_again = _make_access(memory, wide, stride)
    first, step, at_count = u64(identity(how)), u64(stride), u64(entries)

    @memory.INLINE
    def begin(places, k, low, high):
        if own:
            put_first(places, k, low, high)
        else:
            put_first(places, k, first, u64(0))
        if counted:
            places[step * k + at_count] = u32(own)

    @memory.INLINE
    def add(places, k, values, q):
        a, a_high = take_again(places, k)
        b, b_high = take_value(values, q)
        a, a_high = fold(a, a_high, b, b_high)
        put_again(places, k, a, a_high)
        if counted:
            places[step * k + at_count] += u32(1)

    @memory.INLINE
    def finish(places, k, low, high):
        a, a_high = take_place(places, k)
        n = u64(places[step * k + at_count]) if counted else u64(1)
        return finish_item(a, a_high, low, high, n)

    return SimpleNamespace(begin=begin, put=put, add=add, finish=finish)
