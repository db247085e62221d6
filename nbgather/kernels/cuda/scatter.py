"""The kernels of a scatter and a scatter_add: three ways to share the work, one order of additions.

A *line* is what lies along the scattered dimension at one position of all the others. Whatever the
way, the items that go to one place come in the order of their line, so the bits are the same as on
the CPU. A kernel takes addresses as uint64 and ``numbers``, a tuple of uint64; the axes among them
are those of the lines (:mod:`nbgather.kernels.cuda.positions`), with strides in result, index and
src.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.kernels.cuda.deferred import cuda, types
from nbgather.kernels.cuda.positions import make_offsets, u32, u64

#: What is done to an item of the result: it is replaced, added to, or a bool made true.
SET, ADD, ANY = range(3)

#: Lines, and steps of each, that a block of ``scatter_staged`` holds in shared memory at a time.
LINES_PER_TILE = 32
STEPS_PER_TILE = 32
#: Threads of a block of ``scatter_scan``.
SCAN_THREADS = 256

#: Where the axes begin among ``numbers``. Before them stand the number of lines, the size of the
#: dimension and its stride in the result, the steps of a line, and their strides in index and src.
SCATTER_FIRST_AXIS = 6


def make_combine(memory: Any, operation: int, kind: str) -> Any:
    """Set or add to an item; ``kind`` is what the bits of a value, two halves, are taken for."""
    if operation == SET:
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
    read, store = memory.READ[base], memory.STORE[base]
    as_f4, as_f8 = memory.AS_F4, memory.AS_F8
    if operation == ANY:

        @memory.INLINE
        def combine(address, low, high):
            store(address, np.uint8(read(address) | np.uint8(low)))

    elif kind == "f4":

        @memory.INLINE
        def combine(address, low, high):
            store(address, np.float32(read(address) + as_f4(u32(low))))

    elif kind == "f8":

        @memory.INLINE
        def combine(address, low, high):
            store(address, read(address) + as_f8(low))

    elif kind == "c8":

        @memory.INLINE
        def combine(address, low, high):
            store(address, np.float32(read(address) + as_f4(u32(low & u64(0xFFFFFFFF)))))
            store(address + u64(4), np.float32(read(address + u64(4)) + as_f4(u32(low >> u64(32)))))

    elif kind == "c16":

        @memory.INLINE
        def combine(address, low, high):
            store(address, read(address) + as_f8(low))
            store(address + u64(8), read(address + u64(8)) + as_f8(high))

    else:

        @memory.INLINE
        def combine(address, low, high):
            store(address, u64(read(address)) + low)

    return combine


def make_bits(memory: Any, item: int) -> Any:
    """The bits of an item as two halves."""
    load = memory.LOAD[f"u{item}"]
    if item == 16:
        return load

    @memory.INLINE
    def bits(address):
        return u64(load(address)), u64(0)

    return bits


def make_scatter_lines(
    memory: Any, axes: int, operation: int, kind: str, item: int, index: str, wide: bool
) -> Any:
    """A thread walks a line. For lines side by side: a warp's loads are then together."""
    load_index, raise_flag = memory.LOAD[index], memory.STORE["u4"]
    offsets = make_offsets(memory, axes, SCATTER_FIRST_AXIS, wide)
    combine, bits = make_combine(memory, operation, kind), make_bits(memory, item)

    def scatter_lines(out, src, idx, flag, numbers):
        size, stride, steps = u64(numbers[1]), u64(numbers[2]), u64(numbers[3])
        i_step, s_step = u64(numbers[4]), u64(numbers[5])
        line = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        if line >= u64(numbers[0]):
            return
        x, i, s = offsets(line, numbers)
        i = u64(idx + i)
        s = u64(src + s)
        k = u64(0)
        while k < steps:
            j = u64(load_index(i))
            if j < size:
                low, high = bits(s)
                combine(u64(out + x + j * stride), low, high)
            else:
                raise_flag(flag, u32(1))
            i += i_step
            s += s_step
            k += u64(1)

    return scatter_lines


def make_scatter_staged(
    memory: Any, axes: int, operation: int, kind: str, item: int, index: str, wide: bool
) -> Any:
    """A thread walks a line, whose items lie together: a block loads tiles into shared memory."""
    load_index, raise_flag = memory.LOAD[index], memory.STORE["u4"]
    offsets = make_offsets(memory, axes, SCATTER_FIRST_AXIS, wide)
    combine, bits = make_combine(memory, operation, kind), make_bits(memory, item)
    pair = item == 16
    pitch = STEPS_PER_TILE + 1  # one more, so that lines fall into different banks
    tile_items = LINES_PER_TILE * pitch
    tile_highs = tile_items if pair else 1

    def scatter_staged(out, src, idx, flag, numbers):
        positions = cuda.shared.array(tile_items, types.uint64)
        lows = cuda.shared.array(tile_items, types.uint64)
        highs = cuda.shared.array(tile_highs, types.uint64)
        lines, size = u64(numbers[0]), u64(numbers[1])
        stride, steps = u64(numbers[2]), u64(numbers[3])
        i_step, s_step = u64(numbers[4]), u64(numbers[5])
        t = u64(cuda.threadIdx.x)
        first = u64(cuda.blockIdx.x) * u64(LINES_PER_TILE)
        own_line = first + t
        x = u64(0)
        if own_line < lines and t < u64(LINES_PER_TILE):
            x, i, s = offsets(own_line, numbers)
        k = u64(0)
        while k < steps:
            # Each 32 threads load 32 steps of one line.
            line = t // u64(STEPS_PER_TILE)
            step = k + t % u64(STEPS_PER_TILE)
            while line < u64(LINES_PER_TILE):
                if first + line < lines and step < steps:
                    _, i, s = offsets(first + line, numbers)
                    slot = line * u64(pitch) + t % u64(STEPS_PER_TILE)
                    positions[slot] = u64(load_index(u64(idx + i + step * i_step)))
                    low, high = bits(u64(src + s + step * s_step))
                    lows[slot] = low
                    if pair:
                        highs[slot] = high
                line += u64(cuda.blockDim.x) // u64(STEPS_PER_TILE)
            cuda.syncthreads()
            if own_line < lines and t < u64(LINES_PER_TILE):
                n = min(u64(STEPS_PER_TILE), steps - k)
                for e in range(n):
                    slot = t * u64(pitch) + u64(e)
                    j = positions[slot]
                    if j < size:
                        high = highs[slot] if pair else u64(0)
                        combine(u64(out + x + j * stride), lows[slot], high)
                    else:
                        raise_flag(flag, u32(1))
            cuda.syncthreads()
            k += u64(STEPS_PER_TILE)

    return scatter_staged


def make_scatter_scan(
    memory: Any, axes: int, operation: int, kind: str, item: int, index: str, wide: bool
) -> Any:
    """Every thread scans a whole line, and writes only the places that it owns. For few lines."""
    load_index, raise_flag = memory.LOAD[index], memory.STORE["u4"]
    offsets = make_offsets(memory, axes, SCATTER_FIRST_AXIS, wide)
    combine, bits = make_combine(memory, operation, kind), make_bits(memory, item)
    pair = item == 16
    tile_highs = SCAN_THREADS if pair else 1

    def scatter_scan(out, src, idx, flag, numbers):
        positions = cuda.shared.array(SCAN_THREADS, types.uint64)
        lows = cuda.shared.array(SCAN_THREADS, types.uint64)
        highs = cuda.shared.array(tile_highs, types.uint64)
        size, stride, steps = u64(numbers[1]), u64(numbers[2]), u64(numbers[3])
        i_step, s_step = u64(numbers[4]), u64(numbers[5])
        t = u64(cuda.threadIdx.x)
        threads = u64(cuda.blockDim.x)
        x, i, s = offsets(u64(cuda.blockIdx.x), numbers)
        # The owner of a place is its low bits: both factors are powers of two.
        owner_mask = threads * u64(cuda.gridDim.y) - u64(1)
        owner = u64(cuda.blockIdx.y) * threads + t
        k = u64(0)
        while k < steps:
            if k + t < steps:
                positions[t] = u64(load_index(u64(idx + i + (k + t) * i_step)))
                low, high = bits(u64(src + s + (k + t) * s_step))
                lows[t] = low
                if pair:
                    highs[t] = high
            cuda.syncthreads()
            n = min(threads, steps - k)
            for e in range(n):
                j = positions[u64(e)]
                if (j & owner_mask) == owner:
                    if j < size:
                        high = highs[u64(e)] if pair else u64(0)
                        combine(u64(out + x + j * stride), lows[u64(e)], high)
                    else:
                        raise_flag(flag, u32(1))
            cuda.syncthreads()
            k += threads

    return scatter_scan
