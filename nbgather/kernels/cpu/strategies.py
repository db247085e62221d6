"""The strategies' kernels: each orders a sample's tokens, and a score is the rank in that order.

A token's key has the strategy's value in its upper bits and the token's noise in its 24 lowest; of
equal keys the lower token comes first. Only integers, and square roots that IEEE 754 rounds
exactly: the same bits on every machine.

``args`` = [L, epoch, key low, key high, axes, p0, p1, p2, bits, line bits, size of each axis...].
``bits`` number the slots that a sample's keys are sorted into, and its lines'. The words of a
sample come from counters of its own, one stream for each purpose: the tokens' noise is the first.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from nbgather.kernels.constants import BLOCK_KEYS, GRID, LINES
from nbgather.kernels.cpu.intrinsics import (
    address,
    allocate,
    int32_at,
    int64_at,
    release,
    trailing_zeros,
    uint32_at,
    uint64_at,
    words_on_stack,
)
from nbgather.kernels.cpu.philox import draw
from nbgather.kernels.cpu.ranking import SIGN_8, fill_later, make_rank_keys

U = np.uint64

#: The position of the sizes in ``args``.
SIZES = 10
STREAM_GRID, STREAM_BLOCK, STREAM_LINES = U(1 << 28), U(2 << 28), U(3 << 28)
#: Bits of a key that are the token's noise.
NOISE_BITS = U(24)
#: Lines up to which a key of 32 bits has room for the line and the noise.
NARROW_LINES = U(1 << 31 - 24)
#: Words of a box: area, aspect, side, one unused, four positions, four extents of leading axes,
#: four unused. And the boxes whose words are drawn at once.
BOX_WORDS, DRAWN_BOXES = U(16), U(8)
_four_on_stack = words_on_stack(4)
#: The table of aspect ratios has 2**10 entries.
ASPECT_BITS = 10


@njit(inline="always")
def below(word, count):
    """A number below ``count`` from a word of 32 bits."""
    return (U(word) * count) >> U(32)


@njit(inline="always")
def wrapped(coordinate, size):
    """A coordinate below ``2 * size``, modulo ``size``."""
    return coordinate - size if coordinate >= size else coordinate


@njit(inline="always")
def rounded_root(area, aspect):
    return U(math.floor(math.sqrt(np.float64(np.int64(area)) * aspect) + 0.5))


@njit(inline="always")
def box_sides(area, aspect, height, width):
    """Height and width of a box: cut to the grid, and its area kept as far as possible."""
    h, w = rounded_root(area, aspect), rounded_root(area, 1.0 / aspect)
    if h > height:
        h = height
        w = (U(2) * area + h) // (U(2) * h)
    if w > width:
        w = width
        h = min((U(2) * area + w) // (U(2) * w), height)
    return max(h, U(1)), max(w, U(1))


@njit
def grid_keys(keys, kind, length, args, words, sample, epoch, k0, k1):
    """A lattice of one token in ``stride`` along each axis goes first; each sample has a phase."""
    axes, stride = U(args[4]), U(args[5])
    draw(words, STREAM_GRID, axes, sample, epoch, k0, k1, U(0))
    for d in range(axes):
        # Below the size too, so that no lattice is outside the grid.
        words[d] = np.uint32(below(words[d], min(stride, U(args[SIZES + d]))))
    for t in range(length):
        keys[t] = kind(U(1) << NOISE_BITS)
    width, first = U(args[SIZES + axes - U(1)]), U(words[axes - U(1)])
    for r in range(length // width):
        rest, on_lattice = U(r), True
        for back in range(U(1), axes):
            axis = axes - U(1) - back
            size = U(args[SIZES + axis])
            if rest % size % stride != U(words[axis]):
                on_lattice = False
            rest //= size
        if on_lattice:
            for t in range(r * width + first, (r + U(1)) * width, stride):
                keys[t] = kind(0)


@njit
def draw_lines(keys, args, words, sample, epoch, k0, k1):
    """The keys of all lines that take part, axis by axis, by which they are ordered; their number.

    Bit d of p0 is set if the lines across axis d take part.
    """
    total = U(0)
    for d in range(U(args[4])):
        if (U(args[5]) >> d) & U(1):
            total += U(args[SIZES + d])
    draw(words, STREAM_LINES, total, sample, epoch, k0, k1, U(0))
    for k in range(total):
        keys[k] = np.int64(words[k])
    return total


@njit
def line_keys(keys, kind, length, args, lines, total):
    """Whole rows, columns, ...: a token goes with the last of its lines, which are ranked."""
    axes, chosen = U(args[4]), U(args[5])
    width = U(args[SIZES + axes - U(1)])
    along = (chosen >> (axes - U(1))) & U(1)
    for r in range(length // width):
        rest, last = U(r), U(0)
        end = total - (width if along else U(0))
        for back in range(U(1), axes):
            axis = axes - U(1) - back
            size = U(args[SIZES + axis])
            if (chosen >> axis) & U(1):
                end -= size
                last = max(last, U(lines[end + rest % size]))
            rest //= size
        for c in range(width):
            line = max(last, U(lines[total - width + c])) if along else last
            keys[r * width + c] = kind(line << NOISE_BITS)


@njit
def paint(keys, free, row, words, first, count, value, change):
    """Set the keys of a row's free tokens among ``count`` from the first on; how many were free.

    Each is ``change`` more than that of the token before it. ``free`` has a bit for each token, in
    ``words`` for each row.
    """
    painted = U(0)
    end = first + count
    for w in range(first >> U(6), (end + U(63)) >> U(6)):
        begin = w << U(6)
        mask = ~U(0)
        if begin < first:
            mask <<= first - begin
        if end - begin < U(64):
            mask &= (U(1) << (end - begin)) - U(1)
        at = row * words + w
        fresh = free[at] & mask
        free[at] ^= fresh
        while fresh != U(0):
            place = begin + trailing_zeros(fresh)
            keys[place] = value + (place - first) * change
            painted += U(1)
            fresh &= fresh - U(1)
    return painted


@njit
def block_keys(keys, length, args, aspects, words, free, sample, epoch, k0, k1):
    """Boxes one after the other: a token goes with the first that covers it.

    p0, p1: least and largest area; p2: 1 if boxes wrap around. Of a box that is kept in part, one
    side goes first. ``free`` is memory for as many words as there are tokens.
    """
    axes, least, largest, wrap = U(args[4]), U(args[5]), U(args[6]), args[7] != 0
    height = U(args[SIZES + axes - U(2)]) if axes > U(1) else U(1)
    width = U(args[SIZES + axes - U(1)])
    limit = U(8) * (length // least) + U(32)
    size = uint64_at(U(_four_on_stack()))
    side, start = uint64_at(U(_four_on_stack())), uint64_at(U(_four_on_stack()))
    for d in range(4):
        size[d], side[d], start[d] = U(1), U(1), U(0)
    most = U(1)
    for d in range(axes):
        size[U(4) - axes + d] = U(args[SIZES + d])
        most = max(most, U(args[SIZES + d]))
    # A key has the box, the step within it, and the noise: of at most 24, 16 and 24 bits.
    step_bits = U(0)
    while most > U(1) << step_bits:
        step_bits += U(1)
    for t in range(length):
        keys[t] = U(0)
    row_words = (width + U(63)) >> U(6)
    for w in range(length // width * row_words):
        free[w] = ~U(0)
    covered = box = U(0)
    while covered < length and box < limit:
        at = box % DRAWN_BOXES * BOX_WORDS
        if at == U(0):
            counter = STREAM_BLOCK + box * (BOX_WORDS // U(4))
            draw(words, counter, DRAWN_BOXES * BOX_WORDS, sample, epoch, k0, k1, U(0))
        area = least + below(words[at], largest - least + U(1))
        aspect = aspects[words[at + U(1)] >> (32 - ASPECT_BITS)]
        side[2], side[3] = box_sides(area, aspect, height, width)
        edge = below(words[at + U(2)], U(2) * axes)
        for d in range(U(4) - axes, U(4)):
            if d < U(2):
                side[d] = U(1) + below(words[at + U(8) + d], size[d])
            room = size[d] if wrap else size[d] - side[d] + U(1)
            start[d] = below(words[at + U(4) + d], room)
        axis, turned = U(4) - axes + edge // U(2), edge % U(2)
        change = U(0)
        if axis == U(3):
            change = (U(0) - U(1) if turned else U(1)) << NOISE_BITS
        before = min(size[3] - start[3], side[3])
        for a in range(side[0]):
            plane = wrapped(start[0] + a, size[0])
            for b in range(side[1]):
                sheet = plane * size[1] + wrapped(start[1] + b, size[1])
                for c in range(side[2]):
                    row = sheet * size[2] + wrapped(start[2] + c, size[2])
                    row_keys = uint64_at(address(keys) + U(8) * row * width)
                    step = U(a if axis == U(0) else b if axis == U(1) else c)
                    if axis == U(3):
                        step = U(0)
                    if turned:
                        step = side[axis] - U(1) - step
                    value = (((limit - box) << step_bits) | step) << NOISE_BITS
                    covered += paint(
                        row_keys, free, row, row_words, start[3], before, value, change
                    )
                    if before < side[3]:
                        covered += paint(
                            row_keys, free, row, row_words, U(0), side[3] - before,
                            value + before * change, change,
                        )  # fmt: skip
        box += U(1)


def make_score(item):
    """The function from keys, whose noise is still missing, to the scores of a sample."""
    wide = item == 8
    at, kind = (int64_at, np.int64) if wide else (int32_at, np.int32)
    sign = SIGN_8 if wide else U(0)
    rank_keys = make_rank_keys(item)

    @njit
    def score(out, o, words, keys, sorted_keys, later, ranks, order, tokens, other, slots, counts,
              length, bits):  # fmt: skip
        signed_keys = at(address(keys))
        for t in range(length):
            signed_keys[t] = kind((U(keys[t]) | U(words[t])) ^ sign)
        rank_keys(
            ranks, order, tokens, signed_keys, at(address(sorted_keys)), other, slots, counts,
            length, bits, later,
        )  # fmt: skip
        for t in range(length):
            out[o + t] = np.float32(ranks[t])

    return score


rank_lines = make_rank_keys(8)
score_wide, score_narrow = make_score(8), make_score(4)


def make_strategy(kind):
    def strategy(out, src, idx, aux, args, lo, hi):
        # out: the scores, idx: the sample ids, aux: the table of aspect ratios.
        length = U(args[0])
        epoch, k0, k1 = U(args[1]), U(args[2]), U(args[3])
        bits, line_bits = U(args[8]), U(args[9])
        # Lines of one token each can outnumber the tokens, by one for each axis. Blocks of keys and
        # words of noise reach beyond the last key.
        room = (length + U(args[4]) + U(BLOCK_KEYS) + U(3)) & ~U(3)
        slots_count = max(U(1) << max(bits, line_bits), U(256))
        memory = allocate(
            uint64_at(U(0)),
            U(48) * room
            + U(4) * (slots_count + BOX_WORDS * DRAWN_BOXES)
            + U(12 * BLOCK_KEYS * BLOCK_KEYS),
        )
        start = address(memory)
        if start == U(0):
            return 1
        keys, signed_keys, narrow_keys = memory, int64_at(start), int32_at(start)
        sorted_keys, other = int64_at(start + U(8) * room), int64_at(start + U(16) * room)
        rest = start + U(24) * room
        ranks, lines = int32_at(rest), int32_at(rest + U(4) * room)
        tokens, slots = uint32_at(rest + U(8) * room), uint32_at(rest + U(12) * room)
        order, words = uint32_at(rest + U(16) * room), uint32_at(rest + U(20) * room)
        rest += U(24) * room + U(4) * BOX_WORDS * DRAWN_BOXES
        later, narrow_later = int64_at(rest), int32_at(rest + U(8 * BLOCK_KEYS * BLOCK_KEYS))
        counts = uint32_at(rest + U(12 * BLOCK_KEYS * BLOCK_KEYS))
        fill_later(later)
        fill_later(narrow_later)
        for n in range(U(lo), U(hi)):
            sample = U(idx[n])
            narrow = kind == GRID
            if kind == GRID:
                grid_keys(narrow_keys, np.int32, length, args, words, sample, epoch, k0, k1)
            elif kind == LINES:
                total = draw_lines(signed_keys, args, words, sample, epoch, k0, k1)
                rank_lines(
                    lines, order, tokens, signed_keys, sorted_keys, other, slots, counts, total,
                    line_bits, later,
                )  # fmt: skip
                narrow = total <= NARROW_LINES
                if narrow:
                    line_keys(narrow_keys, np.int32, length, args, lines, total)
                else:
                    line_keys(keys, U, length, args, lines, total)
            else:
                free = uint64_at(address(sorted_keys))
                block_keys(keys, length, args, aux, words, free, sample, epoch, k0, k1)
            draw(words, U(0), length, sample, epoch, k0, k1, U(32) - NOISE_BITS)
            if narrow:
                score_narrow(
                    out, n * length, words, narrow_keys, sorted_keys, narrow_later, ranks, order,
                    tokens, other, slots, counts, length, bits,
                )  # fmt: skip
            else:
                score_wide(
                    out, n * length, words, keys, sorted_keys, later, ranks, order, tokens, other,
                    slots, counts, length, bits,
                )  # fmt: skip
        release(memory)
        return 0

    return strategy
