"""The threads of GNU OpenMP that torch has awake beside the calling thread.

For some milliseconds after an operator of torch, OpenMP's threads spin on their cores. Threads of
our own would have to fight them for these, while a region of OpenMP starts on them at once. When
they sleep it is the other way round: a region waits for each of its threads, also for one that
cannot get a core. So a call is run over them exactly when they are running at this moment, which
their CPU clocks tell: one that goes on between two looks belongs to a thread on a core. As OpenMP
has a set of threads for each thread that calls it, and ours waits for nothing but this call, a
thread of the set that is running spins.

Nothing of OpenMP is changed: a region of as many threads as torch's own leaves the set as it is.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from nbgather.kernels.cpu import compiler
from nbgather.kernels.cpu.loader import function_pointer

BODY = compiler.Function("team", "help_openmp", None, ("i8",))
_NAME = "libgomp.so.1"
#: dlopen's flag for a library that is loaded already, and only that.
_LOADED = 4
#: Linux: "forked but did not exec", in the flags of /proc/self/stat.
_FORKED = 0x40
#: What Linux makes a thread's id into for the id of its CPU clock.
_THREAD_CLOCK = 6

_local = threading.local()
_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@functools.cache
def _may_be_forked() -> bool:
    """Whether this process was forked before this module was imported: OpenMP hangs in such."""
    try:
        # The command's name, in parentheses, may contain anything; the flags are 7 fields after it.
        flags = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[6]
        return bool(int(flags) & _FORKED)
    except (OSError, IndexError, ValueError):
        return True  # another system


@functools.cache
def _library() -> Any:
    """GNU OpenMP's library, once torch has loaded it; None where it is another."""
    try:
        library = ctypes.CDLL(_NAME, mode=_LOADED)
        library.GOMP_parallel.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_uint] * 2
        library.GOMP_parallel.restype = None
        return library
    except (OSError, AttributeError):
        return None


@functools.cache
def functions() -> tuple[int, int]:
    """The addresses of what begins a region, and of what each of its threads does for a slot."""
    return function_pointer(_library().GOMP_parallel), compiler.address(BODY)


def awake(count: int) -> bool:
    """Whether the calling thread has a set of ``count`` threads of OpenMP, all running now."""
    # Another thread may be importing torch at this moment.
    threads_of_torch = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if count < 2 or threads_of_torch is None or _forked or threads_of_torch() != count:
        return False
    if _may_be_forked() or _library() is None:
        return False
    known = getattr(_local, "clocks", None)
    if known is None or known[0] != count:
        known = _local.clocks = count, _clocks(count)
    try:
        before = [time.clock_gettime_ns(clock) for clock in known[1]]
        return all(
            time.clock_gettime_ns(clock) > then
            for clock, then in zip(known[1], before, strict=True)
        )
    except OSError:  # the set was renewed: at the next call
        _local.clocks = None
        return False


def _clocks(count: int) -> list[int]:
    """The CPU clocks of the other threads of the calling thread's set."""
    threads: list[int] = []
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(
        lambda _: threads.append(threading.get_native_id())
    )
    _library().GOMP_parallel(body, None, count, 0)
    own = threading.get_native_id()
    return [(~thread << 3) | _THREAD_CLOCK for thread in threads if thread != own]
