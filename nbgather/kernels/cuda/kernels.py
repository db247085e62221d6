"""The CUDA kernels: addresses and numbers in, bytes moved, a flag raised when an index was bad.

Every factory takes ``memory``, which is :mod:`nbgather.kernels.cuda.memory` or the simulator's
stand-in, and what the kernel is made for; every kernel takes addresses as uint64 and ``numbers``,
a tuple of uint64. Strides are in bytes and may be negative, modulo 2**64. An axis is four numbers:
length and strides in input, index and output; innermost axis first.

Positions are taken apart by 32-bit divisions. A GPU has no 64-bit one: where there are 2**32
positions (``wide``), they are multiplied by reciprocals, and each axis has that of its length too,
the bits of a float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, njit, types

from nbgather.kernels import scalar
from nbgather.kernels.scalar import FILL

U = np.uint64
u32 = np.uint32

resolve = scalar.resolve
philox4x32 = scalar.philox4x32
unit_float = scalar.unit_float
key_f4 = scalar.key_f4
key_f8 = scalar.key_f8

#: Elements that a thread of an element gather takes.
ITEMS = 4
#: Tokens that the fused masking can rank; more are ranked tile by tile.
MAX_TOKENS = 2048
#: Threads of a block that ranks, and tokens of a tile.
RANKERS = 256
TILE = 1024
#: Lanes and steps of a staged scatter.
LANES = 32
STEPS = 32
#: Threads of a block that scatters into one lane.
SCANNERS = 256

SEED, FLOAT32, FLOAT64 = range(3)
SET, ADD, ANY = range(3)


@njit(inline="always")
def split_narrow(p, n):
    """Quotient and remainder of numbers below 2**32."""
    q = u32(u32(p) // u32(n))
    return U(q), U(u32(u32(p) - u32(q * u32(n))))


@njit(inline="always")
def split_wide(p, n, reciprocal):
    """The same below 2**52: the product is off by one at most, and the remainder tells."""
    q = np.int64(np.float64(np.int64(p)) * reciprocal)
    r = np.int64(p) - q * np.int64(n)
    if r < 0:
        q -= 1
        r += np.int64(n)
    if r >= np.int64(n):
        q += 1
        r -= np.int64(n)
    return U(q), U(r)


def make_locate(memory: Any, axes: int, first: int, wide: bool) -> Any:
    """The offsets in input, index and output of a position; axes begin at ``numbers[first]``."""
    per = 5 if wide else 4
    as_f8 = memory.AS_F8

    @memory.INLINE
    def locate(p, numbers):
        x = U(0)
        i = U(0)
        o = U(0)
        for d in range(axes):
            at = first + per * d
            if d == axes - 1:
                r = U(p)
            elif wide:
                p, r = split_wide(p, U(numbers[at]), as_f8(U(numbers[at + 4])))
            else:
                p, r = split_narrow(p, U(numbers[at]))
            x += r * U(numbers[at + 1])
            i += r * U(numbers[at + 2])
            o += r * U(numbers[at + 3])
        return x, i, o

    return locate


#: ``numbers`` of a gather: count, size, limit, stride along the dimension, the fill's 16 bytes as
#: two halves, then for rows the vectors of a row; then the axes.
ELEMENT_AXES, ROW_AXES = 6, 7


def make_gather_elements(
    memory: Any, axes: int, item: int, index: str, mode: int, from_end: bool, wide: bool
) -> Any:
    """Each thread moves ``ITEMS`` elements, a block's width apart."""
    load_index, note = memory.LOAD[index], memory.STORE["u4"]
    load, store = memory.LOAD[f"u{item}"], memory.STORE[f"u{item}"]
    locate = make_locate(memory, axes, ELEMENT_AXES, wide)
    pair, filling = item == 16, mode == FILL

    @memory.INLINE
    def fill_value(numbers):
        if pair:
            return (U(numbers[4]), U(numbers[5]))
        return U(numbers[4])

    def gather_elements(out, src, idx, flag, numbers):
        count, size, limit, along = U(numbers[0]), U(numbers[1]), U(numbers[2]), U(numbers[3])
        threads = U(cuda.blockDim.x)
        p = U(cuda.blockIdx.x) * threads * U(ITEMS) + U(cuda.threadIdx.x)
        if p + U(3) * threads < count:
            x0, i0, o0 = locate(p, numbers)
            x1, i1, o1 = locate(p + threads, numbers)
            x2, i2, o2 = locate(p + U(2) * threads, numbers)
            x3, i3, o3 = locate(p + U(3) * threads, numbers)
            j0 = resolve(load_index(U(idx + i0)), size, mode, from_end)
            j1 = resolve(load_index(U(idx + i1)), size, mode, from_end)
            j2 = resolve(load_index(U(idx + i2)), size, mode, from_end)
            j3 = resolve(load_index(U(idx + i3)), size, mode, from_end)
            if j0 < size and j1 < size and j2 < size and j3 < size:
                v0 = load(U(src + x0 + j0 * along))
                v1 = load(U(src + x1 + j1 * along))
                v2 = load(U(src + x2 + j2 * along))
                v3 = load(U(src + x3 + j3 * along))
                store(U(out + o0), v0)
                store(U(out + o1), v1)
                store(U(out + o2), v2)
                store(U(out + o3), v3)
                return
        for _ in range(ITEMS):
            if p < count:
                x, i, o = locate(p, numbers)
                j = resolve(load_index(U(idx + i)), size, mode, from_end)
                if j < size:
                    store(U(out + o), load(U(src + x + j * along)))
                else:
                    if filling:
                        store(U(out + o), fill_value(numbers))
                    if limit != U(0) and j >= limit:
                        note(flag, u32(1))
            p += threads

    return gather_elements


def make_gather_rows(
    memory: Any,
    axes: int,
    width: int,
    index: str,
    mode: int,
    from_end: bool,
    wide: bool,
    fill_row: bool,
) -> Any:
    """The threads of a block's x walk a row by vectors of ``width`` bytes, those of y the rows.

    What is filled comes from the row at ``aux`` with ``fill_row``, else from the fill's 16 bytes.
    """
    load_index, note = memory.LOAD[index], memory.STORE["u4"]
    load, store = memory.LOAD[f"u{width}"], memory.STORE[f"u{width}"]
    locate = make_locate(memory, axes, ROW_AXES, wide)
    pair, filling = width == 16, mode == FILL

    @memory.INLINE
    def fill_value(at, numbers):
        if pair:
            return (U(numbers[4]), U(numbers[5]))
        half = U(numbers[5]) if at & U(8) else U(numbers[4])
        return half >> ((at & U(7)) * U(8))

    def gather_rows(out, src, idx, flag, aux, numbers):
        rows, size, limit, along = U(numbers[0]), U(numbers[1]), U(numbers[2]), U(numbers[3])
        vectors = U(numbers[6])
        row = U(cuda.blockIdx.x) * U(cuda.blockDim.y) + U(cuda.threadIdx.y)
        if row >= rows:
            return
        x, i, o = locate(row, numbers)
        j = resolve(load_index(U(idx + i)), size, mode, from_end)
        step = U(cuda.blockDim.x) * U(cuda.gridDim.y)
        c = U(cuda.blockIdx.y) * U(cuda.blockDim.x) + U(cuda.threadIdx.x)
        W = U(width)
        to = U(out + o)
        if j < size:
            start = U(src + x + j * along)
            while c + U(3) * step < vectors:
                c1 = c + step
                c2 = c1 + step
                c3 = c2 + step
                v0 = load(start + c * W)
                v1 = load(start + c1 * W)
                v2 = load(start + c2 * W)
                v3 = load(start + c3 * W)
                store(to + c * W, v0)
                store(to + c1 * W, v1)
                store(to + c2 * W, v2)
                store(to + c3 * W, v3)
                c = c3 + step
            while c < vectors:
                store(to + c * W, load(start + c * W))
                c += step
        else:
            if limit != U(0) and j >= limit and c == U(0):
                note(flag, u32(1))
            while filling and c < vectors:
                if fill_row:
                    store(to + c * W, load(aux + c * W))
                else:
                    store(to + c * W, fill_value(c * W, numbers))
                c += step

    return gather_rows


def make_copy(memory: Any, axes: int, item: int, wide: bool) -> Any:
    """A strided array to a C-contiguous one: ``numbers`` are the count and the axes."""
    load, store = memory.LOAD[f"u{item}"], memory.STORE[f"u{item}"]
    locate = make_locate(memory, axes, 1, wide)

    def copy(out, src, numbers):
        p = U(cuda.blockIdx.x) * U(cuda.blockDim.x) + U(cuda.threadIdx.x)
        if p < U(numbers[0]):
            x, _, o = locate(p, numbers)
            store(U(out + o), load(U(src + x)))

    return copy


def make_combine(memory: Any, how: int, kind: str) -> Any:
    """What is done to an item with the bits of a value; ``kind`` is what they are taken for."""
    if how == SET:
        store = memory.STORE[kind]
        if kind == "u16":

            @memory.INLINE
            def combine(address, low, high):
                store(address, (low, high))

        else:

            @memory.INLINE
            def combine(address, low, high):
                store(address, low)

        return combine
    base = {"c8": "f4", "c16": "f8"}.get(kind, kind)
    read, put = memory.READ[base], memory.STORE[base]
    as_f4, as_f8 = memory.AS_F4, memory.AS_F8
    if how == ANY:

        @memory.INLINE
        def combine(address, low, high):
            put(address, np.uint8(read(address) | np.uint8(low)))

    elif kind == "f4":

        @memory.INLINE
        def combine(address, low, high):
            put(address, np.float32(read(address) + as_f4(u32(low))))

    elif kind == "f8":

        @memory.INLINE
        def combine(address, low, high):
            put(address, read(address) + as_f8(low))

    elif kind == "c8":

        @memory.INLINE
        def combine(address, low, high):
            put(address, np.float32(read(address) + as_f4(u32(low & U(0xFFFFFFFF)))))
            put(address + U(4), np.float32(read(address + U(4)) + as_f4(u32(low >> U(32)))))

    elif kind == "c16":

        @memory.INLINE
        def combine(address, low, high):
            put(address, read(address) + as_f8(low))
            put(address + U(8), read(address + U(8)) + as_f8(high))

    else:

        @memory.INLINE
        def combine(address, low, high):
            put(address, U(read(address)) + low)

    return combine


def make_bits(memory: Any, item: int) -> Any:
    """The bits of an item as two halves."""
    load = memory.LOAD[f"u{item}"]
    if item == 16:
        return load

    @memory.INLINE
    def bits(address):
        return U(load(address)), U(0)

    return bits


#: ``numbers`` of a scatter: lanes, size, stride along the dimension, the index's length there, its
#: stride and that of src; then the axes of the lanes, each a length and strides in result, index
#: and src.
SCATTER_AXES = 6


def make_scatter_lanes(
    memory: Any, axes: int, how: int, kind: str, item: int, index: str, wide: bool
) -> Any:
    """A thread walks a lane: neighbours' indices lie side by side."""
    load_index, note = memory.LOAD[index], memory.STORE["u4"]
    locate = make_locate(memory, axes, SCATTER_AXES, wide)
    combine, bits = make_combine(memory, how, kind), make_bits(memory, item)

    def scatter_lanes(out, src, idx, flag, numbers):
        size, along, steps = U(numbers[1]), U(numbers[2]), U(numbers[3])
        i_step, s_step = U(numbers[4]), U(numbers[5])
        p = U(cuda.blockIdx.x) * U(cuda.blockDim.x) + U(cuda.threadIdx.x)
        if p >= U(numbers[0]):
            return
        x, i, s = locate(p, numbers)
        i = U(idx + i)
        s = U(src + s)
        k = U(0)
        while k < steps:
            j = U(load_index(i))
            if j < size:
                low, high = bits(s)
                combine(U(out + x + j * along), low, high)
            else:
                note(flag, u32(1))
            i += i_step
            s += s_step
            k += U(1)

    return scatter_lanes


def make_scatter_staged(
    memory: Any, axes: int, how: int, kind: str, item: int, index: str, wide: bool
) -> Any:
    """The same where a lane lies together: tiles go through shared memory, read in wide strides."""
    load_index, note = memory.LOAD[index], memory.STORE["u4"]
    locate = make_locate(memory, axes, SCATTER_AXES, wide)
    combine, bits = make_combine(memory, how, kind), make_bits(memory, item)
    pair = item == 16
    pitch = STEPS + 1  # one more, so that lanes fall into different banks
    staged = LANES * pitch
    staged_highs = staged if pair else 1

    def scatter_staged(out, src, idx, flag, numbers):
        where = cuda.shared.array(staged, types.uint64)
        lows = cuda.shared.array(staged, types.uint64)
        highs = cuda.shared.array(staged_highs, types.uint64)
        lanes, size, along, steps = U(numbers[0]), U(numbers[1]), U(numbers[2]), U(numbers[3])
        i_step, s_step = U(numbers[4]), U(numbers[5])
        t = U(cuda.threadIdx.x)
        first = U(cuda.blockIdx.x) * U(LANES)
        mine = first + t
        x = U(0)
        if mine < lanes and t < U(LANES):
            x, i, s = locate(mine, numbers)
        k = U(0)
        while k < steps:
            # Each 32 threads read 32 steps of one lane.
            lane = t // U(STEPS)
            step = k + t % U(STEPS)
            while lane < U(LANES):
                if first + lane < lanes and step < steps:
                    _, i, s = locate(first + lane, numbers)
                    at = lane * U(pitch) + t % U(STEPS)
                    where[at] = U(load_index(U(idx + i + step * i_step)))
                    low, high = bits(U(src + s + step * s_step))
                    lows[at] = low
                    if pair:
                        highs[at] = high
                lane += U(cuda.blockDim.x) // U(STEPS)
            cuda.syncthreads()
            if mine < lanes and t < U(LANES):
                n = min(U(STEPS), steps - k)
                for e in range(n):
                    at = t * U(pitch) + U(e)
                    j = where[at]
                    if j < size:
                        high = highs[at] if pair else U(0)
                        combine(U(out + x + j * along), lows[at], high)
                    else:
                        note(flag, u32(1))
            cuda.syncthreads()
            k += U(STEPS)

    return scatter_staged


def make_scatter_scan(
    memory: Any, axes: int, how: int, kind: str, item: int, index: str, wide: bool
) -> Any:
    """Few lanes: every thread scans a whole lane, and keeps to the places that are its own."""
    load_index, note = memory.LOAD[index], memory.STORE["u4"]
    locate = make_locate(memory, axes, SCATTER_AXES, wide)
    combine, bits = make_combine(memory, how, kind), make_bits(memory, item)
    pair = item == 16
    scanned_highs = SCANNERS if pair else 1

    def scatter_scan(out, src, idx, flag, numbers):
        where = cuda.shared.array(SCANNERS, types.uint64)
        lows = cuda.shared.array(SCANNERS, types.uint64)
        highs = cuda.shared.array(scanned_highs, types.uint64)
        size, along, steps = U(numbers[1]), U(numbers[2]), U(numbers[3])
        i_step, s_step = U(numbers[4]), U(numbers[5])
        t = U(cuda.threadIdx.x)
        threads = U(cuda.blockDim.x)
        x, i, s = locate(U(cuda.blockIdx.x), numbers)
        # Both are powers of two.
        owners = threads * U(cuda.gridDim.y) - U(1)
        mine = U(cuda.blockIdx.y) * threads + t
        k = U(0)
        while k < steps:
            if k + t < steps:
                where[t] = U(load_index(U(idx + i + (k + t) * i_step)))
                low, high = bits(U(src + s + (k + t) * s_step))
                lows[t] = low
                if pair:
                    highs[t] = high
            cuda.syncthreads()
            n = min(threads, steps - k)
            for e in range(n):
                j = where[U(e)]
                if (j & owners) == mine:
                    if j < size:
                        high = highs[U(e)] if pair else U(0)
                        combine(U(out + x + j * along), lows[U(e)], high)
                    else:
                        note(flag, u32(1))
            cuda.syncthreads()
            k += threads

    return scatter_scan


def make_token_noise(memory: Any) -> Any:
    """A thread draws four tokens; ``numbers``: samples, tokens, epoch, key, implied ids."""
    load_id, store = memory.LOAD["i8"], memory.STORE["f4"]

    def token_noise(out, ids, numbers):
        tokens, epoch, k0, k1 = U(numbers[1]), U(numbers[2]), U(numbers[3]), U(numbers[4])
        low = U(0xFFFFFFFF)
        n = U(cuda.blockIdx.x)
        sample = n if numbers[5] != U(0) else U(load_id(U(ids + n * U(8))))
        q = U(cuda.blockIdx.y) * U(cuda.blockDim.x) + U(cuda.threadIdx.x)
        if U(4) * q < tokens:
            w0, w1, w2, w3 = philox4x32(q, sample & low, sample >> U(32), epoch, k0, k1)
            to = U(out + (n * tokens + U(4) * q) * U(4))
            rest = tokens - U(4) * q
            store(to, unit_float(w0))
            if rest > U(1):
                store(to + U(4), unit_float(w1))
            if rest > U(2):
                store(to + U(8), unit_float(w2))
            if rest > U(3):
                store(to + U(12), unit_float(w3))

    return token_noise


#: ``numbers`` of a masking: length, kept, epoch, key (low, high), vectors of a row (0: no tokens
#: are copied), x's strides of samples and tokens, whether the sample ids are 0, 1, ...
MASKING_NUMBERS = 9


def make_key(memory: Any, source: int) -> Any:
    """What a token is ranked by: its noise and itself in one number, or a float64's whole key."""
    load_f4, load_f8 = memory.LOAD["u4"], memory.LOAD["u8"]
    if source == FLOAT64:

        @memory.INLINE
        def key(scores, at, token):
            return key_f8(load_f8(U(scores + at * U(8))))

    else:

        @memory.INLINE
        def key(scores, at, token):
            return (U(key_f4(load_f4(U(scores + at * U(4))))) << U(32)) | token

    return key


def make_masking(memory: Any, source: int, width: int) -> Any:
    """A masking in one launch: a block ranks a sample, and copies its part of the kept rows.

    A token's rank is how many are before it. Blocks with the same x share a sample; each ranks it
    for itself, and the first writes the mask.
    """
    load_id, load_i8 = memory.LOAD["i8"], memory.LOAD["i8"]
    put_i8, put_f4 = memory.STORE["i8"], memory.STORE["f4"]
    load, store = memory.LOAD[f"u{width}"], memory.STORE[f"u{width}"]
    zero = (U(0), U(0)) if width == 16 else U(0)
    key_of = make_key(memory, source)
    seeded, double = source == SEED, source == FLOAT64

    def masking(out, src, ids, scores, keep, restore, mask, counts, numbers):
        keys = cuda.shared.array(MAX_TOKENS, types.uint64)
        chosen = cuda.shared.array(MAX_TOKENS, types.uint32)
        length, kept = u32(numbers[0]), u32(numbers[1])
        vectors = u32(numbers[5])
        x_n, x_l = U(numbers[6]), U(numbers[7])
        n = U(cuda.blockIdx.x)
        t = u32(cuda.threadIdx.x)
        threads = u32(cuda.blockDim.x)
        low = U(0xFFFFFFFF)
        if seeded:
            epoch, k0, k1 = U(numbers[2]), U(numbers[3]), U(numbers[4])
            sample = n if numbers[8] != U(0) else U(load_id(U(ids + n * U(8))))
            q = t
            while u32(u32(4) * q) < length:
                w0, w1, w2, w3 = philox4x32(U(q), sample & low, sample >> U(32), epoch, k0, k1)
                b = U(q) * U(4)
                keys[b] = ((w0 >> U(8)) << U(32)) | b
                keys[b + U(1)] = ((w1 >> U(8)) << U(32)) | (b + U(1))
                keys[b + U(2)] = ((w2 >> U(8)) << U(32)) | (b + U(2))
                keys[b + U(3)] = ((w3 >> U(8)) << U(32)) | (b + U(3))
                q = u32(q + threads)
        else:
            i = t
            while i < length:
                keys[U(i)] = key_of(scores, n * U(length) + U(i), U(i))
                i = u32(i + threads)
        cuda.syncthreads()
        stay = kept
        if counts != U(0):
            stay = u32(load_i8(U(counts + n * U(8))))
        first = cuda.blockIdx.y == 0
        base = n * U(length)
        i = t
        while i < length:
            mine = keys[U(i)]
            rank = u32(0)
            j = u32(0)
            while j < length:
                other = keys[U(j)]
                before = other < mine
                if double:
                    before = before or (other == mine and j < i)
                rank = u32(rank + u32(before))
                j = u32(j + u32(1))
            if rank < stay:
                chosen[U(rank)] = i
            if first:
                put_i8(U(restore + (base + U(i)) * U(8)), np.int64(rank))
                put_f4(U(mask + (base + U(i)) * U(4)), np.float32(rank >= stay))
                if keep != U(0) and rank < kept:
                    token = np.int64(i) if rank < stay else np.int64(-1)
                    put_i8(U(keep + (n * U(kept) + U(rank)) * U(8)), token)
            i = u32(i + threads)
        cuda.syncthreads()
        # This block's part of the vectors of all kept rows, four loads in flight.
        if vectors != u32(0):
            parts = u32(cuda.gridDim.y)
            total = u32(kept * vectors)
            there = u32(stay * vectors)
            per = u32(u32(total + parts - u32(1)) // parts)
            v = u32(u32(cuda.blockIdx.y) * per)
            end = min(u32(v + per), total)
            until = min(end, there)
            v = u32(v + t)
            start = U(src + n * x_n)
            to = U(out + n * U(total) * U(width))
            while u32(v + u32(u32(3) * threads)) < until:
                v1 = u32(v + threads)
                v2 = u32(v1 + threads)
                v3 = u32(v2 + threads)
                r0 = u32(v // vectors)
                r1 = u32(v1 // vectors)
                r2 = u32(v2 // vectors)
                r3 = u32(v3 // vectors)
                a0 = load(start + U(chosen[U(r0)]) * x_l + U(u32(v - r0 * vectors)) * U(width))
                a1 = load(start + U(chosen[U(r1)]) * x_l + U(u32(v1 - r1 * vectors)) * U(width))
                a2 = load(start + U(chosen[U(r2)]) * x_l + U(u32(v2 - r2 * vectors)) * U(width))
                a3 = load(start + U(chosen[U(r3)]) * x_l + U(u32(v3 - r3 * vectors)) * U(width))
                store(to + U(v) * U(width), a0)
                store(to + U(v1) * U(width), a1)
                store(to + U(v2) * U(width), a2)
                store(to + U(v3) * U(width), a3)
                v = u32(v3 + threads)
            while v < until:
                r0 = u32(v // vectors)
                a0 = load(start + U(chosen[U(r0)]) * x_l + U(u32(v - r0 * vectors)) * U(width))
                store(to + U(v) * U(width), a0)
                v = u32(v + threads)
            while v < end:
                store(to + U(v) * U(width), zero)
                v = u32(v + threads)

    return masking


def make_rank_tiles(memory: Any, source: int) -> Any:
    """Ranks of any number of tokens: each block ranks a few against all, tile by tile."""
    load_id, load_i8 = memory.LOAD["i8"], memory.LOAD["i8"]
    put_i8, put_f4 = memory.STORE["i8"], memory.STORE["f4"]
    key_of = make_key(memory, source)
    seeded, double = source == SEED, source == FLOAT64

    @memory.INLINE
    def draw(q, sample, numbers):
        low = U(0xFFFFFFFF)
        epoch, k0, k1 = U(numbers[2]), U(numbers[3]), U(numbers[4])
        return philox4x32(q, sample & low, sample >> U(32), epoch, k0, k1)

    def rank_tiles(ids, scores, keep, restore, mask, counts, numbers):
        keys = cuda.shared.array(TILE, types.uint64)
        length, kept = U(numbers[0]), U(numbers[1])
        n = U(cuda.blockIdx.x)
        t = U(cuda.threadIdx.x)
        threads = U(cuda.blockDim.x)
        i = U(cuda.blockIdx.y) * threads + t
        sample = U(0)
        if seeded:
            sample = n if numbers[8] != U(0) else U(load_id(U(ids + n * U(8))))
        mine = U(0)
        if i < length:
            if seeded:
                w0, w1, w2, w3 = draw(i >> U(2), sample, numbers)
                word = w0
                if i & U(3) == U(1):
                    word = w1
                elif i & U(3) == U(2):
                    word = w2
                elif i & U(3) == U(3):
                    word = w3
                mine = ((word >> U(8)) << U(32)) | i
            else:
                mine = key_of(scores, n * length + i, i)
        rank = U(0)
        base = U(0)
        while base < length:
            here = min(U(TILE), length - base)
            if seeded:
                q = t
                while U(4) * q < here:
                    w0, w1, w2, w3 = draw((base >> U(2)) + q, sample, numbers)
                    b = U(4) * q
                    token = base + b
                    keys[b] = ((w0 >> U(8)) << U(32)) | token
                    keys[b + U(1)] = ((w1 >> U(8)) << U(32)) | (token + U(1))
                    keys[b + U(2)] = ((w2 >> U(8)) << U(32)) | (token + U(2))
                    keys[b + U(3)] = ((w3 >> U(8)) << U(32)) | (token + U(3))
                    q += threads
            else:
                k = t
                while k < here:
                    keys[k] = key_of(scores, n * length + base + k, base + k)
                    k += threads
            cuda.syncthreads()
            k = U(0)
            while k < here:
                other = keys[k]
                before = other < mine
                if double:
                    before = before or (other == mine and base + k < i)
                rank += U(before)
                k += U(1)
            cuda.syncthreads()
            base += U(TILE)
        if i < length:
            stay = kept
            if counts != U(0):
                stay = U(load_i8(U(counts + n * U(8))))
            put_i8(U(restore + (n * length + i) * U(8)), np.int64(rank))
            put_f4(U(mask + (n * length + i) * U(4)), np.float32(rank >= stay))
            if keep != U(0) and rank < kept:
                slot = np.int64(i) if rank < stay else np.int64(-1)
                put_i8(U(keep + (n * kept + rank) * U(8)), slot)

    return rank_tiles


#: ``numbers`` of the patches: those of :mod:`nbgather.kernels.cpu.patches` in items, and the item's
#: bytes after them.
COPY, NORMALISE = range(2)


def make_patches(memory: Any, how: int, pixel: str) -> Any:
    """A block writes a kept patch, a thread an item; what is removed is never read."""
    load_id = memory.LOAD["i8"]
    load = memory.LOAD[pixel]
    store = memory.STORE["f4" if how == NORMALISE else pixel]
    load_f4 = memory.LOAD["f4"]
    item = int(pixel[1:])
    wrote = 4 if how == NORMALISE else item
    normalise = how == NORMALISE
    multiply, subtract, divide = memory.MULTIPLY, memory.SUBTRACT, memory.DIVIDE
    zero = np.float32(0) if normalise else ((U(0), U(0)) if item == 16 else U(0))

    def patches(out, src, idx, affine, numbers):
        kept, channels = U(numbers[0]), U(numbers[1])
        sn, sc, st, sh, sw = (
            U(numbers[2]), U(numbers[3]), U(numbers[4]), U(numbers[5]), U(numbers[6])
        )  # fmt: skip
        gh, gw = u32(numbers[7]), u32(numbers[8])
        ph, pw = u32(numbers[10]), u32(numbers[11])
        size = u32(U(numbers[9]) * U(ph) * U(pw) * channels)
        p = U(cuda.blockIdx.x)
        token = load_id(U(idx + p * U(8)))
        k = u32(cuda.threadIdx.x)
        threads = u32(cuda.blockDim.x)
        to = U(out + p * U(size) * U(wrote))
        if token < 0:
            while k < size:
                store(to + U(k) * U(wrote), zero)
                k = u32(k + threads)
            return
        row, column = split_narrow(U(token), U(gw))
        slab, row = split_narrow(row, U(gh))
        n, _slot = split_narrow(p, kept)
        x = n * sn + column * U(pw) * sw + row * U(ph) * sh + slab * U(numbers[9]) * st
        while k < size:
            at, c = split_narrow(U(k), channels)
            at, b = split_narrow(at, U(pw))
            a, h = split_narrow(at, U(ph))
            value = load(U(src + (x + a * st + h * sh + b * sw + c * sc) * U(item)))
            if normalise:
                # Each step is rounded by itself: no multiply-add.
                scaled = multiply(np.float32(value), load_f4(affine))
                off = subtract(scaled, load_f4(U(affine + (U(1) + c) * U(4))))
                made = divide(off, load_f4(U(affine + (U(1) + channels + c) * U(4))))
                store(to + U(k) * U(wrote), made)
            else:
                store(to + U(k) * U(wrote), value)
            k = u32(k + threads)

    return patches
