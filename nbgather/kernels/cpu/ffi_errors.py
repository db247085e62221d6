"""What XLA is told of a program that failed: our own texts, written without Python.

A program has the text of its error, in which a character stands for the value of the first bad
index and another for its place; both are found here, as
:func:`nbgather.engine.bad_index.raise_bad_index` finds them.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nbgather.kernels import program as layout
from nbgather.kernels.constants import NO_MEMORY
from nbgather.kernels.cpu.facts import ADDRESS, FACT_WORDS, word
from nbgather.kernels.cpu.intrinsics import inlined, int64_at, uint8_at, words_on_stack

U = np.uint64

(
    P_OPERANDS, P_RESULTS, P_MASK, P_FLOATS, P_SCALARS, P_BAD, P_INDEX, P_CODE, P_SIZE, P_FROM_END,
    P_NDIM, P_DENSE, P_TEXT, P_TEXT_BYTES, P_OTHER, P_STATUS, P_NUMBERS,
) = range(len(layout.HEADER))  # fmt: skip
P_DIMS = len(layout.HEADER)
VALUE, PLACE, SIGNED = layout.VALUE, layout.PLACE, layout.SIGNED

#: Words of XLA_FFI_CallFrame and XLA_FFI_Api, and the bytes of XLA_FFI_Error_Create_Args.
F_API, API_ERROR_CREATE = 2, 6
ERROR_BYTES, ERROR_WORDS = 28, 4
#: Decimal digits, a sign and what stands between them, for each number in a text.
TEXT_WORDS = (layout.MAX_TEXT + 24 * (layout.MAX_DIMS + 1)) // 8 + 1

_text_on_stack = words_on_stack(TEXT_WORDS)
_error_on_stack = words_on_stack(ERROR_WORDS)
_I64 = ir.IntType(64)


@intrinsic
def call_word(typingctx, function, argument):
    """Call ``int64 function(int64)`` at an address."""

    def codegen(context, builder, sig, values):
        kind = ir.FunctionType(_I64, [_I64])
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

    return types.int64(types.int64, types.int64), codegen


@inlined
def put(text, at, byte):
    """Write a byte; where the next one goes."""
    uint8_at(U(text))[U(at)] = byte
    return at + 1


@inlined
def put_number(text, at, bits, signed):
    """Write a number in decimal digits; where the next byte goes."""
    value = U(bits)
    if signed and bits < 0:
        at = put(text, at, 45)
        value = U(0) - value
    end, rest = at + 1, value // U(10)
    while rest != U(0):
        end, rest = end + 1, rest // U(10)
    for k in range(end - at):
        put(text, end - 1 - k, U(48) + value % U(10))
        value //= U(10)
    return end


@inlined
def put_place(text, at, program, position):
    """Write where a position is, as Python writes a tuple; where the next byte goes."""
    ndim, count = program[U(P_NDIM)], np.int64(1)
    for d in range(ndim):
        count *= program[U(P_DIMS + d)]
    at = put(text, at, 40)
    for d in range(ndim):
        if d > 0:
            at = put(text, put(text, at, 44), 32)
        count //= program[U(P_DIMS + d)]
        at = put_number(text, at, position // count, False)
        position %= count
    if ndim == 1:
        at = put(text, at, 44)
    return put(text, at, 41)


@inlined
def offset_of(program, position):
    """Bytes from the first index to the one at a position."""
    size, ndim = program[U(P_CODE)] & (SIGNED - 1), program[U(P_NDIM)]
    if program[U(P_DENSE)] != 0:
        return position * size
    offset = np.int64(0)
    for k in range(ndim):
        d = ndim - 1 - k
        n = program[U(P_DIMS + d)]
        offset += position % n * program[U(P_DIMS + ndim + d)]
        position //= n
    return offset


@inlined
def index_value(program, address, position):
    """An index by its position; one of 64 unsigned bits as the signed number of the same."""
    code, value = program[U(P_CODE)], np.int64(0)
    size, at = code & (SIGNED - 1), address + offset_of(program, position)
    for b in range(size):
        value |= np.int64(uint8_at(U(at))[U(b)]) << np.int64(8 * b)
    if code & SIGNED != 0 and size < 8 and value >> np.int64(8 * size - 1) != 0:
        value -= np.int64(1) << np.int64(8 * size)
    return value


@inlined
def first_bad(program, address):
    """The position of the first index that is out of bounds, or -1."""
    size, count = program[U(P_SIZE)], np.int64(1)
    for d in range(program[U(P_NDIM)]):
        count *= program[U(P_DIMS + d)]
    low = -size if program[U(P_FROM_END)] != 0 else np.int64(0)
    for k in range(count):
        value = index_value(program, address, k)
        if value < low or value >= size:
            return k
    return np.int64(-1)


@inlined
def error(frame, code, text):
    """Have XLA make an error of a text that ends with 0."""
    at = _error_on_stack()
    args = int64_at(U(at))
    args[U(0)], args[U(1)], args[U(2)], args[U(3)] = ERROR_BYTES, 0, text, code
    return call_word(word(frame[U(F_API)] + 8 * API_ERROR_CREATE), at)


@inlined
def index_error(frame, program, address, position):
    """The error that names a bad index."""
    text, source, at = _text_on_stack(), uint8_at(U(program[U(P_TEXT)])), np.int64(0)
    signed = program[U(P_CODE)] & SIGNED != 0
    for k in range(program[U(P_TEXT_BYTES)]):
        byte = source[U(k)]
        if byte == VALUE:
            at = put_number(text, at, index_value(program, address, position), signed)
        elif byte == PLACE:
            at = put_place(text, at, program, position)
        else:
            at = put(text, at, byte)
    put(text, at, 0)
    return error(frame, layout.OUT_OF_RANGE, text)


@inlined
def failure(frame, program, bad, facts):
    """The error of a step that gave a number that is not 0."""
    if program[U(P_INDEX)] >= 0 and bad < NO_MEMORY:
        address = int64_at(U(facts))[U(program[U(P_INDEX)] * FACT_WORDS + ADDRESS)]
        position = first_bad(program, address)
        if position >= 0:
            return index_error(frame, program, address, position)
    return error(frame, program[U(P_STATUS)], program[U(P_OTHER)])
