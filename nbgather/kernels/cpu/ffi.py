"""The function that XLA calls on the CPU: a program's kernels, run on the buffers of a call.

XLA's foreign function interface hands over a *frame*, see ``xla/ffi/api/c_api.h`` in the folder
``jax.ffi.include_dir()``: structures of pointers and numbers, read here as int64 words. The frame
says which program is meant by a text, whose first bytes are what the program is found by in the
table of this process (:mod:`nbgather.kernels.cpu.programs`). Where it is not in the table, as with
an executable that another process compiled, Python is asked for it by the text.

XLA calls from any thread, from many at once, and without the GIL, which nothing here takes but to
ask for a program.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nbgather.kernels import program as layout
from nbgather.kernels import small, split
from nbgather.kernels.cpu import team
from nbgather.kernels.cpu.facts import ADDRESS, FACT_WORDS, H_FIRST, H_STEPS, word
from nbgather.kernels.cpu.ffi_errors import (
    P_BAD,
    P_FLOATS,
    P_MASK,
    P_NUMBERS,
    P_OPERANDS,
    P_RESULTS,
    P_SCALARS,
    call_word,
    error,
    failure,
)
from nbgather.kernels.cpu.floats import ENVIRONMENT_BYTES
from nbgather.kernels.cpu.intrinsics import inlined, int64_at, words_on_stack
from nbgather.kernels.cpu.repeat import (
    FIRST_ARG,
    PATCH_WORDS,
    S_ARGS,
    S_COUNT,
    S_KERNEL,
    S_MOST,
    S_OUT,
    S_PATCHES,
    S_WORK,
    place,
)
from nbgather.kernels.cpu.words import call_system, read, run_kernel, write

U = np.uint64

#: Words of XLA_FFI_CallFrame.
F_SIZE, F_EXTENSION, F_STAGE = 0, 1, 4
F_OPERANDS, F_OPERAND, F_RESULTS, F_RESULT = 7, 9, 12, 14
F_ATTRIBUTES, F_ATTRIBUTE_TYPES, F_ATTRIBUTE = 17, 18, 20
#: Words of XLA_FFI_Buffer, XLA_FFI_Metadata_Extension and XLA_FFI_Metadata.
BUFFER_DATA, EXTENSION_TYPE, EXTENSION_METADATA, METADATA_VERSION = 3, 1, 3, 3
#: An extension's type, a stage, and an attribute's type.
METADATA, EXECUTE, STRING = 1, 3, 4
INT32_BITS = np.int64(0xFFFFFFFF)

T_TEAM, T_THREADS, T_BLOCK, T_RESOLVE, T_STRAY, T_VERSION, T_GET, T_SET, T_DEFAULT = range(
    len(layout.TABLE)
)
ENTRY_WORDS, KEY_BYTES = layout.ENTRY_WORDS, layout.KEY_BYTES

parts_of, splits = inlined(split.parts_of), inlined(split.splits)
with_length = inlined(split.with_length)

_facts_on_stack = words_on_stack(small.MAX_OPERANDS * FACT_WORDS)
_results_on_stack = words_on_stack(2 * small.MAX_RESULTS)
_args_on_stack = words_on_stack(small.MAX_ARGS)
_environment_on_stack = words_on_stack(ENVIRONMENT_BYTES // 8)
_I64 = ir.IntType(64)


@intrinsic
def own_word(typingctx):
    """The address of a word of the compiled function's own, 0 until it is written."""

    def codegen(context, builder, sig, values):
        name = "nbgather_table"
        known = builder.module.globals.get(name)
        if known is None:
            known = ir.GlobalVariable(builder.module, _I64, name)
            known.initializer, known.linkage = _I64(0), "internal"
        return builder.ptrtoint(known, _I64)

    return types.int64(), codegen


@inlined
def tell_version(frame, table):
    """Tell XLA which version of its interface is known here: it refuses what it cannot call."""
    metadata = word(frame[U(F_EXTENSION)] + 8 * EXTENSION_METADATA)
    int64_at(U(metadata))[U(METADATA_VERSION)] = read(table, T_VERSION)
    return 0


@inlined
def find(block, first, second):
    """The address of a program in a block of entries, 0 where it is not there."""
    mask = word(block)
    k = first & mask
    while True:
        entry = block + 8 * (1 + ENTRY_WORDS * k)
        program = read(entry, 2)
        if program == 0 or (read(entry, 0) == first and read(entry, 1) == second):
            return program
        k = (k + 1) & mask


@inlined
def program_of(frame, table):
    """The address of the program that a frame is for; 0 where it names none."""
    if frame[U(F_ATTRIBUTES)] != 1 or word(frame[U(F_ATTRIBUTE_TYPES)]) & INT32_BITS != STRING:
        return 0
    span = word(frame[U(F_ATTRIBUTE)])
    if word(span + 8) < KEY_BYTES:
        return 0
    key = int64_at(U(word(span)))
    program = find(read(table, T_BLOCK), key[U(0)], key[U(1)])
    return program if program != 0 else call_word(read(table, T_RESOLVE), span)


@inlined
def buffer(buffers, k):
    """The address of a buffer's memory."""
    return word(word(buffers + 8 * k) + 8 * BUFFER_DATA)


@inlined
def run_step(table, step, facts, results, args):
    """A step over the calling thread and, where it is large, helpers of the team."""
    kernel, count, work = step[U(S_KERNEL)], step[U(S_COUNT)], step[U(S_WORK)]
    out = place(step[U(S_OUT)], step[U(S_OUT + 1)], facts, results)
    src = place(step[U(S_OUT + 2)], step[U(S_OUT + 3)], facts, results)
    idx = place(step[U(S_OUT + 4)], step[U(S_OUT + 5)], facts, results)
    aux = place(step[U(S_OUT + 6)], step[U(S_OUT + 7)], facts, results)
    at = read(read(table, T_TEAM), 0)
    if at == 0 or not splits(work):
        return run_kernel(kernel, out, src, idx, aux, args, 0, count)
    threads = read(read(table, T_THREADS), 0)
    parts = parts_of(work, count, threads, step[U(S_MOST)])
    threads = with_length(threads, work)
    return team.run_over(at, kernel, out, src, idx, aux, args, count, parts, threads, 0)


@inlined
def run_steps(table, numbers, at, facts, results):
    """All steps of a program, until one fails; what that gave."""
    args, first = _args_on_stack(), numbers[U(H_FIRST)]
    for _ in range(numbers[U(H_STEPS)]):
        step, copied = int64_at(U(at + 8 * first)), int64_at(U(args))
        count, patches = step[U(S_ARGS)], step[U(S_PATCHES)]
        for k in range(count):
            copied[U(k)] = step[U(FIRST_ARG + k)]
        for k in range(patches):
            p = FIRST_ARG + count + k * PATCH_WORDS
            copied[U(step[U(p)])] = place(step[U(p + 1)], step[U(p + 2)], facts, results)
        bad = run_step(table, step, facts, results, args)
        if bad != 0:
            return bad
        first += FIRST_ARG + count + patches * PATCH_WORDS
    return 0


@inlined
def run_with_floats(table, numbers, at, facts, results):
    """All steps, where floats are computed as everywhere else."""
    environment = _environment_on_stack()
    if read(table, T_GET) == 0:
        return run_steps(table, numbers, at, facts, results)
    call_system(read(table, T_GET), environment, 0)
    call_system(read(table, T_SET), read(table, T_DEFAULT), 0)
    bad = run_steps(table, numbers, at, facts, results)
    call_system(read(table, T_SET), environment, 0)
    return bad


@inlined
def gather_buffers(frame, program, facts, results):
    """Note where all buffers are; whether they are as many as they should be, and aligned."""
    count, made = program[U(P_OPERANDS)], program[U(P_RESULTS)]
    if count < 0:
        return True
    if frame[U(F_OPERANDS)] != count or frame[U(F_RESULTS)] != made:
        return False
    bits = np.int64(0)
    for k in range(count):
        address = buffer(frame[U(F_OPERAND)], k)
        bits |= address
        if program[U(P_SCALARS)] >> k & 1 != 0:
            address = word(address)
        int64_at(U(facts))[U(k * FACT_WORDS + ADDRESS)] = address
    for k in range(made):
        address = buffer(frame[U(F_RESULT)], k)
        bits |= address
        int64_at(U(results))[U(2 * k + 1)] = address
    return bits & program[U(P_MASK)] == 0


def handler(frame_at):
    """XLA_FFI_Handler; a frame of no size brings the table of the process."""
    frame, own = int64_at(U(frame_at)), own_word()
    if frame[U(F_SIZE)] == 0:
        write(own, 0, frame[U(F_EXTENSION)])
        return 0
    extension = frame[U(F_EXTENSION)]
    if extension != 0 and word(extension + 8 * EXTENSION_TYPE) & INT32_BITS == METADATA:
        return tell_version(frame, read(own, 0))
    if frame[U(F_STAGE)] & INT32_BITS != EXECUTE:
        return 0
    table = read(own, 0)
    at = program_of(frame, table)
    facts, results = _facts_on_stack(), _results_on_stack()
    if at == 0:
        return error(frame, layout.INTERNAL, read(table, T_STRAY))
    program = int64_at(U(at))
    if not gather_buffers(frame, program, facts, results):
        return error(frame, layout.INTERNAL, read(table, T_STRAY))
    bad = program[U(P_BAD)]
    if bad == 0:
        numbers_at = at + 8 * program[U(P_NUMBERS)]
        numbers = int64_at(U(numbers_at))
        if program[U(P_FLOATS)] != 0:
            bad = run_with_floats(table, numbers, numbers_at, facts, results)
        else:
            bad = run_steps(table, numbers, numbers_at, facts, results)
    return 0 if bad == 0 else failure(frame, program, bad, facts)
