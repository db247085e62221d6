"""A range kernel over several threads, in compiled code.

A *team* is memory: a head, then slots, each for one call at a time. Helpers are threads of the
system that wait on a semaphore. A caller that may split takes a free slot, writes its job there,
opens it, wakes helpers, and takes parts of the range itself until none is left. Then it closes the
slot and waits for the helpers that are *inside*: never for one that has not begun. A helper that
comes late finds the slot closed. Who has helped looks for another job for some microseconds before
it sleeps. Nobody holds Python's GIL.

Whether helpers are worth waking is seen by what became of the last ones: where they came too late,
or were kept from their work so that the caller waited for them, calls stay alone for a while, the
longer the more often that happens (`RETRY_AT`, `PENALTY`). Short calls are over before anyone
wakes: they are split only while helpers are awake, and where one follows the other, some are woken
for those to come.

All functions of the system are called through pointers in the head.
"""

from __future__ import annotations

import numpy as np

from nbgather.kernels.constants import (
    AVOIDED_CPU,
    AWAKE,
    AWAKE_NS,
    BAD,
    BIND,
    BOUND,
    BY_OPENMP,
    CHECK_SIGNALS_NS,
    CLOCK,
    CLOCK_ID,
    CPU_SET_WORDS,
    CPUS,
    HEAD_WORDS,
    HELPED,
    HELPER_THREADS,
    INSIDE,
    J_ARGS,
    J_AUX,
    J_COUNT,
    J_IDX,
    J_KERNEL,
    J_OUT,
    J_PARTS,
    J_SRC,
    LAST_END,
    LATE_NS,
    MAX_PENALTY_NS,
    MAX_THREADS,
    MAX_UNHELPED_NS,
    MIN_PENALTY_NS,
    NEXT,
    OPEN,
    OPENMP,
    OPENMP_BODY,
    PENALTY,
    POST,
    RETRY_AT,
    SEATS,
    SEMAPHORE,
    SHORT,
    SLOT_WORDS,
    SLOTS,
    TAKEN,
    WAIT,
    WAKE_AGAIN_NS,
    WAKING_NS,
    WHICH_CPU,
    WOKEN,
    YIELD,
)
from nbgather.kernels.cpu.intrinsics import inlined, int64_at, words_on_stack
from nbgather.kernels.cpu.words import (
    add_to,
    as_object,
    ask_system,
    begin_region,
    bind_thread,
    call_system,
    check_signals,
    exchange,
    pause,
    read,
    release_gil,
    run_kernel,
    take_gil,
    whole_number,
    write,
)

U = np.uint64

#: Turns of a waiting loop before the thread gives its core away.
SPINS = 2000

_time_on_stack = words_on_stack(2)
_state_on_stack = words_on_stack(1)
_cpus_on_stack = words_on_stack(CPU_SET_WORDS)


@inlined
def now(team):
    """Nanoseconds of a clock that never goes back."""
    time = _time_on_stack()
    call_system(read(team, CLOCK), read(team, CLOCK_ID), time)
    return read(time, 0) * 1_000_000_000 + read(time, 1)


@inlined
def part_start(part, count, parts):
    """Where a part begins. Not ``part * count // parts``, which overflows for the largest."""
    step = count // parts
    return part * step + min(part, count - step * parts)


@inlined
def help_with(slot):
    """Take parts of the job in a slot until none is left."""
    count, parts = read(slot, J_COUNT), read(slot, J_PARTS)
    bad, helped = 0, 0
    part = add_to(slot, NEXT, 1)
    while part < parts:
        bad += run_kernel(
            read(slot, J_KERNEL), read(slot, J_OUT), read(slot, J_SRC), read(slot, J_IDX),
            read(slot, J_AUX), read(slot, J_ARGS),
            part_start(part, count, parts), part_start(part + 1, count, parts),
        )  # fmt: skip
        helped += 1
        part = add_to(slot, NEXT, 1)
    add_to(slot, BAD, bad)
    add_to(slot, HELPED, helped)


@inlined
def help_anyone(team):
    """Help with each open job; whether there was one."""
    helped = False
    for k in range(SLOTS):
        slot = team + 8 * (HEAD_WORDS + k * SLOT_WORDS)
        if read(slot, OPEN) != 0:
            add_to(slot, INSIDE, 1)
            # A job that is closed here is finished, and one that is open waits for this one.
            if read(slot, OPEN) != 0 and add_to(slot, SEATS, -1) > 0:
                help_with(slot)
                helped = True
            add_to(slot, INSIDE, -1)
    return helped


def helper(team):
    """What a helper does, for ever: the start routine of its thread."""
    while read(team, WAIT) != 0:
        call_system(read(team, WAIT), read(team, SEMAPHORE), -1)
        helped, time = help_anyone(team), now(team)
        # The next call often follows at once, and to be woken takes longer than to stay awake.
        until = time + AWAKE_NS if helped else read(team, WOKEN) + WAKING_NS
        if time < until:
            add_to(team, AWAKE, 1)
            while time < until and read(team, PENALTY) == 0:
                helped = help_anyone(team)
                time = now(team)
                if helped:
                    until = max(until, time + AWAKE_NS)
                pause()
            add_to(team, AWAKE, -1)
    return 0


def help_openmp(slot):
    """What each thread of a region of OpenMP does, the caller too."""
    help_with(slot)
    return 0


@inlined
def interrupted(state):
    """Let Python see to its signals; whether one of them raised. ``state`` is of the thread."""
    if state == 0:
        return False
    take_gil(read(state, 0))
    raised = check_signals() != 0
    write(state, 0, release_gil())
    return raised


@inlined
def run_alone(team, kernel, out, src, idx, aux, args, count, parts, state):
    """Run a range on the calling thread; -1 where a signal raised."""
    if parts <= 1:
        return run_kernel(kernel, out, src, idx, aux, args, 0, count)
    bad, checked = 0, now(team)
    for part in range(parts):
        bad += run_kernel(
            kernel, out, src, idx, aux, args,
            part_start(part, count, parts), part_start(part + 1, count, parts),
        )  # fmt: skip
        time = now(team)
        if time - checked > CHECK_SIGNALS_NS:
            checked = time
            if interrupted(state):
                return -1
    return bad


@inlined
def free_slot(team):
    """A slot that is now the caller's; 0 if all are in use."""
    for k in range(SLOTS):
        slot = team + 8 * (HEAD_WORDS + k * SLOT_WORDS)
        if read(slot, TAKEN) == 0 and exchange(slot, TAKEN, 1) == 0:
            return slot
    return 0


@inlined
def close(team, slot):
    """Close a slot and wait for who is inside."""
    write(slot, OPEN, 0)
    spins = 0
    while read(slot, INSIDE) != 0:
        spins += 1
        if spins < SPINS:
            pause()
        else:
            call_system(read(team, YIELD), 0, 0)


@inlined
def learn(team, slot, begun, own_end, own_parts, closed):
    """Whether the helpers were worth it, for the next calls."""
    waited = closed - own_end
    penalty = read(team, PENALTY)
    if waited > LATE_NS + 2 * (own_end - begun) // max(own_parts, 1):
        penalty = min(max(2 * penalty, 16 * waited), MAX_PENALTY_NS)
        write(team, RETRY_AT, closed + penalty)
    elif read(slot, HELPED) == 0:
        # That cost little: to wake who came too late.
        penalty = max(min(2 * penalty, MAX_UNHELPED_NS), MIN_PENALTY_NS)
        write(team, RETRY_AT, closed + penalty)
    elif penalty != 0:
        penalty //= 4
    else:
        return
    write(team, PENALTY, penalty)


@inlined
def fill(slot, kernel, out, src, idx, aux, args, count, parts, seats):
    """Write a job into a slot that is not open."""
    write(slot, J_KERNEL, kernel)
    write(slot, J_OUT, out)
    write(slot, J_SRC, src)
    write(slot, J_IDX, idx)
    write(slot, J_AUX, aux)
    write(slot, J_ARGS, args)
    write(slot, J_COUNT, count)
    write(slot, J_PARTS, parts)
    write(slot, BAD, 0)
    write(slot, HELPED, 0)
    write(slot, SEATS, seats)
    write(slot, NEXT, 0)


@inlined
def keep_off(team):
    """Keep the helpers off the CPU of the caller.

    Where few CPUs share a cache, Linux wakes a thread on the CPU that it was on before without a
    look at the others, although they are idle: it would then take turns with the caller.
    """
    cpu = ask_system(read(team, WHICH_CPU))
    if cpu < 0 or cpu == read(team, AVOIDED_CPU):
        return
    cpus, left = _cpus_on_stack(), 0
    for k in range(CPU_SET_WORDS):
        bits = read(team, CPUS + k)
        if k == cpu >> 6:
            bits &= ~(1 << (cpu & 63))
        write(cpus, k, bits)
        left |= bits
    write(team, AVOIDED_CPU, cpu)
    if left != 0:
        for k in range(read(team, BOUND)):
            thread = read(team, HELPER_THREADS + k)
            bind_thread(read(team, BIND), thread, 8 * CPU_SET_WORDS, cpus)


@inlined
def wake(team, helpers):
    """Wake helpers, on other CPUs than the caller's."""
    if read(team, BOUND) != 0:
        keep_off(team)
    for _ in range(helpers):
        call_system(read(team, POST), read(team, SEMAPHORE), 0)


@inlined
def run_with_helpers(
    team, slot, begun, kernel, out, src, idx, aux, args, parts, helpers, short, state
):
    """Run the job of a slot over the caller and helpers; -1 where a signal raised."""
    count = read(slot, J_COUNT)
    write(slot, OPEN, 1)
    if not short or read(team, AWAKE) < helpers:
        wake(team, helpers)
    bad, own_parts, checked, raised = 0, 0, begun, False
    own_end = begun
    part = add_to(slot, NEXT, 1)
    while part < parts:
        bad += run_kernel(
            kernel, out, src, idx, aux, args,
            part_start(part, count, parts), part_start(part + 1, count, parts),
        )  # fmt: skip
        own_parts += 1
        own_end = now(team)
        if own_end - checked > CHECK_SIGNALS_NS:
            checked = own_end
            raised = interrupted(state)
            if raised:
                write(slot, NEXT, parts)
                break
        part = add_to(slot, NEXT, 1)
    close(team, slot)
    bad += read(slot, BAD)
    learn(team, slot, begun, own_end, own_parts, now(team))
    return -1 if raised else bad


@inlined
def is_followed(team, begun):
    """Whether helpers are to be woken for the short calls that come after this one."""
    return (
        begun - read(team, LAST_END) < AWAKE_NS
        and begun - read(team, WOKEN) > WAKE_AGAIN_NS
        and begun >= read(team, RETRY_AT)
    )


@inlined
def is_helped(team):
    """Whether a short call need ask how many threads it may use; else it is alone."""
    return read(team, AWAKE) > 0 or is_followed(team, now(team))


@inlined
def ended(team):
    """Note the end of a call that may be split."""
    write(team, LAST_END, now(team))


@inlined
def is_worth_it(team, begun, threads, wanted):
    """Whether helpers are asked at all."""
    if begun < read(team, RETRY_AT):
        return False
    if (threads & SHORT) == 0 or read(team, AWAKE) > 0:
        return True
    if is_followed(team, begun):
        write(team, WOKEN, begun)
        write(team, PENALTY, 0)
        wake(team, wanted)
    return False


@inlined
def run_over(team, kernel, out, src, idx, aux, args, count, parts, threads, state):
    """Run a range over the caller and others; -1 where a signal raised."""
    slot, begun = 0, 0
    by_openmp = (threads & BY_OPENMP) != 0
    helpers = (threads & MAX_THREADS) - 1
    if helpers > 0 and parts > 1:
        begun = now(team)
        if by_openmp or is_worth_it(team, begun, threads, min(helpers, parts - 1)):
            slot = free_slot(team)
    if slot == 0:
        bad = run_alone(team, kernel, out, src, idx, aux, args, count, parts, state)
        if begun != 0:
            ended(team)
        return bad
    fill(slot, kernel, out, src, idx, aux, args, count, parts, helpers)
    if by_openmp:
        begin_region(read(team, OPENMP), read(team, OPENMP_BODY), slot, helpers + 1)
        bad = read(slot, BAD)
    else:
        bad = run_with_helpers(
            team, slot, begun, kernel, out, src, idx, aux, args, parts,
            min(helpers, parts - 1), (threads & SHORT) != 0, state,
        )  # fmt: skip
    write(slot, TAKEN, 0)
    ended(team)
    return bad


@inlined
def run_without_gil(team, kernel, out, src, idx, aux, args, count, parts, threads):
    """`run_over` of a thread that holds the GIL; -1 with the exception of a signal set."""
    state = _state_on_stack()
    write(state, 0, release_gil())
    bad = run_over(team, kernel, out, src, idx, aux, args, count, parts, threads, state)
    take_gil(read(state, 0))
    return bad


def run(self, objects_at, count):
    """A function of Python: team, kernel, out, src, idx, aux, args, count, parts, threads.

    All are ints; the threads may have the flag `BY_OPENMP`.
    """
    numbers = int64_at(U(objects_at))
    team, kernel = whole_number(numbers[U(0)]), whole_number(numbers[U(1)])
    out, src = whole_number(numbers[U(2)]), whole_number(numbers[U(3)])
    idx, aux = whole_number(numbers[U(4)]), whole_number(numbers[U(5)])
    args, length = whole_number(numbers[U(6)]), whole_number(numbers[U(7)])
    parts, threads = whole_number(numbers[U(8)]), whole_number(numbers[U(9)])
    bad = run_without_gil(team, kernel, out, src, idx, aux, args, length, parts, threads)
    return 0 if bad < 0 else as_object(bad)
