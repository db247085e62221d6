"""The kernels of a scatter_add whose block holds its part of the result in shared memory.

A block takes elements in chunks of one for each thread, in their order. Those of a chunk that go
to the same place must be added one after the other: in each *round* the first that is left has its
turn, by the largest claim in a table of claims, while other places go on beside it. A claim has the
round in its high bits, so that the table need not be cleared. Elements of two places may share a
claim; then one waits, and the order within a place is the same. After some rounds the one whose
turn it is adds all that its place has left in the chunk, so that many for one place take one round.
"""

from __future__ import annotations

from typing import Any

from nbgather.kernels.cuda.deferred import cuda, types
from nbgather.kernels.cuda.folds import ITEM_BYTES, How
from nbgather.kernels.cuda.positions import divide_narrow, make_offsets, u32, u64
from nbgather.kernels.cuda.sums import (
    ENTRIES,
    make_bits,
    make_item,
    make_read_bits,
    make_store_bits,
)

#: Threads of a block, which is the length of a chunk, at most; a power of two.
SHARED_THREADS = 512
#: 32-bit entries of the result that a block holds.
SHARED_ENTRIES = 8192
#: Bits of a claim that are a position; the others are the round, and a chunk has at most as many
#: rounds as elements, beside those with patience. The table is cleared before they overflow.
CLAIM_BITS = 9
MAX_ROUNDS = (1 << 32 - CLAIM_BITS) - 1024
#: Rounds of a chunk in which one element of a place is added, where places are many; and the most
#: that are allowed.
PATIENCE = 12
#: Where the axes begin among ``numbers``. Of lines: before them stand the size of the dimension,
#: its stride in the result, the steps of a line and their strides in index and src, how many lines
#: there are and a block takes, the strides of lines side by side in result, index and src, the
#: blocks of these, and how many rounds have patience. The axes are those of the other lines.
LINES_FIRST_AXIS = 12
#: Of buckets: the places of the result and a bucket, a place's bytes, the rounds.
BUCKETS_FIRST_AXIS = 4

_NONE = 0xFFFFFFFF


def slots_of(kind: str) -> int:
    """How many claims a table has; there are two, for rounds that follow each other."""
    return 512 if ENTRIES[kind] == 4 else 1024


def make_chunk(memory: Any, how: How) -> Any:
    """Add the elements of a chunk; what comes back is the number of the next round.

    Thread t has an element if ``pending``: item t of ``values`` goes to item ``slots[t]`` of
    ``sums``.
    """
    add, table = make_item(memory, how).add, slots_of(how[1])

    @memory.INLINE
    def add_chunk(sums, slots, values, claims, alive, t, count, pending, patience, number):
        if number > u64(MAX_ROUNDS):
            k = t
            while k < u64(2 * table):
                claims[k] = u32(0)
                k += u64(cuda.blockDim.x)
            number = u64(2)
            cuda.syncthreads()
        slot = slots[t]
        mine = u64(0)
        if pending:
            alive[(number - u64(1)) & u64(1)] = u32(number - u64(1))
            mine = (slot ^ (slot >> u32(5))) & u64(table - 1)
        last = u64(number + patience)
        running = True
        while running:
            claim = u32((number << u64(CLAIM_BITS)) | (u64(SHARED_THREADS - 1) - t))
            at = u64(mine + (number & u64(1)) * u64(table))
            if pending:
                cuda.atomic.max(claims, at, claim)
            cuda.syncthreads()
            running = u64(alive[(number - u64(1)) & u64(1)]) == number - u64(1)
            if pending and slots[t] == u32(_NONE):  # another one took it along
                pending = False
            if pending and claims[at] == claim:
                pending = False
                add(sums, u64(slot), values, t)
                if number >= last:
                    q = u64(t + u64(1))
                    while q < count:
                        if slots[q] == slot:
                            add(sums, u64(slot), values, q)
                            slots[q] = u32(_NONE)
                        q += u64(1)
            if pending:
                alive[number & u64(1)] = u32(number)
            number = u64(number + u64(1))
        return number

    return add_chunk


def make_shared_lines(memory: Any, axes: int, how: How, index: str, beside: bool) -> Any:
    """A block adds up some whole lines: ``beside`` each other in memory, or one after the other."""
    load_index, raise_flag = memory.LOAD[index], memory.STORE["u4"]
    kind, own = how[1], how[2]
    item = ITEM_BYTES[kind]
    load, read = make_bits(memory, item), make_read_bits(memory, item)
    store, items = make_store_bits(memory, item), make_item(memory, how)
    begin, put, finish = items.begin, items.put, items.finish
    add_chunk = make_chunk(memory, how)
    offsets = make_offsets(memory, axes, LINES_FIRST_AXIS, False)
    tables, value_entries = 2 * slots_of(kind), SHARED_THREADS * ENTRIES[kind]

    def shared_lines(out, x, src, idx, flag, numbers):
        sums = cuda.shared.array(SHARED_ENTRIES, types.uint32)
        slots = cuda.shared.array(SHARED_THREADS, types.uint32)
        values = cuda.shared.array(value_entries, types.uint32)
        claims = cuda.shared.array(tables, types.uint32)
        alive = cuda.shared.array(2, types.uint32)
        size, stride, steps = u64(numbers[0]), u64(numbers[1]), u64(numbers[2])
        i_step, s_step = u64(numbers[3]), u64(numbers[4])
        x_line, i_line, s_line = u64(numbers[7]), u64(numbers[8]), u64(numbers[9])
        patience = u64(numbers[11])
        t, threads = u64(cuda.threadIdx.x), u64(cuda.blockDim.x)
        # Lines beside each other are those of one place of the axes; others are places themselves.
        outer, group = u64(0), u64(cuda.blockIdx.x)
        if beside:
            outer, group = divide_narrow(group, u64(numbers[10]))
        first = group * u64(numbers[6])
        lines = min(u64(numbers[6]), u64(numbers[5]) - first)
        places, total = size * lines, steps * lines
        x0, i0, s0 = offsets(outer, numbers)
        k = t
        while k < places:
            if beside:
                j, line = divide_narrow(k, lines)
                at = u64(x0 + j * stride + (first + line) * x_line)
            else:
                line, j = divide_narrow(k, size)
                at, _, _ = offsets(first + line, numbers)
                at += j * stride
            low, high = read(u64(x + at))
            begin(sums, k, low, high)
            k += threads
        k = t
        while k < u64(tables):
            claims[k] = u32(0)
            k += threads
        if t < u64(2):
            alive[t] = u32(0)
        cuda.syncthreads()
        number = u64(2)
        base = u64(0)
        while base < total:
            p = base + t
            pending = bool(p < total)
            slots[t] = u32(_NONE)
            if pending:
                if beside:
                    step, line = divide_narrow(p, lines)
                    i, s = u64(i0 + (first + line) * i_line), u64(s0 + (first + line) * s_line)
                else:
                    line, step = divide_narrow(p, steps)
                    _, i, s = offsets(first + line, numbers)
                j = u64(load_index(u64(idx + i + step * i_step)))
                low, high = load(u64(src + s + step * s_step))
                put(values, t, low, high)
                if j >= size:
                    raise_flag(flag, u32(1))
                    pending = False
                elif beside:
                    slots[t] = u32(j * lines + line)
                else:
                    slots[t] = u32(line * size + j)
            count = min(threads, total - base)
            number = add_chunk(
                sums, slots, values, claims, alive, t, count, pending, patience, number
            )
            base += threads
        k = t
        while k < places:
            if beside:
                j, line = divide_narrow(k, lines)
                at = u64(x0 + j * stride + (first + line) * x_line)
            else:
                line, j = divide_narrow(k, size)
                at, _, _ = offsets(first + line, numbers)
                at += j * stride
            if not own:  # what nothing came to stays
                low, high = read(u64(x + at))
            low, high = finish(sums, k, low, high)
            store(u64(out + at), low, high)
            k += threads

    return shared_lines


def make_shared_buckets(memory: Any, axes: int, how: How) -> Any:
    """A block adds up the elements of a bucket, which are sorted: places that lie together.

    ``keys`` are places, ``tokens`` the bits of src, or where these are more than 4 bytes the
    numbers of elements.
    """
    load_u4 = memory.LOAD["u4"]
    kind, own = how[1], how[2]
    item = ITEM_BYTES[kind]
    load, read = make_bits(memory, item), make_read_bits(memory, item)
    store, items = make_store_bits(memory, item), make_item(memory, how)
    begin, put, finish = items.begin, items.put, items.finish
    add_chunk = make_chunk(memory, how)
    offsets = make_offsets(memory, axes, BUCKETS_FIRST_AXIS, False)
    tables, value_entries = 2 * slots_of(kind), SHARED_THREADS * ENTRIES[kind]
    numbered = item > 4

    def shared_buckets(out, x, src, keys, tokens, starts, ends, numbers):
        sums = cuda.shared.array(SHARED_ENTRIES, types.uint32)
        slots = cuda.shared.array(SHARED_THREADS, types.uint32)
        values = cuda.shared.array(value_entries, types.uint32)
        claims = cuda.shared.array(tables, types.uint32)
        alive = cuda.shared.array(2, types.uint32)
        patience = u64(numbers[3])
        t, threads = u64(cuda.threadIdx.x), u64(cuda.blockDim.x)
        bucket = u64(cuda.blockIdx.x)
        first = bucket * u64(numbers[1])
        places = min(u64(numbers[1]), u64(numbers[0]) - first)
        k = t
        while k < places:
            low, high = read(u64(x + (first + k) * u64(item)))
            begin(sums, k, low, high)
            k += threads
        k = t
        while k < u64(tables):
            claims[k] = u32(0)
            k += threads
        if t < u64(2):
            alive[t] = u32(0)
        cuda.syncthreads()
        base = u64(load_u4(u64(starts + bucket * u64(4))))
        end = u64(load_u4(u64(ends + bucket * u64(4))))
        number = u64(2)
        while base < end:
            p = base + t
            pending = bool(p < end)
            slots[t] = u32(_NONE)
            if pending:
                slots[t] = u32(load_u4(u64(keys + p * u64(4))) - first)
                token = u64(load_u4(u64(tokens + p * u64(4))))
                if numbered:
                    _, _, s = offsets(token, numbers)
                    low, high = load(u64(src + s))
                    put(values, t, low, high)
                else:
                    put(values, t, token, u64(0))
            count = min(threads, end - base)
            number = add_chunk(
                sums, slots, values, claims, alive, t, count, pending, patience, number
            )
            base += threads
        k = t
        while k < places:
            if not own:
                low, high = read(u64(x + (first + k) * u64(item)))
            low, high = finish(sums, k, low, high)
            store(u64(out + (first + k) * u64(item)), low, high)
            k += threads

    return shared_buckets
