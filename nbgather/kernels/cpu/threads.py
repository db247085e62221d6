"""A range kernel over all cores, by this process's team of threads.

Small work runs on the calling thread at once. Larger work is cut into parts, and helpers take some
of them where they come in time: :mod:`nbgather.kernels.cpu.team` has the rules.

The helpers are threads of the system, started when they are first of use, and in a forked child
again. Where the system is not one that is known here, every call runs on its own thread.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from typing import Any

import numpy as np

from nbgather.kernels import forks
from nbgather.kernels.constants import (
    AVOIDED_CPU,
    BIND,
    BOUND,
    BY_OPENMP,
    CLOCK,
    CLOCK_ID,
    CPU_SET_WORDS,
    CPUS,
    HEAD_WORDS,
    HELPER_THREADS,
    MAX_BOUND,
    MAX_THREADS,
    OPENMP,
    OPENMP_BODY,
    POST,
    SEMAPHORE,
    SHORT,
    SLOT_WORDS,
    SLOTS,
    WAIT,
    WHICH_CPU,
    YIELD,
)
from nbgather.kernels.cpu import compiler, limits, openmp
from nbgather.kernels.cpu.builtins import FASTCALL_TYPES, builtin
from nbgather.kernels.cpu.systems import System, known_system
from nbgather.kernels.memory import memory_address
from nbgather.kernels.small import FIXED, Place, Step
from nbgather.kernels.split import KEEP_GIL_BYTES, parts_of, splits, with_length

__all__ = [
    "choose",
    "choose_for_tensors",
    "prepare",
    "run",
    "run_tasks",
    "splits",
    "step",
    "team_address",
]

_HELPER = compiler.Function("team", "helper", None, ("i8",))
_RUN = compiler.Function("team", "run", None, FASTCALL_TYPES)
_LINE_WORDS = 8


#: Memory that threads of ours may use as long as the process lives.
_kept: list[Any] = []
_team: _Team | None = None
_lock = threading.Lock()


class _Team:
    """The memory of a team and how many helpers it has."""

    def __init__(self, system: System | None) -> None:
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
            self.words[[WHICH_CPU, AVOIDED_CPU]] = system.which_cpu, -1
            cpus = os.sched_getaffinity(0) if system.bind else set()
            if len(cpus) <= MAX_BOUND:
                self.words[BIND] = system.bind
                for k in range(CPU_SET_WORDS):
                    word = sum(1 << (cpu & 63) for cpu in cpus if cpu >> 6 == k)
                    self.words[CPUS + k] = np.uint64(word).astype(np.int64)
        _kept.append(self)

    def grow(self, helpers: int) -> None:
        """Have so many helpers, or as many as can be had."""
        if self.system is None or self.helpers >= helpers:
            return
        with forks.held_back(), _lock:
            routine = compiler.address(_HELPER)
            while self.helpers < helpers:
                thread = self.system.start(routine, self.address)
                if not thread:
                    self.helpers = sys.maxsize  # and no other is tried
                    return
                if self.words[BIND] and self.helpers < MAX_BOUND:
                    self.words[HELPER_THREADS + self.helpers] = thread
                    self.words[AVOIDED_CPU] = -1
                    self.words[BOUND] = self.helpers + 1
                self.helpers += 1


def _own_team(helpers: int) -> _Team:
    """This process's team, with so many helpers at least."""
    global _team
    team = _team
    if team is None:
        with forks.held_back(), _lock:
            if _team is None:
                _team = _Team(known_system())
                team_address[0] = _team.address if _team.system is not None else 0
            team = _team
    if team.helpers < helpers:
        team.grow(helpers)
    return team


def prepare(count: int) -> None:
    """Have a team for calls on so many threads, for compiled code that cannot start one."""
    _own_team(min(count, MAX_THREADS) - 1)


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


@functools.cache
def _callable(kernel: int) -> Any:
    """A range kernel as a function of Python that keeps the GIL, with nothing else to compile."""
    pointers = [ctypes.c_void_p] * 5
    return ctypes.PYFUNCTYPE(ctypes.c_int64, *pointers, ctypes.c_int64, ctypes.c_int64)(kernel)


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
        return int(_callable(kernel)(*call[1:6], 0, count))
    chosen = 1
    if splits(work):
        is_short = with_length(1, work) & SHORT
        chosen = limits.num_threads() if is_short else choose()
    cut = parts_of(work, count, chosen, count if parts is None else parts)
    return _over_threads(call, cut, with_length(chosen, work))


def _over_threads(call: tuple[int, ...], parts: int, chosen: int) -> int:
    """Run parts of a call; a signal that is met on the way raises what its handler raises."""
    team = _own_team((chosen & MAX_THREADS) - 1)
    if team.system is None:  # without a clock
        parts, chosen = 1, 1
    return int(_compiled()(team.address, *call, parts, chosen))


def choose() -> int:
    """How many threads a call on arrays may use, and `BY_OPENMP` if OpenMP's are to run it."""
    return _with_openmp(limits.num_threads())


def choose_for_tensors() -> int:
    """The same of a call on tensors."""
    return _with_openmp(limits.num_threads_of_torch())


def _with_openmp(count: int) -> int:
    count = min(count, MAX_THREADS)
    team = _team
    if team is None or team.system is None:
        return count
    if team.helpers < count - 1:  # since calls were limited to fewer threads
        team.grow(count - 1)
    if not openmp.awake(count):
        return count
    if team.words[OPENMP] == 0:
        team.words[OPENMP_BODY] = openmp.functions()[1]
        team.words[OPENMP] = openmp.functions()[0]
    return count | BY_OPENMP


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
    return _over_threads(call, count, threads)
