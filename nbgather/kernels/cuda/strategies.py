"""The keys of strategies: what a sample's tokens are ordered by, a thread for each token.

A key has the strategy's value in its upper bits and the token's noise in its 24 lowest, as on the
CPU (:mod:`nbgather.kernels.cpu.strategies`); the stable sort of the keys gives the scores. Lines
have ranks of their own first, which is another such sort.

Only integers, and what IEEE 754 rounds exactly: the same bits on every machine.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from nbgather.kernels.cuda import radix
from nbgather.kernels.cuda.deferred import cuda, scalar, types
from nbgather.kernels.cuda.masking import make_key
from nbgather.kernels.cuda.positions import divide_narrow, u32, u64

philox4x32 = scalar.philox4x32

#: The counters of a sample's words begin here; those of the tokens' noise at 0.
STREAM_GRID, STREAM_BLOCK, STREAM_LINES = 1 << 28, 2 << 28, 3 << 28
NOISE_BITS = 24
#: Axes of a block's grid, in which the last ones count; and of any other.
BLOCK_AXES, MAX_AXES = 4, 64
#: Boxes that a block of threads draws at once, one by each thread.
BOXES = 256
BOX_ENTRIES = BLOCK_AXES * BOXES
#: The table of aspect ratios has 2**10 entries.
ASPECT_BITS = 10

#: ``numbers`` of a kernel of keys: tokens, epoch, key (low, high), what is told of these
#: (:mod:`nbgather.kernels.cuda.masking`), blocks of a sample, and four more; then the sizes of the
#: axes. Of a grid: the stride. Of lines: a bit for each axis that takes part, and how many lines
#: there are. Of blocks: the least and the largest area, the limit of boxes, and three bytes: the
#: bits of a step, the axes, whether boxes wrap around.
OWN, FIRST_SIZE = 6, 10

#: ``numbers`` of the sort of lines: behind those of all sources epoch, key (low, high), and what is
#: told of these.
LINE_NUMBERS = radix.SOURCE_NUMBERS + 4


def make_words(memory: Any) -> Any:
    """Four words of a sample by their counter."""

    @memory.INLINE
    def words(counter, sample, epoch, low, high):
        return philox4x32(
            u64(counter), sample & u64(0xFFFFFFFF), sample >> u64(32), epoch, low, high
        )

    return words


def make_word(memory: Any) -> Any:
    """One of them by its number; ``four`` are those of its counter."""

    @memory.INLINE
    def word(four, number):
        k = u64(number) & u64(3)
        low = four[0] if k == u64(0) else four[1]
        high = four[2] if k == u64(2) else four[3]
        return u64(low) if k < u64(2) else u64(high)

    return word


def make_line_source(memory: Any) -> SimpleNamespace:
    """The words of lines, four at once, by which they are ranked; ``a`` are the sample ids."""
    load_id, words, key_of = memory.LOAD["i8"], make_words(memory), make_key(memory)
    first = radix.SOURCE_NUMBERS

    @memory.INLINE
    def four_keys(keys, tokens, a, flag, n, q, numbers):
        sample = u64(load_id(u64(a + n * u64(8))))
        epoch, low, high = key_of(
            u64(numbers[first]), u64(numbers[first + 1]), u64(numbers[first + 2]),
            u64(numbers[first + 3]),
        )  # fmt: skip
        w0, w1, w2, w3 = words(u64(STREAM_LINES) + q, sample, epoch, low, high)
        return u32(w0), u32(w1), u32(w2), u32(w3)

    @memory.INLINE
    def token(tokens, b, n, p, numbers):
        return u32(p)

    return SimpleNamespace(four_keys=four_keys, token=token)


def make_key_source(memory: Any, shift: int, by_token: bool) -> SimpleNamespace:
    """32 bits of the keys; ``by_token``, of the tokens that the passes before have sorted."""
    load, read = memory.LOAD["u8"], memory.LOAD["u4"]

    @memory.INLINE
    def one_key(keys, tokens, a, flag, n, p, numbers):
        row = n * u64(numbers[0])
        if by_token:
            p = u64(read(u64(tokens + (row + p) * u64(4))))
        return u32((load(u64(a + (row + p) * u64(8))) >> u64(shift)) & u64(0xFFFFFFFF))

    @memory.INLINE
    def own_token(tokens, b, n, p, numbers):
        return u32(p)

    fours = radix.make_by_fours(memory, one_key)
    token = radix.make_carried(memory).token if by_token else own_token
    return SimpleNamespace(four_keys=fours, token=token)


def make_place_sink(memory: Any, as_score: bool) -> Any:
    """A token's place in the order, as float32 or uint32, goes where the token is in ``out``."""
    store_f4, store_u4 = memory.STORE["f4"], memory.STORE["u4"]

    @memory.INLINE
    def place_of(out, unused, c, d, n, place, key, token, numbers):
        at = u64(out + (n * u64(numbers[0]) + u64(token)) * u64(4))
        if as_score:
            store_f4(at, np.float32(place))
        else:
            store_u4(at, u32(place))

    return place_of


def make_philox(memory: Any) -> Any:
    """Epoch and key (low, high) of a kernel, among whose ``numbers`` they begin at 1."""
    key_of = make_key(memory)

    @memory.INLINE
    def philox(numbers):
        return key_of(u64(numbers[1]), u64(numbers[2]), u64(numbers[3]), u64(numbers[4]))

    return philox


def make_begin(memory: Any) -> Any:
    """A thread's token, its sample, the sample's number in the batch, and the token's noise."""
    load_id, words, word = memory.LOAD["i8"], make_words(memory), make_word(memory)

    @memory.INLINE
    def begin(ids, block, thread, threads, philox, numbers):
        n, part = divide_narrow(block, u64(numbers[5]))
        token = part * threads + thread
        sample = u64(load_id(u64(ids + n * u64(8))))
        epoch, low, high = philox
        four = words(token >> u64(2), sample, epoch, low, high)
        return token, sample, n, word(four, token) >> u64(32 - NOISE_BITS)

    return begin


def make_grid_keys(memory: Any, axes: int) -> Any:
    """A lattice of one token in ``stride`` along each axis goes first; each sample has a phase."""
    store, begin, philox = memory.STORE["u8"], make_begin(memory), make_philox(memory)
    words, word = make_words(memory), make_word(memory)

    def grid_keys(out, ids, numbers):
        phases = cuda.shared.array(MAX_AXES, types.uint32)
        t = u64(cuda.threadIdx.x)
        epoch, low, high = philox(numbers)
        token, sample, n, noise = begin(
            ids, u64(cuda.blockIdx.x), t, u64(cuda.blockDim.x), (epoch, low, high), numbers
        )
        stride = u64(numbers[OWN])
        d = t
        while d < u64(axes):
            four = words(u64(STREAM_GRID) + (d >> u64(2)), sample, epoch, low, high)
            size = u64(0)
            for e in range(axes):
                if u64(e) == d:
                    size = u64(numbers[FIRST_SIZE + e])
            phases[d] = u32((word(four, d) * min(stride, size)) >> u64(32))
            d += u64(cuda.blockDim.x)
        cuda.syncthreads()
        if token < u64(numbers[0]):
            rest, value = token, u64(0)
            for back in range(axes):
                d = u64(axes - 1 - back)
                rest, at = divide_narrow(rest, u64(numbers[FIRST_SIZE + axes - 1 - back]))
                _, phase = divide_narrow(at, stride)
                if phase != u64(phases[d]):
                    value = u64(1)
            key = u64((value << u64(NOISE_BITS)) | noise)
            store(u64(out + (n * u64(numbers[0]) + token) * u64(8)), key)

    return grid_keys


def make_line_keys(memory: Any, axes: int) -> Any:
    """Whole rows, columns, ...: a token goes with the last of its lines, which have ``ranks``."""
    store, read, begin = memory.STORE["u8"], memory.LOAD["u4"], make_begin(memory)
    philox = make_philox(memory)

    def line_keys(out, ids, ranks, numbers):
        token, _, n, noise = begin(
            ids, u64(cuda.blockIdx.x), u64(cuda.threadIdx.x), u64(cuda.blockDim.x),
            philox(numbers), numbers,
        )  # fmt: skip
        if token < u64(numbers[0]):
            rest, last = token, u64(0)
            end = (n + u64(1)) * u64(numbers[OWN + 1])
            for back in range(axes):
                size = u64(numbers[FIRST_SIZE + axes - 1 - back])
                rest, at = divide_narrow(rest, size)
                if (u64(numbers[OWN]) >> u64(axes - 1 - back)) & u64(1):
                    end -= size
                    last = max(last, u64(read(u64(ranks + (end + at) * u64(4)))))
            key = u64((last << u64(NOISE_BITS)) | noise)
            store(u64(out + (n * u64(numbers[0]) + token) * u64(8)), key)

    return line_keys


def _make_sides(memory: Any) -> Any:
    """Height and width of a box: cut to the grid, and its area kept as far as possible."""
    root, times, over = memory.ROOT_F8, memory.MULTIPLY_F8, memory.DIVIDE_F8

    @memory.INLINE
    def rounded_root(area, aspect):
        return u64(np.int64(root(times(np.float64(area), aspect)) + 0.5))

    @memory.INLINE
    def sides(area, aspect, height, width):
        h = rounded_root(area, aspect)
        w = rounded_root(area, over(np.float64(1), aspect))
        if h > height:
            h = height
            w, _ = divide_narrow(u64(2) * area + h, u64(2) * h)
        if w > width:
            w = width
            h, _ = divide_narrow(u64(2) * area + w, u64(2) * w)
            h = min(h, height)
        return max(h, u64(1)), max(w, u64(1))

    return sides


def make_block_keys(memory: Any) -> Any:
    """Boxes one after the other: a token goes with the first that covers it.

    Its threads draw a block's boxes, as many at once, and each looks which of them covers its
    token. Where boxes wrap around, and where they do not, a token is within by the same comparison.
    """
    store, begin, philox = memory.STORE["u8"], make_begin(memory), make_philox(memory)
    words, sides, load_f8 = make_words(memory), _make_sides(memory), memory.LOAD["f8"]
    first = FIRST_SIZE

    @memory.INLINE
    def below(word, count):
        return (u64(word) * u64(count)) >> u64(32)

    @memory.INLINE
    def inside(at, start, size):
        return u64(at - start) if at >= start else u64(at + size - start)

    def block_keys(out, ids, aspects, numbers):
        starts = cuda.shared.array(BOX_ENTRIES, types.uint32)
        lengths = cuda.shared.array(BOX_ENTRIES, types.uint32)
        edges = cuda.shared.array(BOXES, types.uint32)
        left = cuda.shared.array(2, types.uint32)
        t, threads = u64(cuda.threadIdx.x), u64(cuda.blockDim.x)
        epoch, low, high = philox(numbers)
        token, sample, n, noise = begin(
            ids, u64(cuda.blockIdx.x), t, threads, (epoch, low, high), numbers
        )
        least, most, limit = u64(numbers[OWN]), u64(numbers[OWN + 1]), u64(numbers[OWN + 2])
        # p2 and the axes, beside the bits of a step.
        told = u64(numbers[OWN + 3])
        step_bits, axes = told & u64(255), (told >> u64(8)) & u64(255)
        wraps = (told >> u64(16)) != u64(0)
        n0, n1 = u64(numbers[first]), u64(numbers[first + 1])
        n2, n3 = u64(numbers[first + 2]), u64(numbers[first + 3])
        rest, c3 = divide_narrow(token, n3)
        rest, c2 = divide_narrow(rest, n2)
        c0, c1 = divide_narrow(rest, n1)
        searching = bool(token < u64(numbers[0]))
        value = u64(0)
        if t < u64(2):
            left[t] = u32(0)
        cuda.syncthreads()
        box, turn = u64(0), u64(0)
        running = True
        while running:
            mine = u64(box + t)
            if mine < limit:
                counter = u64(STREAM_BLOCK) + mine * u64(4)
                w0, w1, w2, _ = words(counter, sample, epoch, low, high)
                p0, p1, p2, p3 = words(counter + u64(1), sample, epoch, low, high)
                e0, e1, _, _ = words(counter + u64(2), sample, epoch, low, high)
                area = least + below(w0, most - least + u64(1))
                aspect = load_f8(u64(aspects + (w1 >> u64(32 - ASPECT_BITS)) * u64(8)))
                s2, s3 = sides(area, aspect, n2, n3)
                s0, s1 = u64(1), u64(1)
                if axes > u64(3):
                    s0 = u64(1) + below(e0, n0)
                if axes > u64(2):
                    s1 = u64(1) + below(e1, n1)
                edges[t] = u32(below(w2, u64(2) * axes))
                lengths[t], lengths[threads + t] = u32(s0), u32(s1)
                lengths[u64(2) * threads + t], lengths[u64(3) * threads + t] = u32(s2), u32(s3)
                starts[t] = u32(below(p0, n0 if wraps else n0 - s0 + u64(1)))
                starts[threads + t] = u32(below(p1, n1 if wraps else n1 - s1 + u64(1)))
                starts[u64(2) * threads + t] = u32(below(p2, n2 if wraps else n2 - s2 + u64(1)))
                starts[u64(3) * threads + t] = u32(below(p3, n3 if wraps else n3 - s3 + u64(1)))
            cuda.syncthreads()
            k, drawn = u64(0), min(threads, limit - box)
            while searching and k < drawn:
                i0, i1 = inside(c0, u64(starts[k]), n0), inside(c1, u64(starts[threads + k]), n1)
                i2 = inside(c2, u64(starts[u64(2) * threads + k]), n2)
                i3 = inside(c3, u64(starts[u64(3) * threads + k]), n3)
                if (
                    i0 < u64(lengths[k])
                    and i1 < u64(lengths[threads + k])
                    and i2 < u64(lengths[u64(2) * threads + k])
                    and i3 < u64(lengths[u64(3) * threads + k])
                ):
                    axis = u64(4) - axes + (u64(edges[k]) >> u64(1))
                    step = i0 if axis == u64(0) else i1
                    if axis >= u64(2):
                        step = i2 if axis == u64(2) else i3
                    if u64(edges[k]) & u64(1):
                        step = u64(lengths[axis * threads + k]) - u64(1) - step
                    value = ((limit - (box + k)) << step_bits) | step
                    searching = False
                k += u64(1)
            if searching:
                left[turn & u64(1)] = u32(turn + u64(1))
            cuda.syncthreads()
            running = bool(u64(left[turn & u64(1)]) == turn + u64(1))
            box += threads
            turn += u64(1)
            if box >= limit:
                running = False
        if token < u64(numbers[0]):
            key = u64((value << u64(NOISE_BITS)) | noise)
            store(u64(out + (n * u64(numbers[0]) + token) * u64(8)), key)

    return block_keys
