"""A CUDA driver that succeeds at everything and does nothing, and arrays on its one device.

With it every call for a GPU runs, up to the launches: ``scripts/build_cuda.py`` finds out by it
which kernels calls ask for.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nbgather.containers import cuda_interface
from nbgather.engine import backends
from nbgather.engine.plan import plan_gather
from nbgather.kernels.cuda import contexts
from nbgather.kernels.cuda import driver as cuda_driver
from nbgather.kernels.cuda.driver import Place
from nbgather.kernels.cuda.errors import Records

#: The handle of the one stream.
STREAM = 7
#: Functions that give no value.
STATUS_ALONE = (
    "cuCtxPushCurrent", "cuCtxSetCurrent", "cuCtxSynchronize", "cuEventRecord",
    "cuFuncSetAttribute", "cuInit", "cuLaunchKernel", "cuMemcpyDtoHAsync", "cuStreamSynchronize",
    "cuStreamWaitEvent",
)  # fmt: skip


class Stub:
    """The functions of the driver: each gives zeros, but for what is asked with a reason."""

    def __init__(
        self, cc: tuple[int, int] = (9, 0), processors: int = 132, cache_bytes: int = 50 << 20
    ) -> None:
        from cuda.bindings import driver

        self.bindings, self.cc, self.processors = driver, cc, processors
        self.cache_bytes = cache_bytes
        self.success = driver.CUresult.CUDA_SUCCESS
        self.memory: list[Any] = []
        #: What is told of each call: its name and arguments.
        self.seen: Callable[[str, tuple[Any, ...]], None] = lambda name, arguments: None

    def _function(self, name: str) -> Callable[..., Any]:
        answer = getattr(self, f"_{name}", None)

        def call(*arguments: Any) -> Any:
            self.seen(name, arguments)
            if name in STATUS_ALONE:
                return (self.success,)
            return (self.success, 0 if answer is None else answer(*arguments))

        return call

    def _cuDeviceGetCount(self) -> int:
        return 1

    def _cuDeviceGetAttribute(self, attribute: Any, device: Any) -> int:
        known = {"COMPUTE_CAPABILITY_MAJOR": self.cc[0], "COMPUTE_CAPABILITY_MINOR": self.cc[1],
                 "MULTIPROCESSOR_COUNT": self.processors,
                 "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 227 << 10,
                 "L2_CACHE_SIZE": self.cache_bytes}  # fmt: skip
        return next((n for name, n in known.items() if attribute.name.endswith(name)), 1)

    def _cuMemHostAlloc(self, nbytes: int, flags: int) -> int:
        self.memory.append((ctypes.c_uint8 * nbytes)())
        return ctypes.addressof(self.memory[-1])

    def _cuCtxGetDevice(self) -> int:
        return 0

    def _cuStreamIsCapturing(self, stream: int) -> Any:
        return self.bindings.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE

    def _cuThreadExchangeStreamCaptureMode(self, mode: Any) -> Any:
        return self.bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL


class StubArray:
    """An array of the stub's device: memory of the host that nobody touches."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        interface = dict(self.array.__array_interface__)
        return interface | {"strides": self.array.strides, "version": 3}

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)

    def reshape(self, *shape: Any) -> StubArray:
        return StubArray(self.array.reshape(*shape))

    def transpose(self, order: Any) -> StubArray:
        return StubArray(self.array.transpose(order))

    def astype(self, dtype: Any) -> StubArray:
        return empty(self.shape, dtype)

    def __getitem__(self, key: Any) -> StubArray:
        return StubArray(self.array[key])


def empty(shape: Any, dtype: Any = np.float32) -> StubArray:
    """An array whose memory the system has promised and not given."""
    return StubArray(np.empty(shape, dtype))


def spread(shape: tuple[int, ...], *sizes: int, dtype: Any = np.int64) -> StubArray:
    """An array of a shape, expanded to sizes."""
    return StubArray(np.broadcast_to(np.empty(shape, dtype), sizes))


class _Library:
    def place(self, array: StubArray) -> Place:
        return Place(0, STREAM)

    def context(self, array: Any) -> Any:
        return contextlib.nullcontext()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> StubArray:
        return empty(shape, dtype)

    def from_numpy(self, array: np.ndarray, place: Place) -> StubArray:
        return StubArray(array)


@contextlib.contextmanager
def installed(
    cc: tuple[int, int] = (9, 0), processors: int = 132, cache_bytes: int = 50 << 20
) -> Iterator[Stub]:
    """Stand in for the driver for a while; arrays of this module lie on its device."""
    stub = Stub(cc, processors, cache_bytes)
    names = [n for n in dir(stub.bindings) if n.startswith("cu") and n[2:3].isupper()]
    before = {name: getattr(stub.bindings, name) for name in names}
    own, known = __name__.partition(".")[0], dict(cuda_interface.LIBRARIES)
    loaded = backends._loaded.get("cuda")
    try:
        for name in names:
            setattr(stub.bindings, name, stub._function(name))
        cuda_interface.LIBRARIES[own] = _Library
        _forget()
        assert backends.available()["cuda"] is None
        yield stub
    finally:
        for name, function in before.items():
            setattr(stub.bindings, name, function)
        cuda_interface.LIBRARIES.clear()
        cuda_interface.LIBRARIES.update(known)
        if loaded is None:
            backends._loaded.pop("cuda", None)
        _forget()


def _forget() -> None:
    """Forget what is known of the devices."""
    for cached in (cuda_driver._no_device, contexts.capability, contexts.processors,
                   contexts.shared_memory, contexts.cache_bytes, cuda_interface._maker,
                   plan_gather):  # fmt: skip
        cached.cache_clear()
    for held in (contexts._primary, contexts._devices, cuda_driver._handles, cuda_driver._kernels):
        held.clear()
    cuda_driver.records = Records(contexts.host_memory)
