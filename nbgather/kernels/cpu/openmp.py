"""Settings of the OpenMP runtimes of this process, saved and restored.

numba's OpenMP layer, when it starts, sets the number of threads and the depth of nesting of the
runtime that it is linked to, which is also the one that torch computes with.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: The function that reads each setting, and the one that sets it, for the calling thread.
_SETTINGS = {
    "omp_get_max_threads": "omp_set_num_threads",
    "omp_get_max_active_levels": "omp_set_max_active_levels",
}


def runtimes() -> list[Any]:
    """The OpenMP libraries that are loaded; none on systems without ``/proc``."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    paths = set(re.findall(r"(/\S*/lib(?:gomp|omp|iomp5)[^/\s]*\.so[^/\s]*)$", maps, re.MULTILINE))
    libraries = []
    for path in sorted(paths):
        with contextlib.suppress(OSError):
            libraries.append(ctypes.CDLL(path))
    return libraries


def settings() -> dict[tuple[int, str], int]:
    """The settings of each runtime, for the calling thread."""
    return {
        (library._handle, read): getattr(library, read)()
        for library in runtimes()
        for read in _SETTINGS
        if hasattr(library, read)
    }


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Restore after the block the settings of the runtimes that were loaded before it."""
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
        # On systems where the libraries are not known, torch's own function sets it.
        if torch is not None and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
