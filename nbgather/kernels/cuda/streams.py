"""What is asked of a stream: to wait for it, for another one, and whether it is captured."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nbgather.kernels.cuda.contexts import Place, api, checked, enter, entered, leave, relaxed


def synchronize(place: Place) -> None:
    """Wait for what the stream has still to do."""
    pushed, _ = enter(place.device)  # as all that every call does, by no context manager
    try:
        result = api().cuStreamSynchronize(place.stream)
    finally:
        if pushed:
            leave()
    checked(result)


def synchronize_device(device: int) -> None:
    """Wait for what the device has still to do, in all streams."""
    with entered(device):
        checked(api().cuCtxSynchronize())


def capturing(place: Place) -> bool:
    """Whether what is launched goes into a CUDA graph instead of running."""
    driver = api()
    pushed, _ = enter(place.device)
    try:
        status, state = driver.cuStreamIsCapturing(place.stream)
    finally:
        if pushed:
            leave()
    none = driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
    return status == driver.CUresult.CUDA_SUCCESS and state != none


def follow(place: Place, streams: Iterable[int]) -> None:
    """Let the stream of a place wait for what other streams of the device have still to do.

    The host does not wait: an event of each is what the stream waits for. A stream under capture
    into a CUDA graph waits only for others of the same capture.
    """
    driver, streams = api(), tuple(streams)
    if capturing(place):
        apart = [s for s in streams if not capturing(Place(place.device, s))]
        if apart:
            raise ValueError(
                f"an operand is of stream {apart[0]:#x}, which is no part of the CUDA graph under"
                " capture: let the captured stream wait for it before"
            )
    with entered(place.device):
        for stream in streams:
            with relaxed():
                flags = driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
                event = checked(driver.cuEventCreate(flags))
            try:
                checked(driver.cuEventRecord(event, stream))
                checked(driver.cuStreamWaitEvent(place.stream, event, 0))
            finally:
                checked(driver.cuEventDestroy(event))


def read(address: int, nbytes: int, place: Place) -> np.ndarray:
    """Copy a device's bytes to the host, after what the stream has still to do."""
    result = np.empty(nbytes, np.uint8)
    with entered(place.device):
        checked(api().cuMemcpyDtoHAsync(result.ctypes.data, address, nbytes, place.stream))
        checked(api().cuStreamSynchronize(place.stream))
    return result
