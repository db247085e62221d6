"""Where the machine code of a kernel comes from: the package, the user's cache, or the compiler.

The usual kernels come with the package, an archive (:mod:`nbgather.kernels.archive`) for each
architecture and one of PTX for those that come later, made by ``scripts/build_cuda.py``. They are
loaded by the driver alone. Rare ones are compiled when they are first called, and kept in the
folder that the CPU's kernels are kept in, named by a digest of the sources.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbgather.kernels import archive
from nbgather.kernels.archive import KERNELS, Archive
from nbgather.kernels.cuda import compiler

FOLDER = KERNELS / "images"
#: Of what is compiled for: PTX is made once, for the oldest.
ARCHITECTURES = ((8, 0), (9, 0), (10, 0), (12, 0))
OLDEST = ARCHITECTURES[0]
PTX_NAME = f"compute_{OLDEST[0]}{OLDEST[1]}"


class Kernel(NamedTuple):
    """What a kernel is known by: all that it depends on, and how many arguments it takes."""

    key: Any
    addresses: int
    numbers: int


class Image(NamedTuple):
    """What the driver loads, and where it is from."""

    code: bytes
    origin: str


def kernel(key: Any, addresses: int, numbers: int) -> Kernel:
    """A kernel by the key of its launch, in which a number is a number, of whatever type."""
    return Kernel(_plain(key), addresses, numbers)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return int(value) if isinstance(value, (bool, int, np.integer, np.bool_)) else value


def entry_name(kernel: Kernel) -> str:
    """The name of a kernel in its machine code, the same in every process."""
    return f"nbgather_{archive.digest(tuple(kernel)).hex()}"


def path_of(name: str, folder: Path | None = None) -> Path:
    """The archive of an architecture, by its name."""
    return (folder or FOLDER) / (name + archive.SUFFIX)


def names_for(cc: tuple[int, int]) -> tuple[str, ...]:
    """The archives that can serve a device, the best first.

    Machine code runs on later architectures of the same generation, PTX on all later ones.
    """
    built = [f"sm_{a}{b}" for a, b in ARCHITECTURES[::-1] if a == cc[0] and b <= cc[1]]
    return (*built, PTX_NAME) if cc >= OLDEST else ()


@functools.cache
def shipped(name: str) -> Archive | None:
    """An archive that comes with the package; None if missing, damaged or of other sources."""
    found = archive.opened(path_of(name))
    if found is None or not all(archive.is_fresh(*one) for one in found.sources.values()):
        return None
    return found


def are_shipped() -> bool:
    """Whether kernels come with the package that may be used."""
    return _is_allowed() and any(map(shipped, every_name()))


def every_name() -> tuple[str, ...]:
    """The names of all archives."""
    return (*(f"sm_{a}{b}" for a, b in ARCHITECTURES), PTX_NAME)


def _is_allowed() -> bool:
    return os.environ.get("NBGATHER_SHIPPED_KERNELS", "1").strip() != "0"


def can_compile() -> bool:
    """Whether the compiler is installed."""
    # numba has a target of the same name that is no longer kept; the package is the one that is.
    return importlib.util.find_spec("numba_cuda") is not None


def find(kernel: Kernel, build: Callable[[Any], Any], cc: tuple[int, int]) -> Iterator[Image]:
    """The images of a kernel for a device, the best first: who cannot load one takes the next.

    ``build`` makes the kernel of a module for memory. ImportError if it has to be compiled, and the
    compiler is not installed.
    """
    for name in names_for(cc) if _is_allowed() else ():
        held = shipped(name)
        code = None if held is None else archive.read_from(held, tuple(kernel))
        if code is not None:
            yield Image(code, name)
    if not can_compile():
        raise ImportError(
            f"the kernel {kernel.key!r} does not come with nbgather for a device of compute"
            f" capability {cc[0]}.{cc[1]}, and numba-cuda, which compiles it, is not installed:"
            " pip install 'nbgather[cuda]'"
        )
    from nbgather.kernels.cuda import user_cache

    entry = user_cache.entry(kernel.key, entry_name(kernel), cc)
    code = entry.read()
    if code is not None:
        yield Image(code, "cache")
    code = compiled(kernel, build, cc)
    entry.write(code)
    yield Image(code, "compiler")


def compiled(kernel: Kernel, build: Callable[[Any], Any], cc: tuple[int, int]) -> bytes:
    """The machine code of a kernel."""
    ptx = text_of(kernel, build, cc)
    return compiler.linked(ptx, cc)


def text_of(kernel: Kernel, build: Callable[[Any], Any], cc: tuple[int, int]) -> str:
    """A kernel as PTX."""
    function = build(compiler.memory())
    name = entry_name(kernel)
    return compiler.compile_ptx(function, kernel.addresses, kernel.numbers, cc, name)
