"""Timing many short contests: contestants take turns until the time of the case is spent."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["race"]

#: How long a turn is at least, so that the clock's own time does not count.
TURN_SECONDS = 3e-4
#: A peer that is so many times slower than the fastest, in its best try, is not asked again.
HOPELESS, TRIES = 4.0, 3
#: A call that takes as long is not slow by accident.
LONG_SECONDS = 0.02
#: The threads of some contestants spin on for 5 ms after a call that was split, and would take a
#: core from the next; calls from this length on are given a rest before their turn, and are made
#: some times before the clock starts, so that their own threads are awake.
SPLIT_SECONDS, REST_SECONDS = 3e-6, 6e-3
MOST_TURNS = 60


def race(
    calls: Mapping[str, Callable[[], Any]],
    seconds: float,
    stay: str = "nbgather",
    *,
    clock: Callable[[], float] = time.perf_counter,
    rest: Callable[[float], None] = time.sleep,
) -> dict[str, float]:
    """The shortest time of each call.

    Each is tried some times; those that have a chance then take turns, each time in a random order
    (whoever always came after the same contestant would find the caches as that one leaves them),
    until the time is spent, but at least twice.

    Parameters
    ----------
    calls : mapping of str to callable
        The contestants.
    seconds : float
        The time for all of them together.
    stay : str
        How the names begin of those that are timed to the end.
    clock, rest : callable
        The time in seconds, and what is done for some seconds before a turn.

    Returns
    -------
    dict of str to float
        Seconds a call.

    Examples
    --------
    >>> from nbgather.apps.bench.surface.race import race
    >>> sorted(race({"a": list, "b": dict}, 0.01))
    ['a', 'b']
    """

    def turn(call: Callable[[], Any], batch: int) -> float:
        begun = clock()
        for _ in range(batch):
            result = call()
        taken = clock() - begun
        del result  # its memory goes between turns, not within one
        return taken / batch

    collecting = gc.isenabled()
    gc.disable()
    try:
        begun = clock()
        best = {name: turn(call, 1) for name, call in calls.items()}
        for name, call in calls.items():
            for _ in range(TRIES - 1):
                if best[name] > HOPELESS * min(best.values()) and best[name] > LONG_SECONDS:
                    break
                best[name] = min(best[name], turn(call, 1))
        for name, call in calls.items():
            if best[name] < TURN_SECONDS:
                best[name] = min(best[name], turn(call, _batch(best[name])))
        limit = HOPELESS * min(best.values())
        shuffle = random.Random(0).shuffle
        names = [name for name in calls if best[name] <= limit or name.startswith(stay)]
        for number in range(MOST_TURNS):
            if number >= 2 and clock() - begun > seconds:
                break
            shuffle(names)
            for name in names:
                if best[name] >= SPLIT_SECONDS:
                    rest(REST_SECONDS)
                    turn(calls[name], _batch(best[name]))
                best[name] = min(best[name], turn(calls[name], _batch(best[name])))
        return best
    finally:
        if collecting:
            gc.enable()


def _batch(seconds: float) -> int:
    return max(1, int(TURN_SECONDS / max(seconds, 1e-8)))
