"""The kernels that reduce few lanes by several threads.

``places``: each thread has a range of places, walks all of the index, and leaves out what is
another's. So sums keep their order, whatever the threads.

``parts``: the largest and the smallest are the same however the index is cut. Each thread reduces
a part of it into memory of its own, the first one into the result, and then they put together what
all have, each for a range of places. What they have in common with the others is told in
:mod:`nbgather.kernels.cpu.reduce`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels.constants import NO_MEMORY
from nbgather.kernels.cpu.folds import folder, identity, number_type, pointer_like
from nbgather.kernels.cpu.gather import outer_offset
from nbgather.kernels.cpu.intrinsics import (
    address,
    allocate,
    copy_bytes,
    int64_at,
    release,
    uint64_at,
)
from nbgather.kernels.cpu.phases import finish_task, wait_for_tasks
from nbgather.kernels.cpu.reduce import (
    BAD,
    MET,
    fill,
    loops,
    pairs_of,
    restore,
    starts_filled,
)
from nbgather.kernels.cpu.scatter import NARROW_OUTER, SIFTED_ITEMS

U = np.uint64


def make_place_reduce(reduce, kind, itemsize, include_self):
    """The same for few lanes: a position of the range is one place of one of the outer axes."""
    _, _, walk_range = loops(reduce, kind, include_self)
    first, mean = identity(reduce, kind), reduce == "mean"
    memory, begin_pairs, _, _, finish_pairs = pairs_of(reduce, kind, include_self)
    may_fill = starts_filled(reduce, include_self)

    def reduce_places(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        copies = args[3]
        length = D * B
        if size == U(0):
            return 1
        chosen = allocate(uint64_at(U(0)), U(8) * SIFTED_ITEMS)
        pairs = memory(out, min(size, U(hi - lo)) * B)
        if address(chosen) == U(0) or address(pairs) == U(0):
            release(chosen)
            if mean:
                release(pairs)
            return NO_MEMORY
        before = aux if copies else out
        bad = U(0)
        p = U(lo)
        while p < U(hi) and not bad:
            a = p // size
            low = p - a * size
            last = min(size, low + U(hi) - p)
            o, n = (a * size + low) * B, (last - low) * B
            i = U(outer_offset(args, NARROW_OUTER, 2, np.int64(a)))
            s = U(outer_offset(args, NARROW_OUTER, 3, np.int64(a)))
            p += last - low
            if mean:
                begin_pairs(pairs, U(0), before, o, n)
                bad = walk_range(
                    pairs, U(0), src, s, idx, i, length, B, size, low, last, chosen, False
                )
                if not bad:
                    finish_pairs(out, o, pairs, U(0), before, o, n)
                continue
            found = MET
            if may_fill and copies:
                fill(out, o, n, first)
                found = walk_range(
                    out, o, src, s, idx, i, length, B, size, low, last, chosen, False
                )
                if found == U(0):
                    restore(out, o, aux, n, first)
                bad = found & BAD
            if found == MET:
                if copies:
                    copy_bytes(out, o, aux, o, n * U(itemsize))
                if not include_self:
                    bad = walk_range(
                        out, o, src, s, idx, i, length, B, size, low, last, chosen, True
                    )
                if not bad:
                    bad = BAD & walk_range(
                        out, o, src, s, idx, i, length, B, size, low, last, chosen, False
                    )
        release(chosen)
        if mean:
            release(pairs)
        return np.int64(bad)

    return reduce_places


def make_part_reduce(reduce, kind, itemsize, include_self):
    """Behind the ``args`` are [parts, shared, head, room], the last three in bytes.

    What the parts of a lane share begins with a counter, which is 0 at first; what each found is
    behind it, and from ``head`` on a lane of the result for each part but the first. A position of
    the range is a task: for each lane the parts of its index, then those of its places. The input
    is copied on the way.
    """
    fold, first = folder(reduce, kind), identity(reduce, kind)
    _, walk, _ = loops(reduce, kind, include_self)
    ITEM = U(itemsize)
    other = number_type(kind)(first == 0)

    @njit(inline="always")
    def mark(flags, src, s, idx, i, n, B, begin, end):
        # Places that a value came to which is what places begin with.
        fill(flags, begin, end - begin, other)
        for t in range(n):
            p = U(idx[i + t]) * B + t % B
            if src[s + t] == first and begin <= p < end:
                flags[p] = first

    def reduce_parts(out, src, idx, aux, args, lo, hi):
        size, D, B = U(args[0]), U(args[1]), U(args[2])
        end = NARROW_OUTER + 1 + 4 * args[NARROW_OUTER]
        parts, shared, head, room = (
            U(args[end]), U(args[end + 1]), U(args[end + 2]), U(args[end + 3]),
        )  # fmt: skip
        row = size * B
        all_bad = U(0)
        for p in range(U(lo), U(hi)):
            a, part = p // (U(2) * parts), p % parts
            o, own = a * row, shared + a * (head + (parts - U(1)) * room)
            numbers, buffers = int64_at(own), own + head
            i = U(outer_offset(args, NARROW_OUTER, 2, np.int64(a)))
            s = U(outer_offset(args, NARROW_OUTER, 3, np.int64(a)))
            if (p // parts) % U(2) == U(0):
                to, at = out, o
                if part != U(0):
                    to, at = pointer_like(out, buffers + (part - U(1)) * room), U(0)
                if part == U(0) and include_self:
                    copy_bytes(out, o, aux, o, row * ITEM)
                else:
                    fill(to, at, row, first)
                begin, last = D * part // parts * B, D * (part + U(1)) // parts * B
                found = walk(to, at, src, s + begin, idx, i + begin, last - begin, B, size)
                numbers[U(1) + part] = np.int64(found)
                all_bad |= found & BAD
                finish_task(own)
                continue
            wait_for_tasks(own, parts)
            found = U(0)
            for c in range(parts):
                found |= U(numbers[U(1) + c])
            if found & BAD:
                continue
            begin, last = row * part // parts, row * (part + U(1)) // parts
            for c in range(parts - U(1)):
                theirs = pointer_like(out, buffers + c * room)
                for k in range(begin, last):
                    out[o + k] = fold(out[o + k], theirs[k])
            if not include_self and found & MET:
                flags = pointer_like(out, buffers)
                mark(flags, src, s, idx, i, D * B, B, begin, last)
                for k in range(begin, last):
                    if out[o + k] == first and flags[k] != first:
                        out[o + k] = aux[o + k]
            elif not include_self:
                restore(out, o + begin, aux, last - begin, first)
        return np.int64(all_bad)

    return reduce_parts
