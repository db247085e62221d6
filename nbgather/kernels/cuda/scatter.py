"""The kernels of a scatter and a scatter_add that go through items one by one.

A *line* is what lies along the scattered dimension at one position of all the others. A kernel
takes addresses as uint64 and ``numbers``, a tuple of uint64, with axes among them
(:mod:`nbgather.kernels.cuda.positions`) whose strides are those of result, index and src. Which
kernels serve a call is told in :mod:`nbgather.kernels.cuda.scatter_paths`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.kernels.cuda.deferred import cuda
from nbgather.kernels.cuda.folds import How, make_fold
from nbgather.kernels.cuda.positions import make_offsets, u32, u64
from nbgather.kernels.cuda.sums import make_bits, make_read_bits, make_store_bits

#: What is done to an item of the result: it is replaced, added to, a bool made true, or reduced in
#: another way.
SET, ADD, ANY, REDUCE = range(4)

#: Where the axes begin among ``numbers``. Of lines: before them stand the number of lines, the size
#: of the dimension and its stride in the result, the steps of a line, and their strides in index
#: and src.
LINES_FIRST_AXIS = 6
#: Of elements: their count, the size of the dimension, and its stride in the result.
ELEMENTS_FIRST_AXIS = 3
#: Of a pick: the rows of the result, the vectors of a row, a row's bytes.
PICK_FIRST_AXIS = 3


def make_combine(memory: Any, operation: int, kind: str, item: int, how: How) -> Any:
    """Set, add to or reduce an item; the bits of a value, two halves, are taken for a ``kind``."""
    if operation == REDUCE:
        return _make_reduce(memory, item, how)
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


def _make_reduce(memory: Any, item: int, how: How) -> Any:
    """What an item becomes by a value, of a reduction in which the input counts."""
    read_bits, store_bits = make_read_bits(memory, item), make_store_bits(memory, item)
    fold = make_fold(memory, how)

    @memory.INLINE
    def combine(address, low, high):
        own, own_high = read_bits(address)
        own, own_high = fold(own, own_high, low, high)
        store_bits(address, own, own_high)

    return combine


def make_scatter_lines(
    memory: Any,
    axes: int,
    operation: int,
    kind: str,
    item: int,
    index: str,
    wide: bool,
    how: How = ("sum", "", True),
) -> Any:
    """A thread walks a line, its items in order. For lines side by side loads are together."""
    load_index, raise_flag = memory.LOAD[index], memory.STORE["u4"]
    offsets = make_offsets(memory, axes, LINES_FIRST_AXIS, wide)
    combine = make_combine(memory, operation, kind, item, how)
    bits = make_bits(memory, item)

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


def make_scatter_atomic(
    memory: Any, axes: int, operation: int, item: int, index: str, wide: bool
) -> Any:
    """A thread adds an element of integers to its place, whoever is first: the sum is the same.

    With ``ANY`` it makes a bool true, which needs no atomic operation.
    """
    load_index, raise_flag = memory.LOAD[index], memory.STORE["u4"]
    offsets = make_offsets(memory, axes, ELEMENTS_FIRST_AXIS, wide)
    load = memory.LOAD[f"u{item}"]
    adds = operation == ADD
    add = memory.ATOMIC_ADD[f"u{item}"] if adds else memory.STORE["u1"]

    def scatter_atomic(out, src, idx, flag, numbers):
        size, stride = u64(numbers[1]), u64(numbers[2])
        n = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        if n >= u64(numbers[0]):
            return
        x, i, s = offsets(n, numbers)
        j = u64(load_index(u64(idx + i)))
        if j >= size:
            raise_flag(flag, u32(1))
            return
        value = load(u64(src + s))
        if adds or value != 0:
            add(u64(out + x + j * stride), value)

    return scatter_atomic


def make_scatter_claim(memory: Any, axes: int, index: str) -> Any:
    """A thread notes the number of an element, from 1 on, at its place: the last one stays.

    The strides of the result are in places, of which ``winners`` has a uint32 for each.
    """
    load_index, raise_flag = memory.LOAD[index], memory.STORE["u4"]
    claim = memory.ATOMIC_MAX["u4"]
    offsets = make_offsets(memory, axes, ELEMENTS_FIRST_AXIS, False)

    def scatter_claim(winners, idx, flag, numbers):
        n = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        if n >= u64(numbers[0]):
            return
        x, i, _ = offsets(n, numbers)
        j = u64(load_index(u64(idx + i)))
        if j >= u64(numbers[1]):
            raise_flag(flag, u32(1))
            return
        claim(u64(winners + (x + j * u64(numbers[2])) * u64(4)), u32(n + u64(1)))

    return scatter_claim


def make_scatter_pick(memory: Any, axes: int, width: int) -> Any:
    """The rows of the result: the src of the element that claimed it, or the input.

    The threads of a block's x walk a row by vectors of ``width`` bytes, those of y the rows.
    """
    load, load_winner = make_bits(memory, width), memory.LOAD["u4"]
    read, store = make_read_bits(memory, width), make_store_bits(memory, width)
    offsets = make_offsets(memory, axes, PICK_FIRST_AXIS, False)

    def scatter_pick(out, x, src, winners, numbers):
        vectors = u64(numbers[1])
        row = u64(cuda.blockIdx.x) * u64(cuda.blockDim.y) + u64(cuda.threadIdx.y)
        if row >= u64(numbers[0]):
            return
        winner = u64(load_winner(u64(winners + row * u64(4))))
        at = row * u64(numbers[2])
        source = u64(x + at)
        if winner != u64(0):
            _, _, s = offsets(winner - u64(1), numbers)
            source = u64(src + s)
        c = u64(cuda.blockIdx.y) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        while c < vectors:
            if winner != u64(0):
                low, high = load(source + c * u64(width))
            else:
                low, high = read(source + c * u64(width))
            store(u64(out + at + c * u64(width)), low, high)
            c += u64(cuda.blockDim.x) * u64(cuda.gridDim.y)

    return scatter_pick


def make_zeros(memory: Any) -> Any:
    """Fill memory with zeros, 16 bytes a thread. ``numbers``: how many of these."""
    store = memory.STORE["u16"]

    def zeros(out, numbers):
        n = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        if n < u64(numbers[0]):
            store(u64(out + n * u64(16)), (u64(0), u64(0)))

    return zeros
