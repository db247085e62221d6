"""The compiled function that repeats calls, whatever they compute.

It is a function of a *chain* and the call's operands. A chain is a tuple: the table of this process
(:data:`nbgather.kernels.small.TABLE`), then calls. Each of these is a tuple of its numbers, of what
makes its results, ``(callable, arguments, wrap or None)`` for each, and of what is given instead of
the results where a gradient is wanted, so that the graph must know of the call. Of the calls the
latest that has the layout of these operands is run. Where there is none, or a kernel met a bad
value, the function gives None, and the caller goes the whole way.
"""

from __future__ import annotations

import numpy as np

from nbgather.kernels import small, split
from nbgather.kernels.constants import SHORT
from nbgather.kernels.cpu import team
from nbgather.kernels.cpu.facts import (
    ADDRESS,
    FACT_WORDS,
    FIRST_OPERAND,
    GRAD,
    GRAD_ENABLED,
    H_FIRST,
    H_OPERANDS,
    H_OUT,
    H_RESULTS,
    H_SHOWN,
    H_STEPS,
    INT32_BITS,
    KIND,
    MAX_OPERANDS,
    NONE,
    OPERAND_WORDS,
    TRUE,
    answers,
    is_apart,
    is_at_rest,
    make_describe,
    make_is_like,
    word,
)
from nbgather.kernels.cpu.intrinsics import inlined, int64_at, words_on_stack
from nbgather.kernels.cpu.objects import (
    call_tuple,
    call_with,
    call_without,
    hold,
    lower_bits,
    new_tuple,
    release,
    set_item,
    tuple_item,
    tuple_size,
)
from nbgather.kernels.cpu.words import run_kernel
from nbgather.kernels.small import FIXED, LOW32, OPERAND, RESULT, TENSOR

U = np.uint64

S_KERNEL, S_COUNT, S_ARGS, S_PATCHES, S_OUT = range(5)
S_WORK, S_MOST = small.STEP_HEADER.index("work"), small.STEP_HEADER.index("most")
FIRST_ARG = len(small.STEP_HEADER)
PATCH_WORDS = small.PATCH_WORDS
#: What makes a result, in a call's second tuple.
MAKER_ITEMS = 3

TEAM = small.TABLE.index("team")
THREADS, THREADS_OF_TORCH, LIMIT, LIMIT_OF_TORCH = (
    small.TABLE.index(name) for name in ("threads", "threads_of_torch", "limit", "limit_of_torch")
)
KEEP_GIL_BYTES = split.KEEP_GIL_BYTES
#: What steps give where they cannot be done here, and with an exception.
ELSEWHERE, RAISED = 1, -1

parts_of = inlined(split.parts_of)
splits = inlined(split.splits)
with_length = inlined(split.with_length)

_facts_on_stack = words_on_stack(small.MAX_OPERANDS * FACT_WORDS)
_results_on_stack = words_on_stack(2 * small.MAX_RESULTS)
_args_on_stack = words_on_stack(small.MAX_ARGS)


@inlined
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
        return bits & INT32_BITS
    return (bits >> 32) & INT32_BITS


@inlined
def run_large(table, of_torch, kernel, out, src, idx, aux, args, count, work, most):
    """A kernel over the team, without the GIL."""
    team_at = word(word(table + 8 * TEAM))
    if team_at == 0:
        return ELSEWHERE
    threads, short = 1, (with_length(1, work) & SHORT) != 0
    asks = splits(work) and (not short or team.is_helped(team_at))
    if asks:
        which = THREADS_OF_TORCH if of_torch else THREADS
        if short:
            which = LIMIT_OF_TORCH if of_torch else LIMIT
        answer = call_without(word(table + 8 * which))
        if answer == 0:
            return RAISED  # an interrupt, or a number of threads that is none
        threads = lower_bits(answer)
        release(answer)
    parts = parts_of(work, count, threads, most)
    threads = with_length(threads, work)
    bad = team.run_without_gil(team_at, kernel, out, src, idx, aux, args, count, parts, threads)
    if splits(work) and not asks:
        team.ended(team_at)
    return bad


@inlined
def run_steps(table, of_torch, numbers, at, facts, results, args):
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
        out = place(step[S_OUT], step[S_OUT + 1], facts, results)
        src = place(step[S_OUT + 2], step[S_OUT + 3], facts, results)
        idx = place(step[S_OUT + 4], step[S_OUT + 5], facts, results)
        aux = place(step[S_OUT + 6], step[S_OUT + 7], facts, results)
        if step[S_WORK] < KEEP_GIL_BYTES:
            bad = run_kernel(step[S_KERNEL], out, src, idx, aux, args, 0, step[S_COUNT])
        else:
            bad = run_large(
                table, of_torch, step[S_KERNEL], out, src, idx, aux, args, step[S_COUNT],
                step[S_WORK], step[S_MOST],
            )  # fmt: skip
        if bad != 0:
            return bad
        first += FIRST_ARG + count + patches * PATCH_WORDS
    return 0


@inlined
def release_all(results, count):
    for k in range(count):
        release(int64_at(U(results))[U(2 * k)])


def make_repeat(head):
    """``head`` as :func:`nbgather.kernels.cpu.facts.make_describe` has it."""
    describe, is_like = make_describe(head), make_is_like(head)

    @inlined
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

    @inlined
    def wrapped(table, makers, results, k):
        """A result as its library has it: a new reference, instead of that to the array."""
        wrap = tuple_item(makers, k * MAKER_ITEMS + 2)
        array = int64_at(U(results))[U(2 * k)]
        if wrap == table[NONE]:
            return array
        answer = call_with(wrap, array)
        release(array)
        return answer

    @inlined
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

    @inlined
    def run(table_at, table, of_torch, call, at, given, facts, results):
        numbers, makers = int64_at(U(at)), tuple_item(call, 1)
        count = numbers[H_RESULTS]
        made = make_results(numbers, makers, results)
        if made < count:
            release_all(results, made)
            return 0  # with the error that the library raised
        bad = run_steps(table_at, of_torch, numbers, at, facts, results, _args_on_stack())
        if bad != 0:
            release_all(results, made)
            if bad == RAISED:
                return 0
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
        table_at = word(tuple_item(chain, 0) + head)
        table = int64_at(U(table_at))
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
                    instead = tuple_item(call, 2)
                    hold(instead)
                    return instead
                return run(table_at, table, has_tensors, call, at, given, facts, results)
            k -= 1
        hold(table[NONE])
        return table[NONE]

    return repeat
