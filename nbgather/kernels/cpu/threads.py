"""A range kernel over all cores, by this process's team of threads.

Small work runs on the calling thread at once. Larger work is cut into parts, and helpers take some
of them where they come in time: :mod:`nbgather.kernels.cpu.team` has the rules.

The helpers are threads of the system, started when they are first of use, and in a forked child
again. Where the system is not one that is known here, every call runs on its own thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nbgather.kernels import forks
from nbgather.kernels.constants import (
    CLOCK,
    CLOCK_ID,
    HEAD_WORDS,
    POST,
    SEMAPHORE,
    SLOT_WORDS,
    SLOTS,
    WAIT,
    YIELD,
)
from nbgather.kernels.cpu import compiler
from nbgather.kernels.cpu.builtins import FASTCALL_TYPES, builtin
from nbgather.kernels.cpu.limits import limit_threads, num_threads
from nbgather.kernels.memory import memory_address
from nbgather.kernels.small import FIXED, Place, Step
from nbgather.kernels.split import KEEP_GIL_BYTES, parts_of, splits

__all__ = ["limit_threads", "num_threads", "run", "run_tasks", "splits", "step", "team_address"]

_HELPER = compiler.Function("team", "helper", None, ("i8",))
_RUN = compiler.Function("team", "run", None, FASTCALL_TYPES)
_LINE_WORDS = 8


class _System(NamedTuple):
    """Functions of a system: addresses, and how to make a semaphore and a thread."""

    wait: int
    post: int
    give_way: int
    clock: int
    clock_id: int
    semaphore: Callable[[], int]
    start: Callable[[int, int], bool]


def _pointer(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _start_posix(library: Any, routine: int, argument: int) -> bool:
    """Start a detached thread that no signal interrupts; False where none can be had."""
    thread = ctypes.c_void_p()
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        create = library.pthread_create
        create.argtypes = [ctypes.c_void_p] * 4
        if create(ctypes.byref(thread), None, routine, argument) != 0:
            return False
        library.pthread_detach.argtypes = [ctypes.c_void_p]
        library.pthread_detach(thread)
        return True
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _linux() -> _System:
    library = ctypes.CDLL(None)

    def semaphore() -> int:
        # sem_t has 32 bytes on every Linux there is. It is never freed: helpers wait on it.
        memory = ctypes.create_string_buffer(64)
        _kept.append(memory)
        if library.sem_init(memory, 0, 0) != 0:
            raise OSError("no semaphore can be made")
        return ctypes.addressof(memory)

    return _System(
        _pointer(library.sem_wait), _pointer(library.sem_post), _pointer(library.sched_yield),
        _pointer(library.clock_gettime), 1, semaphore, functools.partial(_start_posix, library),
    )  # fmt: skip


def _macos() -> _System:
    library = ctypes.CDLL(None)
    library.dispatch_semaphore_create.restype = ctypes.c_void_p
    library.dispatch_semaphore_create.argtypes = [ctypes.c_long]
    return _System(
        _pointer(library.dispatch_semaphore_wait), _pointer(library.dispatch_semaphore_signal),
        _pointer(library.sched_yield), _pointer(library.clock_gettime), 6,
        lambda: library.dispatch_semaphore_create(0), functools.partial(_start_posix, library),
    )  # fmt: skip


_SYSTEMS: dict[str, Callable[[], _System]] = {"linux": _linux, "darwin": _macos}

#: Memory that threads of ours may use as long as the process lives.
_kept: list[Any] = []
_team: _Team | None = None
_lock = threading.Lock()


class _Team:
    """The memory of a team and how many helpers it has."""

    def __init__(self, system: _System | None) -> None:
        words = HEAD_WORDS + SLOTS * SLOT_WORDS
        memory = np.zeros(words + _LINE_WORDS, np.int64)
        start = -memory_address(memory) % 64 // 8
        self.words = memory[start : start + words]
        self.address = memory_address(self.words)
        self.helpers = 0
        self.system = system
        if system is not None:
            self.words[[WAIT, POST, YIELD, CLOCK, CLOCK_ID]] = (
                system.wait, system.post, system.give_way, system.clock, system.clock_id,
            )  # fmt: skip
            self.words[SEMAPHORE] = system.semaphore()
        _kept.append(self)

    def grow(self, helpers: int) -> None:
        """Have so many helpers, or as many as can be had."""
        if self.system is None or self.helpers >= helpers:
            return
        with forks.held_back(), _lock:
            routine = compiler.address(_HELPER)
            while self.helpers < helpers:
                if not self.system.start(routine, self.address):
                    self.helpers = sys.maxsize  # and no other is tried
                    return
                self.helpers += 1


def _known_system() -> _System | None:
    make = _SYSTEMS.get(sys.platform)
    if make is not None:
        with contextlib.suppress(AttributeError, OSError):
            return make()
    return None


def _own_team(helpers: int) -> _Team:
    """This process's team, with so many helpers at least."""
    global _team
    team = _team
    if team is None:
        with forks.held_back(), _lock:
            if _team is None:
                _team = _Team(_known_system())
                team_address[0] = _team.address if _team.system is not None else 0
            team = _team
    if team.helpers < helpers:
        team.grow(helpers)
    return team


#: Where the address of the team's memory is: 0 until a call was split in this process.
team_address = np.zeros(1, np.int64)


def _renew_in_child() -> None:
    global _team, _lock
    _team, _lock = None, threading.Lock()
    team_address[0] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)


@functools.cache
def _compiled() -> Any:
    return builtin("run", compiler.address(_RUN))


def run(
    kernel: int,
    out: int,
    src: int,
    idx: int,
    aux: int,
    args: np.ndarray,
    count: int,
    work: int,
    parts: int | None = None,
) -> int:
    """Run a range kernel over ``count`` positions; return the sum of what it returned.

    Parameters
    ----------
    kernel, out, src, idx, aux : int
        Addresses, see :mod:`nbgather.kernels.cpu.compiler`.
    args : ndarray of int64
        The plan's integers; read only.
    count : int
        The kernel's range is ``0 <= p < count``.
    work : int
        Bytes moved by the whole call; they decide how many threads are used.
    parts : int, optional
        Into how many parts the range is cut at most, where each has a cost of its own.
    """
    call = kernel, out, src, idx, aux, memory_address(args), count
    if work < KEEP_GIL_BYTES:
        return int(_compiled()(0, *call, 0, 0))
    threads = num_threads() if splits(work) else 1
    cut = parts_of(work, count, threads, count if parts is None else parts)
    return _over_threads(call, cut, threads - 1)


def _over_threads(call: tuple[int, ...], parts: int, helpers: int) -> int:
    """Run parts of a call; a signal that is met on the way raises what its handler raises."""
    team = _own_team(helpers)
    if team.system is None:  # without a clock
        parts, helpers = 1, 0
    return int(_compiled()(team.address, *call, parts, helpers))


def step(
    kernel: int,
    out: Any,
    src: Any,
    idx: Any,
    aux: Any,
    args: Any,
    count: int,
    work: int,
    parts: int | None = None,
) -> Step:
    """What `run` would do, to be repeated.

    The pointers are places or addresses that stay the same, and among the integers are places too.
    """
    pointers = tuple(
        p if isinstance(p, Place) else Place(FIXED, int(p)) for p in (out, src, idx, aux)
    )
    patches = tuple((k, v) for k, v in enumerate(args) if isinstance(v, Place))
    numbers = np.array([0 if isinstance(v, Place) else v for v in args], np.int64)
    return Step(kernel, numbers, count, pointers, patches, work, count if parts is None else parts)


def run_tasks(
    kernel: int, out: int, src: int, idx: int, aux: int, args: np.ndarray, count: int, threads: int
) -> int:
    """Run tasks 0 to ``count`` of a range kernel, each a range of one that is taken in its turn."""
    call = kernel, out, src, idx, aux, memory_address(args), count
    return _over_threads(call, count, threads - 1)
