"""What a kernel does with a bad index: it reports the first one; see :mod:`.errors`."""

from __future__ import annotations

from typing import Any

from nbgather.kernels.constants import RAISE
from nbgather.kernels.cuda.deferred import cuda, scalar
from nbgather.kernels.cuda.errors import CALL, COUNT, POSITION, RING, RING_SLOTS
from nbgather.kernels.cuda.positions import make_offsets, u64

resolve = scalar.resolve

_CALL, _POSITION, _COUNT, _RING = (u64(8 * word) for word in (CALL, POSITION, COUNT, RING))
_SLOT_BYTES, _LAST_SLOT = u64(16), u64(RING_SLOTS - 1)

#: Where the axes begin among the numbers of :func:`make_find`.
FIND_FIRST_AXIS = 2


def make_report(memory: Any) -> Any:
    """Write a position and its value to a record, if none before it is there.

    A record belongs to the call that writes to it first. Nothing waits: whoever lowers the position
    writes the value to a slot of its own, and the host looks for that of the position that is left.
    """
    read, store = memory.READ["u8"], memory.STORE["u8"]
    swap, lower, add = memory.SWAP_IF, memory.LOWER, memory.COUNT

    @memory.INLINE
    def report(record, call, position, value):
        owner = read(u64(record + _CALL))
        if owner == u64(0):
            owner = swap(u64(record + _CALL), u64(0), u64(call))
        if owner == u64(0) or owner == u64(call):
            # Read first: of many bad values few are left for the atomic, which is slow.
            if read(u64(record + _POSITION)) > u64(position):
                if lower(u64(record + _POSITION), u64(position)) > u64(position):
                    slot = add(u64(record + _COUNT), u64(1)) & _LAST_SLOT
                    place = u64(record + _RING + slot * _SLOT_BYTES)
                    store(place, u64(position))
                    store(u64(place + u64(8)), u64(value))

    return report


def make_find(memory: Any, axes: int, index: str, from_end: bool, wide: bool) -> Any:
    """Look through an index for the first value that is out of bounds, a thread for each.

    ``numbers`` are the count of values and the limit that they must be below, then the axes.
    """
    load_index, report = memory.LOAD[index], make_report(memory)
    offsets = make_offsets(memory, axes, FIND_FIRST_AXIS, wide)

    def find(idx, record, call, numbers):
        n = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        if n < u64(numbers[0]):
            _, i, _ = offsets(n, numbers)
            value = load_index(u64(idx + i))
            if resolve(value, u64(numbers[1]), RAISE, from_end) >= u64(numbers[1]):
                report(record, call, n, value)

    return find
