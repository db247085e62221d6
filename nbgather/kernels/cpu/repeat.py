"""The compiled function that repeats small calls, whatever they compute.

It is a function of a *chain* and the call's operands. A chain is a tuple: the table of this process
(:data:`nbgather.kernels.small.TABLE`), then calls, each a tuple of its numbers and of what makes
its results: for each ``(callable, arguments, wrap or None)``. Of the calls the latest that has the
layout of these operands is run. Where there is none, or a kernel met a bad value, the function
gives None, and the caller goes the whole way. Where a gradient is wanted it runs nothing and gives
the chain: all is well with the operands, but the graph has to know of the call.

Nothing is certain of an object but by its exact type: a NumPy array's fields are read where the C
API has them, and those of a tensor by torch's C functions once its set of dispatch keys says that
it is a plain one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from nbgather.kernels import memory, small
from nbgather.kernels.cpu import compiler, objects
from nbgather.kernels.cpu.intrinsics import int64_at
from nbgather.kernels.cpu.objects import (
    are_equal,
    ask,
    call_tuple,
    call_with,
    call_without,
    clear_error,
    get_attribute,
    hold,
    lower_bits,
    new_tuple,
    release,
    run_kernel,
    set_item,
    tuple_item,
    tuple_size,
)
from nbgather.kernels.small import ABSENT, ARRAY, FIXED, INTEGER, LOW32, OPERAND, RESULT, TENSOR

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
FIRST_OPERAND = len(small.HEADER)
S_KERNEL, S_COUNT, S_ARGS, S_PATCHES, S_OUT = range(5)
FIRST_ARG = len(small.STEP_HEADER)
PATCH_WORDS, MAX_OPERANDS = small.PATCH_WORDS, small.MAX_OPERANDS
#: What makes a result, in a call's second tuple.
MAKER_ITEMS = 3

_INT32_BITS = np.int64(0xFFFFFFFF)
_UNLIMITED = np.int64(2**62)

_facts_on_stack = objects.words_on_stack(small.MAX_OPERANDS * FACT_WORDS)
_results_on_stack = objects.words_on_stack(2 * small.MAX_RESULTS)
_args_on_stack = objects.words_on_stack(small.MAX_ARGS)


@njit(inline="always")
def word(at):
    return int64_at(U(at))[U(0)]


@njit(inline="always")
def answers(function, wanted):
    """Whether a function of no arguments gives this very object."""
    answer = call_without(function)
    if answer == 0:
        clear_error()
        return False
    release(answer)
    return answer == wanted


@njit(inline="always")
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

    @njit(inline="always")
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

    @njit(inline="always")
    def describe(table, value, at):
        """Write down what is known of an operand; False for one of another type or state."""
        fact = int64_at(U(at))
        kind = word(value + head - 8)
        fact[GRAD] = 0
        if kind == table[ARRAY_TYPE]:
            fact[KIND], fact[STORAGE], fact[OFFSET] = ARRAY, _UNLIMITED, 0
            fact[ADDRESS] = word(value + head)
            fact[NDIM] = word(value + head + 8) & _INT32_BITS
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


@njit(inline="always")
def same_numbers(at, wanted, first, count):
    for d in range(count):
        if int64_at(U(at))[U(d)] != wanted[U(first + d)]:
            return False
    return True


@njit(inline="always")
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


@njit(inline="always")
def place(kind, value, facts, results):
    """What is at a place."""
    if kind == OPERAND:
        return int64_at(U(facts))[U(value * FACT_WORDS + ADDRESS)]
    if kind == RESULT:
        return int64_at(U(results))[U(2 * value + 1)]
    if kind == FIXED:
        return value
    bits = int64_at(U(facts))[U(value * FACT_WORDS + ADDRESS)]
    if kind == LOW32:
        return bits & _INT32_BITS
    return (bits >> 32) & _INT32_BITS


@njit(inline="always")
def run_steps(numbers, at, facts, results, args):
    """All kernels of a call, until one meets a bad value."""
    first = numbers[H_FIRST]
    for _ in range(numbers[H_STEPS]):
        step = int64_at(U(at + 8 * first))
        count, patches = step[S_ARGS], step[S_PATCHES]
        copied = int64_at(U(args))
        for k in range(count):
            copied[U(k)] = step[U(FIRST_ARG + k)]
        for k in range(patches):
            p = FIRST_ARG + count + k * PATCH_WORDS
            copied[step[U(p)]] = place(step[U(p + 1)], step[U(p + 2)], facts, results)
        bad = run_kernel(
            step[S_KERNEL],
            place(step[S_OUT], step[S_OUT + 1], facts, results),
            place(step[S_OUT + 2], step[S_OUT + 3], facts, results),
            place(step[S_OUT + 4], step[S_OUT + 5], facts, results),
            place(step[S_OUT + 6], step[S_OUT + 7], facts, results),
            args,
            step[S_COUNT],
        )
        if bad != 0:
            return bad
        first += FIRST_ARG + count + patches * PATCH_WORDS
    return 0


@njit(inline="always")
def release_all(results, count):
    for k in range(count):
        release(int64_at(U(results))[U(2 * k)])


def make_is_like(head):
    """``head`` as :func:`make_describe` has it."""

    @njit(inline="always")
    def same_dtype(one, other):
        """Whether two dtypes of NumPy are equal: each of times and structs is an object anew."""
        if word(one + head) != word(other + head):  # the types of their scalars
            return False
        equal = are_equal(one, other)
        if equal < 0:
            clear_error()
        return equal == 1

    @njit(inline="always")
    def is_like(fact, wanted):
        """Whether an operand is of the layout that a call was kept for, in memory that is all there."""
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


def make_repeat(head):
    """``head`` as :func:`make_describe` has it."""
    describe, is_like = make_describe(head), make_is_like(head)

    @njit(inline="always")
    def make_results(numbers, makers, results):
        """New arrays for all results; how many could be made."""
        made = int64_at(U(results))
        for k in range(numbers[H_RESULTS]):
            array = call_tuple(
                tuple_item(makers, k * MAKER_ITEMS), tuple_item(makers, k * MAKER_ITEMS + 1)
            )
            if array == 0:
                return k
            made[U(2 * k)], made[U(2 * k + 1)] = array, word(array + head)
        return numbers[H_RESULTS]

    @njit(inline="always")
    def wrapped(table, makers, results, k):
        """A result as its library has it: a new reference, instead of that to the array."""
        wrap = tuple_item(makers, k * MAKER_ITEMS + 2)
        array = int64_at(U(results))[U(2 * k)]
        if wrap == table[NONE]:
            return array
        answer = call_with(wrap, array)
        release(array)
        return answer

    @njit(inline="always")
    def answer_of(table, makers, results, count, shown):
        """The shown results, of several a tuple; what was made for the call alone is released."""
        made = int64_at(U(results))
        for k in range(shown, count):
            release(made[U(2 * k)])
        if shown == 1:
            return wrapped(table, makers, results, 0)
        answers = new_tuple(shown)
        failed = answers == 0
        for k in range(shown):
            if failed:
                release(made[U(2 * k)])
            else:
                item = wrapped(table, makers, results, k)
                failed = item == 0
                if not failed:
                    set_item(answers, k, item)
        if failed:
            if answers != 0:
                release(answers)
            return 0
        return answers

    @njit(inline="always")
    def run(table, call, at, given, facts, results):
        numbers, makers = int64_at(U(at)), tuple_item(call, 1)
        count = numbers[H_RESULTS]
        made = make_results(numbers, makers, results)
        if made < count:
            release_all(results, made)
            return 0  # with the error that the library raised
        if run_steps(numbers, at, facts, results, _args_on_stack()) != 0:
            release_all(results, made)
            hold(table[NONE])
            return table[NONE]
        if numbers[H_OUT] >= 0:
            release_all(results, made)
            out = word(given + 8 * numbers[H_OUT])
            hold(out)
            return out
        return answer_of(table, makers, results, count, numbers[H_SHOWN])

    def repeat(self, objects_at, count):
        given = objects_at + 8
        chain = word(objects_at)
        table = int64_at(U(word(tuple_item(chain, 0) + head)))
        facts, results = _facts_on_stack(), _results_on_stack()
        known = count - 1 <= MAX_OPERANDS
        wants_grad, has_tensors = False, False
        for k in range(count - 1):
            if known:
                at = facts + 8 * k * FACT_WORDS
                known = describe(table, word(given + 8 * k), at)
                wants_grad |= known and int64_at(U(at))[GRAD] != 0
                has_tensors |= known and int64_at(U(at))[KIND] == TENSOR
        if known and has_tensors:
            known = is_at_rest(table)
        if known and wants_grad:
            wants_grad = answers(table[GRAD_ENABLED], table[TRUE])
        k = tuple_size(chain) - 1 if known else 0
        while k > 0:
            call = tuple_item(chain, k)
            at = word(tuple_item(call, 0) + head)
            numbers = int64_at(U(at))
            alike = numbers[H_OPERANDS] == count - 1
            for o in range(count - 1):
                if alike:
                    wanted = int64_at(U(at + 8 * (FIRST_OPERAND + o * OPERAND_WORDS)))
                    alike = is_like(int64_at(U(facts + 8 * o * FACT_WORDS)), wanted)
            if alike and is_apart(numbers, facts):
                if wants_grad:
                    hold(chain)
                    return chain
                return run(table, call, at, given, facts, results)
            k -= 1
        hold(table[NONE])
        return table[NONE]

    return repeat


def repeating() -> Any | None:
    """``repeat(chain, *operands)``; None where arrays are not as the C API says."""
    return compiler.once("repeat", _compile) if memory.ARRAYS_ARE_KNOWN else None


def _compile() -> Any:
    function = make_repeat(object.__basicsize__)
    address, owner = compiler.c_function(function, types.int64(*[types.int64] * 3))
    _owners.append(owner)
    return objects.builtin("repeat", address)


_owners: list[Any] = []  # of the machine code
