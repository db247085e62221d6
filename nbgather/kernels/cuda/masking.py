"""The kernels of a masking: noise, and the ranks of few tokens with the copy of those kept.

The rank of a token is how many come before it; more tokens are sorted
(:mod:`nbgather.kernels.cuda.ranking`). A kernel takes addresses as uint64, of which 0 says
that there is no such array, and ``numbers``, a tuple of uint64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.kernels.cuda.deferred import cuda, scalar, types
from nbgather.kernels.cuda.positions import divide_narrow, u32, u64

philox4x32 = scalar.philox4x32
unit_float = scalar.unit_float
key_f4 = scalar.key_f4
key_f8 = scalar.key_f8

#: What tokens are ranked by: noise that the kernel draws, or scores.
SEED, FLOAT32, FLOAT64 = range(3)

#: Tokens of a sample that ``masking`` ranks: each is compared with each, which takes longer than a
#: sort of more.
MAX_FUSED_TOKENS = 512
#: Tokens whose noise and number are 32 bits together, which are compared in half the time.
MAX_NARROW_TOKENS = 256
#: Most threads of a block that ranks.
RANKING_THREADS = 256

#: ``numbers`` of ``masking``: tokens of a sample, tokens kept, epoch, key (low,
#: high), vectors of a row (0: no rows are copied), x's strides of samples and tokens, and what is
#: told of the noise.
MASKING_NUMBERS = 9

#: What is told of the noise, bit by bit: the sample ids are 0, 1, ...; instead of the key's lower
#: half there is the address of all of it, an int64; and instead of the epoch the address of one.
IMPLIED, SEED_THERE, EPOCH_THERE = 1, 2, 4


def make_key(memory: Any) -> Any:
    """Epoch and key (low, high) as they were given, or from where they are."""
    read, low32 = memory.LOAD["u8"], u64(0xFFFFFFFF)

    @memory.INLINE
    def key_of(epoch, low, high, told):
        if told & u64(SEED_THERE):
            seed = u64(read(u64(low)))
            low, high = u64(seed & low32), u64(seed >> u64(32))
        if told & u64(EPOCH_THERE):
            epoch = u64(read(u64(epoch)) & low32)
        return u64(epoch), u64(low), u64(high)

    return key_of


def make_token_noise(memory: Any) -> Any:
    """A thread draws the noise of four tokens.

    ``numbers``: samples, tokens, epoch, key (low, high), what is told of the noise, and the blocks
    of a sample.
    """
    load_id, store = memory.LOAD["i8"], memory.STORE["f4"]
    key_of = make_key(memory)

    def token_noise(out, ids, numbers):
        tokens, told = u64(numbers[1]), u64(numbers[5])
        epoch, k0, k1 = key_of(u64(numbers[2]), u64(numbers[3]), u64(numbers[4]), told)
        low = u64(0xFFFFFFFF)
        n, part = divide_narrow(u64(cuda.blockIdx.x), u64(numbers[6]))
        sample = n if told & u64(IMPLIED) else u64(load_id(u64(ids + n * u64(8))))
        q = part * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        if u64(4) * q < tokens:
            w0, w1, w2, w3 = philox4x32(q, sample & low, sample >> u64(32), epoch, k0, k1)
            target = u64(out + (n * tokens + u64(4) * q) * u64(4))
            rest = tokens - u64(4) * q
            store(target, unit_float(w0))
            if rest > u64(1):
                store(target + u64(4), unit_float(w1))
            if rest > u64(2):
                store(target + u64(8), unit_float(w2))
            if rest > u64(3):
                store(target + u64(12), unit_float(w3))

    return token_noise


def make_noise_key(memory: Any, narrow: bool) -> Any:
    """The key of a token whose noise is the top 24 bits of a word: ties are broken by the token.

    ``narrow``: the token takes the 8 bits that are left.
    """
    if narrow:

        @memory.INLINE
        def noise_key(word, token):
            return u32((word & u64(0xFFFFFF00)) | token)

    else:

        @memory.INLINE
        def noise_key(word, token):
            return ((word >> u64(8)) << u64(32)) | token

    return noise_key


def make_score_key(memory: Any, source: int) -> Any:
    """The key of a token by its score; a float64 takes all the bits, and leaves none for ties."""
    load_f4, load_f8 = memory.LOAD["u4"], memory.LOAD["u8"]
    if source == FLOAT64:

        @memory.INLINE
        def score_key(scores, element, token):
            return key_f8(load_f8(u64(scores + element * u64(8))))

    else:

        @memory.INLINE
        def score_key(scores, element, token):
            return (u64(key_f4(load_f4(u64(scores + element * u64(4))))) << u64(32)) | token

    return score_key


def make_masking(memory: Any, source: int, width: int, narrow: bool) -> Any:
    """A masking in one launch: a block ranks a sample, and copies its part of the kept rows.

    Rows are copied by vectors of ``width`` bytes. Blocks with the same x share a sample; each ranks
    it for itself, and the first writes the mask. ``narrow``: by seed, up to ``MAX_NARROW_TOKENS``.
    """
    load_i8 = memory.LOAD["i8"]
    store_i8, store_f4 = memory.STORE["i8"], memory.STORE["f4"]
    load, store = memory.LOAD[f"u{width}"], memory.STORE[f"u{width}"]
    zero = (u64(0), u64(0)) if width == 16 else u64(0)
    noise_key, score_key = make_noise_key(memory, narrow), make_score_key(memory, source)
    key_of = make_key(memory)
    seeded, double = source == SEED, source == FLOAT64
    key_type = types.uint32 if narrow else types.uint64

    def masking(out, src, ids, scores, keep, restore, mask, counts, numbers):
        keys = cuda.shared.array(MAX_FUSED_TOKENS, key_type)
        chosen = cuda.shared.array(MAX_FUSED_TOKENS, types.uint32)
        length, kept = u32(numbers[0]), u32(numbers[1])
        vectors = u32(numbers[5])
        x_n, x_l = u64(numbers[6]), u64(numbers[7])
        n = u64(cuda.blockIdx.x)
        t = u32(cuda.threadIdx.x)
        threads = u32(cuda.blockDim.x)
        low = u64(0xFFFFFFFF)
        if seeded:
            told = u64(numbers[8])
            epoch, k0, k1 = key_of(u64(numbers[2]), u64(numbers[3]), u64(numbers[4]), told)
            sample = n if told & u64(IMPLIED) else u64(load_i8(u64(ids + n * u64(8))))
            q = t
            while u32(u32(4) * q) < length:
                w0, w1, w2, w3 = philox4x32(u64(q), sample & low, sample >> u64(32), epoch, k0, k1)
                b = u64(q) * u64(4)
                keys[b] = noise_key(w0, b)
                keys[b + u64(1)] = noise_key(w1, b + u64(1))
                keys[b + u64(2)] = noise_key(w2, b + u64(2))
                keys[b + u64(3)] = noise_key(w3, b + u64(3))
                q = u32(q + threads)
        else:
            i = t
            while i < length:
                keys[u64(i)] = score_key(scores, n * u64(length) + u64(i), u64(i))
                i = u32(i + threads)
        cuda.syncthreads()
        visible = kept
        if counts != u64(0):
            visible = u32(load_i8(u64(counts + n * u64(8))))
        writes_mask = cuda.blockIdx.y == 0
        base = n * u64(length)
        i = t
        while i < length:
            key = keys[u64(i)]
            rank = u32(0)
            j = u32(0)
            while j < length:
                other = keys[u64(j)]
                before = other < key
                if double:
                    before = before or (other == key and j < i)
                rank = u32(rank + u32(before))
                j = u32(j + u32(1))
            if rank < visible:
                chosen[u64(rank)] = i
            if writes_mask:
                store_i8(u64(restore + (base + u64(i)) * u64(8)), np.int64(rank))
                store_f4(u64(mask + (base + u64(i)) * u64(4)), np.float32(rank >= visible))
                if keep != u64(0) and rank < kept:
                    token = np.int64(i) if rank < visible else np.int64(-1)
                    store_i8(u64(keep + (n * u64(kept) + u64(rank)) * u64(8)), token)
            i = u32(i + threads)
        cuda.syncthreads()
        # This block's part of the vectors of all kept rows, four loads in flight.
        if vectors != u32(0):
            parts = u32(cuda.gridDim.y)
            total = u32(kept * vectors)
            copied = u32(visible * vectors)
            per_part = u32(u32(total + parts - u32(1)) // parts)
            v = u32(u32(cuda.blockIdx.y) * per_part)
            end = min(u32(v + per_part), total)
            copied_end = min(end, copied)
            v = u32(v + t)
            source_row = u64(src + n * x_n)
            nbytes = u64(width)
            target = u64(out + n * u64(total) * nbytes)
            while u32(v + u32(u32(3) * threads)) < copied_end:
                v1 = u32(v + threads)
                v2 = u32(v1 + threads)
                v3 = u32(v2 + threads)
                r0 = u32(v // vectors)
                r1 = u32(v1 // vectors)
                r2 = u32(v2 // vectors)
                r3 = u32(v3 // vectors)
                s0 = source_row + u64(chosen[u64(r0)]) * x_l
                a0 = load(s0 + u64(u32(v - r0 * vectors)) * nbytes)
                s1 = source_row + u64(chosen[u64(r1)]) * x_l
                a1 = load(s1 + u64(u32(v1 - r1 * vectors)) * nbytes)
                s2 = source_row + u64(chosen[u64(r2)]) * x_l
                a2 = load(s2 + u64(u32(v2 - r2 * vectors)) * nbytes)
                s3 = source_row + u64(chosen[u64(r3)]) * x_l
                a3 = load(s3 + u64(u32(v3 - r3 * vectors)) * nbytes)
                store(target + u64(v) * nbytes, a0)
                store(target + u64(v1) * nbytes, a1)
                store(target + u64(v2) * nbytes, a2)
                store(target + u64(v3) * nbytes, a3)
                v = u32(v3 + threads)
            while v < copied_end:
                r0 = u32(v // vectors)
                s0 = source_row + u64(chosen[u64(r0)]) * x_l
                a0 = load(s0 + u64(u32(v - r0 * vectors)) * nbytes)
                store(target + u64(v) * nbytes, a0)
                v = u32(v + threads)
            while v < end:
                store(target + u64(v) * nbytes, zero)
                v = u32(v + threads)

    return masking
