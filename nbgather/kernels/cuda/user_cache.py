"""Kernels that were compiled here, in the folder that the CPU's are kept in."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from pathlib import Path
from typing import Any

from nbgather.kernels import archive
from nbgather.kernels.cpu import cache

#: Whose versions decide about the machine code.
_COMPILERS = (
    "numba", "numba-cuda", "nvidia-nvvm", "nvidia-cuda-nvvm", "nvidia-nvjitlink", "cuda-bindings",
)  # fmt: skip


@functools.cache
def source_digest() -> str:
    """The digest of all sources beside this one, and of those that they share with the CPU's."""
    own = sorted(f"cuda/{path.name}" for path in Path(__file__).parent.glob("*.py"))
    return archive.digest_of_sources((*own, "constants.py", "scalar.py"))


def entry(key: Any, name: str, cc: tuple[int, int]) -> cache.Entry:
    """Where the user's cache has a kernel, by its key, its entry's name and its architecture."""
    directory = cache.folder_of(source_digest())
    about = archive.digest((name, cc, _versions(), os.environ.get("CUDA_HOME"), cache.settings()))
    kind = key if isinstance(key, str) else key[0]
    file = f"cuda.{kind}-{about.hex()}{cache.SUFFIX}"
    return cache.Entry(name, None if directory is None else directory / file)


@functools.cache
def _versions() -> tuple[str, ...]:
    versions: list[str] = []
    for name in _COMPILERS:
        try:
            versions.append(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            versions.append("")
    return tuple(versions)
