"""Arrays beside memory that nobody may touch: a read or write out of bounds ends the process."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

PAGE = mmap.PAGESIZE
_NONE, _READ, _WRITE = 0, 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


class Block:
    """Pages of memory, with a page before and one after that cannot be read."""

    def __init__(self, nbytes: int) -> None:
        self.pages = max(-(-nbytes // PAGE), 1)
        self._map = mmap.mmap(-1, (self.pages + 2) * PAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + PAGE
        self._protect(self.address - PAGE, PAGE, _NONE)
        self._protect(self.address + self.pages * PAGE, PAGE, _NONE)

    def _protect(self, address: int, nbytes: int, how: int) -> None:
        if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), how):
            raise OSError(ctypes.get_errno(), "mprotect")

    def array(self, nbytes: int, at_end: bool) -> np.ndarray:
        """Bytes at the end of the pages, or at their start."""
        first = PAGE + (self.pages * PAGE - nbytes if at_end else 0)
        return np.frombuffer(self._map, np.uint8, nbytes, first)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing may be written for a while."""
        self._protect(self.address, self.pages * PAGE, _READ)
        try:
            yield
        finally:
            self._protect(self.address, self.pages * PAGE, _READ | _WRITE)


#: Blocks that were used before, by their pages: a map of memory takes longer than a small call.
_free: dict[int, list[Block]] = {}


class Arena:
    """Blocks that are given back together."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []

    def array(self, nbytes: int, at_end: bool) -> np.ndarray:
        pages = max(-(-nbytes // PAGE), 1)
        stock = _free.setdefault(pages, [])
        block = stock.pop() if stock else Block(nbytes)
        self.blocks.append(block)
        return block.array(nbytes, at_end)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """No operand may be written: not even with what was there."""
        from contextlib import ExitStack

        with ExitStack() as stack:
            for block in self.blocks:
                stack.enter_context(block.read_only())
            yield

    def give_back(self) -> None:
        for block in self.blocks:
            _free[block.pages].append(block)
        self.blocks.clear()
