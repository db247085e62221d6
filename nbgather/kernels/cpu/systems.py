"""Threads, semaphores and clocks of the systems that are known: addresses for compiled code."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from nbgather.kernels.cpu.loader import function_pointer

#: Memory that threads of ours may use as long as the process lives.
_kept: list[Any] = []


class System(NamedTuple):
    """Functions of a system: the addresses of some, and how to make a semaphore and a thread.

    Attributes
    ----------
    wait, post, give_way, clock : int
        Of a semaphore, for its address; of the calling thread, to let others run; of a clock, for
        its number and the address of two int64: seconds and nanoseconds.
    clock_id : int
        A clock that never goes back.
    semaphore : callable
        Gives the address of a new one, at 0.
    start : callable
        Starts a thread at a routine with an argument: the thread, 0 where none can be had.
    which_cpu, bind : int
        Of the calling thread; binds a thread to a set of CPUs by the set's bytes and its address.
        0 where the system lacks them.
    """

    wait: int
    post: int
    give_way: int
    clock: int
    clock_id: int
    semaphore: Callable[[], int]
    start: Callable[[int, int], int]
    which_cpu: int = 0
    bind: int = 0


def _start_posix(library: Any, routine: int, argument: int) -> int:
    """Start a detached thread to which no signal is delivered."""
    thread = ctypes.c_void_p()
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        create = library.pthread_create
        create.argtypes = [ctypes.c_void_p] * 4
        if create(ctypes.byref(thread), None, routine, argument) != 0:
            return 0
        library.pthread_detach.argtypes = [ctypes.c_void_p]
        library.pthread_detach(thread)
        return int(thread.value or 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _posix_semaphore(library: Any) -> int:
    # sem_t has 32 bytes on every Linux there is. It is never freed: helpers wait on it.
    memory = ctypes.create_string_buffer(64)
    if library.sem_init(memory, 0, 0) != 0:
        raise OSError("no semaphore can be made")
    _kept.append(memory)
    return ctypes.addressof(memory)


def _posix(library: Any, wait: Any, post: Any, clock_id: int, semaphore: Any) -> System:
    wait, post, give_way, clock = map(
        function_pointer, (wait, post, library.sched_yield, library.clock_gettime)
    )
    start = functools.partial(_start_posix, library)
    return System(wait, post, give_way, clock, clock_id, semaphore, start)


def _linux(library: Any) -> System:
    make = functools.partial(_posix_semaphore, library)
    system = _posix(library, library.sem_wait, library.sem_post, 1, make)
    with contextlib.suppress(AttributeError):  # other C libraries
        return system._replace(
            which_cpu=function_pointer(library.sched_getcpu),
            bind=function_pointer(library.pthread_setaffinity_np),
        )
    return system


def _macos(library: Any) -> System:
    # Its sem_init does nothing.
    create = library.dispatch_semaphore_create
    create.restype, create.argtypes = ctypes.c_void_p, [ctypes.c_long]
    wait, post = library.dispatch_semaphore_wait, library.dispatch_semaphore_signal
    return _posix(library, wait, post, 6, functools.partial(create, 0))


class LargePages(NamedTuple):
    """How large pages are asked for: the address of ``madvise``, the advice, a page's bytes."""

    function: int
    advice: int
    page_bytes: int


@functools.cache
def large_pages() -> LargePages | None:
    """How large pages are asked for, where the system can be asked."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux has it
    if advice is not None:
        with contextlib.suppress(AttributeError, OSError):
            return LargePages(function_pointer(ctypes.CDLL(None).madvise), advice, mmap.PAGESIZE)
    return None


_SYSTEMS: dict[str, Callable[[Any], System]] = {"linux": _linux, "darwin": _macos}


def known_system() -> System | None:
    """The functions of this system; None for one that is not known, or lacks some."""
    make = _SYSTEMS.get(sys.platform)
    if make is not None:
        with contextlib.suppress(AttributeError, OSError):
            return make(ctypes.CDLL(None))
    return None
