"""A CUDA driver that does nothing but keep the rules: what is current, captured, and allowed.

:func:`installed` puts it in the place of the functions of ``cuda.bindings.driver``. It has devices
with contexts, a stack of them for each thread, and streams that may be under capture. What a
capture forbids is an error of the driver, as it is on a device, and ends the capture.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import pytest
from cuda.bindings import driver as bindings

Result = bindings.CUresult
OK = Result.CUDA_SUCCESS
GLOBAL = bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
RELAXED = bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
STATUS = bindings.CUstreamCaptureStatus


class _Thread(threading.local):
    def __init__(self) -> None:
        self.contexts: list[int] = []
        self.mode = GLOBAL


class Launched:
    """A kernel's launch: where, what, and its arguments."""

    def __init__(self, context: int, stream: int, function: Any, values: list[int]) -> None:
        self.context, self.stream, self.function, self.values = context, stream, function, values


class StubDriver:
    """The functions of the driver that are called, under their own names.

    Contexts are 100 and up, the primary one of device ``d`` is ``100 + d``.
    """

    def __init__(self, devices: int = 2, arguments: int = 4) -> None:
        self.devices, self.arguments = devices, arguments
        self.thread = _Thread()
        self.calls: list[str] = []
        self.launches: list[Launched] = []
        self.images: list[bytes] = []
        self.attributes: list[tuple[Any, str, int]] = []
        self.captured: set[int] = set()
        self.invalidated = False
        self.memory: list[Any] = []
        self.events: list[tuple[str, Any]] = []
        #: What runs in a launch's place.
        self.on_launch: Any = None

    # What a test asks

    @property
    def current(self) -> int:
        """This thread's context; 0 if it has none."""
        return self.thread.contexts[-1] if self.thread.contexts else 0

    def make_current(self, *contexts: int) -> None:
        self.thread.contexts[:] = contexts

    # Rules

    def _unsafe(self) -> Any:
        """What a capture forbids to a thread that has not said that it knows."""
        if self.captured and self.thread.mode != RELAXED:
            self.invalidated = True
            return Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        return OK if self.current else Result.CUDA_ERROR_INVALID_CONTEXT

    def _waits(self, stream: int | None) -> Any:
        """Waiting for a stream under capture, or for all, ends the capture."""
        if self.captured and (stream is None or stream in self.captured):
            self.invalidated = True
            return Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        return OK if self.current else Result.CUDA_ERROR_INVALID_CONTEXT

    # Functions

    def cuInit(self, flags: int) -> Any:
        return (OK,)

    def cuDeviceGetCount(self) -> Any:
        return OK, self.devices

    def cuDeviceGet(self, ordinal: int) -> Any:
        return (OK, ordinal) if ordinal < self.devices else (Result.CUDA_ERROR_INVALID_DEVICE, None)

    def cuDeviceGetAttribute(self, attribute: Any, device: int) -> Any:
        name = attribute.name
        if "L2_CACHE" in name:
            return OK, 50 << 20
        if "SHARED_MEMORY" in name:
            return OK, 99 << 10
        return OK, 9 if "MAJOR" in name else 0 if "MINOR" in name else 4

    def cuDevicePrimaryCtxRetain(self, device: int) -> Any:
        return OK, 100 + device

    def cuCtxGetDevice(self) -> Any:
        if not self.current:
            return Result.CUDA_ERROR_INVALID_CONTEXT, None
        return OK, self.current % 100

    def cuCtxGetId(self, context: Any) -> Any:
        number = self.current if context is None else context
        return (OK, 7000 + number) if number else (Result.CUDA_ERROR_INVALID_CONTEXT, 0)

    def cuCtxPushCurrent(self, context: int) -> Any:
        self.thread.contexts.append(context)
        return (OK,)

    def cuCtxPopCurrent(self) -> Any:
        return OK, self.thread.contexts.pop()

    def cuCtxSynchronize(self) -> Any:
        return (self._waits(None),)

    def cuThreadExchangeStreamCaptureMode(self, mode: Any) -> Any:
        before, self.thread.mode = self.thread.mode, mode
        return OK, before

    def cuLibraryLoadData(self, image: bytes, *options: Any) -> Any:
        status = self._unsafe()
        self.images.append(bytes(image))
        return status, len(self.images)

    def cuLibraryGetKernel(self, library: int, name: bytes) -> Any:
        return OK, (library, name)

    def cuKernelGetFunction(self, kernel: Any) -> Any:
        return self._unsafe(), (self.current, *kernel)

    def cuFuncSetAttribute(self, function: Any, attribute: Any, value: int) -> Any:
        self.attributes.append((function, attribute.name, value))
        return (self._unsafe(),)

    def cuMemHostAlloc(self, nbytes: int, flags: int) -> Any:
        status = self._unsafe()
        self.memory.append((ctypes.c_uint8 * nbytes)())
        return status, ctypes.addressof(self.memory[-1])

    def cuPointerGetAttribute(self, attribute: Any, address: int) -> Any:
        return OK, 0

    def cuStreamSynchronize(self, stream: int) -> Any:
        return (self._waits(stream),)

    def cuStreamIsCapturing(self, stream: int) -> Any:
        kind = "ACTIVE" if stream in self.captured else "NONE"
        return OK, getattr(STATUS, f"CU_STREAM_CAPTURE_STATUS_{kind}")

    def cuEventCreate(self, flags: Any) -> Any:
        return self._unsafe(), len(self.events)

    def cuEventRecord(self, event: Any, stream: int) -> Any:
        self.events.append(("record", stream))
        return (OK,)

    def cuStreamWaitEvent(self, stream: int, event: Any, flags: int) -> Any:
        self.events.append(("wait", stream))
        return (OK,)

    def cuEventDestroy(self, event: Any) -> Any:
        return (OK,)

    def cuMemcpyDtoHAsync(self, target: int, source: int, nbytes: int, stream: int) -> Any:
        return (self._waits(stream),)

    def cuLaunchKernel(self, function: Any, *numbers: Any) -> Any:
        *_, stream, pointers, _extra = numbers
        places = (ctypes.c_uint64 * self.arguments).from_address(pointers)
        values = [ctypes.c_uint64.from_address(at).value for at in places]
        self.launches.append(Launched(self.current, stream, function, values))
        if self.on_launch is not None:
            self.on_launch(self.launches[-1])
        # A function belongs to the context that it was asked for in.
        same = isinstance(function, tuple) and function[0] == self.current
        return (OK if same else Result.CUDA_ERROR_INVALID_HANDLE,)


def installed(monkeypatch: pytest.MonkeyPatch, driver: StubDriver) -> StubDriver:
    """Let the bindings call a driver, every call of which is noted."""
    from nbgather.kernels.cuda import contexts
    from nbgather.kernels.cuda import driver as our_driver

    def noting(name: str) -> Any:
        function = getattr(driver, name)

        def call(*arguments: Any) -> Any:
            driver.calls.append(name)
            return function(*arguments)

        return call

    for name in dir(StubDriver):
        if name.startswith("cu") and hasattr(bindings, name):
            monkeypatch.setattr(bindings, name, noting(name))
    monkeypatch.setattr(contexts, "_primary", {})
    monkeypatch.setattr(contexts, "_devices", {})
    monkeypatch.setattr(our_driver, "_handles", {})
    monkeypatch.setattr(our_driver, "_kernels", {})
    monkeypatch.setattr(our_driver, "records", our_driver.Records(our_driver.host_memory))
    contexts.capability.cache_clear()
    contexts.processors.cache_clear()
    contexts.shared_memory.cache_clear()
    contexts.cache_bytes.cache_clear()
    return driver
