"""Sixteen items of a gather at once: bounds by vectors, and three ways to move the items.

The ways move the same bits. Which is the fastest depends on the processor: the instruction that
gathers is microcoded on some, slowed by a mitigation on others, and absent on the rest.

Each function makes the intrinsic for a kernel's mode, and for whether its negative indices count
from the end.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nbgather.kernels.constants import BLOCK_ITEMS, CLIP, FILL, RAISE, SINGLE, VECTOR
from nbgather.kernels.cpu.intrinsics import LINE_BYTES, at, stream

_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)

_LANES = ir.VectorType(_I64, BLOCK_ITEMS)
_ZEROS = ir.Constant(_LANES, [0] * BLOCK_ITEMS)
_IOTA = ir.Constant(_LANES, list(range(BLOCK_ITEMS)))


def _splat(builder, value, kind):
    vector = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, BLOCK_ITEMS), [0] * BLOCK_ITEMS)
    return builder.shuffle_vector(vector, ir.Constant(kind, ir.Undefined), zeros)


@intrinsic
def lane_offsets(typingctx):
    """Memory for the offsets of sixteen items, which LLVM keeps in registers where it can."""
    pointer = types.CPointer(types.uint64)

    def codegen(context, builder, sig, values):
        kind = ir.ArrayType(_LANES, 2)
        return builder.bitcast(cgutils.alloca_once(builder, kind), _I64.as_pointer())

    return pointer(), codegen


@intrinsic
def line_items(typingctx, pointer):
    """How many integers of a pointer's type a cache line holds."""

    def codegen(context, builder, sig, values):
        return _I64(LINE_BYTES * 8 // values[0].type.pointee.width)

    return types.uint64(pointer), codegen


def _vectors(builder, lanes):
    """Pointers to the offsets of sixteen items and to their places in their rows."""
    first = builder.bitcast(lanes, _LANES.as_pointer())
    return first, builder.gep(first, [_I64(1)])


@intrinsic
def offsets_in_two_rows(typingctx, lanes, step, left, jump):
    """The offsets of sixteen items, of which ``left`` still belong to the first of two rows.

    An item of a row is ``step`` from the one before it, and one of the next row ``jump`` further.
    """
    integer = types.uint64

    def codegen(context, builder, sig, values):
        lanes, step, left, jump = values
        offsets = builder.mul(_IOTA, _splat(builder, step, _LANES))
        beyond = builder.icmp_signed(">=", _IOTA, _splat(builder, left, _LANES))
        extra = builder.select(beyond, _splat(builder, jump, _LANES), _ZEROS)
        builder.store(builder.add(offsets, extra), _vectors(builder, lanes)[0])
        return context.get_dummy_value()

    return types.void(lanes, integer, integer, integer), codegen


@intrinsic
def start_short_rows(typingctx, lanes, place, length, step, jump):
    """The offsets of sixteen items of rows shorter than that, the first at ``place`` of its row."""
    integer = types.uint64

    def codegen(context, builder, sig, values):
        lanes, place, length, step, jump = values
        offset = _I64(0)
        offsets, places = ir.Constant(_LANES, ir.Undefined), ir.Constant(_LANES, ir.Undefined)
        for t in range(BLOCK_ITEMS):
            offsets = builder.insert_element(offsets, offset, _I32(t))
            places = builder.insert_element(places, place, _I32(t))
            place, offset = builder.add(place, _I64(1)), builder.add(offset, step)
            over = builder.icmp_unsigned("==", place, length)
            place = builder.select(over, _I64(0), place)
            offset = builder.select(over, builder.add(offset, jump), offset)
        for vector, pointer in zip((offsets, places), _vectors(builder, lanes), strict=True):
            builder.store(vector, pointer)
        return context.get_dummy_value()

    return types.void(lanes, *[integer] * 4), codegen


@intrinsic
def next_short_rows(typingctx, lanes, length, places, offset, jump):
    """The offsets of the next sixteen items: ``places`` and ``offset`` further, or one row more."""
    integer = types.uint64

    def codegen(context, builder, sig, values):
        lanes, length, places, offset, jump = values
        offsets_at, places_at = _vectors(builder, lanes)
        limit = _splat(builder, length, _LANES)
        place = builder.add(builder.load(places_at), _splat(builder, places, _LANES))
        over = builder.icmp_signed(">=", place, limit)
        builder.store(builder.sub(place, builder.select(over, limit, _ZEROS)), places_at)
        extra = builder.select(over, _splat(builder, jump, _LANES), _ZEROS)
        moved = builder.add(builder.load(offsets_at), _splat(builder, offset, _LANES))
        builder.store(builder.add(moved, extra), offsets_at)
        return context.get_dummy_value()

    return types.void(lanes, *[integer] * 4), codegen


class _Indices:
    """Sixteen indices: the positions they stand for, all in bounds, and a bit for each bad one.

    Positions are of the index's own type unless it has to be widened first; the size is not 0. An
    index that is out of bounds has position 0, or in the mode "clip" the nearest.
    """

    def __init__(self, builder, idx, i, signed, size, limit, mode, from_end) -> None:
        width = idx.type.pointee.width
        index = builder.load(at(builder, idx, i, ir.VectorType(idx.type.pointee, BLOCK_ITEMS)))
        index.align = width // 8
        from_end = from_end and signed
        if width < 64 and (from_end or mode == CLIP):
            index = (builder.sext if signed else builder.zext)(index, _LANES)
            width = 64
        kind = index.type
        # The last position, or what the type can hold, of which a negative value is the half.
        last = builder.sub(size, _I64(1))
        if width < 64:
            most = _I64((1 << width - signed) - 1)
            low = builder.icmp_unsigned("<", last, most)
            last = builder.trunc(builder.select(low, last, most), kind.element)
        limits = _splat(builder, last, kind)
        zeros = ir.Constant(kind, [0] * BLOCK_ITEMS)
        nearest = zeros
        if signed and (from_end or mode == CLIP):
            negative = builder.icmp_signed("<", index, zeros)
            if mode == CLIP:
                nearest = builder.select(negative, zeros, limits)
            if from_end:
                counted = builder.add(index, _splat(builder, size, kind))
                index = builder.select(negative, counted, index)
        elif mode == CLIP:
            nearest = limits
        self.inside = builder.icmp_unsigned("<=", index, limits)
        self.positions = builder.select(self.inside, index, nearest)
        self.flags = _I64(0)
        if mode == RAISE:
            self.flags = self._bits(builder, builder.not_(self.inside))
        elif mode == FILL:
            if width < 64:
                index = (builder.sext if signed else builder.zext)(index, _LANES)
            outside = builder.icmp_unsigned(">=", index, _splat(builder, limit, _LANES))
            self.flags = self._bits(builder, outside)

    @staticmethod
    def _bits(builder, lanes):
        return builder.zext(builder.bitcast(lanes, ir.IntType(BLOCK_ITEMS)), _I64)

    def wide(self, builder):
        """The positions in 64 bits."""
        same = self.positions.type == _LANES
        return self.positions if same else builder.zext(self.positions, _LANES)

    def one_by_one(self, builder):
        """The positions as numbers."""
        for t in range(BLOCK_ITEMS):
            position = builder.extract_element(self.positions, _I32(t))
            yield position if position.type == _I64 else builder.zext(position, _I64)


def _gather_at(builder, base, positions, width, item):
    """The items at so many times ``width`` bytes from an address, by the gather instruction."""
    kind = ir.VectorType(item, BLOCK_ITEMS)
    base = _splat(builder, builder.ptrtoint(base, _I64), _LANES)
    offsets = builder.mul(positions, ir.Constant(_LANES, [width] * BLOCK_ITEMS))
    addresses = builder.add(base, offsets)
    pointers = builder.inttoptr(addresses, ir.VectorType(item.as_pointer(), BLOCK_ITEMS))
    flags = ir.VectorType(_I1, BLOCK_ITEMS)
    gather = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [pointers.type, _I32, flags, kind]),
        f"llvm.masked.gather.v{BLOCK_ITEMS}i{item.width}.v{BLOCK_ITEMS}p0",
    )
    every, undefined = ir.Constant(flags, [1] * BLOCK_ITEMS), ir.Constant(kind, ir.Undefined)
    return builder.call(gather, [pointers, _I32(1), every, undefined])


@functools.cache
def gather_block(mode: int, from_end: bool, method: int, across: bool, streams: bool) -> Any:
    """``out[o + k] = src[x + idx[i + k] * along + offset of k]`` for k below 16.

    The offset of k is ``offsets * k``, or with ``across`` ``offsets[k]``. An index that is not
    below ``size``, which is not 0, reads a position that is: it gives ``aux[0]`` in the mode
    "fill", and in "clip" the nearest is read. The mode is not "wrap". With ``streams`` the sixteen
    items start at a multiple of their bytes, or a cache line, and the store is non-temporal, except
    of items of 16 bytes. The result is not 0 if an index was not below ``size``, in the mode "fill"
    not below ``limit``.
    """

    @intrinsic
    def block(typingctx, out, o, src, x, idx, i, size, limit, along, offsets, aux):
        integer = types.uint64
        signature = integer(
            out, integer, src, integer, idx, *[integer] * 4,
            offsets if across else integer, aux,
        )  # fmt: skip

        def codegen(context, builder, sig, values):
            (out, o, src, x, idx, i, size, limit, along, offsets, aux) = values
            indices = _Indices(
                builder, idx, i, sig.args[4].dtype.signed, size, limit, mode, from_end
            )
            item = src.type.pointee
            if not isinstance(item, ir.IntType):  # two words, as numba's tuple of them
                item = ir.VectorType(_I64, 2)
            align = 8 if isinstance(item, ir.VectorType) else item.width // 8
            base = builder.bitcast(builder.gep(src, [x]), item.as_pointer())
            target = builder.bitcast(builder.gep(out, [o]), item.as_pointer())
            filling = builder.bitcast(aux, item.as_pointer())

            def vector():
                if across:
                    steps = builder.load(_vectors(builder, offsets)[0])
                    steps.align = 8
                else:
                    steps = builder.mul(_IOTA, _splat(builder, offsets, _LANES))
                scaled = builder.mul(indices.wide(builder), _splat(builder, along, _LANES))
                items = _gather_at(builder, base, builder.add(scaled, steps), align, item)
                if mode == FILL:
                    fill = _splat(builder, builder.load(filling), items.type)
                    items = builder.select(indices.inside, items, fill)
                return items

            def singles():
                lanes = offsets
                inside = builder.bitcast(indices.inside, ir.IntType(BLOCK_ITEMS))
                for t, position in enumerate(indices.one_by_one(builder)):
                    place = _I64(t)
                    offset = (
                        builder.load(builder.gep(lanes, [place]))
                        if across
                        else builder.mul(offsets, place)
                    )
                    position = builder.add(builder.mul(position, along), offset)
                    pointer = builder.gep(base, [position])
                    if mode == FILL:
                        bit = builder.and_(inside, inside.type(1 << t))
                        fits = builder.icmp_unsigned("!=", bit, inside.type(0))
                        pointer = builder.select(fits, pointer, filling)
                    loaded = builder.load(pointer)
                    loaded.align = align
                    yield loaded

            def inserted():
                items = ir.Constant(ir.VectorType(item, BLOCK_ITEMS), ir.Undefined)
                for t, loaded in enumerate(singles()):
                    items = builder.insert_element(items, loaded, _I32(t))
                return items

            words = isinstance(item, ir.VectorType)
            if words or (method == SINGLE and not streams):
                for t, loaded in enumerate(singles()):
                    builder.store(loaded, builder.gep(target, [_I64(t)])).align = align
                return indices.flags
            items = vector() if method == VECTOR and align >= 4 else inserted()
            pointer = builder.bitcast(target, items.type.as_pointer())
            store = builder.store(items, pointer)
            if streams:
                stream(builder, store, BLOCK_ITEMS * align)
            else:
                store.align = align
            return indices.flags

        return signature, codegen

    return block


@functools.cache
def gather_narrow_block(mode: int, from_end: bool) -> Any:
    """``out[o + k] = src[x + idx[i + k]]`` for k below 16, of items of 1 or 2 bytes, by vectors.

    For others it does nothing. No instruction gathers such items, so 4 bytes are read that contain
    the item and end no later than ``src[x + size]``; the lane must have at least 4 bytes. The
    machine must be little-endian. Apart from that it is as `gather_block`.
    """

    @intrinsic
    def block(typingctx, out, o, src, x, idx, i, size, limit, aux):
        integer = types.uint64
        signature = integer(out, integer, src, integer, idx, integer, integer, integer, aux)

        def codegen(context, builder, sig, values):
            (out, o, src, x, idx, i, size, limit, aux) = values
            item = src.type.pointee
            if item not in (ir.IntType(8), ir.IntType(16)):
                return _I64(0)
            width = item.width // 8
            indices = _Indices(
                builder, idx, i, sig.args[4].dtype.signed, size, limit, mode, from_end
            )
            index = indices.wide(builder)
            last = _splat(builder, builder.sub(size, _I64(4 // width)), _LANES)
            start = builder.select(builder.icmp_unsigned(">", index, last), last, index)
            words = _gather_at(builder, builder.gep(src, [x]), start, width, _I32)
            bits = builder.mul(
                builder.sub(index, start), ir.Constant(_LANES, [item.width] * BLOCK_ITEMS)
            )
            words = builder.lshr(words, builder.trunc(bits, words.type))
            items = builder.trunc(words, ir.VectorType(item, BLOCK_ITEMS))
            if mode == FILL:
                fill = _splat(builder, builder.load(aux), items.type)
                items = builder.select(indices.inside, items, fill)
            builder.store(items, at(builder, out, o, items.type)).align = width
            return indices.flags

        return signature, codegen

    return block
