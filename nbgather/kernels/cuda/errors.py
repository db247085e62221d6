"""Records of bad indices, in pinned memory of the host that kernels write to only on an error.

A kernel that meets a bad index reports its call, its position and its value
(:mod:`nbgather.kernels.cuda.reports`). Of one call the first position in row-major order stays, and
of several the call that reported first. The success of a call costs nothing but the address of a
record and the number of the call among the kernel's arguments.

A call that waits for the device takes a record for itself. Those that do not share the record of
their device, which is read by the next call; its address never changes and is never freed, so that
it may stand in a CUDA graph.
"""

from __future__ import annotations

import collections
import ctypes
import itertools
from collections.abc import Callable
from typing import NamedTuple

from nbgather.kernels import forks

#: Words of uint64: the call (0: nothing was reported), the lowest position, how many times it was
#: lowered, one unused, and then a ring of positions with their values.
CALL, POSITION, COUNT, RING = 0, 1, 2, 4
RING_SLOTS = 32
WORDS = RING + 2 * RING_SLOTS
NO_POSITION = (1 << 64) - 1

#: The number of a call that has a record for itself.
OWN_CALL = 1
#: The lower bits of another call's number say what kind of call it is.
KIND_BITS = 24
#: Numbers of calls begin again behind so many.
MAX_CALLS = (1 << 64 - KIND_BITS) - 1


class Report(NamedTuple):
    """What was reported: the call, and position and bits of the value; None where they are lost."""

    call: int
    position: int | None
    value: int | None


class Record:
    """A record in memory at an address that host and device know it by."""

    __slots__ = ("address", "words")

    def __init__(self, address: int) -> None:
        self.address = address
        self.words = memoryview((ctypes.c_uint64 * WORDS).from_address(address)).cast("B").cast("Q")
        self.clear()

    def read(self) -> Report | None:
        """What was reported, once the device is done; None where nothing was."""
        words = self.words
        call, position = words[CALL], words[POSITION]
        if not call:
            return None
        if position == NO_POSITION:
            return Report(call, None, None)
        # Each time that the position was lowered it was written to the ring, with its value.
        for slot in range(RING, WORDS, 2):
            if words[slot] == position:
                return Report(call, position, words[slot + 1])
        return Report(call, position, None)

    def clear(self) -> None:
        """Make ready for a report; the call last, since a kernel looks at it first."""
        for word in (POSITION, *range(RING, WORDS, 2)):
            self.words[word] = NO_POSITION
        self.words[COUNT] = 0
        self.words[CALL] = 0


class Records:
    """The records of a driver, which ``allocate(nbytes, device)`` gives pinned memory."""

    def __init__(self, allocate: Callable[[int, int], int]) -> None:
        self._allocate = allocate
        self._free: collections.deque[Record] = collections.deque()
        self._unread: Record | None = None
        self._calls = itertools.count(1)
        #: The records that calls share which do not wait, by device.
        self.shared: dict[int, Record] = {}

    def take(self, device: int) -> Record:
        """A record for one call, which :meth:`give` takes back when it is done."""
        try:
            return self._free.pop()
        except IndexError:
            return Record(self._allocate(8 * WORDS, device))

    def give(self, record: Record) -> None:
        """Take back a record that no kernel can write to any more."""
        if record.words[CALL]:
            record.clear()
        self._free.append(record)

    def of(self, device: int) -> Record:
        """The record of a device."""
        record = self.shared.get(device)
        if record is None:
            with forks.lock:
                record = self.shared.get(device)
                if record is None:
                    record = self.shared[device] = Record(self._allocate(8 * WORDS, device))
        return record

    def ignored(self, device: int) -> Record:
        """A record of a device that nobody reads."""
        if self._unread is None:
            self._unread = self.take(device)
        return self._unread

    def number(self, kind: int) -> int:
        """A number for a call of a kind, which no other call has."""
        return next(self._calls) % MAX_CALLS + 1 << KIND_BITS | kind
