"""The kernel that gathers element by element; it returns 0 if no index was out of bounds.

The layout of ``args``, as :class:`nbgather.kernels.plans.GatherPlan` holds it::

    [size, limit, along, B, xb, ib, ob, M, xm, im, om, nt, W, outer, (n, x, i, o) * outer]

``size`` is the length of the gathered dimension and ``along`` its stride in the input. ``B`` is
the innermost axis of the loop and ``M`` the next; the outer axes follow, innermost first. Each
axis has a length and three strides: input, index, output. ``nt`` is 1 if the output is too large
for any cache, and is written with non-temporal stores. ``W`` is the width of a panel or a group of
lanes; of other elements it says how index and input are prefetched where they are large: 0 not,
`ROWS_FETCHED` or `EACH_FETCHED`.

All arithmetic on positions is in uint64, since numba adds wraparound code to signed subscripts; a
negative stride is right as well, modulo 2**64.
"""

from __future__ import annotations

import sys

import numpy as np
from numba import njit

from nbgather.kernels import scalar
from nbgather.kernels.constants import (
    BLOCK_ITEMS,
    FILL,
    LAST,
    MIDDLE,
    RAISE,
    ROWS_FETCHED,
    STRIDED,
    VECTOR,
    WRAP,
)
from nbgather.kernels.cpu.blocks import (
    gather_block,
    gather_narrow_block,
    lane_offsets,
    line_items,
    next_short_rows,
    offsets_in_two_rows,
    start_short_rows,
)
from nbgather.kernels.cpu.intrinsics import (
    LINE_BYTES,
    address,
    fence,
    prefetch,
    uint64_at,
    words_on_stack,
)

U = np.uint64

#: `gather_narrow_block` shifts narrow items out of words, which is right on these machines only.
LITTLE_ENDIAN = sys.byteorder == "little"
#: How far ahead of its use the index of a large gather is prefetched, since the processor's own
#: prefetching stops at the end of a page; and the input, unless a row of it is longer.
PAGE_BYTES = 1 << 12
#: Items for which something is prefetched at a time at most, a multiple of the fewest; so many that
#: no more than some cache lines of the input are asked for at once.
AHEAD_ITEMS, FETCHED_ITEMS, BURST_LINES = 128, 32, 8
#: How far ahead of its use an index is looked at for what it stands for, in items.
PEEK_ITEMS = 256
#: Items are read in order, which the processor sees by itself, where those of a line of bytes lie
#: within so many lines.
NEAR_LINES = 16
#: Elements of a group at most, for which the places of one are a table.
GROUP_ITEMS = 240
#: A place in a run that is not reached.
NEVER = U(1 << 63)
#: The position of the number of outer axes in ``args``.
OUTER = 13

resolve = scalar.resolve
_table_on_stack = words_on_stack(GROUP_ITEMS + BLOCK_ITEMS)


@njit(inline="always")
def outer_offset(args, first, operand, q):
    """The offset of position ``q`` of the outer axes in one operand.

    ``args[first]`` is the number of outer axes, a length and three strides for each of them
    follow, innermost axis first. ``operand`` is 1, 2 or 3: which of the strides.
    """
    offset = np.int64(0)
    outer = args[first]
    for d in range(outer):
        axis = first + 1 + 4 * d
        if d == outer - 1:
            offset += q * args[axis + operand]
        else:
            quotient = q // args[axis]
            offset += (q - quotient * args[axis]) * args[axis + operand]
            q = quotient
    return offset


@njit(inline="always")
def gather_one(out, o, src, x, value, size, limit, along, aux, mode, from_end):
    """Gather one element; 1 if its index was not below ``limit``."""
    j = resolve(value, size, mode, from_end)
    bad = U(1) if j >= limit else U(0)
    inside = True
    if mode == RAISE:
        if bad:
            j = U(0)
    elif mode == FILL:
        inside = j < size
    out[o] = src[x + j * along] if inside else aux[U(0)]
    return bad


@njit(inline="always")
def until_line(out, o, itemsize):
    """The number of items from ``out[o]`` to the start of the next cache line."""
    past = (address(out) + o * itemsize) & U(63)
    return ((U(64) - past) & U(63)) // itemsize


@njit(inline="always")
def fetch_indices(idx, i, n):
    """Prefetch ``n`` indices, a multiple of `FETCHED_ITEMS`, a page after ``idx[i]``."""
    each = line_items(idx)
    first = i + each * U(PAGE_BYTES // LINE_BYTES)
    for k in range(first, first + n, U(FETCHED_ITEMS)):
        for t in range(U(0), U(FETCHED_ITEMS), each):
            prefetch(idx, k + t)


@njit(inline="always")
def fetch_items(src, x, n, itemsize):
    """Prefetch ``n`` neighbours of the input."""
    for k in range(x, x + n, U(LINE_BYTES // itemsize)):
        prefetch(src, k)


@njit(inline="always")
def fetch_later(src, x, idx, i, k, n, every, b, B, step, jump, along, itemsize):
    """Prefetch ``every`` indices from ``k`` on, of ``n``, and what those a while later stand for.

    ``x`` and ``b`` are the item and its place of the first index, if its row began that far before
    it; rows are as in `gather_run`. Of items that fill a line of the output one is enough where all
    have the same index, or follow each other in the input. A prefetch may have any address.
    """
    fetch_indices(idx, i + k, every)
    k += U(PEEK_ITEMS)
    end = min(k + every, n)
    if k >= end:
        return
    b += k
    rows = b // B
    b -= rows * B
    x += k * step + rows * jump
    line = U(LINE_BYTES // itemsize)
    near = U(NEAR_LINES) * line // U(itemsize)
    while k < end:
        stop = min(k + line, end)
        spread = (U(idx[i + stop - U(1)]) - U(idx[i + k])) * along + near
        by = U(1) if spread > near + near else line
        while k < stop:
            prefetch(src, x + U(idx[i + k]) * along)
            k += by
            b += by
            x += by * step
            while b >= B:
                b -= B
                x += jump


@njit(inline="always")
def gather_run(
    out, o, src, x, idx, i, n, b, B, step, jump, size, limit, along, aux, mode, from_end, itemsize,
    method, streams, every, ahead, rows_fetched, block, block_across, narrow_block,
):  # fmt: skip
    """Gather ``n`` elements whose indices and outputs are contiguous; not 0 if an index was bad.

    They are those of rows of ``B``, from place ``b`` of the first: in the input an element is
    ``step`` from the one before it, and the first of a row ``jump`` further. 16 at a time. With
    ``ahead`` index and input are prefetched for ``every`` so many indices: with ``rows_fetched`` so
    many items of the next row, and otherwise what later indices stand for.
    """
    bad = U(0)
    k = U(0)
    items = U(BLOCK_ITEMS)
    in_blocks = mode != WRAP and size > U(0) and n >= items
    # Elements go one by one up to the first line that is streamed, and where no block is full.
    single_end = U(0) if in_blocks else n
    if streams and in_blocks:
        single_end = min(until_line(out, o, U(itemsize)), n)
    while True:
        while k < single_end:
            bad |= gather_one(
                out, o + k, src, x, idx[i + k], size, limit, along, aux, mode, from_end
            )
            k += U(1)
            b += U(1)
            x += step
            if b == B:
                b = U(0)
                x += jump
        if k == n:
            return bad
        single_end = n
        lanes = lane_offsets()
        due = k if ahead > U(0) else NEVER
        if B >= items:
            is_narrow = LITTLE_ENDIAN and itemsize <= 2 and method == VECTOR
            is_narrow = is_narrow and along == U(1) and step == U(0)
            is_narrow = is_narrow and size * U(itemsize) >= U(4)
            while k < n:
                start = k
                end = k + min(n - k, B - b)
                cursor = x + max(jump, U(PAGE_BYTES // itemsize))
                if rows_fetched:
                    due = k
                while k + items <= end:
                    if k >= due:
                        if rows_fetched:
                            fetch_indices(idx, i + k, every)
                            fetch_items(src, cursor, ahead, itemsize)
                            cursor += ahead
                        else:
                            fetch_later(
                                src, x - start * step, idx, i, due, n, every, b - start, B, step,
                                jump, along, itemsize,
                            )  # fmt: skip
                        due += every
                    stop = min(end, max(due, k + items))
                    while k + items <= stop:
                        if is_narrow:
                            bad |= narrow_block(out, o + k, src, x, idx, i + k, size, limit, aux)
                        else:
                            bad |= block(
                                out, o + k, src, x + (k - start) * step, idx, i + k, size, limit,
                                along, step, aux,
                            )  # fmt: skip
                        k += items
                b += k - start
                x += (k - start) * step
                if k == n:
                    break
                if k + items > n:
                    # Repeats a few elements: cheaper than the remainder one by one.
                    back = k + items - n
                    k -= back
                    x -= back * step
                    if b < back:
                        b += B
                        x -= jump
                    b -= back
                offsets_in_two_rows(lanes, step, B - b, jump)
                bad |= block_across(out, o + k, src, x, idx, i + k, size, limit, along, lanes, aux)
                k += items
                b += items
                x += items * step
                if b >= B:
                    b -= B
                    x += jump
        else:
            start = k
            rows = items // B
            places = items - rows * B
            start_short_rows(lanes, b, B, step, jump)
            while k + items <= n:
                if k >= due and not rows_fetched:
                    fetch_later(
                        src, x - start * step, idx, i, due, n, every, b - start, B, step, jump,
                        along, itemsize,
                    )  # fmt: skip
                    due += every
                bad |= block_across(out, o + k, src, x, idx, i + k, size, limit, along, lanes, aux)
                next_short_rows(lanes, B, places, items * step + rows * jump, jump)
                k += items
            rows = (b + k - start) // B
            x += (k - start) * step + rows * jump
            b += k - start - rows * B


@njit(inline="always")
def gather_groups(
    out, src, idx, args, lo, hi, step, size, limit, along, aux, mode, from_end, block_across
):  # fmt: skip
    """Gather elements whose outer positions follow each other, each a group of few elements.

    How far an element is from the first of its group depends on its place in it alone. A table has
    that for each place, and goes on so far that sixteen elements may begin at any. The last sixteen
    repeat a few.
    """
    B, xm, far = U(args[3]), U(args[8]), U(args[OUTER + 2])
    group, items = B * U(args[7]), U(BLOCK_ITEMS)
    table = uint64_at(U(_table_on_stack()))
    for t in range(group):
        table[t] = t // B * xm + t % B * step
    for t in range(group, group + items):
        table[t] = table[t - group] + far
    groups, places = items // group, items % group
    bad = U(0)
    p, end = U(lo), U(hi)
    in_blocks = end - p >= items
    while p < end:
        if in_blocks:
            p = min(p, end - items)
        q = p // group
        place, x = p - q * group, q * far
        while p + items <= end:
            lanes = uint64_at(address(table) + place * U(8))
            bad |= block_across(out, p, src, x, idx, p, size, limit, along, lanes, aux)
            p += items
            place += places
            x += groups * far
            if place >= group:
                place -= group
                x += far
        if not in_blocks:
            bad |= gather_one(
                out, p, src, x + table[place], idx[p], size, limit, along, aux, mode, from_end
            )
            p += U(1)
    return bad


def make_blocks(mode, from_end, method, streams):
    """What moves sixteen items: within a row, across rows, and of 1 or 2 bytes by vectors."""
    return (
        gather_block(mode, from_end, method, False, streams),
        gather_block(mode, from_end, method, True, False),
        gather_narrow_block(mode, from_end),
    )


def make_gather(mode, from_end, itemsize, method, streams, form):
    """The kernel that goes element by element along the innermost axis."""

    # The items of a strided gather start anywhere, and are not streamed.
    block, block_across, narrow_block = make_blocks(
        mode, from_end, method, streams and form != STRIDED
    )

    def gather_elements(out, src, idx, aux, args, lo, hi):
        size = U(args[0])
        limit = U(args[1])
        along = U(args[2])
        B = args[3]
        xb, ib, ob = U(args[4]), U(args[5]), U(args[6])
        M = args[7]
        nt = U(args[11])
        every, ahead = U(AHEAD_ITEMS), U(0)
        rows_fetched = form == LAST and args[12] == ROWS_FETCHED
        if args[12]:
            burst = U(BURST_LINES * (LINE_BYTES // itemsize)) * U(B) // max(size, U(1))
            every = min(max(burst & ~U(FETCHED_ITEMS - 1), U(FETCHED_ITEMS)), every)
            ahead = max(size * every // U(B), U(1))
        step = U(1) if form == MIDDLE else U(0)
        # Rows that follow each other in index and output are one run.
        joined = form != STRIDED and args[9] == B and args[10] == B
        jump = U(args[8]) - U(B) * step
        if form == MIDDLE and mode != WRAP and size > U(0):
            group = B * M
            grouped = joined and args[OUTER] == 1 and group <= GROUP_ITEMS
            if grouped and args[OUTER + 3] == group and args[OUTER + 4] == group:
                bad = gather_groups(
                    out, src, idx, args, lo, hi, step, size, limit, along, aux, mode, from_end,
                    block_across,
                )  # fmt: skip
                return np.int64(bad != U(0) and args[1] >= 0)
        bad = U(0)
        p = lo
        while p < hi:
            q = p // (B * M)
            m = (p - q * B * M) // B
            b = p - q * B * M - m * B
            x0 = outer_offset(args, OUTER, 1, q)
            i0 = outer_offset(args, OUTER, 2, q)
            o0 = outer_offset(args, OUTER, 3, q)
            while m < M and p < hi:
                n = min((M - m) * B - b if joined else B - b, hi - p)
                x = U(x0 + m * args[8])
                i = U(i0 + m * args[9])
                o = U(o0 + m * args[10])
                if form == STRIDED:
                    k, end = U(b), U(b + n)
                    if mode != WRAP and size > U(0) and ib == U(1) and ob == U(1):
                        while k + U(BLOCK_ITEMS) <= end:
                            later = k + U(PEEK_ITEMS)
                            if args[12] and later + U(BLOCK_ITEMS) <= end:
                                for t in range(later, later + U(BLOCK_ITEMS)):
                                    prefetch(src, x + t * xb + U(idx[i + t]) * along)
                            bad |= block(
                                out, o + k, src, x + k * xb, idx, i + k, size, limit, along, xb, aux
                            )
                            k += U(BLOCK_ITEMS)
                    while k < end:
                        bad |= gather_one(
                            out, o + k * ob, src, x + k * xb, idx[i + k * ib],
                            size, limit, along, aux, mode, from_end,
                        )  # fmt: skip
                        k += U(1)
                else:
                    f = U(b)
                    bad |= gather_run(
                        out, o + f, src, x + f * step, idx, i + f, U(n), f, U(B), step, jump,
                        size, limit, U(1) if form == LAST else along, aux, mode, from_end, itemsize,
                        method, streams, every, ahead, rows_fetched,
                        block, block_across, narrow_block,
                    )  # fmt: skip
                p += n
                b = np.int64(0)
                m = M if joined else m + 1
        if nt:
            fence()
        return np.int64(bad != U(0) and args[1] >= 0)

    return gather_elements
