"""Load a kernel, and launch it.

Kernels take 64-bit numbers only, so a launch is one call of the driver with an array of them: no
dispatcher, no types to look at. A simulator can stand in for this module
(:data:`nbgather.kernels.cuda.launch.driver`); it has the same functions.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import struct
import threading
from collections.abc import Callable
from typing import Any

from nbgather.kernels import forks
from nbgather.kernels.cuda import contexts, images
from nbgather.kernels.cuda.contexts import (
    Place,
    api,
    cache_bytes,
    capability,
    checked,
    device_of,
    host_memory,
    processors,
    relaxed,
    shared_memory,
)
from nbgather.kernels.cuda.errors import Records
from nbgather.kernels.cuda.streams import capturing, follow, read, synchronize, synchronize_device

__all__ = [
    "Launch",
    "Place",
    "cache_bytes",
    "capability",
    "capturing",
    "device_of",
    "follow",
    "launch",
    "processors",
    "read",
    "records",
    "relaxed",
    "shared_memory",
    "start",
    "synchronize",
    "synchronize_device",
    "why_not",
]

#: What kernels report bad indices to.
records = Records(host_memory)

#: The limits of CUDA on blocks along a grid's x and y.
MAX_GRID_X, MAX_GRID_Y = (1 << 31) - 1, (1 << 16) - 1
#: Kernels take fewer.
MAX_ARGUMENTS = 256


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
    driver = api()
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


#: Kernels and their libraries, by what they are and what they are for: of no context.
_kernels: dict[Any, tuple[Any, Any]] = {}
#: Their functions in a context, by all that they depend on; shared by the threads.
_handles: dict[Any, Any] = {}


def _function(launch: Launch, device: int, context: int) -> Any:
    """The kernel of a launch in the current context, told by its number; loaded once."""
    identity = (launch.key, launch.addresses, len(launch.numbers), context)
    with forks.lock:
        if identity not in _handles:
            kernel = images.kernel(launch.key, launch.addresses, len(launch.numbers) // 8)
            cc = capability(device)
            if (kernel, cc) not in _kernels:
                _kernels[kernel, cc] = _load(kernel, launch.build, cc)
            with relaxed():
                function = checked(api().cuKernelGetFunction(_kernels[kernel, cc][0]))
                if launch.shared:  # all that the device has, whoever asks for how much
                    most = (
                        api().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                    )
                    checked(api().cuFuncSetAttribute(function, most, shared_memory(device)))
                _handles[identity] = function
    return _handles[identity]


def _load(
    kernel: images.Kernel, build: Callable[[Any], Any], cc: tuple[int, int]
) -> tuple[Any, Any]:
    """A kernel and its library, of the first image that the driver takes."""
    driver, name = api(), images.entry_name(kernel).encode()
    refused: list[str] = []
    try:
        for image in images.find(kernel, build, cc):
            with relaxed():
                status, library = driver.cuLibraryLoadData(image.code, [], [], 0, [], [], 0)
                if status == driver.CUresult.CUDA_SUCCESS:
                    return checked(driver.cuLibraryGetKernel(library, name)), library
            refused.append(f"{image.origin}: {status.name}")
    except ImportError:
        if not refused:
            raise
    raise RuntimeError(
        f"CUDA: the driver takes no image of the kernel {kernel.key!r} ({', '.join(refused)}); one"
        " for CUDA 13 is needed, or numba-cuda with the compiler of the driver's version"
    )


class Launch:
    """What is known of a launch before the place and the addresses are: nothing is asked for yet.

    Parameters
    ----------
    key : hashable
        All that the kernel depends on.
    build : callable
        Makes the kernel of a module for memory.
    grid, block : tuple of int
        Blocks and threads along x and y.
    addresses : int
        How many numbers of 64 bits come first that differ from call to call.
    numbers : tuple of int
        Those behind them.
    shared : int
        Bytes of shared memory besides those that the kernel has of itself.
    """

    __slots__ = (
        "addresses", "block", "build", "functions", "grid", "key", "numbers", "pack", "shared",
    )  # fmt: skip

    def __init__(
        self,
        key: Any,
        build: Callable[[Any], Any],
        grid: tuple[int, int],
        block: tuple[int, int],
        addresses: int,
        numbers: tuple[int, ...],
        shared: int = 0,
    ) -> None:
        if grid[0] > MAX_GRID_X or grid[1] > MAX_GRID_Y:
            raise ValueError(
                f"a kernel of {grid[0]} times {grid[1]} blocks is needed: CUDA allows {MAX_GRID_X}"
                f" times {MAX_GRID_Y}, so make fewer elements at once"
            )
        self.key, self.build, self.grid, self.block = key, build, grid, block
        self.addresses, self.numbers = addresses, struct.pack(f"={len(numbers)}Q", *numbers)
        self.pack = struct.Struct(f"={addresses}Q").pack_into
        self.functions: dict[int, Any] = {}
        self.shared = shared


class _Arguments(threading.local):
    """The arguments that a thread launches with, and the address of each: the driver copies them.

    Attributes
    ----------
    view : memoryview
        The arguments' bytes.
    pointers : int
        Where the addresses stand.
    """

    def __init__(self) -> None:
        self._values = (ctypes.c_uint64 * MAX_ARGUMENTS)()
        start = ctypes.addressof(self._values)
        addresses = [start + 8 * k for k in range(MAX_ARGUMENTS)]
        self._pointers = (ctypes.c_uint64 * MAX_ARGUMENTS)(*addresses)
        self.view = memoryview(self._values).cast("B")
        self.pointers = ctypes.addressof(self._pointers)


_arguments = _Arguments()


def start(launch: Launch, place: Place, addresses: tuple[int, ...]) -> None:
    """Launch at a place, with these addresses."""
    driver = api()
    pushed, context = contexts.enter(place.device)
    try:
        function = launch.functions.get(context)
        if function is None:
            function = launch.functions[context] = _function(launch, place.device, context)
        arguments = _arguments
        view, first = arguments.view, 8 * launch.addresses
        launch.pack(view, 0, *addresses)
        view[first : first + len(launch.numbers)] = launch.numbers
        grid, block = launch.grid, launch.block
        result = driver.cuLaunchKernel(
            function, grid[0], grid[1], 1, block[0], block[1], 1, launch.shared, place.stream,
            arguments.pointers, 0,
        )  # fmt: skip
    finally:
        if pushed:
            contexts.leave()
    checked(result)


def launch(
    key: Any,
    build: Callable[[Any], Any],
    grid: tuple[int, int],
    block: tuple[int, int],
    place: Place,
    addresses: tuple[int, ...],
    numbers: tuple[int, ...],
    shared: int = 0,
) -> None:
    """Launch the kernel that ``build`` makes at a place; ``key`` is all that it depends on."""
    start(Launch(key, build, grid, block, len(addresses), numbers, shared), place, addresses)
