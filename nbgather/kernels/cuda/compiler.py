"""Compiles kernels for GPUs; none of it is needed for those that come with the package.

The same sources and compilers give the same bytes: an entry is named by whom it is compiled for,
and what else has a name in the text is numbered in the order in which it comes.
"""

from __future__ import annotations

import re
from typing import Any

from nbgather.kernels.cuda import deferred

#: What numba names by counters of the process.
_NUMBERED = re.compile(r"\b_Z\w+(?:\$\w+)*|\b_cudapy_smem_\d+|\b__unnamed_\d+")


def memory() -> Any:
    """What kernels load from and store to; the names of numba's that they use are there then."""
    from nbgather.kernels.cuda import memory as cuda_memory

    deferred.resolve()
    return cuda_memory


def compile_ptx(
    function: Any, addresses: int, numbers: int, cc: tuple[int, int], name: str | None = None
) -> str:
    """Compile a kernel of so many addresses and numbers, its entry named; no driver is needed."""
    from numba import cuda
    from numba.cuda import types

    arguments = [types.uint64] * addresses
    if numbers:
        arguments.append(types.UniTuple(types.uint64, numbers))
    ptx = str(cuda.compile_ptx(function, types.void(*arguments), cc=cc)[0])
    return ptx if name is None else _renamed(ptx, name)


def entry_name(ptx: str) -> str:
    """The name of the one kernel in a PTX text."""
    return ptx.split(".visible .entry ", 1)[1].split("(", 1)[0]


def _renamed(ptx: str, name: str) -> str:
    entry = entry_name(ptx)
    names = {entry: name}

    def stable(match: re.Match[str]) -> str:
        found = match.group(0)
        if found.startswith(f"{entry}_param_"):
            return name + found[len(entry) :]
        return names.setdefault(found, f"{name}_{len(names)}")

    return _NUMBERED.sub(stable, ptx)


def linked(ptx: str, cc: tuple[int, int]) -> bytes:
    """Machine code of a PTX text; the text itself where no linker is but the driver."""
    try:
        from cuda.bindings import nvjitlink
    except ImportError:
        return ptx.encode() + b"\0"
    options = [f"-arch=sm_{cc[0]}{cc[1]}", "-O3"]
    handle = nvjitlink.create(len(options), options)
    try:
        source = ptx.encode() + b"\0"
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, source, len(source), "kernel")
        nvjitlink.complete(handle)
        image = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, image)
    finally:
        nvjitlink.destroy(handle)
    return bytes(image)
