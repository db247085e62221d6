"""What scatter_add adds: the numbers in the bits of an item, and of a word of several items.

A kind says what bits are taken for: ``u1`` ... ``u8`` integers, which wrap alike whatever their
sign, ``f4`` and ``f8`` floats, ``c8`` and ``c16`` complex numbers, ``f2`` and ``b2`` float16 and
bfloat16, which are summed as float32 and rounded once.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from nbgather.kernels.cuda.positions import u32, u64

#: The bytes of an item of each kind.
ITEM_BYTES = {
    "u1": 1, "u2": 2, "u4": 4, "u8": 8, "f2": 2, "b2": 2, "f4": 4, "f8": 8, "c8": 8, "c16": 16,
}  # fmt: skip
#: The 32-bit entries of shared memory that the sum of an item takes.
ENTRIES = {kind: max(size // 4, 1) for kind, size in ITEM_BYTES.items()}
#: Kinds whose items are narrower than their sums.
HALVES = ("f2", "b2")

_LOW = u64(0xFFFFFFFF)
_32 = u64(32)


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


def make_halves(memory: Any, kind: str) -> tuple[Any, Any]:
    """Two bytes as the float32 that they are, and a float32 rounded to the nearest, ties to even.

    The second gives uint64.
    """
    as_f4, f4_bits = memory.AS_F4, memory.F4_BITS
    f2_to_f4, f4_to_f2 = memory.F2_TO_F4, memory.F4_TO_F2
    if kind == "f2":

        @memory.INLINE
        def widen(bits):
            return f2_to_f4(np.uint16(bits))

        @memory.INLINE
        def narrow(value):
            return u64(f4_to_f2(value))

    else:

        @memory.INLINE
        def widen(bits):
            return as_f4(u32(u32(bits) << u32(16)))

        @memory.INLINE
        def narrow(value):
            bits = u64(f4_bits(value))
            if (bits & u64(0x7FFFFFFF)) > u64(0x7F800000):  # a NaN stays one
                return (bits >> u64(16)) | u64(0x40)
            return (bits + u64(0x7FFF) + ((bits >> u64(16)) & u64(1))) >> u64(16)

    return widen, narrow


def _make_access(memory: Any, kind: str) -> tuple[Any, Any]:
    """``put`` and ``take`` of :func:`make_item`."""
    as_f4, f4_bits = memory.AS_F4, memory.F4_BITS
    if kind in HALVES:
        widen, narrow = make_halves(memory, kind)

        @memory.INLINE
        def put(array, k, low, high):
            array[k] = f4_bits(widen(low))

        @memory.INLINE
        def take(array, k):
            return narrow(as_f4(array[k])), u64(0)

    elif ENTRIES[kind] == 1:

        @memory.INLINE
        def put(array, k, low, high):
            array[k] = u32(low)

        @memory.INLINE
        def take(array, k):
            return u64(array[k]), u64(0)

    elif ENTRIES[kind] == 2:

        @memory.INLINE
        def put(array, k, low, high):
            array[u64(2) * k] = u32(low & _LOW)
            array[u64(2) * k + u64(1)] = u32(low >> _32)

        @memory.INLINE
        def take(array, k):
            return u64(array[u64(2) * k]) | (u64(array[u64(2) * k + u64(1)]) << _32), u64(0)

    else:

        @memory.INLINE
        def put(array, k, low, high):
            array[u64(4) * k] = u32(low & _LOW)
            array[u64(4) * k + u64(1)] = u32(low >> _32)
            array[u64(4) * k + u64(2)] = u32(high & _LOW)
            array[u64(4) * k + u64(3)] = u32(high >> _32)

        @memory.INLINE
        def take(array, k):
            low = u64(array[u64(4) * k]) | (u64(array[u64(4) * k + u64(1)]) << _32)
            high = u64(array[u64(4) * k + u64(2)]) | (u64(array[u64(4) * k + u64(3)]) << _32)
            return low, high

    return put, take


def _make_plus(memory: Any, kind: str) -> Any:
    """The sum of two items by their halves, which for halves of float32 are its bits."""
    as_f4, as_f8 = memory.AS_F4, memory.AS_F8
    f4_bits, f8_bits = memory.F4_BITS, memory.F8_BITS
    if kind == "f4" or kind in HALVES:

        @memory.INLINE
        def plus(a, a_high, b, b_high):
            return u64(f4_bits(np.float32(as_f4(u32(a)) + as_f4(u32(b))))), u64(0)

    elif kind == "f8":

        @memory.INLINE
        def plus(a, a_high, b, b_high):
            return f8_bits(as_f8(a) + as_f8(b)), u64(0)

    elif kind == "c8":

        @memory.INLINE
        def plus(a, a_high, b, b_high):
            real = f4_bits(np.float32(as_f4(u32(a & _LOW)) + as_f4(u32(b & _LOW))))
            imaginary = f4_bits(np.float32(as_f4(u32(a >> _32)) + as_f4(u32(b >> _32))))
            return u64(real) | (u64(imaginary) << _32), u64(0)

    elif kind == "c16":

        @memory.INLINE
        def plus(a, a_high, b, b_high):
            return f8_bits(as_f8(a) + as_f8(b)), f8_bits(as_f8(a_high) + as_f8(b_high))

    else:

        @memory.INLINE
        def plus(a, a_high, b, b_high):
            return u64(a + b), u64(0)

    return plus


def make_item(memory: Any, kind: str) -> SimpleNamespace:
    """Items in shared memory, an array of uint32 with ``ENTRIES[kind]`` for each.

    ``put(array, k, low, high)`` writes the bits of an item as those of its sum, ``take(array, k)``
    gives them back; ``add(array, k, others, q)`` adds item q of another array to item k.
    """
    put, take = _make_access(memory, kind)
    plus = _make_plus(memory, kind)
    raw_put, raw_take = put, take
    if kind in HALVES:  # sums stay float32 until they are taken
        raw_put, raw_take = _make_access(memory, "f4")

    @memory.INLINE
    def add(array, k, others, q):
        a, a_high = raw_take(array, k)
        b, b_high = raw_take(others, q)
        a, a_high = plus(a, a_high, b, b_high)
        raw_put(array, k, a, a_high)

    return SimpleNamespace(put=put, take=take, add=add, entries=ENTRIES[kind])


def make_words(memory: Any, kind: str) -> SimpleNamespace:
    """Sums of the items of a uint64 word: ``begin(word)``, ``add(sums, word)``, ``end(sums)``.

    A word of fewer bytes has its items in the low bits.
    """
    as_f4, as_f8 = memory.AS_F4, memory.AS_F8
    f4_bits, f8_bits = memory.F4_BITS, memory.F8_BITS
    if kind in HALVES:
        widen, narrow = make_halves(memory, kind)
        low16 = u64(0xFFFF)

        @memory.INLINE
        def begin(word):
            return (
                widen(word & low16),
                widen((word >> u64(16)) & low16),
                widen((word >> u64(32)) & low16),
                widen(word >> u64(48)),
            )

        @memory.INLINE
        def add(sums, word):
            more = begin(word)
            return (
                np.float32(sums[0] + more[0]),
                np.float32(sums[1] + more[1]),
                np.float32(sums[2] + more[2]),
                np.float32(sums[3] + more[3]),
            )

        @memory.INLINE
        def end(sums):
            low = narrow(sums[0]) | (narrow(sums[1]) << u64(16))
            return low | (narrow(sums[2]) << u64(32)) | (narrow(sums[3]) << u64(48))

    elif kind in ("f4", "c8"):

        @memory.INLINE
        def begin(word):
            return as_f4(u32(word & _LOW)), as_f4(u32(word >> _32))

        @memory.INLINE
        def add(sums, word):
            more = begin(word)
            return np.float32(sums[0] + more[0]), np.float32(sums[1] + more[1])

        @memory.INLINE
        def end(sums):
            return u64(f4_bits(sums[0])) | (u64(f4_bits(sums[1])) << _32)

    elif kind in ("f8", "c16"):

        @memory.INLINE
        def begin(word):
            return (as_f8(word),)

        @memory.INLINE
        def add(sums, word):
            return (sums[0] + as_f8(word),)

        @memory.INLINE
        def end(sums):
            return f8_bits(sums[0])

    else:
        # The items of a word are added at once: without their top bits none carries into the next.
        item = ITEM_BYTES[kind]
        top = u64(int.from_bytes((b"\0" * (item - 1) + b"\x80") * (8 // item), "little"))

        @memory.INLINE
        def begin(word):
            return (u64(word),)

        @memory.INLINE
        def add(sums, word):
            carried = u64((sums[0] & ~top) + (word & ~top))
            return (carried ^ ((sums[0] ^ word) & top),)

        @memory.INLINE
        def end(sums):
            return sums[0]

    return SimpleNamespace(begin=begin, add=add, end=end)
