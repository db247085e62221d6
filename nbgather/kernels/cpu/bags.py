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

from nbgather.kernels.cpu.bounds import any_outside
from nbgather.kernels.cpu.folds import divider, folded, folder, identity, number_type, pointer_like
from nbgather.kernels.cpu.intrinsics import LINE_BYTES, at
from nbgather.kernels.cpu.reduce import LAST_COUNT, STEP, fill

U = np.uint64
_I32, _BYTES = ir.IntType(32), ir.IntType(8).as_pointer()

#: How many rows ahead of the one that is reduced are prefetched: of these columns, then of the next
#: ones, and behind the last of the next bag.
FETCHED_ROWS, FETCHED_WIDE_ROWS = 32, 16
#: Bytes of a row that registers hold, and of a vector of them.
BLOCKS = ((512, 64), (256, 64), (128, 64), (64, 64), (16, 16))


def _prefetch(builder: Any, pointer: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [_BYTES, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(pointer, _BYTES), _I32(0), _I32(3), _I32(1)])


@functools.cache
def block_loop(reduce: str, kind: str, nbytes: int, vector: int) -> Any:
    """``block(out, o, src, b, idx, k, end, total, columns, back, after)``: columns of one bag.

    They begin with ``b``. Its ids, from ``k`` to ``end``, were checked, and are not none. Of the
    rows ahead as many columns are prefetched; beyond ``end`` those from ``after`` on, of the rows
    whose ids are so many ``back``, unless these are not before ``total``. They may be bad.
    """
    of = number_type(kind)
    itemsize = np.dtype(of).itemsize
    lanes = vector // itemsize
    fetched_rows = FETCHED_WIDE_ROWS if nbytes == BLOCKS[0][0] else FETCHED_ROWS

    @intrinsic
    def block(typingctx, out, o, src, b, idx, k, end, total, columns, back, after):
        u = types.uint64
        signature = types.void(out, u, src, u, idx, u, u, u, u, u, u)

        def codegen(context, builder, sig, values):
            out, o, src, b, idx, k, end, total, columns, back, after = values
            number, id_type = sig.args[2].dtype, sig.args[4].dtype
            wide = ir.VectorType(context.get_value_type(number), lanes)
            first = [context.get_constant(number, identity(reduce, kind))] * lanes
            before = builder.block
            loop, behind = (builder.append_basic_block(name) for name in ("row", "rows"))
            builder.branch(loop)
            builder.position_at_end(loop)
            row = builder.phi(k.type)
            held = [builder.phi(wide) for _ in range(nbytes // vector)]

            def start_of(row, b):
                place = context.cast(builder, builder.load(builder.gep(idx, [row])), id_type, u)
                return builder.add(builder.mul(place, columns), b)

            start = start_of(row, b)
            later = builder.add(row, row.type(fetched_rows))
            is_within = builder.icmp_unsigned("<", later, end)
            later = builder.select(is_within, later, builder.sub(later, back))
            is_there = builder.icmp_unsigned("<", later, total)
            later = builder.select(is_there, later, row)
            later = start_of(later, builder.select(is_within, b, after))
            # The last item too: rows of NumPy's begin anywhere in a cache line.
            for ahead in (*range(0, nbytes, LINE_BYTES), nbytes - itemsize):
                item = builder.add(later, later.type(ahead // itemsize))
                _prefetch(builder, builder.gep(src, [item]))
            results = []
            for v, old in enumerate(held):
                item = builder.add(start, start.type(v * lanes))
                new = builder.load(at(builder, src, item, wide))
                new.align = itemsize
                results.append(folded(builder, old, new, reduce, kind))
                old.add_incoming(ir.Constant(wide, first), before)
                old.add_incoming(results[-1], loop)
            following = builder.add(row, row.type(1))
            row.add_incoming(k, before)
            row.add_incoming(following, loop)
            builder.cbranch(builder.icmp_unsigned("<", following, end), loop, behind)
            builder.position_at_end(behind)
            for v, value in enumerate(results):
                item = builder.add(o, o.type(v * lanes))
                builder.store(value, at(builder, out, item, wide)).align = itemsize
            return context.get_dummy_value()

        return signature, codegen

    return block


@njit(inline="always")
def any_of_bag_outside(idx, k, end, size):
    """Not 0 if an id is not below size."""
    bad = U(0)
    while k + STEP <= end:
        bad |= any_outside(idx, k, size)
        k += STEP
    while k < end:
        bad |= U(1) if U(idx[k]) >= size else U(0)
        k += U(1)
    return bad


def make_bag_reduce(reduce, kind):
    """``args`` = [B, T, size, K, total, empty]; ``idx`` are the ids, ``aux`` where bags begin.

    B columns, T of them a tile; ``size`` rows there are; K ids each bag has, of ``total`` in all,
    or 0 where ``aux`` says how many; ``empty`` is the address of what stands for no rows. A
    position of the range is a tile of a bag.
    """
    fold, first = folder(reduce, kind), identity(reduce, kind)
    divide, of = divider(kind), number_type(kind)
    mean, last = reduce == "mean", U(LAST_COUNT.get(kind, 1 << 63))
    ITEM = np.dtype(of).itemsize
    (N0, put0), (N1, put1), (N2, put2), (N3, put3), (N4, put4) = [
        (U(nbytes // ITEM), block_loop(reduce, kind, nbytes, vector)) for nbytes, vector in BLOCKS
    ]

    @njit(inline="always")
    def ahead_of(e, n, b, count):
        # Of which rows, and from which column on, is prefetched beyond the bag's end.
        return (U(0), b) if e == n else (count, b + e)

    @njit(inline="always")
    def put(out, o, n, src, b, idx, k, end, total, columns):
        e, count = U(0), end - k
        while e + N0 <= n:
            back, after = ahead_of(e + N0, n, b, count)
            put0(out, o + e, src, b + e, idx, k, end, total, columns, back, after)
            e += N0
        if e + N1 <= n:
            back, after = ahead_of(e + N1, n, b, count)
            put1(out, o + e, src, b + e, idx, k, end, total, columns, back, after)
            e += N1
        if e + N2 <= n:
            back, after = ahead_of(e + N2, n, b, count)
            put2(out, o + e, src, b + e, idx, k, end, total, columns, back, after)
            e += N2
        if e + N3 <= n:
            back, after = ahead_of(e + N3, n, b, count)
            put3(out, o + e, src, b + e, idx, k, end, total, columns, back, after)
            e += N3
        while e + N4 <= n:
            back, after = ahead_of(e + N4, n, b, count)
            put4(out, o + e, src, b + e, idx, k, end, total, columns, back, after)
            e += N4
        while e < n:
            value = first
            for r in range(k, end):
                value = fold(value, src[U(idx[r]) * columns + b + e])
            out[o + e] = value
            e += U(1)

    def reduce_bags(out, src, idx, aux, args, lo, hi):
        B, T, size = U(args[0]), U(args[1]), U(args[2])
        K, total = U(args[3]), U(args[4])
        tiles = (B + T - U(1)) // T
        empty = pointer_like(out, U(args[5]))[U(0)]
        for p in range(U(lo), U(hi)):
            a = p // tiles
            b = (p - a * tiles) * T
            n, o = min(T, B - b), a * B + b
            k, end = a * K, a * K + K
            if K == U(0):
                k, end = U(aux[a]), U(aux[a + U(1)])
            if k == end:
                fill(out, o, n, empty)
                continue
            if any_of_bag_outside(idx, k, end, size):
                return 1
            put(out, o, n, src, b, idx, k, end, total, B)
            if mean:
                number = of(min(end - k, last))
                for e in range(n):
                    out[o + e] = divide(out[o + e], number)
        return 0

    return reduce_bags
