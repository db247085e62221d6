"""Where work of a device runs: its context, made current for a driver's call and no longer.

A thread may have no context, or one of another device, or change it between two calls; and a device
may have several contexts, of which each has functions of its own. So each call of ours asks for the
number of the current context, which no other one ever has in this process. Where it is of another
device, the primary context of the right one, which all libraries share, is current until the call
is done.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from nbgather.kernels import forks


class Place(NamedTuple):
    """Where a kernel runs: the device's number and the handle of a stream."""

    device: int
    stream: int


#: Primary contexts and their numbers by device; they are never released, as those of other
#: libraries are not.
_primary: dict[int, tuple[Any, int]] = {}
#: The devices of contexts, by the contexts' numbers.
_devices: dict[int, int] = {}


@functools.cache
def api() -> Any:
    """The bindings of the driver, which are there where the extra is installed."""
    from cuda.bindings import driver

    return driver


def checked(result: tuple[Any, ...]) -> Any:
    """The value of a call of the driver, or a RuntimeError that names its failure."""
    status = result[0]
    if status != api().CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"CUDA: {status.name}")
    return result[1] if len(result) > 1 else None


def enter(device: int) -> tuple[bool, int]:
    """Make a context of a device the current one.

    What comes back is whether :func:`leave` must follow, and the number of the context.
    """
    driver = api()
    status, current = driver.cuCtxGetId(None)
    if status == driver.CUresult.CUDA_SUCCESS:
        known = _devices.get(current)
        if known is None:
            known = _devices[current] = int(checked(driver.cuCtxGetDevice()))
        if known == device:
            return False, current
    primary = _primary.get(device)
    if primary is None:
        checked(driver.cuInit(0))
        with forks.lock, relaxed():
            number = checked(driver.cuDeviceGet(device))
            context = checked(driver.cuDevicePrimaryCtxRetain(number))
            primary = _primary[device] = context, checked(driver.cuCtxGetId(context))
    checked(driver.cuCtxPushCurrent(primary[0]))
    return True, primary[1]


def leave() -> None:
    """Make the context from before :func:`enter` the current one again."""
    checked(api().cuCtxPopCurrent())


@contextlib.contextmanager
def entered(device: int) -> Iterator[None]:
    """A block in which a context of the device is the current one."""
    pushed, _ = enter(device)
    try:
        yield
    finally:
        if pushed:
            leave()


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """A block whose loads and allocations are no part of a CUDA graph under capture.

    A capture forbids them to this thread, or to all, unless the thread says that it knows.
    """
    driver = api()
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    before = checked(driver.cuThreadExchangeStreamCaptureMode(mode))
    try:
        yield
    finally:
        checked(driver.cuThreadExchangeStreamCaptureMode(before))


@functools.lru_cache(maxsize=64)
def capability(device: int) -> tuple[int, int]:
    """The compute capability of a device."""
    attributes = api().CUdevice_attribute
    major, minor = (
        int(checked(api().cuDeviceGetAttribute(attribute, device)))
        for attribute in (
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return major, minor


@functools.lru_cache(maxsize=64)
def processors(device: int) -> int:
    """How many multiprocessors a device has."""
    attribute = api().CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
    return int(checked(api().cuDeviceGetAttribute(attribute, device)))


@functools.lru_cache(maxsize=64)
def cache_bytes(device: int) -> int:
    """Bytes of the second-level cache of a device."""
    attribute = api().CUdevice_attribute.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE
    return int(checked(api().cuDeviceGetAttribute(attribute, device)))


@functools.lru_cache(maxsize=64)
def shared_memory(device: int) -> int:
    """Bytes of shared memory that a block may have on a device, if it is asked for."""
    attribute = api().CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return int(checked(api().cuDeviceGetAttribute(attribute, device)))


def device_of(address: int) -> int:
    """The number of the device whose memory this is."""
    attribute = api().CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(checked(api().cuPointerGetAttribute(attribute, address)))


def host_memory(nbytes: int, device: int) -> int:
    """The address of pinned memory of the host that every device can write to; it is never freed.

    Where addresses are 64 bits a device knows it by the same address.
    """
    driver = api()
    options = driver.CU_MEMHOSTALLOC_PORTABLE | driver.CU_MEMHOSTALLOC_DEVICEMAP
    with entered(device), relaxed():
        return int(checked(driver.cuMemHostAlloc(nbytes, options)))
