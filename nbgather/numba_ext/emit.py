"""Code for LLVM, of what compiled code needs of arrays, of numbers and of Python.

An array is handed on as *words*: int64 on the stack of the function that is written, so that what
plans and checks is compiled once, whatever the arrays' types::

    [address, dimensions, dimensions as they came, sizes..., strides in bytes...]

A 0-d array counts as one of one dimension of size 1.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.np import numpy_support
from numba.np.arrayobj import _empty_nd_impl, make_array

from nbgather.numba_ext import records
from nbgather.numba_ext.records import Refused

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
_OBJECT = ir.IntType(8).as_pointer()

#: The words of an array: its address, how many dimensions it counts as having and how many it has,
#: and the first of the sizes.
ADDRESS, NDIM, OWN_NDIM, SIZES = range(4)


def memory(builder: Any, count: int) -> Any:
    """The address of so many words on the stack."""
    return builder.ptrtoint(cgutils.alloca_once(builder, I64, size=count), I64)


def word(builder: Any, words: Any, k: int) -> Any:
    """A pointer to one of some words."""
    return builder.gep(builder.inttoptr(words, I64.as_pointer()), [I64(k)])


def words_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """The address of an array's words."""
    struct = make_array(kind)(context, builder, array)
    address = builder.ptrtoint(struct.data, I64)
    if kind.ndim == 0:
        values = [address, I64(1), I64(0), I64(1), struct.itemsize]
    else:
        sizes = cgutils.unpack_tuple(builder, struct.shape)
        strides = cgutils.unpack_tuple(builder, struct.strides)
        values = [address, I64(kind.ndim), I64(kind.ndim), *sizes, *strides]
    words = memory(builder, len(values))
    for k, value in enumerate(values):
        builder.store(value, word(builder, words, k))
    return words


def result_words(builder: Any, ndim: int) -> Any:
    """Memory for the words of an array."""
    return memory(builder, SIZES + 2 * max(ndim, 1))


def new_array(context: Any, builder: Any, kind: Any, words: Any) -> Any:
    """An array of the sizes in some words; its address and strides are written there."""
    ndim = kind.ndim
    sizes = [builder.load(word(builder, words, SIZES + d)) for d in range(ndim)]
    array = _empty_nd_impl(context, builder, kind, sizes)
    strides = cgutils.unpack_tuple(builder, array.strides) if ndim else [array.itemsize]
    for k, value in enumerate(
        [builder.ptrtoint(array.data, I64), I64(max(ndim, 1)), I64(ndim)]
        + (sizes or [I64(1)])
        + strides
    ):
        builder.store(value, word(builder, words, k))
    return array._getvalue()


def copy_sizes(builder: Any, ndim: int, source: Any, to: Any) -> None:
    """Give the words of a result the sizes of an array's."""
    for d in range(ndim):
        builder.store(builder.load(word(builder, source, SIZES + d)), word(builder, to, SIZES + d))


def count_of(builder: Any, kind: Any, words: Any) -> Any:
    """How many items an array has."""
    count = I64(1)
    for d in range(kind.ndim):
        count = builder.mul(count, builder.load(word(builder, words, SIZES + d)))
    return count


def stored(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """The address of a plain value on the stack."""
    data = context.data_model_manager[kind].as_data(builder, value)
    return builder.ptrtoint(cgutils.alloca_once_value(builder, data), I64)


def numbers(builder: Any, dtype: Any, *values: Any) -> Any:
    """The address of some constant numbers of one of NumPy's dtypes."""
    kind = ir.IntType(8 * np.dtype(dtype).itemsize)
    bits = [int.from_bytes(np.array(value, dtype).tobytes(), "little") for value in values]
    constant = ir.Constant(ir.ArrayType(kind, len(bits)), bits)
    return builder.ptrtoint(cgutils.alloca_once_value(builder, constant), I64)


# Errors


def refuse(context: Any, builder: Any, record: Any) -> None:
    """Raise what a record says, unless it is 0."""
    # numba makes Python's objects of an exception's numbers by way of what it keeps for functions
    # that Python can call; whole numbers need nothing of it.
    plain = context.subtarget()
    plain.get_env_manager = lambda *args, **options: None
    convention = type(context.call_conv)(plain)
    with builder.if_then(cgutils.is_not_null(builder, record), likely=False):
        convention.return_dynamic_user_exc(builder, Refused, (record,), (types.int64,))


def refuse_result(context: Any, builder: Any, kind: Any, array: Any, record: Any) -> None:
    """Raise what a record says, unless it is 0, and give up an array that was made."""
    with builder.if_then(cgutils.is_not_null(builder, record), likely=False):
        context.nrt.decref(builder, kind, array)
    refuse(context, builder, record)


_NUMBERS = {
    types.Boolean: records.BOOLEAN,
    types.Integer: records.INTEGER,
    types.Float: records.REAL,
    types.Complex: records.COMPLEX,
}


def is_number(kind: Any) -> bool:
    """Whether a record can have a value of a type of numba's."""
    return isinstance(kind, tuple(_NUMBERS))


def number_words(context: Any, builder: Any, kind: Any, value: Any) -> tuple[Any, ...]:
    """The kind and the two words of a number, as a record has them."""
    code = next(number for one, number in _NUMBERS.items() if isinstance(kind, one))
    if code in (records.REAL, records.COMPLEX):
        wide = context.cast(builder, value, kind, types.complex128)
        struct = context.make_complex(builder, types.complex128, wide)
        return I64(code), *(builder.bitcast(part, I64) for part in (struct.real, struct.imag))
    if code == records.INTEGER and not kind.signed:
        code = records.UNSIGNED
    return I64(code), context.cast(builder, value, kind, types.int64), I64(0)


def _dtype_words(kind: Any) -> list[Any]:
    text = numpy_support.as_dtype(kind.dtype).str.encode().ljust(16, b"\0")
    return [I64(part) for part in struct.unpack("qq", text)]


def _argument_words(context: Any, builder: Any, kind: Any, value: Any) -> list[Any]:
    """An argument as a record has it."""
    if isinstance(kind, types.Array):
        count = SIZES + 2 * max(kind.ndim, 1)
        words = words_of(context, builder, kind, value)
        copied = [builder.load(word(builder, words, k)) for k in range(count)]
        return [I64(records.ARRAY), *_dtype_words(kind), *copied]
    if isinstance(kind, types.BaseTuple):
        parts = [I64(records.TUPLE), I64(len(kind))]
        for k, one in enumerate(kind):
            parts += number_words(context, builder, one, builder.extract_value(value, k))
        return parts
    if is_number(kind):
        return [I64(records.NUMBER), *number_words(context, builder, kind, value)]
    return [I64(records.NONE if isinstance(kind, types.NoneType) else records.ABSENT)]


def text_words(text: str) -> list[Any]:
    """A constant text as a record has it."""
    data = text.encode()
    parts = struct.unpack(f"{-(-len(data) // 8)}q", data.ljust(-(-len(data) // 8) * 8, b"\0"))
    return [I64(records.TEXT), I64(len(data)), *map(I64, parts)]


def refuse_call(
    context: Any,
    builder: Any,
    name: str,
    kinds: tuple[Any, ...],
    values: Any,
    how: Any = None,
    out: Any = None,
    **texts: str,
) -> None:
    """Raise what a function of ours says of these arguments, which are in its own order.

    ``how`` is the number of a mode, for the argument of that name; ``texts`` are constants. Of a
    reduction of rows one of the arguments may be an ``out``, whose type it is here.
    """
    kind = records.CALL if out is None else records.ROWS_OUT
    words = [I64(kind), I64(records.FUNCTIONS.index(name)), I64(len(kinds))]
    for parameter, of, value in zip(records.parameters(name), kinds, values, strict=False):
        if parameter == "mode" and how is not None:
            words += [I64(records.MODE_NUMBER), how]
        elif parameter in texts:
            words += text_words(texts[parameter])
        else:
            words += _argument_words(context, builder, of, value)
    refuse_words(context, builder, words if out is None else [*words, I64(int(out.mutable))])


def refuse_out(
    context: Any, builder: Any, name: str, dim: Any, how: Any, arrays: list[tuple[Any, Any]]
) -> None:
    """Raise what is said of an ``out``, the last of these arrays."""
    words = [I64(records.OUT), I64(records.FUNCTIONS.index(name)), dim, how]
    for kind, value in arrays:
        words += _argument_words(context, builder, kind, value)
    refuse_words(context, builder, [*words, I64(int(arrays[-1][0].mutable))])


def refuse_scatter_out(
    context: Any, builder: Any, name: str, kinds: tuple[Any, ...], values: Any, **texts: str
) -> None:
    """Raise what a scatter says of its arguments, of which the last is an ``out``."""
    words = [I64(records.SCATTER_OUT), I64(records.FUNCTIONS.index(name))]
    if len(kinds) != 5:
        words = [I64(records.REDUCE_OUT), words[1], I64(len(kinds) - 1)]
    names = (*records.parameters(name)[: len(kinds) - 1], "out")
    for parameter, kind, value in zip(names, kinds, values, strict=True):
        if parameter in texts:
            words += text_words(texts[parameter])
        else:
            words += _argument_words(context, builder, kind, value)
    refuse_words(context, builder, [*words, I64(int(kinds[-1].mutable))])


def refuse_words(context: Any, builder: Any, words: list[Any]) -> None:
    """Raise what a record of these words says."""
    allocate = ir.FunctionType(_OBJECT, [I64])
    function = cgutils.get_or_insert_function(builder.module, allocate, "malloc")
    record = builder.ptrtoint(builder.call(function, [I64(8 * len(words))]), I64)
    for k, value in enumerate(words):
        builder.store(value, word(builder, record, k))
    refuse(context, builder, record)


@contextlib.contextmanager
def unless(builder: Any, condition: Any) -> Iterator[None]:
    """What follows is for what goes wrong: a condition that is not met."""
    with builder.if_then(builder.not_(condition), likely=False):
        yield


# Python, where this thread has its lock


def _of_python(builder: Any, name: str) -> Any:
    kind = ir.FunctionType(_OBJECT, [])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])


@functools.cache
def _current_thread() -> str:
    """What gives the state of the thread that has the GIL, in this version of Python."""
    public = "PyThreadState_GetUnchecked"
    return public if hasattr(ctypes.pythonapi, public) else "_PyThreadState_UncheckedGet"


@contextlib.contextmanager
def if_python_may_be_asked(builder: Any) -> Iterator[None]:
    """What follows runs where this thread has the GIL, and no exception waits to be seen.

    Without it Python is never asked: to wait for the GIL in a thread of a parallel loop, while the
    thread that waits for the loop has it, would be for ever. In numba's loops no thread has it, not
    even the main one. PyGILState_Check is no help, since it says yes to any thread where there are
    subinterpreters.
    """
    own = _of_python(builder, "PyGILState_GetThisThreadState")
    with builder.if_then(cgutils.is_not_null(builder, own)):
        current = _of_python(builder, _current_thread())
        with builder.if_then(builder.icmp_unsigned("==", own, current)):
            error = _of_python(builder, "PyErr_Occurred")
            with builder.if_then(cgutils.is_null(builder, error)):
                yield


def ask(
    context: Any, builder: Any, name: str, arguments: list[tuple[Any, Any]], results: list[Any]
) -> tuple[Any, list[Any]]:
    """Ask :func:`nbgather.numba_ext.large.answer`: whether it did, and the arrays that it gave.

    ``arguments`` are pairs of numba's type and the value, ``results`` the types of arrays: what
    the function gives is one or a tuple of them, or None where it has no answer. What it raises,
    which is for interrupts alone, is raised.
    """
    python = context.get_python_api(builder)
    text = context.insert_const_string(builder.module, name)
    objects = [python.string_from_string(text)]
    objects += [_boxed(context, python, kind, value) for kind, value in arguments]
    module = context.insert_const_string(builder.module, "nbgather.numba_ext.large")
    given = cgutils.alloca_once(builder, python.pyobj)
    builder.store(cgutils.get_null_value(python.pyobj), given)
    owner = python.import_module(module)
    with builder.if_then(cgutils.is_not_null(builder, owner)):
        function = python.object_getattr_string(owner, "answer")
        with builder.if_then(cgutils.is_not_null(builder, function)):
            builder.store(python.call_function_objargs(function, objects), given)
            python.decref(function)
        python.decref(owner)
    for one in objects:
        python.decref(one)
    got = builder.load(given)
    with builder.if_then(cgutils.is_null(builder, got), likely=False):
        context.call_conv.return_exc(builder)
    answered = builder.icmp_unsigned("!=", got, python.borrow_none())
    arrays = [
        cgutils.alloca_once_value(builder, context.get_constant_null(kind)) for kind in results
    ]
    with builder.if_then(answered):
        for k, (kind, slot) in enumerate(zip(results, arrays, strict=True)):
            item = got if len(results) == 1 else python.tuple_getitem(got, k)
            native = python.to_native_value(kind, item)
            with builder.if_then(native.is_error, likely=False):
                context.call_conv.return_exc(builder)
            builder.store(native.value, slot)
    python.decref(got)
    return answered, [builder.load(slot) for slot in arrays]


def _boxed(context: Any, python: Any, kind: Any, value: Any) -> Any:
    """An object of Python. Not by numba's boxing of arrays, which needs what `refuse` does not."""
    if isinstance(kind, types.BaseTuple):
        parts = cgutils.unpack_tuple(python.builder, value)
        objects = [_boxed(context, python, *pair) for pair in zip(kind, parts, strict=True)]
        packed = python.tuple_pack(objects)
        for one in objects:
            python.decref(one)  # the tuple has its own reference
        return packed
    if not isinstance(kind, types.Array):
        return python.from_native_value(kind, value)
    dtype = python.unserialize(python.serialize_object(numpy_support.as_dtype(kind.dtype)))
    array = python.nrt_adapt_ndarray_to_python(kind, value, dtype)
    python.decref(dtype)
    return array
