"""The kernels of a gather, by elements and by rows, and of a strided copy.

A kernel takes addresses as uint64 and ``numbers``, a tuple of uint64; see
:mod:`nbgather.kernels.cuda.positions` for the axes among them. ``memory`` is
:mod:`nbgather.kernels.cuda.memory` or the simulator's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.kernels.constants import FILL
from nbgather.kernels.cuda.deferred import cuda, scalar
from nbgather.kernels.cuda.positions import make_offsets, u64
from nbgather.kernels.cuda.reports import make_report

resolve = scalar.resolve

#: Elements that a thread of ``gather_elements`` moves at a time; the kernel has them written out.
ELEMENTS_PER_THREAD = 4
#: Rows that a thread of ``gather_short_rows`` moves, written out as well.
ROWS_PER_THREAD = 4

#: Where the axes begin among the ``numbers`` of each kernel. Before them stand the count of
#: elements or rows, and for a gather the size of the dimension, the limit from which an index is
#: bad, the stride along the dimension, the 16 bytes to fill with as two halves, and the elements
#: of a block or the vectors of a row. A bad index is reported to the record at an address (0: none
#: is) as that of the ``call``, by its number in row-major order.
ELEMENTS_FIRST_AXIS, ROWS_FIRST_AXIS, COPY_FIRST_AXIS = 7, 7, 1


def make_store_two(memory: Any, item: int, streams: bool) -> Any:
    """Store two items of up to 8 bytes side by side, at a multiple of both."""
    store, bits = (memory.STREAM if streams else memory.STORE)[f"u{2 * item}"], u64(8 * item)
    if item == 8:

        @memory.INLINE
        def store_two(address, one, other):
            store(address, (u64(one), u64(other)))

    else:

        @memory.INLINE
        def store_two(address, one, other):
            store(address, u64(one) | (u64(other) << bits))

    return store_two


def make_gather_elements(
    memory: Any,
    axes: int,
    item: int,
    index: str,
    mode: int,
    from_end: bool,
    wide: bool,
    panels: bool,
    pairs: bool,
    streams: bool,
) -> Any:
    """A block moves ``chunk`` elements, its threads ``ELEMENTS_PER_THREAD`` of them at a time.

    With ``panels`` the axes are not those of the result in row-major order, which is contiguous.
    With ``pairs`` two elements side by side have one load of their indices, of 8 bytes each, and
    one store; else those of a thread are a block's width apart. With ``streams`` the result is
    written past what is kept in the caches.
    """
    one = _make_element(memory, axes, item, index, mode, from_end, wide, panels)
    load_index, load_two = memory.LOAD[index], memory.LOAD["u16"]
    load = memory.LOAD[f"u{item}"]
    store = (memory.STREAM if streams else memory.STORE)[f"u{item}"]
    store_two = make_store_two(memory, item if pairs else 1, streams)
    offsets = make_offsets(memory, axes, ELEMENTS_FIRST_AXIS, wide)
    x_at = ELEMENTS_FIRST_AXIS + 1

    def gather_elements(out, src, idx, record, call, numbers):
        count, size, stride = u64(numbers[0]), u64(numbers[1]), u64(numbers[3])
        threads, chunk = u64(cuda.blockDim.x), u64(numbers[6])
        first = u64(cuda.blockIdx.x) * chunk
        end = min(first + chunk, count)
        n = first + u64(cuda.threadIdx.x)
        while n + u64(3) * threads < end:
            # Four loads of the index in flight, then four of the input.
            x0, i0, o0 = offsets(n, numbers)
            x1, i1, o1 = offsets(n + threads, numbers)
            x2, i2, o2 = offsets(n + u64(2) * threads, numbers)
            x3, i3, o3 = offsets(n + u64(3) * threads, numbers)
            j0 = resolve(load_index(u64(idx + i0)), size, mode, from_end)
            j1 = resolve(load_index(u64(idx + i1)), size, mode, from_end)
            j2 = resolve(load_index(u64(idx + i2)), size, mode, from_end)
            j3 = resolve(load_index(u64(idx + i3)), size, mode, from_end)
            if j0 < size and j1 < size and j2 < size and j3 < size:
                v0 = load(u64(src + x0 + j0 * stride))
                v1 = load(u64(src + x1 + j1 * stride))
                v2 = load(u64(src + x2 + j2 * stride))
                v3 = load(u64(src + x3 + j3 * stride))
                store(u64(out + o0), v0)
                store(u64(out + o1), v1)
                store(u64(out + o2), v2)
                store(u64(out + o3), v3)
                n += u64(4) * threads
            else:
                last = n + u64(4) * threads
                while n < last:
                    one(out, src, idx, record, call, n, numbers)
                    n += threads
        while n < end:
            one(out, src, idx, record, call, n, numbers)
            n += threads

    def gather_pairs(out, src, idx, record, call, numbers):
        count, size, stride = u64(numbers[0]), u64(numbers[1]), u64(numbers[3])
        step, chunk, beside = u64(2) * u64(cuda.blockDim.x), u64(numbers[6]), u64(numbers[x_at])
        first = u64(cuda.blockIdx.x) * chunk
        end = min(first + chunk, count)
        n = first + u64(2) * u64(cuda.threadIdx.x)
        while n < end:
            good = False
            if n + step < end:
                x0, i0, o0 = offsets(n, numbers)
                x2, i2, o2 = offsets(n + step, numbers)
                k0, k1 = load_two(u64(idx + i0))
                k2, k3 = load_two(u64(idx + i2))
                j0 = resolve(np.int64(k0), size, mode, from_end)
                j1 = resolve(np.int64(k1), size, mode, from_end)
                j2 = resolve(np.int64(k2), size, mode, from_end)
                j3 = resolve(np.int64(k3), size, mode, from_end)
                good = bool(j0 < size and j1 < size and j2 < size and j3 < size)
                if good:
                    v0 = load(u64(src + x0 + j0 * stride))
                    v1 = load(u64(src + x0 + beside + j1 * stride))
                    v2 = load(u64(src + x2 + j2 * stride))
                    v3 = load(u64(src + x2 + beside + j3 * stride))
                    store_two(u64(out + o0), v0, v1)
                    store_two(u64(out + o2), v2, v3)
                    n += step
            if not good:  # one pair, whose turns nobody knows at compile time
                last = min(n + u64(2), end)
                m = n
                while m < last:
                    one(out, src, idx, record, call, m, numbers)
                    m += u64(1)
            n += step

    return gather_pairs if pairs else gather_elements


def _make_element(
    memory: Any,
    axes: int,
    item: int,
    index: str,
    mode: int,
    from_end: bool,
    wide: bool,
    panels: bool,
) -> Any:
    """Move one element, whatever its index."""
    load_index, report = memory.LOAD[index], make_report(memory)
    load, store = memory.LOAD[f"u{item}"], memory.STORE[f"u{item}"]
    offsets = make_offsets(memory, axes, ELEMENTS_FIRST_AXIS, wide)
    pair, filling = item == 16, mode == FILL

    @memory.INLINE
    def fill_value(numbers):
        if pair:
            return (u64(numbers[4]), u64(numbers[5]))
        return u64(numbers[4])

    @memory.INLINE
    def one(out, src, idx, record, call, n, numbers):
        size, limit, stride = u64(numbers[1]), u64(numbers[2]), u64(numbers[3])
        x, i, o = offsets(n, numbers)
        j = resolve(load_index(u64(idx + i)), size, mode, from_end)
        if j < size:
            store(u64(out + o), load(u64(src + x + j * stride)))
        else:
            if filling:
                store(u64(out + o), fill_value(numbers))
            if record != u64(0) and j >= limit:
                position = u64(o // u64(item)) if panels else n
                report(record, call, position, load_index(u64(idx + i)))

    return one


def _make_fill_value(memory: Any, width: int) -> Any:
    """The vector at an offset in a row that is filled with the 16 bytes in ``numbers``."""
    pair = width == 16

    @memory.INLINE
    def fill_value(offset, numbers):
        if pair:
            return (u64(numbers[4]), u64(numbers[5]))
        half = u64(numbers[5]) if offset & u64(8) else u64(numbers[4])
        return half >> ((offset & u64(7)) * u64(8))

    return fill_value


def make_gather_rows(
    memory: Any,
    axes: int,
    width: int,
    index: str,
    mode: int,
    from_end: bool,
    wide: bool,
    fill_row: bool,
    streams: bool,
) -> Any:
    """The threads of a block's x walk a row by vectors of ``width`` bytes, those of y the rows.

    With ``fill_row`` the row at the address ``fill`` is filled in, else the 16 bytes in
    ``numbers``. With ``streams`` the result is written past what is kept in the caches.
    """
    load_index, report = memory.LOAD[index], make_report(memory)
    load = memory.LOAD[f"u{width}"]
    store = (memory.STREAM if streams else memory.STORE)[f"u{width}"]
    offsets = make_offsets(memory, axes, ROWS_FIRST_AXIS, wide)
    filling, fill_value = mode == FILL, _make_fill_value(memory, width)

    def gather_rows(out, src, idx, record, call, fill, numbers):
        rows, size = u64(numbers[0]), u64(numbers[1])
        limit, stride = u64(numbers[2]), u64(numbers[3])
        vectors = u64(numbers[6])
        row = u64(cuda.blockIdx.x) * u64(cuda.blockDim.y) + u64(cuda.threadIdx.y)
        if row >= rows:
            return
        x, i, o = offsets(row, numbers)
        j = resolve(load_index(u64(idx + i)), size, mode, from_end)
        step = u64(cuda.blockDim.x) * u64(cuda.gridDim.y)
        c = u64(cuda.blockIdx.y) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        nbytes = u64(width)
        target = u64(out + o)
        if j < size:
            source = u64(src + x + j * stride)
            last = vectors - u64(1)
            while c < vectors:
                # Four loads in flight, of which those beyond the row take its end once more.
                c1 = c + step
                c2 = c1 + step
                c3 = c2 + step
                v0 = load(source + c * nbytes)
                v1 = load(source + min(c1, last) * nbytes)
                v2 = load(source + min(c2, last) * nbytes)
                v3 = load(source + min(c3, last) * nbytes)
                store(target + c * nbytes, v0)
                if c1 < vectors:
                    store(target + c1 * nbytes, v1)
                if c2 < vectors:
                    store(target + c2 * nbytes, v2)
                if c3 < vectors:
                    store(target + c3 * nbytes, v3)
                c = c3 + step
        else:
            if record != u64(0) and j >= limit and c == u64(0):
                report(record, call, row, load_index(u64(idx + i)))
            while filling and c < vectors:
                if fill_row:
                    store(target + c * nbytes, load(fill + c * nbytes))
                else:
                    store(target + c * nbytes, fill_value(c * nbytes, numbers))
                c += step

    return gather_rows


def make_gather_short_rows(
    memory: Any,
    axes: int,
    width: int,
    index: str,
    mode: int,
    from_end: bool,
    wide: bool,
    fill_row: bool,
    streams: bool,
) -> Any:
    """The same for rows of one vector for each thread of x, which moves ``ROWS_PER_THREAD``.

    A row waits for its index, and then for its vector: others wait beside it.
    """
    load_index, report = memory.LOAD[index], make_report(memory)
    load = memory.LOAD[f"u{width}"]
    store = (memory.STREAM if streams else memory.STORE)[f"u{width}"]
    offsets = make_offsets(memory, axes, ROWS_FIRST_AXIS, wide)
    filling, fill_value = mode == FILL, _make_fill_value(memory, width)

    def gather_short_rows(out, src, idx, record, call, fill, numbers):
        rows, size = u64(numbers[0]), u64(numbers[1])
        limit, stride = u64(numbers[2]), u64(numbers[3])
        c = u64(cuda.threadIdx.x)
        if c >= u64(numbers[6]):
            return
        at = c * u64(width)
        y = u64(cuda.blockDim.y)
        row = u64(cuda.blockIdx.x) * y * u64(ROWS_PER_THREAD) + u64(cuda.threadIdx.y)
        if row + u64(3) * y < rows:
            x0, i0, o0 = offsets(row, numbers)
            x1, i1, o1 = offsets(row + y, numbers)
            x2, i2, o2 = offsets(row + u64(2) * y, numbers)
            x3, i3, o3 = offsets(row + u64(3) * y, numbers)
            j0 = resolve(load_index(u64(idx + i0)), size, mode, from_end)
            j1 = resolve(load_index(u64(idx + i1)), size, mode, from_end)
            j2 = resolve(load_index(u64(idx + i2)), size, mode, from_end)
            j3 = resolve(load_index(u64(idx + i3)), size, mode, from_end)
            if j0 < size and j1 < size and j2 < size and j3 < size:
                v0 = load(u64(src + x0 + j0 * stride + at))
                v1 = load(u64(src + x1 + j1 * stride + at))
                v2 = load(u64(src + x2 + j2 * stride + at))
                v3 = load(u64(src + x3 + j3 * stride + at))
                store(u64(out + o0 + at), v0)
                store(u64(out + o1 + at), v1)
                store(u64(out + o2 + at), v2)
                store(u64(out + o3 + at), v3)
                return
        end = min(row + y * u64(ROWS_PER_THREAD), rows)
        while row < end:
            x, i, o = offsets(row, numbers)
            j = resolve(load_index(u64(idx + i)), size, mode, from_end)
            if j < size:
                store(u64(out + o + at), load(u64(src + x + j * stride + at)))
            else:
                if record != u64(0) and j >= limit and c == u64(0):
                    report(record, call, row, load_index(u64(idx + i)))
                if filling:
                    if fill_row:
                        store(u64(out + o + at), load(u64(fill + at)))
                    else:
                        store(u64(out + o + at), fill_value(at, numbers))
            row += y

    return gather_short_rows


def make_copy(memory: Any, axes: int, item: int, wide: bool) -> Any:
    """A thread copies an item from one strided array to another of the same shape."""
    load, store = memory.LOAD[f"u{item}"], memory.STORE[f"u{item}"]
    offsets = make_offsets(memory, axes, COPY_FIRST_AXIS, wide)

    def copy(out, src, numbers):
        n = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        if n < u64(numbers[0]):
            x, _, o = offsets(n, numbers)
            store(u64(out + o), load(u64(src + x)))

    return copy
