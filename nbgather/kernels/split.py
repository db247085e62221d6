"""When a call is split, and into how many parts: for Python and for compiled code.

The work of a call is told in bytes that it moves, or that would take as long to move.
"""

from __future__ import annotations

from nbgather.kernels.constants import MAX_THREADS, SHORT

#: A call of less work keeps the GIL: to get it back may take longer than the call.
KEEP_GIL_BYTES = 1 << 16
#: Work from which a call is split over threads that are awake, some 4 us of it; and from which
#: helpers are woken for it: that takes some 70 us, in which one thread moves as much.
AWAKE_MIN_BYTES = 1 << 17
WOKEN_MIN_BYTES = 1 << 22
#: The least work of a part, into how many parts that of one thread is cut, and the most of a part.
PART_MIN_BYTES = 1 << 16
PARTS_PER_THREAD = 8
PART_MAX_BYTES = 1 << 23
#: The most work that a region of OpenMP is given: some 10 to 50 ms.
REGION_MAX_BYTES = 1 << 28


def splits(work: int) -> bool:
    """Whether a call may run on more than one thread."""
    return work >= AWAKE_MIN_BYTES


def with_length(chosen: int, work: int) -> int:
    """A number of threads with the flag `SHORT` for a call that is.

    Only calls between take a region of OpenMP: it waits for all its threads, which short ones feel
    where the machine is busy, and sees no signals, which long ones must.
    """
    if work < WOKEN_MIN_BYTES:
        return (chosen & MAX_THREADS) | SHORT
    return chosen & MAX_THREADS if work > REGION_MAX_BYTES else chosen


def parts_of(work: int, count: int, chosen: int, most: int) -> int:
    """Into how many parts a range of ``count`` positions is cut, at least 1, at most ``most``.

    On one thread it is cut as well: between parts it looks for signals. But where ``most`` says
    that parts have a cost of their own, there is none without a thread of its own.
    """
    if most < count:
        most = min(most, chosen & MAX_THREADS)
    parts = max((chosen & MAX_THREADS) * PARTS_PER_THREAD, work // PART_MAX_BYTES)
    return max(min(parts, work // PART_MIN_BYTES, count, most), 1)
