"""When a call is split, and into how many parts: for Python and for compiled code."""

from __future__ import annotations

#: A call that moves fewer bytes keeps the GIL: to get it back may take longer than the call.
KEEP_GIL_BYTES = 1 << 16
#: Bytes of work for each thread below which one more costs more than it saves.
THREAD_MIN_BYTES = 1 << 17
#: Into how many parts the work of one thread is cut at least, and the most bytes of a part.
PARTS_PER_THREAD = 8
PART_MAX_BYTES = 1 << 23


def splits(work: int) -> bool:
    """Whether a call that moves so many bytes may run on more than one thread."""
    return work >= 2 * THREAD_MIN_BYTES


def parts_of(work: int, count: int, threads: int, most: int) -> int:
    """Into how many parts a range of ``count`` positions is cut, at least 1, at most ``most``.

    On one thread as well: between parts it looks for signals.
    """
    parts = max(threads * PARTS_PER_THREAD, work // PART_MAX_BYTES)
    return max(min(parts, work // THREAD_MIN_BYTES, count, most), 1)
