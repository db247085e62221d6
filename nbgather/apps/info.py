"""What is here: versions, backends, threads, caches."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import nbgather
from nbgather.engine import backends

#: Packages whose version matters to somebody who reports a problem.
PACKAGES = (
    "numpy", "numba", "numba-cuda", "torch", "jax", "onnx", "onnxruntime", "dask", "cupy",
)  # fmt: skip


def facts() -> dict[str, Any]:
    """All of it, ready for JSON."""
    from nbgather.kernels.cpu import threads

    available = backends.available()
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
        "threads": threads.num_threads(),
        "threading layer": threads.threading_layer(),
        "recycled bytes": os.environ.get("NBGATHER_RECYCLE_BYTES", "268435456"),
        "kernel cache": str(_cache()),
    }


def _cache() -> Path:
    """The folder that numba caches the kernels in."""
    from numba.core.caching import FunctionCache

    from nbgather.kernels.cpu import gather as gather_kernels

    return Path(FunctionCache(gather_kernels.make_gather).cache_path)
