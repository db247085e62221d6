"""Folds of words of 8 bytes, and of vectors of them: the items of a row side by side.

The items of a word have one place each, and all the same number of values.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from nbgather.kernels.cuda.folds import (
    HALVES,
    ITEM_BYTES,
    How,
    identity,
    make_finish,
    make_fold,
    make_halves,
)
from nbgather.kernels.cuda.positions import u32, u64

_LOW = u64(0xFFFFFFFF)
_32 = u64(32)


def _make_half_words(memory: Any, kind: str, multiplies: bool) -> tuple[Any, Any, Any]:
    """Four floats of 16 bits, each as float32 until the end."""
    widen, narrow = make_halves(memory, kind)
    times, low16 = memory.MULTIPLY, u64(0xFFFF)

    @memory.INLINE
    def begin(word):
        return (
            widen(word & low16),
            widen((word >> u64(16)) & low16),
            widen((word >> u64(32)) & low16),
            widen(word >> u64(48)),
        )

    @memory.INLINE
    def plus(a, b):
        return np.float32(a + b)

    step = times if multiplies else plus

    @memory.INLINE
    def add(sums, word):
        more = begin(word)
        return (
            step(sums[0], more[0]),
            step(sums[1], more[1]),
            step(sums[2], more[2]),
            step(sums[3], more[3]),
        )

    @memory.INLINE
    def end(sums):
        low = narrow(sums[0]) | (narrow(sums[1]) << u64(16))
        return low | (narrow(sums[2]) << u64(32)) | (narrow(sums[3]) << u64(48))

    return begin, add, end


def _make_sums(memory: Any, kind: str) -> tuple[Any, Any, Any]:
    """Sums, of floats by themselves, of integers all at once."""
    as_f4, as_f8 = memory.AS_F4, memory.AS_F8
    f4_bits, f8_bits = memory.F4_BITS, memory.F8_BITS
    if kind in ("f4", "c8"):

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

    return begin, add, end


def _make_by_items(memory: Any, how: How) -> tuple[Any, Any, Any]:
    """Products and extremes, an item after the other."""
    fold, item = make_fold(memory, how), ITEM_BYTES[how[1]]
    count, mask = 8 // item, u64((1 << 8 * item) - 1)

    @memory.INLINE
    def begin(word):
        return (u64(word),)

    @memory.INLINE
    def add(sums, word):
        folded = u64(0)
        for k in range(count):
            shift = u64(u64(k) * u64(8 * item))
            low, _ = fold((sums[0] >> shift) & mask, u64(0), (word >> shift) & mask, u64(0))
            folded |= u64((low & mask) << shift)
        return (folded,)

    @memory.INLINE
    def end(sums):
        return sums[0]

    return begin, add, end


def _make_finish(memory: Any, how: How) -> Any:
    """``finish(word, x_word, n)``: the items of the result."""
    reduce, kind, _ = how
    finish_item = make_finish(memory, how)
    item = ITEM_BYTES[kind]
    if reduce != "mean" or item == 8:

        @memory.INLINE
        def finish(word, x_word, n):
            low, _ = finish_item(word, u64(0), x_word, u64(0), n)
            return low

        return finish
    count, mask = 8 // item, u64((1 << 8 * item) - 1)

    @memory.INLINE
    def finish_each(word, x_word, n):
        finished = u64(0)
        for k in range(count):
            shift = u64(u64(k) * u64(8 * item))
            low, _ = finish_item(
                (word >> shift) & mask, u64(0), (x_word >> shift) & mask, u64(0), n
            )
            finished |= u64((low & mask) << shift)
        return finished

    return finish_each


def make_words(memory: Any, how: How) -> SimpleNamespace:
    """Folds of the items of a word: ``begin(word)``, ``add(folded, word)``, ``end(folded)``.

    ``finish(word, x_word, n)`` makes the items of the result of what ended, those of the input, and
    the number of values; ``first`` are the bits to begin with where the input does not count. A
    word of fewer bytes has its items in the low bits.
    """
    reduce, kind, _ = how
    if kind in HALVES:
        begin, add, end = _make_half_words(memory, kind, reduce == "prod")
    elif reduce in ("sum", "mean"):
        begin, add, end = _make_sums(memory, kind)
    else:
        begin, add, end = _make_by_items(memory, how)
    item = min(ITEM_BYTES[kind], 8)
    first = u64(int.from_bytes(identity(how).to_bytes(item, "little") * (8 // item), "little"))
    return SimpleNamespace(
        begin=begin, add=add, end=end, finish=_make_finish(memory, how), first=first
    )


def make_vector(memory: Any, how: How, width: int) -> SimpleNamespace:
    """The folds of a vector of ``width`` bytes, as those of two words.

    ``begin(low, high)`` takes the input's halves, ``finish(folded, low, high, n)`` gives those of
    the result.
    """
    if how[:2] == ("prod", "c16"):
        return _make_complex_vector(memory, how)
    words = make_words(memory, how)
    begin_word, add_word, end_word, finish_word = words.begin, words.add, words.end, words.finish
    pair, own, first = width == 16, how[2], words.first

    @memory.INLINE
    def begin(low, high):
        if own:
            return begin_word(low), begin_word(high)
        return begin_word(first), begin_word(first)

    @memory.INLINE
    def add(folded, low, high):
        if pair:
            return add_word(folded[0], low), add_word(folded[1], high)
        return add_word(folded[0], low), folded[1]

    @memory.INLINE
    def finish(folded, low, high, n):
        first_word = finish_word(end_word(folded[0]), low, n)
        if pair:
            return first_word, finish_word(end_word(folded[1]), high, n)
        return first_word, u64(0)

    return SimpleNamespace(begin=begin, add=add, finish=finish)


def _make_complex_vector(memory: Any, how: How) -> SimpleNamespace:
    """Products of complex numbers of 16 bytes, whose words are not independent."""
    fold, finish_item = make_fold(memory, how), make_finish(memory, how)
    own, first = how[2], u64(identity(how))

    @memory.INLINE
    def begin(low, high):
        return (u64(low), u64(high)) if own else (first, u64(0))

    @memory.INLINE
    def add(folded, low, high):
        return fold(folded[0], folded[1], low, high)

    @memory.INLINE
    def finish(folded, low, high, n):
        return finish_item(folded[0], folded[1], low, high, n)

    return SimpleNamespace(begin=begin, add=add, finish=finish)
