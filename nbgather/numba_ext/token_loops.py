"""Noise, ranks and masks in compiled code: the kernels' own sources, on one thread."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import types

from nbgather.kernels import constants
from nbgather.kernels.constants import MASKING_ARGS, MAX_SLOT_BITS
from nbgather.kernels.cpu import masking, philox
from nbgather.kernels.cpu.intrinsics import (
    float32_at,
    int64_at,
    uint8_at,
    uint32_at,
    uint64_at,
)
from nbgather.numba_ext.emit import ADDRESS, NDIM, SIZES
from nbgather.numba_ext.intrinsics import loader, mover
from nbgather.numba_ext.subroutines import of_numbers, subroutine

U = np.uint64
_BYTES, _WORDS = types.CPointer(types.uint8), types.CPointer(types.int64)
_LOW32 = 0xFFFFFFFF

WORDS = len(MASKING_ARGS)
# Where the arguments of a masking are.
(
    LENGTH, KEPT, EPOCH, KEY_LOW, KEY_HIGH, ROW, X_N, X_L, KEEP, RESTORE, MASK, BITS, NT, COUNTS,
    IMPLIED,
) = range(len(MASKING_ARGS))  # fmt: skip


def _kernel(source: Any, out: Any, aux: Any, key: Any) -> Any:
    """A range kernel's source as a subroutine, its pointers to what they are for."""
    signature = types.int64(
        types.CPointer(out), _BYTES, _WORDS, types.CPointer(aux), _WORDS, types.int64, types.int64
    )
    return subroutine(signature, key)(source)


_noise = _kernel(philox.token_noise_range, types.float32, types.uint8, "noise")


@functools.cache
def ids_maker(kind: Any) -> Any:
    """``make(to, ids)``: sample ids of an integer type as int64, one after the other."""
    load = loader(kind)

    @of_numbers(2, types.void, key=str(kind))
    def make(to, ids):
        w, made = int64_at(U(ids)), int64_at(U(to))
        at = w[ADDRESS]
        for n in range(w[SIZES]):
            made[n] = np.int64(load(at))
            at += w[SIZES + 1]

    return make


@of_numbers(2, types.void)
def count_up(to, count):
    """Sample ids 0, 1, ..."""
    made = int64_at(U(to))
    for n in range(count):
        made[n] = n


@of_numbers(7, types.void)
def draw_noise(out, ids, samples, tokens, epoch, seed, args):
    """Noise `[N, L]` at an address, for int64 ids at another; ``args`` is memory for five words."""
    numbers = int64_at(U(args))
    numbers[0], numbers[1], numbers[4] = tokens, epoch, 1
    numbers[2], numbers[3] = seed & _LOW32, (seed >> 32) & _LOW32
    nothing = uint8_at(U(0))
    _noise(float32_at(U(out)), nothing, int64_at(U(ids)), nothing, numbers, 0, samples)


class Counting(NamedTuple):
    """What there is to know of how many tokens each sample keeps, of the words of an array.

    ``at(counts, sample)`` is a number, ``first_bad(counts, length)`` the first sample of which not
    so many of ``length`` tokens can stay, or -1, and ``most(counts)`` the largest, or 0 of none.
    """

    at: Any
    first_bad: Any
    most: Any


@functools.cache
def counting(kind: Any) -> Counting:
    """`Counting` of numbers of an integer type."""
    load = loader(kind)

    @of_numbers(2, key=str(kind))
    def count_at(counts, sample):
        w = int64_at(U(counts))
        return np.int64(load(w[ADDRESS] + sample * w[SIZES + 1]))

    @of_numbers(2, key=str(kind))
    def first_bad_count(counts, length):
        for n in range(int64_at(U(counts))[SIZES]):
            number = count_at(counts, n)
            if number < 0 or number > length:
                return n
        return -1

    @of_numbers(1, key=str(kind))
    def largest_count(counts):
        most = np.int64(0)
        for n in range(int64_at(U(counts))[SIZES]):
            most = max(most, count_at(counts, n))
        return most

    return Counting(count_at, first_bad_count, largest_count)


@of_numbers(4, types.void)
def mark_valid(valid, counts, samples, slots):
    """Which of a sample's slots hold a token: bool `[N, slots]` and int64 counts, at addresses."""
    marks, numbers = uint8_at(U(valid)), int64_at(U(counts))
    for n in range(samples):
        for k in range(slots):
            marks[n * slots + k] = 1 if k < numbers[n] else 0


@functools.cache
def blanker(itemsize: int) -> Any:
    """``blank(x, valid, row, step)``: the mask token where no token is, by the words of arrays.

    ``x`` is contiguous; ``row`` is the address of the token, of which items are ``step`` apart.
    """
    move = mover(itemsize)

    @of_numbers(4, types.void, key=itemsize)
    def blank(x, valid, row, step):
        xw, vw = int64_at(U(x)), int64_at(U(valid))
        count = np.int64(1)
        for d in range(2, xw[NDIM]):
            count *= xw[SIZES + d]
        to = xw[ADDRESS]
        for n in range(xw[SIZES]):
            at = vw[ADDRESS] + n * vw[SIZES + 2]
            for _ in range(xw[SIZES + 1]):
                if uint8_at(U(at))[0] == 0:
                    for p in range(count):
                        move(to + p * itemsize, row + p * step)
                to += count * itemsize
                at += vw[SIZES + 3]

    return blank


_SOURCES = {"seed": constants.SEED, "f4": constants.FLOAT32, "f8": constants.FLOAT64}
_BITS = {"seed": types.uint8, "f4": types.uint32, "f8": types.uint64}
_AT = {"seed": uint8_at, "f4": uint32_at, "f8": uint64_at}


@functools.cache
def masker(source: str) -> Any:
    """``mask(args, samples, ids, scores, epoch, seed, counts)``: not 0 if there is no memory.

    ``args`` are the words of a masking, of which those have been written that are addresses and
    sizes.
    """
    kernel = _kernel(
        masking.make_masking(_SOURCES[source]), types.uint8, _BITS[source], ("masking", source)
    )
    scores_at = _AT[source]

    @of_numbers(7, key=source)
    def mask(args, samples, ids, scores, epoch, seed, counts):
        numbers = int64_at(U(args))
        length = numbers[LENGTH]
        if samples == 0 or length == 0:
            return 0
        bits = 1
        while bits < MAX_SLOT_BITS and (length - 1) >> (bits + 1) != 0:
            bits += 1
        numbers[BITS], numbers[EPOCH] = bits, epoch
        numbers[KEY_LOW], numbers[KEY_HIGH] = seed & _LOW32, (seed >> 32) & _LOW32
        for k in (ROW, X_N, X_L, NT):
            numbers[k] = 0
        numbers[COUNTS] = counts
        numbers[IMPLIED] = 1 if ids == 0 else 0
        nothing = uint8_at(U(0))
        return kernel(nothing, nothing, int64_at(U(ids)), scores_at(U(scores)), numbers, 0, samples)

    return mask


@of_numbers(1, types.boolean)
def is_contiguous(words):
    """Whether an array's items follow each other as those of a new one."""
    w = int64_at(U(words))
    nd, step = w[NDIM], w[SIZES + 2 * w[NDIM] - 1]
    for k in range(nd):
        d = nd - 1 - k
        if w[SIZES + d] != 1 and w[SIZES + nd + d] != step:
            return False
        step *= w[SIZES + d]
    return True


@of_numbers(2, types.boolean)
def fits_token(token, x):
    """Whether a mask token broadcasts to one token of x; leading dimensions of 1 do not count."""
    tw, xw = int64_at(U(token)), int64_at(U(x))
    nd, inner = tw[NDIM], xw[NDIM] - 2
    for k in range(nd):
        n = tw[SIZES + nd - 1 - k]
        if k >= inner:
            if n != 1:
                return False
        elif n != 1 and n != xw[SIZES + xw[NDIM] - 1 - k]:
            return False
    return True


@functools.cache
def rower(converter: Any, key: Any, itemsize: int) -> Any:
    """``make(to, token, x)``: one token of x at an address, of a mask token's words."""

    @of_numbers(3, types.void, key=key)
    def make(to, token, x):
        tw, xw = int64_at(U(token)), int64_at(U(x))
        nd, inner = tw[NDIM], xw[NDIM] - 2
        count = np.int64(1)
        for d in range(2, xw[NDIM]):
            count *= xw[SIZES + d]
        for p in range(count):
            at, rest = tw[ADDRESS], p
            for k in range(inner):
                m = xw[SIZES + xw[NDIM] - 1 - k]
                position = rest % m
                rest //= m
                if k < nd and tw[SIZES + nd - 1 - k] != 1:
                    at += position * tw[SIZES + 2 * nd - 1 - k]
            converter(to + p * itemsize, at)

    return make
