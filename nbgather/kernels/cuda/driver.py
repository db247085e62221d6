"""Load a kernel, launch it, and what else is asked of the CUDA driver.

Kernels take 64-bit numbers only, so a launch is one call of the driver with an array of them: no
dispatcher, no types to look at. A simulator can stand in for this module
(:data:`nbgather.kernels.cuda.launch.driver`); it has the same functions.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nbgather.kernels import forks
from nbgather.kernels.cuda import images


class Place(NamedTuple):
    """Where a kernel runs: the device's number and the handle of a stream."""

    device: int
    stream: int


def why_not() -> str | None:
    """What keeps this machine from running kernels, in one line; None if nothing does."""
    try:
        bindings = importlib.util.find_spec("cuda.bindings")
    except ModuleNotFoundError:
        bindings = None
    if bindings is None:
        return "cuda-bindings is not installed: pip install 'nbgather[cuda]'"
    if not (images.are_shipped() or images.can_compile()):
        return "numba-cuda is not installed: pip install 'nbgather[cuda]'"
    return _no_device()


@functools.lru_cache(maxsize=1)
def _no_device() -> str | None:
    from cuda.bindings import driver

    try:
        (status,) = driver.cuInit(0)
    except Exception:  # of no common type, where there is no driver
        return "there is no NVIDIA driver here: install one from nvidia.com/drivers"
    if status == driver.CUresult.CUDA_ERROR_NO_DEVICE:
        return "there is an NVIDIA driver, but no device: nvidia-smi tells what it sees"
    if status != driver.CUresult.CUDA_SUCCESS:
        return f"the NVIDIA driver does not start ({status.name}): nvidia-smi may tell why"
    _, devices = driver.cuDeviceGetCount()
    return None if devices else "there is an NVIDIA driver, but no device: see nvidia-smi"


def _checked(result: tuple[Any, ...]) -> Any:
    """The value of a call of the driver, or a RuntimeError that names its failure."""
    status, *values = result
    if status != type(status)(0):
        raise RuntimeError(f"CUDA: {status.name}")
    return values[0] if values else None


class _Function(NamedTuple):
    """A loaded kernel, and the arguments that a thread launches it with.

    Attributes
    ----------
    handle : CUfunction
        The kernel.
    values, pointers : ndarray
        The arguments as uint64, and the address of each.
    module : CUmodule
        What the kernel is a part of.
    """

    handle: Any
    values: Any
    pointers: Any
    module: Any


class _ThreadState(threading.local):
    """What each thread has for itself: functions, a flag, and the devices it has a context of."""

    def __init__(self) -> None:
        self.functions: dict[Any, _Function] = {}
        self.flag: Any = None
        self.devices: set[int] = set()


_local = _ThreadState()
#: Kernels and their modules, by all that they depend on; shared by the threads.
_handles: dict[Any, tuple[Any, Any]] = {}


def _enter(device: int) -> None:
    """Give this thread a context, if it has none: the primary one, which libraries share."""
    from cuda.bindings import driver

    if device in _local.devices:
        return
    if int(_checked(driver.cuCtxGetCurrent())) == 0:
        _checked(driver.cuInit(0))
        context = _checked(driver.cuDevicePrimaryCtxRetain(_checked(driver.cuDeviceGet(device))))
        _checked(driver.cuCtxSetCurrent(context))
    _local.devices.add(device)


@functools.lru_cache(maxsize=64)
def capability(device: int) -> tuple[int, int]:
    """The compute capability of a device."""
    from cuda.bindings import driver

    attributes = driver.CUdevice_attribute
    major, minor = (
        int(_checked(driver.cuDeviceGetAttribute(attribute, device)))
        for attribute in (
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return major, minor


@functools.lru_cache(maxsize=64)
def processors(device: int) -> int:
    """How many multiprocessors a device has."""
    from cuda.bindings import driver

    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
    return int(_checked(driver.cuDeviceGetAttribute(attribute, device)))


def _loaded(
    kernel: images.Kernel, build: Callable[[Any], Any], cc: tuple[int, int]
) -> tuple[Any, Any]:
    """A kernel's function in the current context, and its library, of an image that loads."""
    from cuda.bindings import driver

    name = images.entry_name(kernel).encode()
    refused: list[str] = []
    for image in images.find(kernel, build, cc):
        status, library = driver.cuLibraryLoadData(image.code, [], [], 0, [], [], 0)
        if status == driver.CUresult.CUDA_SUCCESS:
            found = _checked(driver.cuLibraryGetKernel(library, name))
            return _checked(driver.cuKernelGetFunction(found)), library
        refused.append(f"{image.origin}: {status.name}")
    raise RuntimeError(f"CUDA: no image of the kernel {kernel.key!r} loads: {', '.join(refused)}")


def _function(
    key: Any, build: Callable[[Any], Any], addresses: int, numbers: int, device: int
) -> _Function:
    identity = (key, addresses, numbers, device)
    function = _local.functions.get(identity)
    if function is None:
        with forks.lock:
            if identity not in _handles:
                kernel = images.kernel(key, addresses, numbers)
                _handles[identity] = _loaded(kernel, build, capability(device))
        handle, module = _handles[identity]
        values = np.zeros(addresses + numbers, np.uint64)
        pointers = values.ctypes.data + 8 * np.arange(values.size, dtype=np.uint64)
        function = _Function(handle, values, pointers, module)
        _local.functions[identity] = function
    return function


def launch(
    key: Any,
    build: Callable[[Any], Any],
    grid: tuple[int, int],
    block: tuple[int, int],
    place: Place,
    addresses: tuple[int, ...],
    numbers: tuple[int, ...],
) -> None:
    """Launch the kernel that ``build`` makes at a place; ``key`` is all that it depends on."""
    from cuda.bindings import driver

    _enter(place.device)
    function = _function(key, build, len(addresses), len(numbers), place.device)
    function.values[:] = addresses + numbers
    _checked(
        driver.cuLaunchKernel(
            function.handle, grid[0], grid[1], 1, block[0], block[1], 1, 0, place.stream,
            function.pointers.ctypes.data, 0,
        )
    )  # fmt: skip


class _MappedFlag:
    """Four bytes of pinned memory of the host that the device can write to."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        options = driver.CU_MEMHOSTALLOC_PORTABLE | driver.CU_MEMHOSTALLOC_DEVICEMAP
        self.address = int(_checked(driver.cuMemHostAlloc(4, options)))
        self.value = ctypes.c_uint32.from_address(self.address)

    def __del__(self) -> None:
        from cuda.bindings import driver

        driver.cuMemFreeHost(self.address)


def lowered_flag(place: Place) -> int:
    """The address of this thread's flag, set to 0."""
    _enter(place.device)
    if _local.flag is None:
        _local.flag = _MappedFlag()
    _local.flag.value.value = 0
    return int(_local.flag.address)


def raised(place: Place) -> bool:
    """Wait for the stream; whether a kernel has set this thread's flag."""
    synchronize(place)
    return bool(_local.flag.value.value)


def device_of(address: int) -> int:
    """The number of the device whose memory this is."""
    from cuda.bindings import driver

    attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(_checked(driver.cuPointerGetAttribute(attribute, address)))


def synchronize(place: Place) -> None:
    """Wait for what the stream has still to do."""
    from cuda.bindings import driver

    _checked(driver.cuStreamSynchronize(place.stream))


def capturing(place: Place) -> bool:
    """Whether what is launched goes into a CUDA graph instead of running."""
    from cuda.bindings import driver

    _enter(place.device)
    status, state = driver.cuStreamIsCapturing(place.stream)
    none = driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
    return status == driver.CUresult.CUDA_SUCCESS and state != none


def read(address: int, nbytes: int, place: Place) -> np.ndarray:
    """Copy a device's bytes to the host, after what the stream has still to do."""
    from cuda.bindings import driver

    _enter(place.device)
    result = np.empty(nbytes, np.uint8)
    _checked(driver.cuMemcpyDtoHAsync(result.ctypes.data, address, nbytes, place.stream))
    synchronize(place)
    return result
