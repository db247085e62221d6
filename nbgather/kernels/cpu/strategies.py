"""The strategies' kernels: each orders a sample's tokens, and a score is the rank in that order.

A token's key has the strategy's value in its upper bits and the token's noise in its 24 lowest; of
equal keys the lower token comes first. Only integers, and square roots that IEEE 754 rounds
exactly: the same bits on every machine.

``args`` = [L, epoch, key low, key high, axes, p0, p1, p2, size of each axis...]. The words of a
sample come from counters of its own, one stream for each purpose: the tokens' noise is the first.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from nbgather.kernels import scalar
from nbgather.kernels.constants import GRID, LINES
from nbgather.kernels.cpu.intrinsics import (
    address,
    allocate,
    release,
    uint32_at,
    uint64_at,
    words_on_stack,
)
from nbgather.kernels.cpu.philox import draw
from nbgather.kernels.cpu.ranking import radix_pass

U = np.uint64

philox4x32 = scalar.philox4x32

STREAM_GRID, STREAM_BLOCK, STREAM_LINES = U(1 << 28), U(2 << 28), U(3 << 28)
#: Words of a box: area, aspect, side, one unused, four positions, four extents of leading axes.
BOX_WORDS = 16
_four_on_stack = words_on_stack(4)
#: The table of aspect ratios has 2**10 entries.
ASPECT_BITS = 10


@njit(inline="always")
def word_of(sample, epoch, k0, k1, stream, number):
    """One 32-bit word of a sample."""
    low = U(0xFFFFFFFF)
    w0, w1, w2, w3 = philox4x32(
        stream + number // U(4), sample & low, sample >> U(32), epoch, k0, k1
    )
    lane = number % U(4)
    return w0 if lane == U(0) else w1 if lane == U(1) else w2 if lane == U(2) else w3


@njit(inline="always")
def below(word, count):
    """A number below ``count`` from a word."""
    return (word * count) >> U(32)


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
def grid_keys(keys, length, args, sample, epoch, k0, k1):
    """A lattice of one token in ``stride`` along each axis goes first; each sample has a phase."""
    axes, stride = U(args[4]), U(args[5])
    for t in range(length):
        rest, on_lattice = U(t), True
        for back in range(axes):
            d = axes - U(1) - back
            size = U(args[8 + d])
            coordinate = rest % size
            rest = rest // size
            word = word_of(sample, epoch, k0, k1, STREAM_GRID, U(d))
            # Below the size too, so that no lattice is outside the grid.
            phase = below(word, min(stride, size))
            if coordinate % stride != phase:
                on_lattice = False
        keys[t] = U(0) if on_lattice else U(1) << U(24)


@njit
def line_keys(keys, length, args, sample, epoch, k0, k1, lines, ranked, other, counts):
    """Whole rows, columns, ...: a token goes with the last of its lines in a random order.

    Bit d of p0 is set if the lines across axis d take part.
    """
    axes, chosen = U(args[4]), U(args[5])
    total = U(0)
    for d in range(axes):
        if (chosen >> d) & U(1):
            for _ in range(U(args[8 + d])):
                lines[total] = word_of(sample, epoch, k0, k1, STREAM_LINES, total)
                ranked[total] = total
                total += U(1)
    for digit in range(U(4)):
        if radix_pass(ranked, other, lines, counts, total, digit, True):
            ranked, other = other, ranked
    for r in range(total):
        lines[ranked[r]] = r
    for t in range(length):
        rest, last, end = U(t), U(0), total
        for back in range(axes):
            axis = axes - U(1) - back
            size = U(args[8 + axis])
            coordinate = rest % size
            rest = rest // size
            if (chosen >> axis) & U(1):
                end -= size
                last = max(last, lines[end + coordinate])
        keys[t] = last << U(24)


@njit
def block_keys(keys, length, args, aspects, sample, epoch, k0, k1):
    """Boxes one after the other: a token goes with the first that covers it.

    p0, p1: least and largest area; p2: 1 if boxes wrap around. Of a box that is kept in part, one
    side goes first.
    """
    axes, least, largest, wrap = U(args[4]), U(args[5]), U(args[6]), args[7] != 0
    height = U(args[8 + axes - U(2)]) if axes > U(1) else U(1)
    width = U(args[8 + axes - U(1)])
    limit = U(8) * (length // least) + U(32)
    size = uint64_at(U(_four_on_stack()))
    side, start = uint64_at(U(_four_on_stack())), uint64_at(U(_four_on_stack()))
    for d in range(4):
        size[d], side[d], start[d] = U(1), U(1), U(0)
    for d in range(axes):
        size[U(4) - axes + d] = U(args[8 + d])
    for t in range(length):
        keys[t] = U(0)
    covered = box = U(0)
    while covered < length and box < limit:
        first = box * U(BOX_WORDS)
        area = least + below(
            word_of(sample, epoch, k0, k1, STREAM_BLOCK, first), largest - least + U(1)
        )
        entry = word_of(sample, epoch, k0, k1, STREAM_BLOCK, first + U(1)) >> U(32 - ASPECT_BITS)
        side[2], side[3] = box_sides(area, aspects[entry], height, width)
        edge = below(word_of(sample, epoch, k0, k1, STREAM_BLOCK, first + U(2)), U(2) * axes)
        for d in range(U(4) - axes, U(4)):
            if d < U(2):
                word = word_of(sample, epoch, k0, k1, STREAM_BLOCK, first + U(8) + d)
                side[d] = U(1) + below(word, size[d])
            word = word_of(sample, epoch, k0, k1, STREAM_BLOCK, first + U(4) + d)
            start[d] = below(word, size[d] if wrap else size[d] - side[d] + U(1))
        axis, turned = U(4) - axes + edge // U(2), edge % U(2)
        for a in range(side[0]):
            plane = wrapped(start[0] + a, size[0])
            for b in range(side[1]):
                sheet = plane * size[1] + wrapped(start[1] + b, size[1])
                for c in range(side[2]):
                    row = (sheet * size[2] + wrapped(start[2] + c, size[2])) * size[3]
                    for e in range(side[3]):
                        t = row + wrapped(start[3] + e, size[3])
                        if keys[t] == U(0):
                            step = a if axis == 0 else b if axis == 1 else c if axis == 2 else e
                            if turned:
                                step = side[axis] - U(1) - step
                            keys[t] = ((limit - box) << U(40)) | (step << U(24))
                            covered += U(1)
        box += U(1)


def make_strategy(kind):
    def strategy(out, src, idx, aux, args, lo, hi):
        # out: the scores, idx: the sample ids, aux: the table of aspect ratios.
        length = U(args[0])
        epoch, k0, k1 = U(args[1]), U(args[2]), U(args[3])
        # Lines of one token each can outnumber the tokens, by one for each axis.
        capacity = length + U(args[4])
        memory = allocate(uint64_at(U(0)), U(40) * capacity + U(16) + U(4 * 256))
        start = address(memory)
        if start == U(0):
            return 1
        ranked, other = memory, uint64_at(start + U(8) * capacity)
        keys, lines = uint64_at(start + U(16) * capacity), uint64_at(start + U(24) * capacity)
        words = uint32_at(start + U(32) * capacity)
        counts = uint32_at(start + U(40) * capacity + U(16))
        for n in range(U(lo), U(hi)):
            sample = U(idx[n])
            if kind == GRID:
                grid_keys(keys, length, args, sample, epoch, k0, k1)
            elif kind == LINES:
                line_keys(keys, length, args, sample, epoch, k0, k1, lines, ranked, other, counts)
            else:
                block_keys(keys, length, args, aux, sample, epoch, k0, k1)
            draw(words, U(0), length, sample, epoch, k0, k1, U(8))
            for t in range(length):
                keys[t] |= U(words[t])
                ranked[t] = t
            for digit in range(U(8)):
                if radix_pass(ranked, other, keys, counts, length, digit, True):
                    ranked, other = other, ranked
            for r in range(length):
                out[n * length + ranked[r]] = np.float32(r)
        release(memory)
        return 0

    return strategy
