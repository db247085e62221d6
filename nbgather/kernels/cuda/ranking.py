"""The ranks of long rows of tokens: what a stable sort of their keys reads, and what it writes.

The sort is that of :mod:`nbgather.kernels.cuda.radix`, of which each sample is a segment. Equal
keys stay as they are, so that the lower token comes first. Its ``numbers`` go on here: tokens kept,
epoch, key (low, high), and what is told of the noise; ``a`` are the ids or the scores.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from nbgather.kernels.cuda import radix
from nbgather.kernels.cuda.deferred import scalar
from nbgather.kernels.cuda.masking import IMPLIED, make_key
from nbgather.kernels.cuda.positions import u32, u64

philox4x32 = scalar.philox4x32
key_f4 = scalar.key_f4
key_f8 = scalar.key_f8

#: ``numbers`` of a kernel that ranks.
RANKING_NUMBERS = radix.SOURCE_NUMBERS + 5
_KEPT, _EPOCH, _KEY_LOW, _KEY_HIGH, _TOLD = range(radix.SOURCE_NUMBERS, RANKING_NUMBERS)

#: Bits of noise that a token is ranked by.
NOISE_BITS = 24


def _make_own_token(memory: Any) -> Any:
    @memory.INLINE
    def token(tokens, b, n, p, numbers):
        return u32(p)

    return token


def make_noise_source(memory: Any) -> SimpleNamespace:
    """The noise of four tokens at once, drawn where it is used."""
    load_id, key_of = memory.LOAD["i8"], make_key(memory)

    @memory.INLINE
    def four_keys(keys, tokens, a, flag, n, q, numbers):
        low, told = u64(0xFFFFFFFF), u64(numbers[_TOLD])
        epoch, k0, k1 = key_of(
            u64(numbers[_EPOCH]), u64(numbers[_KEY_LOW]), u64(numbers[_KEY_HIGH]), told
        )
        sample = n if told & u64(IMPLIED) else u64(load_id(u64(a + n * u64(8))))
        w0, w1, w2, w3 = philox4x32(q, sample & low, sample >> u64(32), epoch, k0, k1)
        shift = u64(32 - NOISE_BITS)
        return u32(w0 >> shift), u32(w1 >> shift), u32(w2 >> shift), u32(w3 >> shift)

    return SimpleNamespace(four_keys=four_keys, token=_make_own_token(memory))


def make_f4_source(memory: Any) -> SimpleNamespace:
    """Scores of float32."""
    load = memory.LOAD["u4"]

    @memory.INLINE
    def one_key(keys, tokens, a, flag, n, p, numbers):
        return key_f4(load(u64(a + (n * u64(numbers[0]) + p) * u64(4))))

    fours = radix.make_by_fours(memory, one_key)
    return SimpleNamespace(four_keys=fours, token=_make_own_token(memory))


def make_f8_source(memory: Any, shift: int, by_token: bool) -> SimpleNamespace:
    """32 bits of the keys of float64; ``by_token``, of the tokens that the passes before sorted."""
    load, read = memory.LOAD["u8"], memory.LOAD["u4"]

    @memory.INLINE
    def one_key(keys, tokens, a, flag, n, p, numbers):
        row = n * u64(numbers[0])
        if by_token:
            p = u64(read(u64(tokens + (row + p) * u64(4))))
        key = key_f8(load(u64(a + (row + p) * u64(8))))
        return u32((key >> u64(shift)) & u64(0xFFFFFFFF))

    fours = radix.make_by_fours(memory, one_key)
    token = radix.make_carried(memory).token if by_token else _make_own_token(memory)
    return SimpleNamespace(four_keys=fours, token=token)


def make_rank_sink(memory: Any) -> Any:
    """A token's place is its rank: it goes to ids_restore, mask and ids_keep (0: not written).

    ``counts`` are the tokens that each sample keeps, or 0.
    """
    load_i8, store_i8, store_f4 = memory.LOAD["i8"], memory.STORE["i8"], memory.STORE["f4"]

    @memory.INLINE
    def rank(restore, mask, keep, counts, n, place, key, token, numbers):
        kept = u64(numbers[_KEPT])
        at = n * u64(numbers[0]) + u64(token)
        visible = kept
        if counts != u64(0):
            visible = u64(load_i8(u64(counts + n * u64(8))))
        store_i8(u64(restore + at * u64(8)), np.int64(place))
        store_f4(u64(mask + at * u64(4)), np.float32(place >= visible))
        if keep != u64(0) and place < kept:
            kept_token = np.int64(token) if place < visible else np.int64(-1)
            store_i8(u64(keep + (n * kept + place) * u64(8)), kept_token)

    return rank


#: What makes the sources of 32 bits of a key each, the lowest first, for samples sorted whole.
WHOLE_SOURCES = {
    "seed": lambda memory: (make_noise_source(memory),),
    "f4": lambda memory: (make_f4_source(memory),),
    "f8": lambda memory: (make_f8_source(memory, 0, False), make_f8_source(memory, 32, False)),
}
#: The bits of the keys of each of these.
KEY_BITS = {"seed": NOISE_BITS, "f4": 32, "f8": 32}
