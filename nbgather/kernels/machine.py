"""This machine's processor: its name and the sizes of its caches."""

from __future__ import annotations

import contextlib
import functools
import platform
from pathlib import Path

#: Bytes of the caches where the system does not say: of the second and the last level.
SECOND_LEVEL_BYTES = 1 << 20
LAST_LEVEL_BYTES = 1 << 25

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@functools.cache
def cache_sizes() -> dict[int, int]:
    """Bytes of the data caches that a core sees, by level; empty where the system does not say."""
    sizes = {}
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        for folder in sorted(_CACHES.glob("index*")):
            if (folder / "type").read_text().strip() != "Instruction":
                text = (folder / "size").read_text().strip()
                sizes[int((folder / "level").read_text())] = int(text[:-1]) * _UNITS[text[-1]]
    return sizes


def second_level_bytes() -> int:
    """Bytes of the second-level cache, which belongs to a core or a few."""
    return cache_sizes().get(2, SECOND_LEVEL_BYTES)


def last_level_bytes() -> int:
    """Bytes of the last cache before the memory."""
    sizes = cache_sizes()
    return sizes[max(sizes)] if sizes and max(sizes) > 1 else LAST_LEVEL_BYTES


@functools.cache
def processor() -> str:
    """The processor's name, as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
