"""Phases within one call: tasks that several threads take in order, and that wait for earlier ones.

Threads take the tasks of a call in the order of their numbers. A task of a later phase waits until
all tasks of the phase before are finished: each of them has been taken by a thread that works on
it, or by the waiting thread itself before this one, so no order of threads can block, and one
thread alone never waits.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_I64 = ir.IntType(64)


def _counter(builder, address):
    return builder.inttoptr(address, _I64.as_pointer())


@intrinsic
def finish_task(typingctx, counter):
    """Count a finished task at an address: whoever waits for it sees what the task has written."""

    def codegen(context, builder, sig, values):
        builder.atomic_rmw("add", _counter(builder, values[0]), _I64(1), "acq_rel")
        return context.get_dummy_value()

    return types.void(types.uint64), codegen


@intrinsic
def wait_for_tasks(typingctx, counter, count):
    """Wait until so many tasks are finished.

    Without giving the core away: a scheduler may take a whole time slice from who does.
    """

    def codegen(context, builder, sig, values):
        pointer = _counter(builder, values[0])
        head = builder.append_basic_block("wait")
        done = builder.append_basic_block("done")
        builder.branch(head)
        builder.position_at_end(head)
        finished = builder.load_atomic(pointer, "acquire", 8)
        ready = builder.icmp_unsigned(">=", finished, values[1])
        builder.cbranch(ready, done, head)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), codegen
