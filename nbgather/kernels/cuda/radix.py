"""Stable sorting by digits of 8 bits: the kernels of scatters by rows and of long rankings.

A *segment* is sorted by itself; a launch sorts as many as it has, each of the same length. A pass
is three kernels, none of which waits for another block: ``radix_count`` counts the digits of each
tile of a segment, ``radix_scan`` makes the counts of a digit the places before its tiles, and
``radix_sort`` sorts a tile within shared memory and puts its items where they belong. Passes from
the lowest digit up leave items in the order of their keys, equal ones as they were.

Within a tile two rounds sort by 4 bits each: every thread counts its own items, one after the
other, so that the order stays. There are no votes or matches among the threads of a warp: the
kernels run as they are in the simulator.

A *source* gives keys and what goes with them (:func:`make_carried` and its like), and a *sink*
takes an item that has its place.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbgather.kernels.cuda.deferred import cuda, njit, types
from nbgather.kernels.cuda.positions import divide_narrow, u32, u64

RADIX_THREADS = 256
#: Items of a thread in a tile.
TILE_ITEMS = 8
#: The longest segment that a block sorts whole in shared memory, where a device has as much.
MAX_WHOLE = 1 << 14
#: Its threads: the fewest for segments up to so many items, and the most that fit for others.
WHOLE_THREADS, FEW_ITEMS = (1024, 512, 256), 1 << 12
#: Bytes of shared memory that such a block has without being asked.
SHARED_BYTES = 48 << 10
#: Bits and values of a digit; of what a round within a tile sorts by.
DIGIT_BITS, DIGITS = 8, 256
ROUND_BITS, ROUND_DIGITS = 4, 16

#: ``numbers`` of the kernels before those of sources and sinks: items of a segment, tiles of a
#: segment, and the digit's lowest bit; or of a segment that is sorted whole its items, the items of
#: a thread, and the rounds for 32 bits of a key.
SOURCE_NUMBERS = 3

#: Counters of a round, a thread's for each value, spread by :func:`padded`.
COUNTERS_PER_THREAD = ROUND_DIGITS + 2
COUNTERS = COUNTERS_PER_THREAD * RADIX_THREADS
#: Two orders of the items of a tile.
TILE_ORDERS = 2 * RADIX_THREADS * TILE_ITEMS
TILE = RADIX_THREADS * TILE_ITEMS


@njit(inline="always")
def padded(i):
    """Where a counter is: two more for every 16, so that threads that walk 16 meet no bank."""
    return u64(i) + ((u64(i) >> u64(4)) << u64(1))


def whole_bytes(items: int, threads: int) -> int:
    """The shared memory of a block that sorts so many items whole."""
    return 8 * (items + 3 & ~3) + (2 * COUNTERS_PER_THREAD + 4) * threads


def threads_of_whole(items: int, shared: int) -> int:
    """The threads of a block that sorts so many items whole in so many bytes; 0 if it cannot."""
    if items > MAX_WHOLE:
        return 0
    sizes = WHOLE_THREADS if items > FEW_ITEMS else WHOLE_THREADS[-1:]
    return next((n for n in sizes if whole_bytes(items, n) <= shared), 0)


def make_scan(memory: Any) -> Any:
    """The sums of an array up to each of its ``threads`` items, in place; between barriers."""

    @memory.INLINE
    def inclusive_scan(values, t, threads):
        step = u64(1)
        while step < threads:
            before = u32(0)
            if t >= step:
                before = values[t - step]
            cuda.syncthreads()
            values[t] = u32(values[t] + before)
            cuda.syncthreads()
            step += step

    return inclusive_scan


def make_carried(memory: Any) -> SimpleNamespace:
    """A source: keys and tokens as the pass before left them."""
    read = memory.LOAD["u4"]

    @memory.INLINE
    def one_key(keys, tokens, a, flag, n, p, numbers):
        return read(u64(keys + (n * u64(numbers[0]) + p) * u64(4)))

    @memory.INLINE
    def token(tokens, b, n, p, numbers):
        return read(u64(tokens + (n * u64(numbers[0]) + p) * u64(4)))

    return SimpleNamespace(four_keys=make_by_fours(memory, one_key), token=token)


def make_by_fours(memory: Any, one_key: Any) -> Any:
    """Four keys at once, of which those beyond the segment are 0."""

    @memory.INLINE
    def four_keys(keys, tokens, a, flag, n, q, numbers):
        length, p = u64(numbers[0]), u64(4) * q
        k0 = one_key(keys, tokens, a, flag, n, p, numbers)
        k1, k2, k3 = u32(0), u32(0), u32(0)
        if p + u64(1) < length:
            k1 = one_key(keys, tokens, a, flag, n, p + u64(1), numbers)
        if p + u64(2) < length:
            k2 = one_key(keys, tokens, a, flag, n, p + u64(2), numbers)
        if p + u64(3) < length:
            k3 = one_key(keys, tokens, a, flag, n, p + u64(3), numbers)
        return k0, k1, k2, k3

    return four_keys


def make_pass_on(memory: Any) -> Any:
    """A sink: keys and tokens for the next pass."""
    store = memory.STORE["u4"]

    @memory.INLINE
    def pass_on(keys_out, tokens_out, c, d, n, place, key, token, numbers):
        at = (n * u64(numbers[0]) + place) * u64(4)
        store(u64(keys_out + at), key)
        store(u64(tokens_out + at), token)

    return pass_on


def make_radix_count(memory: Any, make_source: Any) -> Any:
    """How often each digit is in each tile: u32 `[segments, DIGITS, tiles]`."""
    store, four_keys = memory.STORE["u4"], make_source(memory).four_keys

    def radix_count(keys, tokens, a, flag, counts, numbers):
        histogram = cuda.shared.array(DIGITS, types.uint32)
        length, tiles, shift = u64(numbers[0]), u64(numbers[1]), u32(numbers[2])
        t, threads = u64(cuda.threadIdx.x), u64(cuda.blockDim.x)
        n, tile = divide_narrow(u64(cuda.blockIdx.x), tiles)
        d = t
        while d < u64(DIGITS):
            histogram[d] = u32(0)
            d += threads
        cuda.syncthreads()
        for i in range(TILE_ITEMS // 4):
            q = (tile * u64(TILE_ITEMS // 4) + u64(i)) * threads + t
            p = u64(4) * q
            if p < length:
                k0, k1, k2, k3 = four_keys(keys, tokens, a, flag, n, q, numbers)
                cuda.atomic.add(histogram, u64(u32(k0 >> shift) & u32(255)), u32(1))
                if p + u64(1) < length:
                    cuda.atomic.add(histogram, u64(u32(k1 >> shift) & u32(255)), u32(1))
                if p + u64(2) < length:
                    cuda.atomic.add(histogram, u64(u32(k2 >> shift) & u32(255)), u32(1))
                if p + u64(3) < length:
                    cuda.atomic.add(histogram, u64(u32(k3 >> shift) & u32(255)), u32(1))
        cuda.syncthreads()
        d = t
        while d < u64(DIGITS):
            store(u64(counts + ((n * u64(DIGITS) + d) * tiles + tile) * u64(4)), histogram[d])
            d += threads

    return radix_count


def make_radix_scan(memory: Any) -> Any:
    """A block makes the counts of a digit how many are in earlier tiles, and notes their total.

    ``numbers``: tiles of a segment.
    """
    read, store = memory.READ["u4"], memory.STORE["u4"]
    inclusive_scan = make_scan(memory)

    def radix_scan(counts, totals, numbers):
        sums = cuda.shared.array(RADIX_THREADS, types.uint32)
        tiles = u64(numbers[0])
        t, threads = u64(cuda.threadIdx.x), u64(cuda.blockDim.x)
        row = u64(counts + u64(cuda.blockIdx.x) * tiles * u64(4))
        before = u32(0)
        base = u64(0)
        while base < tiles:
            own = u32(0)
            if base + t < tiles:
                own = read(row + (base + t) * u64(4))
            sums[t] = own
            cuda.syncthreads()
            inclusive_scan(sums, t, threads)
            if base + t < tiles:
                store(row + (base + t) * u64(4), u32(u32(before + sums[t]) - own))
            before = u32(before + sums[threads - u64(1)])
            cuda.syncthreads()
            base += threads
        if t == u64(0):
            store(u64(totals + u64(cuda.blockIdx.x) * u64(4)), before)

    return radix_scan


def make_split(memory: Any) -> Any:
    """A round: sort the items of a block by 4 bits of their keys, equal ones as they are.

    ``order[at:]`` names the items in their order, of which thread t has those from ``items * t``
    on; the new order is written to ``order[to:]``.
    """
    inclusive_scan = make_scan(memory)

    @memory.INLINE
    def split(values, order, counters, sums, at, to, count, items, shift, t, threads):
        for d in range(ROUND_DIGITS):
            counters[padded(u64(d) * threads + t)] = 0
        first, last = items * t, min(items * t + items, count)
        p = first
        while p < last:
            digit = u64(u32(values[u64(order[at + p])] >> shift) & u32(15))
            c = padded(digit * threads + t)
            counters[c] = counters[c] + 1
            p += u64(1)
        cuda.syncthreads()
        # Thread t has 16 counters in a row; those before them are the places before theirs.
        total = u32(0)
        for d in range(ROUND_DIGITS):
            total = u32(total + counters[padded(u64(ROUND_DIGITS) * t + u64(d))])
        sums[t] = total
        cuda.syncthreads()
        inclusive_scan(sums, t, threads)
        place = u32(sums[t] - total)
        for d in range(ROUND_DIGITS):
            c = padded(u64(ROUND_DIGITS) * t + u64(d))
            own = u32(counters[c])
            counters[c] = place
            place = u32(place + own)
        cuda.syncthreads()
        p = first
        while p < last:
            item = order[at + p]
            digit = u64(u32(values[u64(item)] >> shift) & u32(15))
            c = padded(digit * threads + t)
            slot = u64(counters[c])
            counters[c] = slot + u64(1)
            order[to + slot] = item
            p += u64(1)
        cuda.syncthreads()

    return split


def make_radix_sort(memory: Any, make_source: Any, make_sink: Any) -> Any:
    """Sort a tile by a digit, and give its items their places in the segment."""
    load = memory.LOAD["u4"]
    source, sink = make_source(memory), make_sink(memory)
    four_keys, token_of = source.four_keys, source.token
    inclusive_scan, split = make_scan(memory), make_split(memory)

    def radix_sort(
        keys, tokens, a, b, flag, counts, totals, keys_out, tokens_out, c, d, numbers
    ):  # fmt: skip
        values = cuda.shared.array(TILE, types.uint32)
        order = cuda.shared.array(TILE_ORDERS, types.uint16)
        counters = cuda.shared.array(COUNTERS, types.uint16)
        sums = cuda.shared.array(RADIX_THREADS, types.uint32)
        bases = cuda.shared.array(DIGITS, types.uint32)
        starts = cuda.shared.array(DIGITS, types.uint32)
        length, tiles, shift = u64(numbers[0]), u64(numbers[1]), u32(numbers[2])
        t, threads = u64(cuda.threadIdx.x), u64(cuda.blockDim.x)
        n, tile = divide_narrow(u64(cuda.blockIdx.x), tiles)
        first = tile * threads * u64(TILE_ITEMS)
        count = min(threads * u64(TILE_ITEMS), length - first)
        for i in range(TILE_ITEMS // 4):
            q = u64(i) * threads + t
            p = u64(4) * q
            if p < count:
                k0, k1, k2, k3 = four_keys(keys, tokens, a, flag, n, (first >> u64(2)) + q, numbers)
                values[p] = k0
                values[p + u64(1)] = k1
                values[p + u64(2)] = k2
                values[p + u64(3)] = k3
            for e in range(4):
                order[p + u64(e)] = p + u64(e)
        # The places of a digit begin behind those of lower digits, and of earlier tiles.
        own_digits, _ = divide_narrow(u64(DIGITS), threads)
        total = u32(0)
        for e in range(own_digits):
            at = n * u64(DIGITS) + own_digits * t + u64(e)
            total = u32(total + load(u64(totals + at * u64(4))))
        sums[t] = total
        cuda.syncthreads()
        inclusive_scan(sums, t, threads)
        place = u32(sums[t] - total)
        for e in range(own_digits):
            digit = own_digits * t + u64(e)
            at = n * u64(DIGITS) + digit
            earlier = load(u64(counts + (at * tiles + tile) * u64(4)))
            bases[digit] = u32(place + earlier)
            place = u32(place + load(u64(totals + at * u64(4))))
        cuda.syncthreads()
        half = threads * u64(TILE_ITEMS)
        items = u64(TILE_ITEMS)
        split(values, order, counters, sums, u64(0), half, count, items, shift, t, threads)
        shift_high = u32(shift + u32(ROUND_BITS))
        split(values, order, counters, sums, half, u64(0), count, items, shift_high, t, threads)
        p = t
        while p < count:
            digit = u32(u32(values[u64(order[p])] >> shift) & u32(255))
            last = u32(256)
            if p > u64(0):
                last = u32(u32(values[u64(order[p - u64(1)])] >> shift) & u32(255))
            if digit != last:
                starts[u64(digit)] = p
            p += threads
        cuda.syncthreads()
        p = t
        while p < count:
            item = u64(order[p])
            key = values[item]
            digit = u64(u32(key >> shift) & u32(255))
            place = u32(u32(bases[digit] - starts[digit]) + u32(p))
            token = token_of(tokens, b, n, first + item, numbers)
            sink(keys_out, tokens_out, c, d, n, u64(place), key, token, numbers)
            p += threads

    return radix_sort


def make_radix_whole(memory: Any, make_sources: Any, make_sink: Any) -> Any:
    """A block sorts a segment in shared memory by all of its keys' bits.

    ``make_sources`` makes the sources of 32 bits of a key each, the lowest first.
    """
    sources = make_sources(memory)
    low_keys, high_keys, halves = sources[0].four_keys, sources[-1].four_keys, len(sources)
    sink, split = make_sink(memory), make_split(memory)

    def radix_whole(a, flag, keys_out, tokens_out, c, d, numbers):
        # The launch says how much there is: keys, two orders, counters, sums.
        words = cuda.shared.array(0, types.uint32)
        shorts = cuda.shared.array(0, types.uint16)
        count, items, rounds = u64(numbers[0]), u64(numbers[1]), u64(numbers[2])
        t, threads = u64(cuda.threadIdx.x), u64(cuda.blockDim.x)
        room = u64((count + u64(3)) & ~u64(3))
        values, order = words, shorts[u64(2) * room :]
        counters = shorts[u64(4) * room :]
        sums = words[u64(2) * room + u64(COUNTERS_PER_THREAD // 2) * threads :]
        n = u64(cuda.blockIdx.x)
        p = t
        while p < count:
            order[p] = p
            p += threads
        at = u64(0)
        other = room
        for half in range(halves):
            q = t
            while u64(4) * q < count:
                p = u64(4) * q
                if half == 0:
                    k0, k1, k2, k3 = low_keys(u64(0), u64(0), a, flag, n, q, numbers)
                else:
                    k0, k1, k2, k3 = high_keys(u64(0), u64(0), a, flag, n, q, numbers)
                values[p] = k0
                values[p + u64(1)] = k1
                values[p + u64(2)] = k2
                values[p + u64(3)] = k3
                q += threads
            cuda.syncthreads()
            shift = u32(0)
            for _ in range(rounds):
                split(values, order, counters, sums, at, other, count, items, shift, t, threads)
                shift = u32(shift + u32(ROUND_BITS))
                at, other = other, at
        p = t
        while p < count:
            item = order[at + p]
            sink(keys_out, tokens_out, c, d, n, p, values[u64(item)], u32(item), numbers)
            p += threads

    return radix_whole
