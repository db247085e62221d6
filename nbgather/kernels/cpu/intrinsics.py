"""LLVM instructions that numba has no function for, as intrinsics."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()

#: Items that `gather_block` moves at once.
BLOCK_ITEMS = 16
#: Bytes of a cache line.
LINE_BYTES = 64


def _at(builder, pointer, offset, kind):
    """The address ``offset`` items into ``pointer``, as a pointer to ``kind``."""
    return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())


def _stream(builder, store):
    """Make a store non-temporal; its address must be the start of a cache line."""
    store.align = LINE_BYTES
    store.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))


@intrinsic
def call_range(typingctx, kernel, out, src, idx, aux, args, lo, hi):
    """Call the range kernel at address ``kernel``."""
    integer = types.int64
    signature = integer(
        integer, integer, integer, integer, integer, types.Array(integer, 1, "C"), integer, integer
    )

    def codegen(context, builder, sig, values):
        block = cgutils.create_struct_proxy(sig.args[5])(context, builder, value=values[5])
        pointers = [builder.inttoptr(v, _BYTES) for v in values[1:5]]
        pointers.append(builder.bitcast(block.data, _BYTES))
        shape = ir.FunctionType(_I64, [_BYTES] * 5 + [_I64, _I64])
        function = builder.inttoptr(values[0], shape.as_pointer())
        return builder.call(function, [*pointers, values[6], values[7]])

    return signature, codegen


@intrinsic
def call_small(typingctx, out, src, idx, call):
    """Call a kernel; ``call`` is the address of ``[kernel, aux, args, count]``."""
    integer = types.int64

    def codegen(context, builder, sig, values):
        block = builder.inttoptr(values[3], _I64.as_pointer())
        kernel, aux, args, count = (builder.load(builder.gep(block, [_I64(k)])) for k in range(4))
        pointers = [builder.inttoptr(v, _BYTES) for v in (*values[:3], aux, args)]
        shape = ir.FunctionType(_I64, [_BYTES] * 5 + [_I64, _I64])
        function = builder.inttoptr(kernel, shape.as_pointer())
        return builder.call(function, [*pointers, _I64(0), count])

    return integer(*[integer] * 4), codegen


@intrinsic
def take_number(typingctx, counter):
    """Add 1 to the int64 at an address, atomically, and return its value before."""

    def codegen(context, builder, sig, values):
        pointer = builder.inttoptr(values[0], _I64.as_pointer())
        return builder.atomic_rmw("add", pointer, _I64(1), "monotonic")

    return types.int64(types.uint64), codegen


@intrinsic
def copy_bytes(typingctx, dst, dst_offset, src, src_offset, count):
    """memcpy ``count`` bytes between two byte pointers."""
    signature = types.void(dst, types.uint64, src, types.uint64, types.uint64)

    def codegen(context, builder, sig, values):
        target = builder.gep(values[0], [values[1]])
        source = builder.gep(values[2], [values[3]])
        cgutils.raw_memcpy(builder, target, source, values[4], 1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def stream_line(typingctx, dst, dst_offset, src, src_offset):
    """Copy a cache line with a non-temporal store, between byte pointers; ``dst`` starts a line."""
    signature = types.void(dst, types.uint64, src, types.uint64)

    def codegen(context, builder, sig, values):
        line = ir.VectorType(_I64, LINE_BYTES // 8)
        loaded = builder.load(_at(builder, values[2], values[3], line))
        loaded.align = 1
        _stream(builder, builder.store(loaded, _at(builder, values[0], values[1], line)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def fence(typingctx):
    """Make non-temporal stores visible before any later store."""

    def codegen(context, builder, sig, values):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def prefetch(typingctx, pointer, offset):
    """Prefetch the cache line of an item that will be read; any address is allowed."""
    signature = types.void(pointer, types.uint64)

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        address = builder.bitcast(builder.gep(values[0], [values[1]]), _BYTES)
        builder.call(function, [address, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def address(typingctx, pointer):
    """A pointer as a number."""

    def codegen(context, builder, sig, values):
        return builder.ptrtoint(values[0], _I64)

    return types.uint64(pointer), codegen


def _pointer_to(kind):
    def pointer(typingctx, number):
        def codegen(context, builder, sig, values):
            return builder.inttoptr(values[0], context.get_value_type(sig.return_type))

        return types.CPointer(kind)(types.uint64), codegen

    return intrinsic(pointer)


#: A number as a pointer.
int64_at = _pointer_to(types.int64)
uint64_at = _pointer_to(types.uint64)
int32_at = _pointer_to(types.int32)
uint32_at = _pointer_to(types.uint32)
float32_at = _pointer_to(types.float32)
float64_at = _pointer_to(types.float64)


@intrinsic
def allocate(typingctx, like, count):
    """malloc: ``count`` bytes as a pointer of the type of ``like``, null if there is no memory."""
    signature = like(like, types.uint64)

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_BYTES, [_I64])
        function = cgutils.get_or_insert_function(builder.module, kind, "malloc")
        return builder.bitcast(builder.call(function, [values[1]]), values[0].type)

    return signature, codegen


@intrinsic
def release(typingctx, pointer):
    """Free memory of `allocate`."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(ir.VoidType(), [_BYTES])
        function = cgutils.get_or_insert_function(builder.module, kind, "free")
        builder.call(function, [builder.bitcast(values[0], _BYTES)])
        return context.get_dummy_value()

    return types.void(pointer), codegen


def _splat(builder, value, kind):
    vector = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, BLOCK_ITEMS), [0] * BLOCK_ITEMS)
    return builder.shuffle_vector(vector, ir.Constant(kind, ir.Undefined), zeros)


_LANES = ir.VectorType(_I64, BLOCK_ITEMS)
_ZEROS = ir.Constant(_LANES, [0] * BLOCK_ITEMS)


def _block_of_indices(builder, idx, i, signed, size, from_end):
    """Sixteen indices as positions, 0 for those out of bounds, and which were in bounds."""
    index = builder.load(_at(builder, idx, i, ir.VectorType(idx.type.pointee, BLOCK_ITEMS)))
    index.align = idx.type.pointee.width // 8
    if index.type.element.width < 64:
        index = (builder.sext if signed else builder.zext)(index, _LANES)
    limit = _splat(builder, size, _LANES)
    if signed:
        back = builder.icmp_signed("<", index, _ZEROS)
        counted = builder.select(back, builder.add(index, limit), index)
        index = builder.select(builder.icmp_unsigned("!=", from_end, _I64(0)), counted, index)
    inside = builder.icmp_unsigned("<", index, limit)
    return builder.select(inside, index, _ZEROS), inside


def _gather_at(builder, base, offset, item):
    """The items at so many bytes from an address."""
    kind = ir.VectorType(item, BLOCK_ITEMS)
    pointers = builder.inttoptr(
        builder.add(_splat(builder, base, _LANES), offset),
        ir.VectorType(item.as_pointer(), BLOCK_ITEMS),
    )
    flags = ir.VectorType(_I1, BLOCK_ITEMS)
    gather = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [pointers.type, _I32, flags, kind]),
        f"llvm.masked.gather.v{BLOCK_ITEMS}i{item.width}.v{BLOCK_ITEMS}p0",
    )
    every, undefined = ir.Constant(flags, [1] * BLOCK_ITEMS), ir.Constant(kind, ir.Undefined)
    return builder.call(gather, [pointers, _I32(1), every, undefined])


def _filled(builder, items, inside, aux, fill):
    """With ``fill``, the items whose index was in bounds and ``aux[0]`` for the others."""
    value = builder.select(inside, items, _splat(builder, builder.load(aux), items.type))
    return builder.select(builder.icmp_unsigned("!=", fill, _I64(0)), value, items)


def _flags(builder, inside):
    """A bit for every index that was out of bounds."""
    return builder.zext(builder.bitcast(builder.not_(inside), ir.IntType(BLOCK_ITEMS)), _I64)


@intrinsic
def gather_block(typingctx, out, o, src, x, idx, i, size, along, step, aux, fill, from_end, nt):
    """``out[o + k] = src[x + idx[i + k] * along + k * step]`` for k below 16.

    Items of 4 or 8 bytes; for others it does nothing. An index that is not below ``size`` reads
    ``src[x + k * step]``, which always exists, and gives ``aux[0]`` if ``fill``. With
    ``from_end`` a negative index counts from the end. With ``nt``, ``out[o]`` is the start of a
    cache line and the store is non-temporal. The result is not 0 if an index was out of bounds.
    """
    integer = types.uint64
    signature = integer(
        out, integer, src, integer, idx, integer, integer, integer, integer, aux, *[integer] * 3
    )

    def codegen(context, builder, sig, values):
        (out, o, src, x, idx, i, size, along, step, aux, fill, from_end, nt) = values
        item = src.type.pointee
        if item not in (_I32, _I64):
            return _I64(0)
        width = item.width // 8
        signed = sig.args[4].dtype.signed
        index, inside = _block_of_indices(builder, idx, i, signed, size, from_end)
        lanes = ir.Constant(_LANES, list(range(BLOCK_ITEMS)))
        position = builder.add(
            builder.mul(index, _splat(builder, along, _LANES)),
            builder.mul(_splat(builder, step, _LANES), lanes),
        )
        base = builder.ptrtoint(builder.gep(src, [x]), _I64)
        offset = builder.mul(position, ir.Constant(_LANES, [width] * BLOCK_ITEMS))
        items = _gather_at(builder, base, offset, item)
        items = _filled(builder, items, inside, aux, fill)
        target = _at(builder, out, o, items.type)
        with builder.if_else(builder.icmp_unsigned("!=", nt, _I64(0))) as (then, otherwise):
            with then:
                _stream(builder, builder.store(items, target))
            with otherwise:
                builder.store(items, target).align = width
        return _flags(builder, inside)

    return signature, codegen


@intrinsic
def gather_narrow_block(typingctx, out, o, src, x, idx, i, size, aux, fill, from_end):
    """``out[o + k] = src[x + idx[i + k]]`` for k below 16, of items of 1 or 2 bytes.

    For others it does nothing. No instruction gathers such items, so 4 bytes are read that contain
    the item and end no later than ``src[x + size]``; the lane must have at least 4 bytes. Apart
    from that it is as `gather_block`.
    """
    integer = types.uint64
    signature = integer(out, integer, src, integer, idx, integer, integer, aux, integer, integer)

    def codegen(context, builder, sig, values):
        (out, o, src, x, idx, i, size, aux, fill, from_end) = values
        item = src.type.pointee
        if item not in (ir.IntType(8), ir.IntType(16)):
            return _I64(0)
        width = item.width // 8
        signed = sig.args[4].dtype.signed
        index, inside = _block_of_indices(builder, idx, i, signed, size, from_end)
        last = _splat(builder, builder.sub(size, _I64(4 // width)), _LANES)
        beyond = builder.icmp_unsigned(">", index, last)
        start = builder.select(beyond, last, index)
        base = builder.ptrtoint(builder.gep(src, [x]), _I64)
        offset = builder.mul(start, ir.Constant(_LANES, [width] * BLOCK_ITEMS))
        words = _gather_at(builder, base, offset, _I32)
        widths = ir.Constant(_LANES, [item.width] * BLOCK_ITEMS)
        bits = builder.mul(builder.sub(index, start), widths)
        words = builder.lshr(words, builder.trunc(bits, words.type))
        items = builder.trunc(words, ir.VectorType(item, BLOCK_ITEMS))
        items = _filled(builder, items, inside, aux, fill)
        builder.store(items, _at(builder, out, o, items.type)).align = width
        return _flags(builder, inside)

    return signature, codegen
