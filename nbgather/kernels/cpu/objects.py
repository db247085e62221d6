"""Python's objects in compiled code, by address: what of its C API the repeating of calls needs.

The caller holds the GIL.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_PY_EQ = 2
_BYTES = ir.IntType(8).as_pointer()


def _of_python(name: str, count: int) -> Any:
    """A function of the C API, of ``count`` objects or numbers; errors are the caller's to see."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_I64, [_I64] * count)
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, values)

    signature = types.int64(*[types.int64] * count)
    if count == 1:
        return intrinsic(lambda typingctx, a: (signature, codegen))
    return intrinsic(lambda typingctx, a, b: (signature, codegen))


@intrinsic
def call_with(typingctx, function, argument):
    """What a callable gives for one argument.

    By a function of any number of them, since Python 3.10 has no other in its library.
    """

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_I64, [_I64], var_arg=True)
        name = "PyObject_CallFunctionObjArgs"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [*values, _I64(0)])

    return types.int64(types.int64, types.int64), codegen


#: Of an object: the attribute of that name; what a callable gives.
get_attribute = _of_python("PyObject_GetAttr", 2)
call_without = _of_python("PyObject_CallNoArgs", 1)
#: What a callable gives for a tuple of arguments.
call_tuple = _of_python("PyObject_CallObject", 2)
tuple_size = _of_python("PyTuple_Size", 1)
tuple_item = _of_python("PyTuple_GetItem", 2)
new_tuple = _of_python("PyTuple_New", 1)
#: The lower 64 bits of an int.
lower_bits = _of_python("PyLong_AsUnsignedLongLongMask", 1)


def _of_count(name: str) -> Any:
    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(ir.VoidType(), [_BYTES])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(function, [builder.inttoptr(values[0], _BYTES)])
        return context.get_dummy_value()

    return intrinsic(lambda typingctx, a: (types.void(types.int64), codegen))


#: One more and one fewer reference to an object.
hold, release = _of_count("Py_IncRef"), _of_count("Py_DecRef")


@intrinsic
def clear_error(typingctx):
    """Forget an error that a function of the C API left."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(ir.VoidType(), [])
        function = cgutils.get_or_insert_function(builder.module, kind, "PyErr_Clear")
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def are_equal(typingctx, one, other):
    """1 where two objects are equal, 0 where they are not; -1 with an error."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_I32, [_I64, _I64, _I32])
        name = "PyObject_RichCompareBool"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.sext(builder.call(function, [*values, _I32(_PY_EQ)]), _I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def set_item(typingctx, of, k, item):
    """Put an item into a new tuple, which takes the reference."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_I32, [_I64] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "PyTuple_SetItem")
        builder.call(function, values)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@intrinsic
def ask(typingctx, function, handle, answer):
    """Call ``int32 function(handle, answer*)`` by its address; 0 where it could answer."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_I32, [_I64, _I64])
        called = builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return builder.sext(called, _I64)

    return types.int64(*[types.int64] * 3), codegen
