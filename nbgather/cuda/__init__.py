"""What is called by name on an NVIDIA GPU: errors that calls with ``mode="defer"`` put off.

A call with ``mode="raise"`` waits for the device to say that every index is good. With
``mode="defer"`` it does not wait: what is out of bounds becomes ``fill_value``, or is left out of a
scatter, and the place of the first one is written where the host can read it. The next call of
nbgather on the device raises the IndexError, or :func:`check`, or the end of a block of
:func:`deferred`. Such a call can be captured into a CUDA graph, whose every replay tells of its own
bad indices. Where arrays are in the host's memory ``"defer"`` is ``"raise"``.

What a kernel of your own needs is in :mod:`nbgather.cuda.device`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from nbgather.engine import device_errors
from nbgather.operations import checks

__all__ = ["check", "deferred"]


def check(device: int | None = None, *, stream: Any = None) -> None:
    """Wait for the GPU, and raise the IndexError that a call before has put off.

    Parameters
    ----------
    device : int, optional
        The number of the device; by default the stream's, or all on which calls were put off.
    stream : int or stream, optional
        Wait for this stream only, by its handle or as an object of torch, CuPy or whoever has
        ``__cuda_stream__``. By default for all that the device has still to do.

    Raises
    ------
    IndexError
        The first bad index in row-major order of the call that met one first.

    Notes
    -----
    While a stream is captured into a CUDA graph, by whatever thread, the device cannot be waited
    for: check after the replay, or for another ``stream`` alone.

    Examples
    --------
    >>> import nbgather.cuda
    >>> nbgather.cuda.check()  # nothing was put off

    On a device::

        got = nbgather.gather(x, 1, index, mode="defer")
        ...
        nbgather.cuda.check()
    """
    number = _device_of(stream) if device is None else checks.count(device, "device")
    device_errors.check(number, None if stream is None else _handle(stream))


def _device_of(stream: Any) -> int | None:
    """The device of a stream that tells of it, as torch's and CuPy's do."""
    index = getattr(getattr(stream, "device", None), "index", None)
    number = getattr(stream, "device_id", index)
    return number if isinstance(number, int) and number >= 0 else None


def _handle(stream: Any) -> int:
    """The handle of a stream of any library."""
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for name in ("cuda_stream", "ptr"):  # torch's and CuPy's own
        if hasattr(stream, name):
            return int(getattr(stream, name))
    return checks.count(stream, "stream")


def deferred() -> AbstractContextManager[None]:
    """A block in which calls with ``mode="raise"`` do not wait for the GPU, as if by ``"defer"``.

    At its end the devices are waited for, and the IndexError is raised that a call in it has put
    off. It is in force for the thread, or the task, that opened it.

    Returns
    -------
    context manager

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather.cuda
    >>> with nbgather.cuda.deferred():
    ...     nbgather.gather(np.arange(3), 0, [2, 0])
    array([2, 0])
    """
    return device_errors.deferred()
