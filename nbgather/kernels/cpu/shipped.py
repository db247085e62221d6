"""Object code that comes with the package: the usual kernels, for the usual processors.

There is one archive (:mod:`nbgather.kernels.archive`) for each kind of processor, made by
``scripts/build_kernels.py``. Kernels of modules whose sources here are others are ignored.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

from nbgather.kernels.archive import (
    KERNELS,
    SUFFIX,
    Archive,
    digest,
    digest_of_sources,
    is_fresh,
    opened,
    pack,
    read_from,
)
from nbgather.kernels.cpu import cache, loader

__all__ = [
    "FOLDER", "KERNELS", "KINDS", "SUFFIX", "Archive", "Kind", "digest", "digest_of_sources",
    "in_use", "is_allowed", "kind", "opened", "pack", "path_of", "read", "read_from", "symbol",
]  # fmt: skip

FOLDER = KERNELS / "objects"


class Kind(NamedTuple):
    """A kind of processors that kernels are compiled for."""

    name: str
    triple: str
    cpu: str
    #: What a processor of the kind has, by LLVM's names.
    has: tuple[str, ...]
    #: How kernels are compiled, besides.
    features: str = ""


_V2 = ("cx16", "popcnt", "sse4.2", "ssse3")
_V3 = (*_V2, "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_LINUX = "x86_64-unknown-linux-gnu"
#: By the machine's name, the best first. Vectors of the fourth kind are as long as they can be, and
#: the third has the instruction that gathers: whether that is faster is measured.
KINDS = {
    "x86_64": (
        Kind("linux-x86-64-v4", _LINUX, "x86-64-v4", _V4, "-prefer-256-bit"),
        Kind("linux-x86-64-v3", _LINUX, "x86-64-v3", _V3, "+fast-gather"),
        Kind("linux-x86-64-v2", _LINUX, "x86-64-v2", _V2),
    ),
    # Every one has vectors, also where LLVM finds nothing out of it, as under an emulator.
    "aarch64": (Kind("linux-aarch64", "aarch64-unknown-linux-gnu", "generic", ()),),
}


def symbol(function: Hashable) -> str:
    """A function's name in its object code."""
    return f"nbgather_{digest(function).hex()}"


def is_allowed() -> bool:
    """Whether the user has no wish of how kernels are compiled."""
    if os.environ.get("NBGATHER_SHIPPED_KERNELS", "1").strip() == "0":
        return False
    return not any((*loader.told(), *cache.settings()))


def kind() -> Kind | None:
    """The best kind of processors that this one belongs to; None where nothing comes for it."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    for candidate in KINDS.get(os.uname().machine, ()):
        if loader.has_features(candidate.has):
            return candidate
    return None


def path_of(kind: Kind) -> Path:
    """The archive of a kind."""
    return FOLDER / (kind.name + SUFFIX)


@functools.lru_cache(maxsize=1)
def _own_archive() -> Archive | None:
    own = kind()
    return None if own is None else opened(path_of(own))


def in_use() -> Archive | None:
    """The archive that kernels are taken from in this process, if there is one."""
    return _own_archive() if is_allowed() else None


def read(function: Any) -> bytes | None:
    """The object code of a function for this processor, or None if it does not come with us."""
    archive = in_use()
    if archive is None or not is_fresh(*archive.sources.get(function.module, ("", ()))):
        return None
    return read_from(archive, function)
