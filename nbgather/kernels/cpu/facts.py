"""What compiled code knows of an operand, and whether that is what a call was kept for.

Nothing is certain of an object but by its exact type: a NumPy array's fields are read where the C
API has them, and those of a tensor by torch's C functions once its set of dispatch keys says that
it is a plain one.
"""

from __future__ import annotations

import numpy as np

from nbgather.kernels import small
from nbgather.kernels.cpu.intrinsics import inlined, int64_at
from nbgather.kernels.cpu.objects import (
    are_equal,
    ask,
    call_without,
    clear_error,
    get_attribute,
    lower_bits,
    release,
)
from nbgather.kernels.small import ABSENT, ARRAY, INTEGER, TENSOR

U = np.uint64

_at = small.TABLE.index
NONE, ARRAY_TYPE, INTEGER_TYPE = _at("none"), _at("array"), _at("integer")
TENSOR_TYPE, PARAMETER_TYPE = _at("tensor"), _at("parameter")
HANDLE, KEYS = _at("handle"), _at("keys")
PLAIN_KEYS, INFERENCE_KEYS = _at("plain_keys"), _at("inference_keys")
GET_DATA, GET_SIZE, GET_OFFSET = _at("data"), _at("storage_size"), _at("storage_offset")
GET_DTYPE, GET_NDIM, GET_SIZES, GET_STRIDES = (
    _at("dtype"), _at("ndim"), _at("sizes"), _at("strides"),
)  # fmt: skip
REQUIRES_GRAD, GRAD_ENABLED, TRUE = _at("requires_grad"), _at("grad_enabled"), _at("true")
DISPATCH_MODES, FUNCTION_MODES = _at("dispatch_modes"), _at("function_modes")
TRANSFORM, TRACE, ZERO = _at("transform"), _at("trace"), _at("zero")

#: The words of what is known of an operand. ``storage`` and ``offset`` say how many bytes a
#: tensor's memory has and at which item the tensor begins there.
FACTS = (
    "kind", "dtype", "address", "storage", "offset", "flags", "ndim", "shape", "strides", "grad",
)  # fmt: skip
KIND, DTYPE, ADDRESS, STORAGE, OFFSET, FLAGS, NDIM, SHAPE, STRIDES, GRAD = range(len(FACTS))
FACT_WORDS = len(FACTS)

_of = small.OPERAND_HEADER.index
W_KIND, W_DTYPE, W_MASK, W_LOW, W_HIGH = (
    _of("kind"), _of("dtype"), _of("mask"), _of("low"), _of("high"),
)  # fmt: skip
W_ITEMSIZE, W_FLAGS, W_NDIM = _of("itemsize"), _of("flags"), _of("ndim")
W_SHAPE = len(small.OPERAND_HEADER)
W_STRIDES = W_SHAPE + small.MAX_NDIM
OPERAND_WORDS = small.OPERAND_WORDS
H_OPERANDS, H_RESULTS, H_SHOWN, H_STEPS, H_OUT, H_FIRST = range(len(small.HEADER))
FIRST_OPERAND, MAX_OPERANDS = len(small.HEADER), small.MAX_OPERANDS
INT32_BITS = np.int64(0xFFFFFFFF)
_UNLIMITED = np.int64(2**62)


@inlined
def word(at):
    return int64_at(U(at))[U(0)]


@inlined
def answers(function, wanted):
    """Whether a function of no arguments gives this very object."""
    answer = call_without(function)
    if answer == 0:
        clear_error()
        return False
    release(answer)
    return answer == wanted


@inlined
def is_at_rest(table):
    """Whether torch just computes: no mode, transform or trace is active."""
    return (
        answers(table[DISPATCH_MODES], table[ZERO])
        and answers(table[FUNCTION_MODES], table[ZERO])
        and answers(table[TRANSFORM], table[NONE])
        and answers(table[TRACE], table[NONE])
    )


def make_describe(head):
    """``head`` is the number of bytes before an object's own fields; its type is the last there."""

    @inlined
    def describe_tensor(table, value, fact, at):
        handle = value + table[HANDLE]
        keys = word(word(handle) + table[KEYS])
        if keys != table[PLAIN_KEYS] and keys != table[INFERENCE_KEYS]:
            return False
        fact[DTYPE] = 0  # of which 32 bits are written
        missing = ask(table[GET_DTYPE], handle, at + 8 * DTYPE)
        missing |= ask(table[GET_DATA], handle, at + 8 * ADDRESS)
        missing |= ask(table[GET_SIZE], handle, at + 8 * STORAGE)
        missing |= ask(table[GET_OFFSET], handle, at + 8 * OFFSET)
        missing |= ask(table[GET_NDIM], handle, at + 8 * NDIM)
        missing |= ask(table[GET_SIZES], handle, at + 8 * SHAPE)
        missing |= ask(table[GET_STRIDES], handle, at + 8 * STRIDES)
        if missing != 0:
            return False
        fact[KIND], fact[FLAGS] = TENSOR, 0
        answer = get_attribute(value, table[REQUIRES_GRAD])
        if answer == 0:
            clear_error()
            return False
        fact[GRAD] = 1 if answer == table[TRUE] else 0
        release(answer)
        return True

    @inlined
    def describe(table, value, at):
        """Write down what is known of an operand; False for one of another type or state."""
        fact = int64_at(U(at))
        kind = word(value + head - 8)
        fact[GRAD] = 0
        if kind == table[ARRAY_TYPE]:
            fact[KIND], fact[STORAGE], fact[OFFSET] = ARRAY, _UNLIMITED, 0
            fact[ADDRESS] = word(value + head)
            fact[NDIM] = word(value + head + 8) & INT32_BITS
            fact[SHAPE], fact[STRIDES] = word(value + head + 16), word(value + head + 24)
            fact[DTYPE], fact[FLAGS] = word(value + head + 40), word(value + head + 48)
            return True
        if kind == table[INTEGER_TYPE]:
            fact[KIND], fact[ADDRESS] = INTEGER, lower_bits(value)
            return True
        if kind == table[TENSOR_TYPE] or kind == table[PARAMETER_TYPE]:
            return describe_tensor(table, value, fact, at)
        fact[KIND] = ABSENT
        return value == table[NONE]

    return describe


@inlined
def same_numbers(at, wanted, first, count):
    for d in range(count):
        if int64_at(U(at))[U(d)] != wanted[U(first + d)]:
            return False
    return True


def make_is_like(head):
    """``head`` as :func:`make_describe` has it."""

    @inlined
    def same_dtype(one, other):
        """Whether two dtypes of NumPy are equal: each of times and structs is an object anew."""
        if word(one + head) != word(other + head):  # the types of their scalars
            return False
        equal = are_equal(one, other)
        if equal < 0:
            clear_error()
        return equal == 1

    @inlined
    def is_like(fact, wanted):
        """Whether an operand has the layout that a call was kept for, and all of its memory."""
        if fact[KIND] != wanted[W_KIND]:
            return False
        if fact[KIND] == ABSENT or fact[KIND] == INTEGER:
            return True
        ndim = fact[NDIM]
        if ndim != wanted[W_NDIM]:
            return False
        if not same_numbers(fact[SHAPE], wanted, W_SHAPE, ndim):
            return False
        if not same_numbers(fact[STRIDES], wanted, W_STRIDES, ndim):
            return False
        if fact[ADDRESS] == 0 or (fact[ADDRESS] & wanted[W_MASK]) != 0:
            return False
        if (fact[FLAGS] & wanted[W_FLAGS]) != wanted[W_FLAGS]:
            return False
        if fact[DTYPE] != wanted[W_DTYPE] and (
            fact[KIND] == TENSOR or not same_dtype(fact[DTYPE], wanted[W_DTYPE])
        ):
            return False
        return wanted[W_HIGH] + fact[OFFSET] * wanted[W_ITEMSIZE] <= fact[STORAGE]

    return is_like


@inlined
def is_apart(numbers, facts):
    """Whether the operand that is the result may not share memory with any other."""
    out = numbers[H_OUT]
    if out < 0:
        return True
    target = int64_at(U(facts + 8 * out * FACT_WORDS))
    first = FIRST_OPERAND + out * OPERAND_WORDS
    start = target[ADDRESS] + numbers[U(first + W_LOW)]
    end = target[ADDRESS] + numbers[U(first + W_HIGH)]
    for k in range(numbers[H_OPERANDS]):
        fact = int64_at(U(facts + 8 * k * FACT_WORDS))
        if k != out and (fact[KIND] == ARRAY or fact[KIND] == TENSOR):
            first = FIRST_OPERAND + k * OPERAND_WORDS
            low = fact[ADDRESS] + numbers[U(first + W_LOW)]
            high = fact[ADDRESS] + numbers[U(first + W_HIGH)]
            if start < high and low < end:
                return False
    return True
