"""The kernels of a scatter_add of whole rows, which have one index each.

The indices alone are sorted (:mod:`nbgather.kernels.cuda.radix`), equal ones in the order of their
elements. Then each row of the result has one owner, which begins with the input's row and adds the
rows that go to it in that order. Where they are few, the owner looks through the indices instead.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbgather.kernels.cuda import radix
from nbgather.kernels.cuda.deferred import cuda
from nbgather.kernels.cuda.folds import How
from nbgather.kernels.cuda.positions import divide_narrow, make_offsets, u32, u64
from nbgather.kernels.cuda.reports import make_report
from nbgather.kernels.cuda.sums import make_bits, make_read_bits, make_store_bits
from nbgather.kernels.cuda.words import make_vector

#: Where the axes of elements begin among ``numbers``. Of a source of keys: behind its own come the
#: size of the dimension, its stride in places of the result, and how many places there are.
INDEX_FIRST_AXIS = radix.SOURCE_NUMBERS + 3
#: Of sums: before them stand the rows of the result, the vectors of a row, and a row's bytes.
SUMS_FIRST_AXIS = 3
#: Of rows that look: the same, then the size of the dimension, the steps of an index, and their
#: strides in index and src. The axes are those of the other dimensions.
LOOKS_FIRST_AXIS = 7


def make_index_source(memory: Any, axes: int, index: str, item: int) -> SimpleNamespace:
    """A source: the place in the result that an element of the index goes to.

    With it goes the element's number, or the bits of its src if ``item`` says how many bytes. The
    strides of the result are in places; ``a`` is the index, ``b`` src. What has a bad index goes to
    the place behind the last, where nobody looks.
    """
    load_index, raise_flag = memory.LOAD[index], memory.STORE["u4"]
    offsets = make_offsets(memory, axes, INDEX_FIRST_AXIS, False)
    load = memory.LOAD[f"u{item or 4}"]

    @memory.INLINE
    def one_key(keys, tokens, a, flag, n, p, numbers):
        x, i, _ = offsets(p, numbers)
        j = u64(load_index(u64(a + i)))
        if j >= u64(numbers[INDEX_FIRST_AXIS - 3]):
            raise_flag(flag, u32(1))
            return u32(numbers[INDEX_FIRST_AXIS - 1])
        return u32(x + j * u64(numbers[INDEX_FIRST_AXIS - 2]))

    if item:

        @memory.INLINE
        def token(tokens, b, n, p, numbers):
            _, _, s = offsets(p, numbers)
            return u32(load(u64(b + s)))

    else:

        @memory.INLINE
        def token(tokens, b, n, p, numbers):
            return u32(p)

    return SimpleNamespace(four_keys=radix.make_by_fours(memory, one_key), token=token)


def make_bounds(memory: Any) -> Any:
    """Where the elements of each place begin and end among the sorted ones.

    Places without any are left alone. ``numbers``: the elements, and how many low bits of a key
    are no part of the place.
    """
    load, store = memory.LOAD["u4"], memory.STORE["u4"]

    def bounds(keys, starts, ends, numbers):
        count, shift = u64(numbers[0]), u32(numbers[1])
        p = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        if p >= count:
            return
        place = u32(load(u64(keys + p * u64(4))) >> shift)
        before, after = u32(place + u32(1)), u32(place + u32(1))
        if p > u64(0):
            before = u32(load(u64(keys + (p - u64(1)) * u64(4))) >> shift)
        if p + u64(1) < count:
            after = u32(load(u64(keys + (p + u64(1)) * u64(4))) >> shift)
        if before != place:
            store(u64(starts + u64(place) * u64(4)), u32(p))
        if after != place:
            store(u64(ends + u64(place) * u64(4)), u32(p + u64(1)))

    return bounds


def make_segment_bounds(memory: Any, by: str, index: str) -> Any:
    """Where segments begin and end, as uint32 that are no larger than the number of rows.

    ``by``: *offsets* are copied, *counts* too, for a scan to make offsets of them, and *sums* are
    what that has left, in place. The first that is bad is reported; of sums, behind all counts,
    what they amount to. ``numbers``: how many there are, the bytes from one to the next, the rows.
    """
    read, store, report = memory.READ[index], memory.STORE["u4"], make_report(memory)
    is_counts, is_sums = by == "counts", by == "sums"

    def segment_bounds(out, given, record, call, numbers):
        k = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        last, step, rows = u64(numbers[0]) - u64(1), u64(numbers[1]), u64(numbers[2])
        if k > last:
            return
        value = read(u64(given + k * step))
        bad = u64(value) > rows
        if not is_counts:
            if k == u64(0):
                bad = bad or u64(value) != u64(0)
            else:
                bad = bad or u64(read(u64(given + (k - u64(1)) * step))) > u64(value)
            if k == last:
                bad = bad or u64(value) != rows
        if bad:
            if is_sums:
                report(record, call, last, read(u64(given + last * step)))
            else:
                report(record, call, k, value)
        if bad or not is_sums:
            store(u64(out + k * u64(4)), u32(min(u64(value), rows)))

    return segment_bounds


def make_row_sums(memory: Any, axes: int, how: How, width: int, sorted_rows: bool) -> Any:
    """The threads of a block's x walk a row by vectors of ``width`` bytes, those of y the rows.

    With ``sorted_rows`` the rows of src are in order themselves, and there are no tokens.
    """
    load_u4, load = memory.LOAD["u4"], make_bits(memory, width)
    read, store = make_read_bits(memory, width), make_store_bits(memory, width)
    offsets = make_offsets(memory, axes, SUMS_FIRST_AXIS, False)
    vector, own = make_vector(memory, how, width), how[2]
    begin, add, finish = vector.begin, vector.add, vector.finish

    @memory.INLINE
    def row_of(tokens, p):
        return p if sorted_rows else u64(load_u4(u64(tokens + p * u64(4))))

    def row_sums(out, x, src, tokens, starts, ends, numbers):
        vectors = u64(numbers[1])
        row = u64(cuda.blockIdx.x) * u64(cuda.blockDim.y) + u64(cuda.threadIdx.y)
        if row >= u64(numbers[0]):
            return
        start = u64(load_u4(u64(starts + row * u64(4))))
        end = u64(load_u4(u64(ends + row * u64(4))))
        at = row * u64(numbers[2])
        c = u64(cuda.blockIdx.y) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        while c < vectors:
            column = c * u64(width)
            low, high = read(u64(x + at + column))
            sums = begin(low, high)
            p = start
            # Four rows in flight, which are added in order.
            while p + u64(4) <= end:
                _, _, s0 = offsets(row_of(tokens, p), numbers)
                _, _, s1 = offsets(row_of(tokens, p + u64(1)), numbers)
                _, _, s2 = offsets(row_of(tokens, p + u64(2)), numbers)
                _, _, s3 = offsets(row_of(tokens, p + u64(3)), numbers)
                l0, h0 = load(u64(src + s0 + column))
                l1, h1 = load(u64(src + s1 + column))
                l2, h2 = load(u64(src + s2 + column))
                l3, h3 = load(u64(src + s3 + column))
                sums = add(sums, l0, h0)
                sums = add(sums, l1, h1)
                sums = add(sums, l2, h2)
                sums = add(sums, l3, h3)
                p += u64(4)
            while p < end:
                _, _, s0 = offsets(row_of(tokens, p), numbers)
                l0, h0 = load(u64(src + s0 + column))
                sums = add(sums, l0, h0)
                p += u64(1)
            low, high = finish(sums, low, high, end - start + u64(own))
            store(u64(out + at + column), low, high)
            c += u64(cuda.blockDim.x) * u64(cuda.gridDim.y)

    return row_sums


def make_row_looks(memory: Any, axes: int, how: How, index: str, width: int) -> Any:
    """The same, in one launch: the owner of a row looks through the index for what goes to it."""
    load_index, raise_flag = memory.LOAD[index], memory.STORE["u4"]
    load, read = make_bits(memory, width), make_read_bits(memory, width)
    store = make_store_bits(memory, width)
    offsets = make_offsets(memory, axes, LOOKS_FIRST_AXIS, False)
    vector, own = make_vector(memory, how, width), how[2]
    begin, add, finish = vector.begin, vector.add, vector.finish

    def row_looks(out, x, src, idx, flag, numbers):
        vectors, size, steps = u64(numbers[1]), u64(numbers[3]), u64(numbers[4])
        i_step, s_step = u64(numbers[5]), u64(numbers[6])
        row = u64(cuda.blockIdx.x) * u64(cuda.blockDim.y) + u64(cuda.threadIdx.y)
        if row >= u64(numbers[0]):
            return
        outer, j = divide_narrow(row, size)
        at, i, s = offsets(outer, numbers)
        at += j * u64(numbers[2])
        i = u64(idx + i)
        c = u64(cuda.blockIdx.y) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        checks = j == u64(0) and c == u64(0)
        while c < vectors:
            column = c * u64(width)
            low, high = read(u64(x + at + column))
            sums = begin(low, high)
            n = u64(own)
            k = u64(0)
            while k < steps:
                value = u64(load_index(u64(i + k * i_step)))
                if value == j:
                    more, more_high = load(u64(src + s + k * s_step + column))
                    sums = add(sums, more, more_high)
                    n += u64(1)
                if checks and value >= size:
                    raise_flag(flag, u32(1))
                k += u64(1)
            low, high = finish(sums, low, high, n)
            store(u64(out + at + column), low, high)
            c += u64(cuda.blockDim.x) * u64(cuda.gridDim.y)

    return row_looks
