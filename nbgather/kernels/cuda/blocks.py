"""The kernels of strategies that score by noise alone: stripes, and several blocks in a grid.

Both draw words behind those of the tokens' noise, as what these strategies are made of elsewhere
does (:mod:`nbgather.operations.scores`, :mod:`nbgather.operations.blocks`).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from nbgather.kernels.cuda import radix
from nbgather.kernels.cuda.deferred import cuda, scalar, types
from nbgather.kernels.cuda.masking import make_key
from nbgather.kernels.cuda.positions import divide_narrow, u32, u64
from nbgather.kernels.cuda.strategies import (
    FIRST_SIZE,
    OWN,
    make_begin,
    make_philox,
    make_word,
    make_words,
)

unit_float = scalar.unit_float

#: ``numbers`` of the sort of words: behind those of all sources epoch, key (low, high), what is
#: told of these, and the first word's number.
WORD_NUMBERS = radix.SOURCE_NUMBERS + 5

#: ``numbers`` of stripes are those of a kernel of keys; of its own are the lines of all axes, and
#: the samples. Behind the sizes of the axes stands how many lines across each stay.

#: ``numbers`` of blocks: the tokens of a sample, epoch, key (low, high), what is told of these;
#: height and width of a frame, frames, targets; the sizes of targets, and those of contexts (least
#: and largest area, lowest and highest aspect ratio); the least tokens of a context, and whether it
#: may have those of targets. Of lists of ids then the most ids of a context, and of a target.
(HEIGHT, WIDTH, FRAMES, TARGETS, TARGET_SIZES, CONTEXT_SIZES, MIN_KEEP, OVERLAP, MOST) = (
    5, 6, 7, 8, 9, 13, 17, 18, 19,
)  # fmt: skip
SCORE_NUMBERS, IDS_NUMBERS = MOST, MOST + 2
#: Blocks of a sample: 256 targets and the context. Of each are known its first row and column,
#: its height and its width.
MAX_BLOCKS = 257
SPANS = 4 * MAX_BLOCKS
#: Tokens of a context are counted by the target that covers them, from 1 on, or by none.
COUNTS = MAX_BLOCKS + 1
#: Aspect ratios are in these parts.
ASPECT_PARTS = 256
#: Threads of a block that lists ids, at most.
LIST_THREADS = 256


def make_word_source(memory: Any) -> SimpleNamespace:
    """The noise of words from one on, by which lines are ranked; ``a`` are the sample ids."""
    load_id, words, word = memory.LOAD["i8"], make_words(memory), make_word(memory)
    key_of, first = make_key(memory), radix.SOURCE_NUMBERS

    @memory.INLINE
    def one_key(keys, tokens, a, flag, n, p, numbers):
        sample = u64(load_id(u64(a + n * u64(8))))
        epoch, low, high = key_of(
            u64(numbers[first]), u64(numbers[first + 1]), u64(numbers[first + 2]),
            u64(numbers[first + 3]),
        )  # fmt: skip
        at = u64(numbers[first + 4]) + p
        return u32(word(words(at >> u64(2), sample, epoch, low, high), at) >> u64(8))

    @memory.INLINE
    def token(tokens, b, n, p, numbers):
        return u32(p)

    return SimpleNamespace(four_keys=radix.make_by_fours(memory, one_key), token=token)


def make_stripes(memory: Any, axes: int) -> Any:
    """Tokens off the lines that go are below 0; ``ranks`` are those of the lines of all axes."""
    store, read, begin = memory.STORE["f4"], memory.LOAD["u4"], make_begin(memory)
    philox = make_philox(memory)

    def stripes(out, ids, ranks, numbers):
        token, _, n, noise = begin(
            ids, u64(cuda.blockIdx.x), u64(cuda.threadIdx.x), u64(cuda.blockDim.x),
            philox(numbers), numbers,
        )  # fmt: skip
        if token < u64(numbers[0]):
            rest, gone = token, u64(0)
            end, samples = u64(numbers[OWN]), u64(numbers[OWN + 1])
            for back in range(axes):
                size = u64(numbers[FIRST_SIZE + axes - 1 - back])
                stay = u64(numbers[FIRST_SIZE + 2 * axes - 1 - back])
                rest, at = divide_narrow(rest, size)
                end -= size
                if stay < size:  # else nobody has ranked its lines
                    rank = u64(read(u64(ranks + (end * samples + n * size + at) * u64(4))))
                    if rank >= stay:
                        gone = u64(1)
            value = unit_float(noise << u64(8))
            if gone == u64(0):
                value = np.float32(value - np.float32(1))
            store(u64(out + (n * u64(numbers[0]) + token) * u64(4)), value)

    return stripes


def _make_draw(memory: Any) -> Any:
    """Draw the blocks of a sample: thread t those of its number and every ``threads``-th after."""
    words, word, times = make_words(memory), make_word(memory), memory.MULTIPLY
    parts = u64(ASPECT_PARTS)

    @memory.INLINE
    def below(number, count, sample, epoch, low, high):
        drawn = word(words(number >> u64(2), sample, epoch, low, high), number)
        product = times(unit_float(drawn), np.float32(count))
        return min(u64(np.int64(product)), u64(count - u64(1)))

    @memory.INLINE
    def side(square, parts, most):
        # The largest k below most with (2 k + 1)**2 * parts <= square, where 0 always is one.
        first, last = u64(0), u64(most - u64(1))
        while first < last:
            k = (first + last + u64(1)) >> u64(1)
            odd = u64(2) * k + u64(1)
            if odd * odd * parts <= square:
                first = k
            else:
                last = k - u64(1)
        return u64(first + u64(1))

    @memory.INLINE
    def draw(spans, sample, epoch, low, high, t, threads, numbers):
        height, width = u64(numbers[HEIGHT]), u64(numbers[WIDTH])
        b = t
        while b <= u64(numbers[TARGETS]):
            least, most = u64(numbers[TARGET_SIZES]), u64(numbers[TARGET_SIZES + 1])
            lowest, highest = u64(numbers[TARGET_SIZES + 2]), u64(numbers[TARGET_SIZES + 3])
            if b == u64(numbers[TARGETS]):
                least, most = u64(numbers[CONTEXT_SIZES]), u64(numbers[CONTEXT_SIZES + 1])
                lowest, highest = u64(numbers[CONTEXT_SIZES + 2]), u64(numbers[CONTEXT_SIZES + 3])
            at = u64(numbers[0]) + u64(4) * b
            area = least + below(at, most - least + u64(1), sample, epoch, low, high)
            aspect = lowest + below(
                at + u64(1), highest - lowest + u64(1), sample, epoch, low, high
            )
            h = side(u64(4) * area * aspect, parts, height)
            w = side(u64(4) * parts * area, aspect, width)
            top = below(at + u64(2), height - h + u64(1), sample, epoch, low, high)
            left = below(at + u64(3), width - w + u64(1), sample, epoch, low, high)
            k = u64(4) * b
            spans[k], spans[k + u64(1)] = u32(top), u32(left)
            spans[k + u64(2)], spans[k + u64(3)] = u32(h), u32(w)
            b += threads

    return draw


def _make_inside(memory: Any) -> Any:
    """Whether a block of a sample covers a row and a column of a frame."""

    @memory.INLINE
    def inside(spans, b, row, column):
        k = u64(4) * u64(b)
        # What is before the block wraps around, to more than any side.
        return u64(row - u64(spans[k])) < u64(spans[k + u64(2)]) and u64(
            column - u64(spans[k + u64(1)])
        ) < u64(spans[k + u64(3)])

    return inside


def _make_first(memory: Any) -> Any:
    """The first target that covers a token of a frame, counted from 1; one more if none does."""
    inside = _make_inside(memory)

    @memory.INLINE
    def first_target(spans, targets, row, column):
        b = u64(0)
        while b < targets and not inside(spans, b, row, column):
            b += u64(1)
        return u64(b + u64(1))

    return first_target


def _make_count(memory: Any) -> Any:
    """How many of the first targets are taken out of a context, to ``fits[0]``; between barriers.

    ``counts`` become those of the context's tokens in a frame by the first target that covers them.
    """
    inside, first_target = _make_inside(memory), _make_first(memory)

    @memory.INLINE
    def count_left(spans, counts, fits, t, threads, numbers):
        width, targets = u64(numbers[WIDTH]), u64(numbers[TARGETS])
        frame = u64(numbers[HEIGHT]) * width
        k = t
        while k < u64(COUNTS):
            counts[k] = u32(0)
            k += threads
        cuda.syncthreads()
        p = t
        while p < frame and numbers[OVERLAP] == u64(0):
            row, column = divide_narrow(p, width)
            if inside(spans, targets, row, column):
                cuda.atomic.add(counts, first_target(spans, targets, row, column), u32(1))
            p += threads
        cuda.syncthreads()
        if t == u64(0):
            taken, left = targets, u64(counts[targets + u64(1)])
            if numbers[OVERLAP] != u64(0):
                taken = u64(0)
            while taken > u64(0) and left * u64(numbers[FRAMES]) < u64(numbers[MIN_KEEP]):
                left += u64(counts[taken])
                taken -= u64(1)
            fits[0] = u32(taken)
        cuda.syncthreads()

    return count_left


def make_block_scores(memory: Any) -> Any:
    """A context is below 0, targets are from 1 on. Blocks of the same x share a sample's frame."""
    load_id, store = memory.LOAD["i8"], memory.STORE["f4"]
    words, word, philox = make_words(memory), make_word(memory), make_philox(memory)
    draw, count_left = _make_draw(memory), _make_count(memory)
    inside, first_target = _make_inside(memory), _make_first(memory)

    def block_scores(out, ids, numbers):
        spans = cuda.shared.array(SPANS, types.uint32)
        counts = cuda.shared.array(COUNTS, types.uint32)
        fits = cuda.shared.array(1, types.uint32)
        t, threads = u64(cuda.threadIdx.x), u64(cuda.blockDim.x)
        n, tokens = u64(cuda.blockIdx.x), u64(numbers[0])
        sample = u64(load_id(u64(ids + n * u64(8))))
        epoch, low, high = philox(numbers)
        draw(spans, sample, epoch, low, high, t, threads, numbers)
        cuda.syncthreads()
        count_left(spans, counts, fits, t, threads, numbers)
        width, targets = u64(numbers[WIDTH]), u64(numbers[TARGETS])
        frame = u64(numbers[HEIGHT]) * width
        p = u64(cuda.blockIdx.y) * threads + t
        while p < frame:
            row, column = divide_narrow(p, width)
            first = first_target(spans, targets, row, column)
            shift = np.float32(1) if first <= targets else np.float32(0)
            if first > u64(fits[0]) and inside(spans, targets, row, column):
                shift = np.float32(-1)
            token = p
            while token < tokens:
                own = unit_float(word(words(token >> u64(2), sample, epoch, low, high), token))
                store(u64(out + (n * tokens + token) * u64(4)), np.float32(own + shift))
                token += frame
            p += u64(cuda.gridDim.y) * threads

    return block_scores


def make_block_ids(memory: Any) -> Any:
    """The tokens of a block of a sample in ascending order, -1 behind them, and their number."""
    load_id, store = memory.LOAD["i8"], memory.STORE["i8"]
    philox, inclusive_scan = make_philox(memory), radix.make_scan(memory)
    draw, count_left = _make_draw(memory), _make_count(memory)
    inside, first_target = _make_inside(memory), _make_first(memory)

    def block_ids(context, targets_out, context_counts, target_counts, ids, numbers):
        spans = cuda.shared.array(SPANS, types.uint32)
        counts = cuda.shared.array(COUNTS, types.uint32)
        fits = cuda.shared.array(1, types.uint32)
        sums = cuda.shared.array(LIST_THREADS, types.uint32)
        t, threads = u64(cuda.threadIdx.x), u64(cuda.blockDim.x)
        width, targets = u64(numbers[WIDTH]), u64(numbers[TARGETS])
        frame, tokens = u64(numbers[HEIGHT]) * width, u64(numbers[0])
        n, b = divide_narrow(u64(cuda.blockIdx.x), targets + u64(1))
        sample = u64(load_id(u64(ids + n * u64(8))))
        epoch, low, high = philox(numbers)
        draw(spans, sample, epoch, low, high, t, threads, numbers)
        cuda.syncthreads()
        count_left(spans, counts, fits, t, threads, numbers)
        most, number = u64(numbers[MOST + 1]), n * targets + b
        out, numbers_out = u64(targets_out + number * most * u64(8)), target_counts
        if b == targets:
            most, number = u64(numbers[MOST]), n
            out, numbers_out = u64(context + number * most * u64(8)), context_counts
        found, base = u64(0), u64(0)
        while base < tokens:
            token, held = base + t, u32(0)
            if token < tokens:
                _, p = divide_narrow(token, frame)
                row, column = divide_narrow(p, width)
                if inside(spans, b, row, column):
                    held = u32(1)
                    if b == targets and first_target(spans, targets, row, column) <= u64(fits[0]):
                        held = u32(0)
            sums[t] = held
            cuda.syncthreads()
            inclusive_scan(sums, t, threads)
            if held != u32(0):
                at = found + u64(sums[t]) - u64(1)
                store(u64(out + at * u64(8)), np.int64(token))
            found += u64(sums[threads - u64(1)])
            cuda.syncthreads()
            base += threads
        if t == u64(0):
            store(u64(numbers_out + number * u64(8)), np.int64(found))
        at = found + t
        while at < most:
            store(u64(out + at * u64(8)), np.int64(-1))
            at += threads

    return block_ids
