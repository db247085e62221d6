"""The kernel that writes a few bytes which the host knows: they come among its arguments.

So nothing is copied from the host's memory, which a CUDA graph under capture could not wait for.
"""

from __future__ import annotations

from typing import Any

from nbgather.kernels.cuda.positions import u64

#: Words of 8 bytes that one launch writes at most, besides up to 7 bytes.
WORDS = 32
WRITE_BYTES = 8 * WORDS


def make_write(memory: Any) -> Any:
    """``numbers`` are the count of bytes, whole words, and a word of which some bytes are left."""
    store_word, store_byte = memory.STORE["u8"], memory.STORE["u1"]

    def write(out, numbers):
        nbytes = u64(numbers[0])
        for k in range(WORDS):
            if u64(8 * k + 8) <= nbytes:
                store_word(u64(out + u64(8 * k)), u64(numbers[1 + k]))
        rest = nbytes & u64(7)
        for k in range(7):
            if u64(k) < rest:
                byte = u64(numbers[1 + WORDS]) >> u64(8 * k) & u64(255)
                store_byte(u64(out + nbytes - rest + u64(k)), byte)

    return write
