"""Ranks of one sample's keys: by counting, in slots where there are many, or by digits.

A *slot* is an interval of keys. Sorted into about half as many slots as there are keys, each block
of keys need only be compared with those of the slots that it touches. Scores that crowd in few
slots are sorted by digits instead, in time that does not depend on them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels import scalar
from nbgather.kernels.constants import BLOCK_KEYS
from nbgather.kernels.cpu.counting import as_float, rank_block
from nbgather.kernels.cpu.intrinsics import address, int32_at, uint32_at, uint64_at

U = np.uint64

key_f4 = scalar.key_f4
key_f8 = scalar.key_f8

#: In samples whose keys have so many bytes, each key is compared with all others.
SHORT_BYTES = 448
#: Keys that a slot may hold, as the mean over the keys. With more the slots are made in another
#: way, and if that does not help the keys are sorted by digits.
MAX_CROWDED_KEYS = 256

SIGN_4, SIGN_8 = np.uint32(1 << 31), U(1 << 63)
#: The signed keys of the infinities.
POSITIVE_4, NEGATIVE_4 = np.int32(0x7F7FFFFF), np.int32(-0x7F800002)
POSITIVE_8, NEGATIVE_8 = np.int64(0x7FEFFFFFFFFFFFFF), np.int64(-0x7FF0000000000002)


@njit(inline="always")
def signed_key_f4(bits):
    """The order of `key_f4` in an int32 below the largest."""
    return np.int32(np.int32(key_f4(bits) ^ SIGN_4) - np.int32(1))


@njit(inline="always")
def signed_key_f8(bits):
    """The order of `key_f8` in an int64 below the largest."""
    return np.int64(key_f8(bits) ^ SIGN_8) - np.int64(1)


@njit(inline="always")
def value_of_key_f4(key):
    """The float32 that has a signed key."""
    bits = np.uint32(np.int32(key) + np.int32(1)) ^ SIGN_4
    return as_float(np.uint32(bits ^ SIGN_4 if bits & SIGN_4 else ~bits))


@njit(inline="always")
def value_of_key_f8(key):
    """The float64 that has a signed key."""
    bits = U(key + np.int64(1)) ^ SIGN_8
    return as_float(U(bits ^ SIGN_8 if bits & SIGN_8 else ~bits))


@njit
def finite_keys(keys, length, below, above):
    """The least and the largest of the keys between two; ``(above, below)`` if there is none."""
    least, largest = above, below
    for t in range(length):
        key = keys[t]
        least = min(least, key if key > below else above)
        largest = max(largest, key if key < above else below)
    return least, largest


@njit(inline="always")
def ascends(keys, first, last):
    """Whether none of ``keys[first:last]`` is below the one before it."""
    for t in range(first + U(1), last):
        if keys[t] < keys[t - U(1)]:
            return False
    return True


@njit
def is_ascending(keys, length):
    """Whether keys are in order as they came."""
    return ascends(keys, U(0), length)


@njit
def fill_later(later):
    """The table of `rank_block`."""
    for j in range(U(BLOCK_KEYS)):
        for k in range(U(BLOCK_KEYS)):
            later[j * U(BLOCK_KEYS) + k] = 1 if j < k else 0


@njit
def rank_rows(ranks, keys, rows, length, later):
    """Ranks within each of so many rows, each key compared with all of its row."""
    for i in range(rows):
        first, last = i * length, (i + U(1)) * length
        for start in range(first, last, U(BLOCK_KEYS)):
            rank_block(ranks, keys, start, first, last, U(0), later)


@njit(inline="always")
def slots_of_words(slots, words, length, bits):
    """The upper bits of 24-bit words."""
    for t in range(length):
        slots[t] = words[t] >> np.uint32(U(24) - bits)


@njit
def slots_of_values(slots, values, length, bits, least, largest, kind):
    """Slots of equal width from the least to the largest finite value.

    What is less goes into the first, what is larger and NaN into the last. Each step is monotonic,
    rounding included, and equal values are in one slot. ``kind`` is the values' type.
    """
    width, top = largest - least, kind((U(1) << bits) - U(1))
    scale = (top + kind(1)) / width if width > kind(0) else kind(0)
    for t in range(length):
        beyond = values[t] - least
        slot = (kind(0) if beyond < kind(0) else beyond) * scale
        slots[t] = np.uint32(np.int32(slot if slot < top else top))


@njit
def slots_of_keys(slots, keys, length, bits, least, largest):
    """Slots of equal width in keys: a score's exponent takes as much room as its fraction."""
    shift, top = U(0), (U(1) << bits) - U(1)
    while least < largest and (U(largest) - U(least)) >> shift > top:
        shift += U(1)
    for t in range(length):
        slots[t] = np.uint32(min((U(max(keys[t], least)) - U(least)) >> shift, top))


@njit(inline="always")
def count_slots(counts, slots, length, bits):
    """How many keys are in each slot."""
    for v in range(U(1) << bits):
        counts[v] = np.uint32(0)
    for t in range(length):
        counts[U(slots[t])] += np.uint32(1)


@njit(inline="always")
def place_in_slots(tokens, sorted_keys, places, slots, keys, first, length):
    """Move tokens ``first``, ... and their keys to the next free place of their slot."""
    for t in range(length):
        slot = U(slots[t])
        place = U(places[slot])
        sorted_keys[place] = keys[t]
        tokens[place] = np.uint32(first + t)
        places[slot] = np.uint32(place + U(1))


@njit
def sort_into_slots(tokens, sorted_keys, slots, keys, counts, length, bits):
    """Sort tokens and keys by slot, stably; the sum of the squares of how many are in each.

    ``counts[v]`` is afterwards where slot v ends.
    """
    count_slots(counts, slots, length, bits)
    total, crowd = np.uint32(0), U(0)
    for v in range(U(1) << bits):
        count = counts[v]
        counts[v] = total
        total += count
        crowd += U(count) * U(count)
    place_in_slots(tokens, sorted_keys, counts, slots, keys, U(0), length)
    return crowd


@njit
def rank_slots(ranks, tokens, sorted_keys, slots, ends, lo, hi, later):
    """Ranks of keys that are sorted by slot, for the places ``lo`` to ``hi``.

    Slot v ends before the place ``ends[v]``. Keys that are in order by now, as where those of each
    slot are equal, have their places as ranks.
    """
    if lo < hi:
        slot = U(slots[U(tokens[lo])])
        first = U(ends[slot - U(1)]) if slot > U(0) else U(0)
        if ascends(sorted_keys, first, U(ends[U(slots[U(tokens[hi - U(1)])])])):
            for t in range(lo, hi):
                ranks[t] = np.int32(t)
            return
    for start in range(lo, hi, U(BLOCK_KEYS)):
        slot = U(slots[U(tokens[start])])
        first = U(ends[slot - U(1)]) if slot > U(0) else U(0)
        end = min(start + U(BLOCK_KEYS), hi) - U(1)
        last = U(ends[U(slots[U(tokens[end])])])
        rank_block(ranks, sorted_keys, start, first, last, first, later)


@njit(inline="always")
def radix_pass(ranked, other, keys, counts, length, digit, wide):
    """Sort stably by one digit of eight bits; False if all items have the same, and nothing moved.

    The digit is one of the item's upper half, or with ``wide`` of the key of its token.
    """
    shift = digit * U(8) + (U(0) if wide else U(32))
    low = U(0xFFFFFFFF)
    for v in range(U(256)):
        counts[v] = np.uint32(0)
    for t in range(length):
        key = keys[ranked[t] & low] if wide else ranked[t]
        counts[(key >> shift) & U(255)] += np.uint32(1)
    key = keys[ranked[U(0)] & low] if wide else ranked[U(0)]
    if U(counts[(key >> shift) & U(255)]) == length:
        return False
    total = np.uint32(0)
    for v in range(U(256)):
        count = counts[v]
        counts[v] = total
        total += count
    for t in range(length):
        key = keys[ranked[t] & low] if wide else ranked[t]
        v = (key >> shift) & U(255)
        other[U(counts[v])] = ranked[t]
        counts[v] += np.uint32(1)
    return True


@njit
def order_by_digits(order, ranked, other, keys, counts, length, wide):
    """``order[r]``: the token of rank r; ``keys`` are signed ones as unsigned, and are changed."""
    low = U(0xFFFFFFFF)
    for t in range(length):
        keys[t] ^= SIGN_8 if wide else SIGN_4
        ranked[t] = t if wide else (U(keys[t]) << U(32)) | t
    for digit in range(U(8) if wide else U(4)):
        if radix_pass(ranked, other, keys, counts, length, digit, wide):
            ranked, other = other, ranked
    for r in range(length):
        order[r] = np.uint32(ranked[r] & low)


def make_rank_keys(item):
    """The function that ranks signed keys of 4 or 8 bytes."""
    wide = item == 8
    bits_at = uint64_at if wide else uint32_at

    @njit
    def rank_keys(
        ranks, order, tokens, keys, sorted_keys, other, slots, counts, length, bits, later
    ):
        """Ranks of keys of any kind, token by token.

        ``sorted_keys`` and ``other`` are memory for as many keys of 8 bytes, and what is in
        ``order``, ``tokens``, ``slots`` and ``counts`` afterwards means nothing; the keys may be
        changed.
        """
        if length <= U(SHORT_BYTES // item):
            rank_rows(ranks, keys, U(1), length, later)
            return
        least, largest = keys[0], keys[0]
        for t in range(length):
            least, largest = min(least, keys[t]), max(largest, keys[t])
        slots_of_keys(slots, keys, length, bits, least, largest)
        crowd = sort_into_slots(tokens, sorted_keys, slots, keys, counts, length, bits)
        if crowd > U(MAX_CROWDED_KEYS) * length:
            ranked, free = uint64_at(address(sorted_keys)), uint64_at(address(other))
            order_by_digits(
                order, ranked, free, bits_at(address(keys)), counts, length, wide
            )  # fmt: skip
            for r in range(length):
                ranks[U(order[r])] = np.int32(r)
            return
        places = int32_at(address(order))
        rank_slots(places, tokens, sorted_keys, slots, counts, U(0), length, later)
        for i in range(length):
            ranks[U(tokens[i])] = places[i]

    return rank_keys
