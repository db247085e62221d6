"""Batches on their way from a loader's workers, in shared memory that is used again.

torch sends each tensor in a new block of shared memory: the system clears its pages, maps them in
both processes and hands over a file descriptor, which takes several times as long as to cut the
patches. Here a worker keeps its blocks. A batch is one block with all its tensors; the process that
gets it keeps the block mapped, and when the last of its tensors is gone it says so in the block's
head, upon which the worker writes another batch there. What goes through the pipe are places and
shapes.

This is for Linux, where memory has a descriptor and no name that could be left behind; nor is it of
``/dev/shm``, whose size containers limit. Elsewhere tensors are sent as torch sends them.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from multiprocessing import reduction
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch

#: Bytes before the tensors of a block, of which the first two are words of the receiver.
HEAD_BYTES = 64
#: Where it says that it has the block mapped, and that all tensors of the last batch are gone.
MAPPED, GONE = 0, 1
#: Tensors start at a cache line.
ALIGNMENT_BYTES = 64
#: Blocks that a worker keeps. Whoever holds more of its batches gets them as torch sends them.
MAX_BLOCKS = 16

#: Inboxes of this process by the name that batches bear.
_inboxes: weakref.WeakValueDictionary[str, Inbox] = weakref.WeakValueDictionary()


def size_of(*tensors: tuple[tuple[int, ...], torch.dtype]) -> int:
    """Bytes that tensors of these shapes and dtypes take in a block."""
    return sum(_padded(math.prod(shape) * dtype.itemsize) for shape, dtype in tensors)


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


class Inbox:
    """The blocks that a process has mapped, of all workers of a loader.

    Parameters
    ----------
    name : str
        What the batches bear that come here.
    """

    def __init__(self, name: str) -> None:
        #: By the worker's process and the block's number.
        self.blocks: dict[tuple[int, int], mmap.mmap] = {}
        _inboxes[name] = self

    @staticmethod
    def named(name: str) -> Inbox:
        """The inbox of this name in this process."""
        return _inboxes.get(name) or Inbox(name)

    def forget(self, worker: int, given_up: tuple[int, ...]) -> None:
        """Drop what a worker has given up, and what is of workers that are no more."""
        for number in given_up:
            self.blocks.pop((worker, number), None)
        if not any(pid == worker for pid, _ in self.blocks):
            for pid, number in list(self.blocks):
                if not _lives(pid):
                    del self.blocks[pid, number]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


class _Block:
    """Shared memory of a worker."""

    def __init__(self, number: int, nbytes: int) -> None:
        self.number, self.nbytes = number, nbytes
        self.file = os.memfd_create("nbgather", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.file, HEAD_BYTES + nbytes)
            self.memory = mmap.mmap(self.file, HEAD_BYTES + nbytes)
        except BaseException:
            self.close()
            raise
        self.sent = False
        #: What every tensor of the batch in it keeps alive, here in the worker.
        self.in_use: weakref.ref[np.ndarray] | None = None

    def is_free(self) -> bool:
        """Whether nobody looks at the last batch any more, here or where it was sent."""
        here = self.in_use is not None and self.in_use() is not None
        return not here and (not self.sent or self.memory[GONE] == 1)

    def descriptor(self) -> Any:
        """The descriptor on its way, until the receiver has mapped the block."""
        return None if self.file < 0 else reduction.DupFd(self.file)

    def close(self) -> None:
        """Close the descriptor; the memory stays for as long as it is mapped."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.close()


class Sender:
    """The blocks of a worker.

    Parameters
    ----------
    name : str
        Of the inbox that batches go to.
    """

    def __init__(self, name: str) -> None:
        self.name, self.pid = name, os.getpid()
        self.blocks: list[_Block] = []
        self.given_up: list[int] = []
        self._made = 0

    def parcel(self, nbytes: int) -> Parcel | None:
        """A parcel for tensors of so many bytes; None where torch has to send them."""
        free = [block for block in self.blocks if block.is_free()]
        for block in self.blocks:
            if block.memory[MAPPED]:
                block.close()
        fitting = [block for block in free if block.nbytes >= nbytes]
        if fitting:
            return Parcel(self, min(fitting, key=lambda block: block.nbytes))
        for block in free:  # too small ones
            self.blocks.remove(block)
            self.given_up.append(block.number)
        if len(self.blocks) >= MAX_BLOCKS:
            return None
        try:
            block = _Block(self._made, nbytes)
        except (AttributeError, OSError):  # not Linux, or not allowed
            return None
        self._made += 1
        self.blocks.append(block)
        return Parcel(self, block)


class Parcel:
    """A block that is being filled with the tensors of a batch."""

    def __init__(self, sender: Sender, block: _Block) -> None:
        self.sender, self.block = sender, block
        block.sent, block.memory[GONE] = False, 0
        self.bytes = np.frombuffer(block.memory, np.uint8, offset=HEAD_BYTES)
        block.in_use = weakref.ref(self.bytes)
        self._start = self.bytes.ctypes.data
        self._filled = 0

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor in the block."""
        tensor = _tensor(self.bytes, self._filled, shape, dtype)
        self._filled += _padded(tensor.nbytes)
        return tensor

    def with_all(self, values: tuple[Any, ...]) -> list[Any]:
        """Values with every tensor among them in the block: what lies elsewhere is copied."""
        return [
            self.empty(tuple(v.shape), v.dtype).copy_(v)
            if isinstance(v, torch.Tensor) and self._place(v) is None
            else v
            for v in values
        ]

    def _place(self, tensor: torch.Tensor) -> int | None:
        place = tensor.data_ptr() - self._start
        return place if 0 <= place < len(self.bytes) and tensor.numel() else None

    def pair(self, ids: torch.Tensor, result: Any) -> tuple[torch.Tensor, Any]:
        """The batch, to be sent with or without the ids."""
        ids, *values = self.with_all((ids, *result))
        sent = _sent_type(type(result))(*values)
        sent.parcel = self
        both = SentPair((ids, sent))
        both.parcel = self
        return both

    def letter(self, kind: type, values: tuple[Any, ...], with_ids: bool) -> Any:
        """How another process makes these values again; None if they were sent already."""
        if self.block.sent or os.getpid() != self.sender.pid:
            return None
        parts = [
            (self._place(v) or 0, tuple(v.shape), v.dtype) if isinstance(v, torch.Tensor) else v
            for v in values
        ]
        tensors = [isinstance(v, torch.Tensor) for v in values]
        self.block.sent = True
        given_up, self.sender.given_up = tuple(self.sender.given_up), []
        address = self.sender.name, self.sender.pid, self.block.number
        nbytes, file = self.block.nbytes, self.block.descriptor()
        return _opened, (address, given_up, nbytes, file, kind, parts, tensors, with_ids)


class SentPair(tuple[Any, ...]):
    """Sample ids and a result that share a parcel. To all but a loader's queue it is a tuple."""

    parcel: Parcel

    def __reduce__(self) -> Any:
        return tuple, (list(self),)


#: Of each kind of result the one that knows its parcel. To all but a loader's queue it is the kind.
_sent_types: dict[Any, Any] = {}


def _sent_type(kind: Any) -> Any:
    own = _sent_types.get(kind)
    if own is None:
        own = type(f"Sent{kind.__name__}", (kind,), {"__reduce__": lambda r: (kind, tuple(r))})
        ForkingPickler.register(own, _reduced_result)
        _sent_types[kind] = own
    return own


def _reduced_result(result: Any) -> Any:
    kind = type(result).__base__
    return result.parcel.letter(kind, tuple(result), False) or result.__reduce__()


def _reduced_pair(pair: SentPair) -> Any:
    ids, result = pair
    kind = type(result).__base__
    assert kind is not None
    return pair.parcel.letter(kind, (ids, *result), True) or pair.__reduce__()


ForkingPickler.register(SentPair, _reduced_pair)


def _opened(
    address: tuple[str, int, int],
    given_up: tuple[int, ...],
    nbytes: int,
    file: Any,
    kind: Any,
    parts: list[Any],
    tensors: list[bool],
    with_ids: bool,
) -> Any:
    """What a worker sent, in the process that it was sent to."""
    name, *place = address
    memory = _mapped(_inboxes.get(name), (place[0], place[1]), given_up, nbytes, file)
    whole = np.frombuffer(memory, np.uint8, offset=HEAD_BYTES)
    weakref.finalize(whole, _tell_gone, memory, os.getpid()).atexit = False
    values = [
        _tensor(whole, *part) if there else part for part, there in zip(parts, tensors, strict=True)
    ]
    return (values[0], kind(*values[1:])) if with_ids else kind(*values)


def _mapped(
    inbox: Inbox | None, key: tuple[int, int], given_up: tuple[int, ...], nbytes: int, file: Any
) -> mmap.mmap:
    """A worker's block; an inbox keeps it."""
    if inbox is not None:
        inbox.forget(key[0], given_up)
        if file is None and key in inbox.blocks:
            return inbox.blocks[key]
    if file is None:
        raise RuntimeError("a batch came from a loader whose collate function is gone")
    descriptor = file.detach()
    try:
        memory = mmap.mmap(descriptor, HEAD_BYTES + nbytes)
    finally:
        os.close(descriptor)
    if inbox is not None:
        inbox.blocks[key] = memory
        memory[MAPPED] = 1
    return memory


def _tell_gone(memory: mmap.mmap, pid: int) -> None:
    # Not in a process that was forked from the one that still has the tensors.
    if os.getpid() == pid:
        memory[GONE] = 1


def _tensor(
    memory: np.ndarray, place: int, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    nbytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(memory[place : place + nbytes]).view(dtype).view(shape)
