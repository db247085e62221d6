"""Timing: contestants take turns, and the fastest, the middle and a slow one are kept."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nbgather.kernels.cpu import launch as cpu
from nbgather.kernels.cpu import threads
from nbgather.kernels.memory import memory_address

__all__ = ["Timing", "bandwidth", "interleave", "split_cost"]

#: Rest before each turn: the threads of some contestants spin on for a while after theirs, and
#: would take a core from the next one.
REST_SECONDS = 0.03
#: Calls that are not timed, at least one of them, at the start of each turn: a core and its memory
#: take some milliseconds to come up to speed after a rest.
WARM_SECONDS = 0.02


class Timing(NamedTuple):
    """What one contestant took.

    Attributes
    ----------
    min, median, p90 : float
        Seconds; nine of ten turns took at most ``p90``.
    """

    min: float
    median: float
    p90: float


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    batch: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    rest: Callable[[float], None] = time.sleep,
) -> dict[str, Timing]:
    """Time calls in turns; each round begins with another of them.

    A turn is a rest, calls that are not timed, and calls that are: the caches, the cores and the
    threads that a contestant wakes are warm when its clock starts.

    Parameters
    ----------
    calls : mapping of str to callable
        The contestants.
    rounds : int
        Turns of each.
    batch : int
        Calls in a turn, for calls too short to be timed alone.
    clock, rest : callable
        The time in seconds, and what is done for some seconds between turns.

    Returns
    -------
    dict of str to Timing

    Examples
    --------
    >>> from nbgather.apps.bench import interleave
    >>> sorted(interleave({"a": list, "b": dict}, rounds=2, rest=lambda seconds: None))
    ['a', 'b']
    """
    names = list(calls)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            call = calls[name]
            rest(REST_SECONDS)
            begun = clock()
            call()
            while clock() - begun < WARM_SECONDS:
                call()
            begun = clock()
            for _ in range(batch):
                result = call()
            taken[name].append((clock() - begun) / batch)
            del result  # its memory goes between turns, not within one
    return {name: _timing(turns) for name, turns in taken.items()}


def _timing(turns: list[float]) -> Timing:
    ordered = sorted(turns)
    return Timing(ordered[0], statistics.median(ordered), ordered[math.ceil(0.9 * len(turns)) - 1])


def bandwidth(nbytes: int = 1 << 28, rounds: int = 7) -> float:
    """Bytes per second of a copy by all cores, read and written bytes together.

    Parameters
    ----------
    nbytes : int
        The size of the block that is copied.
    rounds : int
        Turns of each way to copy it.

    Returns
    -------
    float

    Examples
    --------
    >>> from nbgather.apps.bench import bandwidth
    >>> bandwidth(1 << 20, rounds=1) > 0
    True
    """
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    calls = {
        "numpy": lambda: np.copyto(target, source),
        "nbgather": lambda: cpu.copy(memory_address(target), memory_address(source), nbytes),
    }
    return 2 * nbytes / min(t.min for t in interleave(calls, rounds).values())


def split_cost(rounds: int = 15) -> float:
    """Microseconds that splitting a call over two threads adds to it.

    Parameters
    ----------
    rounds : int
        Turns of each way.

    Returns
    -------
    float
        Beside the same call on one thread.

    Examples
    --------
    >>> from nbgather.apps.bench import split_cost
    >>> split_cost(rounds=1) < 1e6
    True
    """
    block, numbers = np.zeros(256, np.uint8), np.zeros(1, np.int64)
    address = memory_address(block)
    kernel = cpu.copy_kernel()
    call = kernel, address + 128, address, 0, 0, numbers, 2
    calls = {
        "alone": lambda: threads.run_tasks(*call, 1),
        "split": lambda: threads.run_tasks(*call, 2),
    }
    times = interleave(calls, rounds, batch=200)
    return (times["split"].min - times["alone"].min) * 1e6
