"""The OpenMP runtimes of this process, whose settings are not ours to change.

numba's OpenMP layer, when it starts, sets the number of threads and the depth of nesting of the
runtime that it finds, and that is the one that torch computes with.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What sets each setting, by what reads it. They hold for the calling thread.
_SETTINGS = {
    "omp_get_max_threads": "omp_set_num_threads",
    "omp_get_max_active_levels": "omp_set_max_active_levels",
}


def runtimes() -> list[Any]:
    """The OpenMP libraries that are loaded; on systems that do not tell, none."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    paths = set(re.findall(r"(/\S*/lib(?:gomp|omp|iomp5)[^/\s]*\.so[^/\s]*)$", maps, re.MULTILINE))
    found = []
    for path in sorted(paths):
        with contextlib.suppress(OSError):
            found.append(ctypes.CDLL(path))
    return found


def settings() -> dict[tuple[int, str], int]:
    """What each runtime is set to, for the calling thread."""
    return {
        (library._handle, read): getattr(library, read)()
        for library in runtimes()
        for read in _SETTINGS
        if hasattr(library, read)
    }


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Put back after the block what it changed of the runtimes that were there before."""
    torch = sys.modules.get("torch")
    before = settings()
    threads = torch.get_num_threads() if torch is not None else None
    try:
        yield
    finally:
        for library in runtimes():
            for read, write in _SETTINGS.items():
                value = before.get((library._handle, read))
                if value is not None and getattr(library, read)() != value:
                    getattr(library, write)(value)
        # Where the system does not tell of libraries, torch's own word is left.
        if torch is not None and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
