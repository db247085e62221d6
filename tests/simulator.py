"""A simulated GPU: kernels run as Python, and every access to memory is checked.

:class:`Driver` takes the place of :mod:`nbgather.kernels.cuda.driver`, and ``DeviceArray`` is an
array with ``__cuda_array_interface__`` whose memory is the host's. A load or store that does not
lie whole within one array, at a multiple of its size, is an error; so is one from an array that is
gone.
"""

from __future__ import annotations

import contextlib
import math
import struct
import weakref
from typing import Any

import numpy as np
from simulated_device import KERNEL_MEMORY, POISON, memory, run

from nbgather.containers import cuda_arrays, cuda_interface
from nbgather.engine.plan import plan_gather
from nbgather.kernels.cuda import (
    backend,
    deferred,
    launch_masking,
    launch_radix,
    launch_scatter,
    radix,
)
from nbgather.kernels.cuda import launch as cuda
from nbgather.kernels.cuda.contexts import Place
from nbgather.kernels.cuda.driver import MAX_GRID_X, Launch
from nbgather.kernels.cuda.errors import Records

#: The streams of a simulated GPU.
STREAMS = (7, 8)


class DeviceArray:
    """An array on the simulated GPU."""

    def __init__(
        self, array: np.ndarray, device: int = 0, padded: bool = False, stream: int = 7
    ) -> None:
        self.array, self.device_id, self.stream = array, device, stream
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if id(root) not in _roots:
            _roots[id(root)] = root
            whole = array if padded else root  # an access to the padding is an error
            _allow(whole if whole.flags.c_contiguous else whole.T, self)
            weakref.finalize(self, _roots.pop, id(root), None)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        interface = dict(self.array.__array_interface__)
        interface["strides"] = self.array.strides
        interface["version"] = 3
        return interface

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)

    def view_of(self, array: np.ndarray) -> DeviceArray:
        """Another view of the same memory."""
        view = DeviceArray.__new__(DeviceArray)
        view.array, view.device_id, view.owner = array, self.device_id, self
        view.stream = self.stream
        return view

    def reshape(self, *shape: Any) -> DeviceArray:
        array = self.array.reshape(*shape)
        return self.view_of(array) if array.base is not None else DeviceArray(array)

    def transpose(self, order: Any) -> DeviceArray:
        return self.view_of(self.array.transpose(order))

    def astype(self, dtype: Any) -> DeviceArray:
        return DeviceArray(self.array.astype(dtype), self.device_id)


#: The arrays of the host that lie on the simulated GPU.
_roots: dict[int, np.ndarray] = {}


def _allow(array: np.ndarray, owner: Any) -> None:
    """Let kernels touch a contiguous array as long as its owner lives."""
    if array.nbytes:
        start = array.ctypes.data
        block = memory.add(start, array.reshape(-1).view(np.uint8))
        weakref.finalize(owner, memory.remove, block)


class _Library:
    """How arrays are made on the simulated GPU."""

    def place(self, array: DeviceArray) -> Place:
        return Place(array.device_id, array.stream)

    def context(self, array: Any) -> Any:
        return contextlib.nullcontext()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> DeviceArray:
        nbytes = math.prod(shape) * dtype.itemsize
        padded = np.full(max(nbytes, 1) + 16, POISON, np.uint8)
        start = -padded.ctypes.data % 16
        array = padded[start : start + nbytes].view(dtype).reshape(shape)
        return DeviceArray(array, padded=True, stream=place.stream)

    def from_numpy(self, array: np.ndarray, place: Place) -> DeviceArray:
        result = self.empty(array.shape, array.dtype, place)
        result.array[...] = array
        return result


class Driver:
    """The functions of the real one."""

    def __init__(self) -> None:
        self.launches: list[Any] = []
        #: What else was asked of the driver that a CUDA graph under capture could not take, and
        #: which streams were made to wait for which.
        self.waits: list[str] = []
        self.follows: list[tuple[int, tuple[int, ...]]] = []
        self.captured = False
        self.multiprocessors = 2
        self.shared_bytes = 99 << 10
        self.l2_bytes = 1 << 9
        self.pinned: list[np.ndarray] = []
        self.records = Records(self.host_memory)

    Launch = Launch
    MAX_GRID_X = MAX_GRID_X

    def host_memory(self, nbytes: int, device: int) -> int:
        memory_of_host = np.zeros(nbytes, np.uint8)
        self.pinned.append(memory_of_host)
        _allow(memory_of_host, self)
        return int(memory_of_host.ctypes.data)

    def start(self, launch: Launch, place: Place, addresses: tuple[int, ...]) -> None:
        numbers = struct.unpack(f"={len(launch.numbers) // 8}Q", launch.numbers)
        assert len(addresses) == launch.addresses
        self.launch(
            launch.key, launch.build, launch.grid, launch.block, place, addresses, numbers,
            launch.shared,
        )  # fmt: skip

    def launch(
        self, key: Any, build: Any, grid: Any, block: Any, place: Place, addresses: Any,
        numbers: Any, shared: int = 0,
    ) -> None:  # fmt: skip
        assert shared <= self.shared_bytes
        assert len(grid) == len(block) == 2
        assert 0 < block[0] * block[1] <= 1024
        assert all(0 <= n < 1 << 64 for n in (*addresses, *numbers)), (addresses, numbers)
        assert place.stream in STREAMS
        self.launches.append((key, grid, block))
        arguments = (*map(np.uint64, addresses), tuple(map(np.uint64, numbers)))
        descending = len(self.launches) % 2 == 0
        run(build(KERNEL_MEMORY), grid, block, arguments, descending, shared)

    def synchronize(self, place: Place) -> None:
        self._wait("stream")

    def synchronize_device(self, device: int) -> None:
        self._wait("device")

    def _wait(self, what: str) -> None:
        assert not self.captured, f"waiting for a {what} ends a capture"
        self.waits.append(what)

    def follow(self, place: Place, streams: Any) -> None:
        self.follows.append((place.stream, tuple(streams)))

    def relaxed(self) -> Any:
        return contextlib.nullcontext()

    def capturing(self, place: Place) -> bool:
        return self.captured

    def cache_bytes(self, device: int) -> int:
        return self.l2_bytes

    def shared_memory(self, device: int) -> int:
        return self.shared_bytes

    def processors(self, device: int) -> int:
        return self.multiprocessors

    def read(self, address: int, nbytes: int, place: Place) -> np.ndarray:
        self._wait("copy")
        return memory.read(address, nbytes)


@contextlib.contextmanager
def simulated(threads: int = 32) -> Any:
    """A simulated GPU for a while: ``cuda`` launches on it, with blocks of so many threads."""
    deferred.resolve()
    driver = Driver()
    plan_gather.cache_clear()  # plans keep launches
    before = cuda.use(driver), cuda.THREADS_PER_BLOCK, launch_masking.RANKING_THREADS
    cuda.THREADS_PER_BLOCK = launch_masking.RANKING_THREADS = threads
    power = 1 << threads.bit_length() - 1  # what sorts halves its threads again and again
    sorting = launch_radix.RADIX_THREADS, launch_scatter.SHARED_THREADS
    launch_radix.RADIX_THREADS = launch_scatter.SHARED_THREADS = power
    whole, radix.WHOLE_THREADS = radix.WHOLE_THREADS, (2 * power, power)
    cuda_interface.LIBRARIES["simulator"] = _Library
    cuda_interface._maker.cache_clear()
    from nbgather.engine import backends

    loaded = backends._loaded.get("cuda")
    backends._loaded["cuda"] = backend
    try:
        yield driver
    finally:
        plan_gather.cache_clear()
        cuda_arrays._constants.clear()  # which are of this GPU
        cuda.use(before[0])
        cuda.THREADS_PER_BLOCK, launch_masking.RANKING_THREADS = before[1:]
        launch_radix.RADIX_THREADS, launch_scatter.SHARED_THREADS = sorting
        radix.WHOLE_THREADS = whole
        del cuda_interface.LIBRARIES["simulator"]
        cuda_interface._maker.cache_clear()
        if loaded is None:
            del backends._loaded["cuda"]


def to_device(array: np.ndarray) -> DeviceArray:
    """A copy on the simulated GPU, strides kept."""
    flipped = tuple(slice(None, None, -1) if s < 0 else slice(None) for s in array.strides)
    flipped = (*flipped, ...)  # a view, of no dimensions too
    straight = array[flipped]
    zero = tuple(slice(0, 1) if s == 0 and n > 1 else slice(None) for s, n in
                 zip(array.strides, array.shape, strict=True))  # fmt: skip
    order = np.argsort([-abs(s) for s in straight.strides], kind="stable")
    packed = np.array(straight[(*zero, ...)].transpose(order), order="C", copy=True)
    inverse = np.argsort(order)
    owner = DeviceArray(packed)
    view = packed.transpose(inverse)
    if view.shape != array.shape:
        view = np.broadcast_to(view, array.shape)
    return owner.view_of(view[flipped])
