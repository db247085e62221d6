"""The few LLVM instructions that numba has no word for."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()

#: Elements that `gather_block` moves at once, and the bytes of a cache line.
BLOCK = 16
LINE = 64


def _at(builder, pointer, offset, kind):
    """The address ``offset`` items into ``pointer``, as a pointer to ``kind``."""
    return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())


def _stream(builder, store):
    """Make a store leave the caches alone; its address must be that of a cache line."""
    store.align = LINE
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
    """Add 1 to the int64 at an address, whoever else does so, and give what it was."""

    def codegen(context, builder, sig, values):
        pointer = builder.inttoptr(values[0], _I64.as_pointer())
        return builder.atomic_rmw("add", pointer, _I64(1), "monotonic")

    return types.int64(types.uint64), codegen


@intrinsic
def copy_bytes(typingctx, dst, dst_offset, src, src_offset, count):
    """memcpy ``count`` bytes between two byte pointers."""
    signature = types.void(dst, types.uint64, src, types.uint64, types.uint64)

    def codegen(context, builder, sig, values):
        to = builder.gep(values[0], [values[1]])
        frm = builder.gep(values[2], [values[3]])
        cgutils.raw_memcpy(builder, to, frm, values[4], 1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def stream_line(typingctx, dst, dst_offset, src, src_offset):
    """Copy one cache line past the caches, between byte pointers; ``dst`` is at a line's start."""
    signature = types.void(dst, types.uint64, src, types.uint64)

    def codegen(context, builder, sig, values):
        line = ir.VectorType(_I64, LINE // 8)
        loaded = builder.load(_at(builder, values[2], values[3], line))
        loaded.align = 1
        _stream(builder, builder.store(loaded, _at(builder, values[0], values[1], line)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def fence(typingctx):
    """Stores past the caches become visible before whatever is stored after this."""

    def codegen(context, builder, sig, values):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def prefetch(typingctx, pointer, offset):
    """Ask for the cache line of an item that will be read; any address will do."""
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
uint32_at = _pointer_to(types.uint32)
float32_at = _pointer_to(types.float32)


@intrinsic
def allocate(typingctx, like, count):
    """``count`` bytes from malloc as a pointer of the type of ``like``; null if there are none."""
    signature = like(like, types.uint64)

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_BYTES, [_I64])
        function = cgutils.get_or_insert_function(builder.module, kind, "malloc")
        return builder.bitcast(builder.call(function, [values[1]]), values[0].type)

    return signature, codegen


@intrinsic
def release(typingctx, pointer):
    """Give memory of `allocate` back."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(ir.VoidType(), [_BYTES])
        function = cgutils.get_or_insert_function(builder.module, kind, "free")
        builder.call(function, [builder.bitcast(values[0], _BYTES)])
        return context.get_dummy_value()

    return types.void(pointer), codegen


def _splat(builder, value, kind):
    vector = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, BLOCK), [0] * BLOCK)
    return builder.shuffle_vector(vector, ir.Constant(kind, ir.Undefined), zeros)


_LANES = ir.VectorType(_I64, BLOCK)
_ZEROS = ir.Constant(_LANES, [0] * BLOCK)


def _block_of_indices(builder, idx, i, signed, size, from_end):
    """Sixteen indices as positions that are all there, and which of them were in bounds."""
    index = builder.load(_at(builder, idx, i, ir.VectorType(idx.type.pointee, BLOCK)))
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
    kind = ir.VectorType(item, BLOCK)
    pointers = builder.inttoptr(
        builder.add(_splat(builder, base, _LANES), offset),
        ir.VectorType(item.as_pointer(), BLOCK),
    )
    flags = ir.VectorType(_I1, BLOCK)
    gather = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [pointers.type, _I32, flags, kind]),
        f"llvm.masked.gather.v{BLOCK}i{item.width}.v{BLOCK}p0",
    )
    every, undefined = ir.Constant(flags, [1] * BLOCK), ir.Constant(kind, ir.Undefined)
    return builder.call(gather, [pointers, _I32(1), every, undefined])


def _filled(builder, found, inside, aux, fill):
    value = builder.select(inside, found, _splat(builder, builder.load(aux), found.type))
    return builder.select(builder.icmp_unsigned("!=", fill, _I64(0)), value, found)


def _flags(builder, inside):
    return builder.zext(builder.bitcast(builder.not_(inside), ir.IntType(BLOCK)), _I64)


@intrinsic
def gather_block(typingctx, out, o, src, x, idx, i, size, along, step, aux, fill, from_end, nt):
    """``out[o + k] = src[x + idx[i + k] * along + k * step]`` for k below 16.

    Items of 4 or 8 bytes; for others it does nothing. An index that is not below ``size`` reads
    ``src[x + k * step]``, which is always there, and gives ``aux[0]`` if ``fill``. With
    ``from_end`` a negative index counts from the end. With ``nt``, ``out[o]`` is at a cache line's
    start and is written past the caches. The result is not 0 if an index was bad.
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
        lanes = ir.Constant(_LANES, list(range(BLOCK)))
        position = builder.add(
            builder.mul(index, _splat(builder, along, _LANES)),
            builder.mul(_splat(builder, step, _LANES), lanes),
        )
        base = builder.ptrtoint(builder.gep(src, [x]), _I64)
        offset = builder.mul(position, ir.Constant(_LANES, [width] * BLOCK))
        found = _gather_at(builder, base, offset, item)
        found = _filled(builder, found, inside, aux, fill)
        to = _at(builder, out, o, found.type)
        with builder.if_else(builder.icmp_unsigned("!=", nt, _I64(0))) as (then, otherwise):
            with then:
                _stream(builder, builder.store(found, to))
            with otherwise:
                builder.store(found, to).align = width
        return _flags(builder, inside)

    return signature, codegen


@intrinsic
def gather_narrow_block(typingctx, out, o, src, x, idx, i, size, aux, fill, from_end):
    """``out[o + k] = src[x + idx[i + k]]`` for k below 16, of items of 1 or 2 bytes.

    For others it does nothing. No instruction gathers such items, so 4 bytes are read that hold the
    one that is meant and end no later than ``src[x + size]``: there must be 4 before that. The rest
    is as in `gather_block`.
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
        offset = builder.mul(start, ir.Constant(_LANES, [width] * BLOCK))
        words = _gather_at(builder, base, offset, _I32)
        bits = builder.mul(builder.sub(index, start), ir.Constant(_LANES, [item.width] * BLOCK))
        words = builder.lshr(words, builder.trunc(bits, words.type))
        found = builder.trunc(words, ir.VectorType(item, BLOCK))
        found = _filled(builder, found, inside, aux, fill)
        builder.store(found, _at(builder, out, o, found.type)).align = width
        return _flags(builder, inside)

    return signature, codegen
