"""The kernel that reduces bags: rows named by ids, which are read where they are.

Some columns of a bag's result stay in registers while its rows are read.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from nbgather.kernels.cpu.folds import divider, folded, folder, identity, number_type, pointer_like
from nbgather.kernels.cpu.intrinsics import LINE_BYTES, at
from nbgather.kernels.cpu.reduce import LAST_COUNT, are_inside, fill

U = np.uint64
_I32, _BYTES = ir.IntType(32), ir.IntType(8).as_pointer()

#: Bytes of a vector, and how many of them registers hold in a loop of its own; between these the
#: last ones overlap. Of less than a vector two of the next width that fits do.
VECTOR_BYTES, VECTORS = 64, (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
NARROW_BYTES = (32, 16, 8)
#: Ids that are looked at before the first of their rows is read.
CHECKED_AHEAD = U(512)


def _prefetch(builder: Any, pointer: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [_BYTES, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(pointer, _BYTES), _I32(0), _I32(3), _I32(1)])


def _forms(itemsize: int) -> list[tuple[int, int, int, range]]:
    """Lanes of a vector, how many vectors, the fewest there may be, and which numbers are so.

    These are columns where they are less than a vector's, and else how many vectors these fill,
    behind the widest's lanes.
    """
    widest = end = VECTOR_BYTES // itemsize
    forms, before = [], 0
    for count in VECTORS:
        forms.append((widest, count, before + 1, range(widest + before, widest + count)))
        before = count
    for lanes in (nbytes // itemsize for nbytes in NARROW_BYTES if nbytes > itemsize):
        forms += [(lanes, 1, 1, range(lanes, lanes + 1)), (lanes, 2, 2, range(lanes + 1, end))]
        end = lanes
    return [form for form in forms if form[3]]


@functools.cache
def block_loop(reduce: str, kind: str) -> Any:
    """``block(out, o, src, b, idx, k, end, columns, ahead, limit, n)``: ``n`` columns of one bag.

    They begin with ``b``. Its ids, from ``k`` to ``end``, were checked, and are not none. The same
    columns are prefetched of the rows whose ids are so many ``ahead`` and before ``limit``; they
    may be bad.
    """
    of = number_type(kind)
    itemsize = np.dtype(of).itemsize
    widest = VECTOR_BYTES // itemsize

    @intrinsic
    def block(typingctx, out, o, src, b, idx, k, end, columns, ahead, limit, n):
        u = types.uint64
        signature = types.void(out, u, src, u, idx, u, u, u, u, u, u)

        def codegen(context, builder, sig, values):
            out, o, src, b, idx, k, end, columns, ahead, limit, n = values
            number, id_type = sig.args[2].dtype, sig.args[4].dtype
            word = n.type
            first = context.get_constant(number, identity(reduce, kind))
            vectors = builder.udiv(builder.add(n, word(widest - 1)), word(widest))
            wide_code = builder.add(vectors, word(widest - 1))
            code = builder.select(builder.icmp_unsigned("<", n, word(widest)), n, wide_code)
            done = builder.append_basic_block("done")
            switch = builder.switch(code, done)

            def start_of(row):
                place = context.cast(builder, builder.load(builder.gep(idx, [row])), id_type, u)
                return builder.add(builder.mul(place, columns), b)

            for lanes, count, least, codes in _forms(itemsize):
                before, loop, fetch, row_of, behind = (
                    builder.append_basic_block(name)
                    for name in ("form", "row", "fetch", "fold", "rows")
                )
                for value in codes:
                    switch.add_case(word(value), before)
                builder.position_at_end(before)
                wide = ir.VectorType(context.get_value_type(number), lanes)
                last = builder.sub(n, word(lanes))
                offsets = [word(v * lanes) for v in range(count)]
                for v in range(max(least - 1, 1), count):
                    is_before = builder.icmp_unsigned("<", offsets[v], last)
                    offsets[v] = builder.select(is_before, offsets[v], last)
                builder.branch(loop)
                builder.position_at_end(loop)
                row = builder.phi(word)
                held = [builder.phi(wide) for _ in offsets]
                later = builder.add(row, ahead)
                builder.cbranch(builder.icmp_unsigned("<", later, limit), fetch, row_of)
                builder.position_at_end(fetch)
                later = start_of(later)
                # The last item too: rows begin anywhere in a cache line.
                ends = offsets if lanes == widest else offsets[:1]
                for offset in (*ends, builder.sub(n, word(1))):
                    _prefetch(builder, builder.gep(src, [builder.add(later, offset)]))
                builder.branch(row_of)
                builder.position_at_end(row_of)
                start, results = start_of(row), []
                for offset, old in zip(offsets, held, strict=True):
                    new = builder.load(at(builder, src, builder.add(start, offset), wide))
                    new.align = itemsize
                    results.append(folded(builder, old, new, reduce, kind))
                    old.add_incoming(ir.Constant(wide, [first] * lanes), before)
                    old.add_incoming(results[-1], row_of)
                following = builder.add(row, word(1))
                row.add_incoming(k, before)
                row.add_incoming(following, row_of)
                builder.cbranch(builder.icmp_unsigned("<", following, end), loop, behind)
                builder.position_at_end(behind)
                for offset, value in zip(offsets, results, strict=True):
                    to = at(builder, out, builder.add(o, offset), wide)
                    builder.store(value, to).align = itemsize
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, codegen

    return block


@njit(inline="always")
def are_bounds(aux, a, count, total, bags):
    """Whether so many bags follow each other, from 0 on and to the total."""
    fits = U(aux[a + count]) <= total
    for c in range(a, a + count):
        fits &= U(aux[c]) <= U(aux[c + U(1)])
    fits &= a != U(0) or U(aux[U(0)]) == U(0)
    return fits and (a + count != bags or U(aux[bags]) == total)


def make_bag_reduce(reduce, kind):
    """``args`` = [B, T, size, K, total, bags, empty, M, ahead, limit]; ``idx`` are the ids.

    B columns, T of them a tile; ``size`` rows there are; K ids each bag has, of ``total`` in all,
    or 0 where ``aux`` says where bags begin, and the last ends, which may be wrong; ``empty`` is
    the address of what stands for no rows. At most M columns are reduced at once; rows so far
    ``ahead`` are prefetched, of the ids before ``limit``. A position of the range is a tile of a
    bag.
    """
    fold, first = folder(reduce, kind), identity(reduce, kind)
    divide, of = divider(kind), number_type(kind)
    mean, last = reduce == "mean", U(LAST_COUNT.get(kind, 1 << 63))
    ITEM = np.dtype(of).itemsize
    block = block_loop(reduce, kind)
    LANES, LEAST = U(VECTOR_BYTES // ITEM), U(max(NARROW_BYTES[-1] // ITEM, 2))

    @njit(inline="always")
    def put(out, o, n, src, b, idx, k, end, columns, most, ahead, limit):
        e = U(0)
        if n > most:  # blocks of about the same width
            blocks = (n + most - U(1)) // most
            most = (n + blocks * LANES - U(1)) // (blocks * LANES) * LANES
        while e + LEAST <= n:
            m = min(n - e, most)
            block(out, o + e, src, b + e, idx, k, end, columns, ahead, limit, m)
            e += m
        while e < n:
            value = first
            for r in range(k, end):
                value = fold(value, src[U(idx[r]) * columns + b + e])
            out[o + e] = value
            e += U(1)

    @njit(inline="always")
    def put_four(out, o, src, idx, k0, k1, k2, k3, end):
        # Of single columns four bags in turns: a number waits for the one before it.
        m = min(min(k1 - k0, k2 - k1), min(k3 - k2, end - k3))
        t0, t1, t2, t3 = first, first, first, first
        for k in range(m):
            t0 = fold(t0, src[U(idx[k0 + k])])
            t1 = fold(t1, src[U(idx[k1 + k])])
            t2 = fold(t2, src[U(idx[k2 + k])])
            t3 = fold(t3, src[U(idx[k3 + k])])
        for k in range(k0 + m, k1):
            t0 = fold(t0, src[U(idx[k])])
        for k in range(k1 + m, k2):
            t1 = fold(t1, src[U(idx[k])])
        for k in range(k2 + m, k3):
            t2 = fold(t2, src[U(idx[k])])
        for k in range(k3 + m, end):
            t3 = fold(t3, src[U(idx[k])])
        out[o], out[o + U(1)], out[o + U(2)], out[o + U(3)] = t0, t1, t2, t3

    @njit(inline="always")
    def begin_of(aux, K, a):
        return a * K if K else U(aux[a])

    def reduce_bags(out, src, idx, aux, args, lo, hi):
        B, T, size = U(args[0]), U(args[1]), U(args[2])
        K, total, bags = U(args[3]), U(args[4]), U(args[5])
        most, ahead, limit = U(args[7]), U(args[8]), U(args[9])
        tiles = (B + T - U(1)) // T
        empty = pointer_like(out, U(args[6]))[U(0)]
        p = U(lo)
        checked = begin_of(aux, K, p // tiles)
        behind = min(begin_of(aux, K, (U(hi) - U(1)) // tiles + U(1)), total)
        while p < U(hi):
            a = p // tiles
            count = U(4) if B == U(1) and p + U(4) <= U(hi) else U(1)
            k, end = begin_of(aux, K, a), begin_of(aux, K, a + count)
            if K == U(0) and not are_bounds(aux, a, count, total, bags):
                return 1
            if end > checked:
                until = max(end, min(checked + CHECKED_AHEAD, behind))
                if are_inside(idx, checked, until - checked, size):
                    return 1
                checked = until
            b = (p - a * tiles) * T
            n, o = min(T, B - b), a * B + b
            if count == U(4):
                k1, k2 = begin_of(aux, K, a + U(1)), begin_of(aux, K, a + U(2))
                put_four(out, o, src, idx, k, k1, k2, begin_of(aux, K, a + U(3)), end)
            elif k == end:
                fill(out, o, n, empty)
            else:
                put(out, o, n, src, b, idx, k, end, B, most, ahead, limit)
            p += count
            if mean or count == U(4):
                for c in range(count):
                    k, end = begin_of(aux, K, a + c), begin_of(aux, K, a + c + U(1))
                    if k == end:
                        fill(out, o + c, n, empty)
                    elif mean:
                        number = of(min(end - k, last))
                        for e in range(n):
                            out[o + c + e] = divide(out[o + c + e], number)
        return 0

    return reduce_bags
