"""The kernel that reduces bags: rows named by ids, which are read where they are.

Some columns of a bag's result stay in registers while its rows are read.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from nbgather.kernels.cpu.folds import divider, folded, folder, identity, number_type, pointer_like
from nbgather.kernels.cpu.intrinsics import at, prefetch
from nbgather.kernels.cpu.reduce import LAST_COUNT, are_inside

U = np.uint64
_I32, _BYTES = ir.IntType(32), ir.IntType(8).as_pointer()

#: Bytes of a vector, and how many of them registers hold in a loop of its own; between these the
#: last ones overlap. Of less than a vector two of the next width that fits do.
VECTOR_BYTES, VECTORS = 64, (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
NARROW_BYTES = (32, 16, 8)
#: How many rows the bags have whose blocks follow each other where a row is of several.
GROUP = U(16)
#: Ids that are prefetched at once: those of 8 bytes in a cache line.
ID_LINE = U(8)
#: Ids of a bag from which on single columns of four bags are reduced in turns.
LONG = U(12)


def _prefetch(builder: Any, pointer: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [_BYTES, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(pointer, _BYTES), _I32(0), _I32(3), _I32(1)])


class Form(NamedTuple):
    """A loop over rows of some numbers of columns.

    Attributes
    ----------
    vectors : list of int
        How many lanes each vector has.
    fixed : int
        How many of them follow each other; the others end with the last column at the latest, and
        may overlap.
    codes : range
        Numbers of columns that are less than a widest vector's; of others how many halves of that
        they fill, behind these.
    """

    vectors: list[int]
    fixed: int
    codes: range


def _forms(itemsize: int) -> list[Form]:
    widest = end = VECTOR_BYTES // itemsize
    forms, before = [], 0
    for count in VECTORS:
        first, last = widest + 2 * before - 1, widest + 2 * count - 2
        if 0 < before == count - 1:
            forms.append(Form([widest] * before + [widest // 2], before, range(first, first + 1)))
            first += 1
        forms.append(Form([widest] * count, max(before, 1), range(max(first, widest), last + 1)))
        before = count
    for lanes in (nbytes // itemsize for nbytes in NARROW_BYTES if nbytes > itemsize):
        forms.append(Form([lanes], 1, range(lanes, lanes + 1)))
        forms.append(Form([lanes] * 2, 1, range(lanes + 1, end)))
        end = lanes
    return [*(form for form in forms if form.codes), Form([1], 1, range(1, 2))]


@functools.cache
def block_loop(reduce: str, kind: str) -> Any:
    """``block(out, o, src, b, idx, aux, K, a, bags, columns, ahead, limit, empty, n)``.

    It reduces ``n`` columns, which begin with ``b``, of so many bags from ``a`` on; their ids were
    checked. Where one has none, ``empty`` is the result. The same columns are prefetched of the
    rows whose ids are so many ``ahead`` and before ``limit``; they may be bad.
    """
    of = number_type(kind)
    itemsize = np.dtype(of).itemsize
    widest = VECTOR_BYTES // itemsize

    @intrinsic
    def block(typingctx, out, o, src, b, idx, aux, K, a, bags, columns, ahead, limit, empty, n):
        u = types.uint64
        number = src.dtype
        signature = types.void(out, u, src, u, idx, aux, u, u, u, u, u, u, number, u)

        def codegen(context, builder, sig, values):
            out, o, src, b, idx, aux, K, a, bags, columns, ahead, limit, empty, n = values
            word, item_type = n.type, context.get_value_type(number)
            zero, one = word(0), word(1)
            first = context.get_constant(number, identity(reduce, kind))
            is_even = builder.icmp_unsigned("!=", K, zero)
            step = builder.select(is_even, zero, one)
            last_bag = builder.add(a, bags)

            def loaded(pointer, place, kind):
                return context.cast(builder, builder.load(builder.gep(pointer, [place])), kind, u)

            def start_of(row):
                return builder.add(builder.mul(loaded(idx, row, sig.args[4].dtype), columns), b)

            def begin_of(bag):
                # Where bags are even aux is not read but at its first place.
                told = loaded(aux, builder.mul(bag, step), sig.args[5].dtype)
                return builder.select(is_even, builder.mul(bag, K), told)

            half = widest // 2
            halves = builder.udiv(builder.add(n, word(half - 1)), word(half))
            wide_code = builder.add(halves, word(widest - 2))
            code = builder.select(builder.icmp_unsigned("<", n, word(widest)), n, wide_code)
            done = builder.append_basic_block("done")
            start = begin_of(a)
            switch = builder.switch(code, done)
            for form in _forms(itemsize):
                before, bag_loop, loop, fetch, row_of, behind = (
                    builder.append_basic_block(name)
                    for name in ("form", "bag", "row", "fetch", "fold", "rows")
                )
                for value in form.codes:
                    switch.add_case(word(value), before)
                kinds = [ir.VectorType(item_type, lanes) for lanes in form.vectors]
                builder.position_at_end(before)
                empties = [splat(builder, empty, lanes) for lanes in form.vectors]
                offsets = [word(v * form.vectors[0]) for v in range(len(kinds))]
                for v in range(form.fixed, len(kinds)):
                    last = builder.sub(n, word(form.vectors[v]))
                    is_before = builder.icmp_unsigned("<", offsets[v], last)
                    offsets[v] = builder.select(is_before, offsets[v], last)
                builder.branch(bag_loop)

                builder.position_at_end(bag_loop)
                bag, k, to = (builder.phi(word) for _ in range(3))
                next_bag = builder.add(bag, one)
                end = begin_of(next_bag)
                builder.cbranch(builder.icmp_unsigned("<", k, end), loop, behind)

                builder.position_at_end(loop)
                row = builder.phi(word)
                held = [builder.phi(wide) for wide in kinds]
                later = builder.add(row, ahead)
                builder.cbranch(builder.icmp_unsigned("<", later, limit), fetch, row_of)
                builder.position_at_end(fetch)
                later = start_of(later)
                # The last item too: rows begin anywhere in a cache line.
                ends = offsets if form.vectors[0] == widest else offsets[:1]
                for offset in (*ends, builder.sub(n, one)):
                    _prefetch(builder, builder.gep(src, [builder.add(later, offset)]))
                builder.branch(row_of)
                builder.position_at_end(row_of)
                place, results = start_of(row), []
                for offset, old in zip(offsets, held, strict=True):
                    new = builder.load(at(builder, src, builder.add(place, offset), old.type))
                    new.align = itemsize
                    results.append(folded(builder, old, new, reduce, kind))
                    old.add_incoming(ir.Constant(old.type, [first] * old.type.count), bag_loop)
                    old.add_incoming(results[-1], row_of)
                following = builder.add(row, one)
                row.add_incoming(k, bag_loop)
                row.add_incoming(following, row_of)
                more = builder.cbranch(builder.icmp_unsigned("<", following, end), loop, behind)
                more.set_metadata("llvm.loop", never_unrolled(builder.module))

                builder.position_at_end(behind)
                of_bag = [builder.phi(wide) for wide in kinds]
                for offset, none, value, put in zip(offsets, empties, results, of_bag, strict=True):
                    put.add_incoming(none, bag_loop)
                    put.add_incoming(value, row_of)
                    pointer = at(builder, out, builder.add(to, offset), put.type)
                    builder.store(put, pointer).align = itemsize
                next_to = builder.add(to, columns)
                for phi, at_first, later in ((bag, a, next_bag), (k, start, end), (to, o, next_to)):
                    phi.add_incoming(at_first, before)
                    phi.add_incoming(later, behind)
                builder.cbranch(builder.icmp_unsigned("<", next_bag, last_bag), bag_loop, done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, codegen

    return block


def never_unrolled(module: Any) -> Any:
    """What keeps a loop as it is: of unrolled ones more branches are told wrong at bags' ends."""
    words = [ir.MetaDataString(module, "llvm.loop.unroll.disable")]
    number = ir.Constant(_I32, len(module.metadata))  # no two loops may have one node
    node = module.add_metadata([module.add_metadata(words), module.add_metadata([number])])
    node.operands = (node, *node.operands[:1])  # its first part is itself
    return node


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of equal numbers."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    )


@njit(inline="always")
def are_bounds(aux, a, count, total, bags):
    """Whether so many bags follow each other, from 0 on and to the total."""
    fits = U(aux[a + count]) <= total
    for c in range(a, a + count):
        fits &= U(aux[c]) <= U(aux[c + U(1)])
    fits &= a != U(0) or U(aux[U(0)]) == U(0)
    return fits and (a + count != bags or U(aux[bags]) == total)


def make_bag_reduce(reduce, kind):
    """``args`` = [B, T, size, K, total, bags, empty, M, ahead, limit, N]; ``idx`` are
    the ids.

    B columns, T of them a tile; ``size`` rows there are; K ids each bag has, of ``total`` in all,
    or 0 where ``aux`` says where bags begin, and the last ends, which may be wrong; ``empty`` is
    the address of what stands for no rows. At most M columns are reduced at once; rows so far
    ``ahead`` are prefetched, of the ids before ``limit``; N bags are looked at and then reduced.
    A position of the range is a tile of a bag.
    """
    fold, first = folder(reduce, kind), identity(reduce, kind)
    divide, of = divider(kind), number_type(kind)
    mean, last = reduce == "mean", U(LAST_COUNT.get(kind, 1 << 63))
    ITEM = np.dtype(of).itemsize
    block = block_loop(reduce, kind)
    LANES, LEAST = U(VECTOR_BYTES // ITEM), U(NARROW_BYTES[-1] // ITEM)

    @njit(inline="always")
    def put_four(out, o, src, idx, k0, k1, k2, k3, end, empty):
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
        out[o] = t0 if k0 < k1 else empty
        out[o + U(1)] = t1 if k1 < k2 else empty
        out[o + U(2)] = t2 if k2 < k3 else empty
        out[o + U(3)] = t3 if k3 < end else empty

    @njit(inline="always")
    def begin_of(aux, K, a):
        return a * K if K else U(aux[a])

    def reduce_bags(out, src, idx, aux, args, lo, hi):
        B, T, size = U(args[0]), U(args[1]), U(args[2])
        K, total, bags = U(args[3]), U(args[4]), U(args[5])
        most, ahead, limit, together = U(args[7]), U(args[8]), U(args[9]), U(args[10])
        tiles = (B + T - U(1)) // T
        empty = pointer_like(out, U(args[6]))[U(0)]
        p = U(lo)
        while p < U(hi):
            a = p // tiles
            count = min(together, U(hi) - p) if tiles == U(1) else U(1)
            if K == U(0) and not are_bounds(aux, a, count, total, bags):
                return 1
            k, end = begin_of(aux, K, a), begin_of(aux, K, a + count)
            for later in range(end, end + (end - k), ID_LINE):
                prefetch(idx, later)
            if are_inside(idx, k, end - k, size):
                return 1
            b = (p - a * tiles) * T
            n, o = min(T, B - b), a * B + b
            done = U(0)
            if B == U(1) and end - k >= count * LONG:
                while done + U(4) <= count:
                    at = a + done
                    put_four(
                        out, o + done, src, idx, begin_of(aux, K, at), begin_of(aux, K, at + U(1)),
                        begin_of(aux, K, at + U(2)), begin_of(aux, K, at + U(3)),
                        begin_of(aux, K, at + U(4)), empty,
                    )  # fmt: skip
                    done += U(4)
            width, some = most, count
            if n > most:  # blocks of about the same width, of bags that the first cache holds
                some = max(GROUP * count // max(end - k, U(1)), U(1))
                blocks = (n + most - U(1)) // most
                width = (n + blocks * LANES - U(1)) // (blocks * LANES) * LANES
            while done < count:
                some = min(some, count - done)
                e = U(0)
                while e < n:
                    rest = min(n - e, width)
                    m = U(1) if rest < LEAST else rest
                    block(
                        out, o + done * B + e, src, b + e, idx, aux, K, a + done, some, B,
                        ahead, limit, empty, m,
                    )  # fmt: skip
                    e += m
                done += some
            if mean:
                for c in range(count):
                    k, end = begin_of(aux, K, a + c), begin_of(aux, K, a + c + U(1))
                    if k != end:
                        number = of(min(end - k, last))
                        for t in range(o + c * B, o + c * B + n):
                            out[t] = divide(out[t], number)
            p += count
        return 0

    return reduce_bags
