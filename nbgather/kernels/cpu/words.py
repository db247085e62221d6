"""What threads that share words need of the machine, of the system and of Python.

Words are int64 at addresses; functions of the system are called by their addresses.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()

#: The function that :mod:`nbgather.kernels.cpu.build` puts the instruction of the processor into.
PAUSE = "nbgather_pause"


def _word(builder, address, number):
    return builder.gep(builder.inttoptr(address, _I64.as_pointer()), [number])


@intrinsic
def add_to(typingctx, address, number, value):
    """Add to a word, atomically; what it was before."""

    def codegen(context, builder, sig, values):
        pointer = _word(builder, values[0], values[1])
        return builder.atomic_rmw("add", pointer, values[2], "seq_cst")

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def exchange(typingctx, address, number, value):
    """Set a word, atomically; what it was before."""

    def codegen(context, builder, sig, values):
        pointer = _word(builder, values[0], values[1])
        return builder.atomic_rmw("xchg", pointer, values[2], "seq_cst")

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def read(typingctx, address, number):
    """A word that other threads write."""

    def codegen(context, builder, sig, values):
        return builder.load_atomic(_word(builder, values[0], values[1]), "seq_cst", 8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def write(typingctx, address, number, value):
    """Write a word that other threads read."""

    def codegen(context, builder, sig, values):
        builder.store_atomic(values[2], _word(builder, values[0], values[1]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def call_system(typingctx, function, one, other):
    """Call a function of the system at an address: ``int32 function(int64, int64)``."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_I32, [_I64, _I64])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def ask_system(typingctx, function):
    """Call ``int32 function()`` at an address."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_I32, [])
        return builder.sext(builder.call(builder.inttoptr(values[0], kind.as_pointer()), []), _I64)

    return types.int64(types.int64), codegen


@intrinsic
def bind_thread(typingctx, function, thread, nbytes, cpus):
    """Call ``int32 function(thread, nbytes, cpus)`` at an address."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_I32, [_I64] * 3)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def begin_region(typingctx, function, body, argument, count):
    """Call what begins a region of OpenMP: ``void(body, argument, uint32 count, uint32 flags)``."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(ir.VoidType(), [_I64, _I64, _I32, _I32])
        count = builder.trunc(values[3], _I32)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), [*values[1:3], count, _I32(0)])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def pause(typingctx):
    """Tell the processor that a loop waits."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, PAUSE), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def run_kernel(typingctx, kernel, out, src, idx, aux, args, lo, hi):
    """Call the range kernel at address ``kernel``."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_I64, [_BYTES] * 5 + [_I64, _I64])
        function = builder.inttoptr(values[0], kind.as_pointer())
        pointers = [builder.inttoptr(v, _BYTES) for v in values[1:6]]
        return builder.call(function, [*pointers, *values[6:]])

    return types.int64(*[types.int64] * 8), codegen


def _of_python(name, result, *arguments):
    """A function of Python's C API, of words."""
    kinds = {"word": _I64, "int": _I32, "none": ir.VoidType()}

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(kinds[result], [kinds[a] for a in arguments])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        value = builder.call(function, values)
        if result == "int":
            return builder.sext(value, _I64)
        return value if result == "word" else context.get_dummy_value()

    signature = (types.void if result == "none" else types.int64)(*[types.int64] * len(arguments))
    if not arguments:
        return intrinsic(lambda typingctx: (signature, codegen))
    return intrinsic(lambda typingctx, a: (signature, codegen))


#: Python's lock, signals and whole numbers.
release_gil = _of_python("PyEval_SaveThread", "word")
take_gil = _of_python("PyEval_RestoreThread", "none", "word")
check_signals = _of_python("PyErr_CheckSignals", "int")
whole_number = _of_python("PyLong_AsUnsignedLongLongMask", "word", "word")
as_object = _of_python("PyLong_FromLongLong", "word", "word")
