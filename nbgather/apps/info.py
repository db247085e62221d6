"""The facts of an installation: versions, backends, threads, caches."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import Any

import nbgather
from nbgather.engine import backends, recycle
from nbgather.kernels import machine
from nbgather.kernels.constants import METHODS
from nbgather.kernels.cpu import limits
from nbgather.kernels.cuda import images

#: Packages whose version a report of a problem needs.
PACKAGES = (
    "numpy", "numba", "numba-cuda", "torch", "jax", "onnx", "onnxruntime", "dask", "cupy",
)  # fmt: skip


def facts() -> dict[str, Any]:
    """All facts, as JSON takes them."""
    from nbgather.kernels.cpu import cache, shipped, variants

    available, archive = backends.available(), shipped.in_use()
    versions = {"nbgather": nbgather.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "platform": platform.platform(),
        "backends": {
            name: {"available": reason is None, "reason": reason}
            for name, reason in available.items()
        },
        "threads": limits.num_threads(),
        "threads of torch": limits.num_threads_of_torch() if "torch" in sys.modules else None,
        "recycled bytes": str(recycle.limit()),
        "shipped kernels": (
            f"{archive.path.stem}, {len(archive.functions)} functions" if archive else "none"
        ),
        "shipped CUDA kernels": ", ".join(
            f"{name} {len(held.functions)}"
            for name in images.every_name()
            if (held := images.shipped(name)) is not None
        )
        or "none",
        "kernel cache": str(cache.folder()),
        "kernels kept": "{} files, {} bytes".format(*cache.usage()),
        "processor": machine.processor(),
        "caches": {str(level): nbytes for level, nbytes in machine.cache_sizes().items()},
        "gather variants": {
            str(item): {"chosen": METHODS[choice.method], "seconds": choice.seconds}
            for item, choice in sorted(variants.choices().items())
        },
    }
