"""What machine a run is on, and with what versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path


def machine_facts(threads: int, copy: float, split: dict[str, float]) -> dict[str, str]:
    """What the report begins with: bytes per second of a copy, microseconds of a split call."""
    versions = {p: _version(p) for p in ("numba", "numpy", "torch", "jax", "onnxruntime")}
    return {
        "CPU": _cpu(),
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        "copy bandwidth": f"{copy / 1e9:.1f} GB/s",
        "splitting a call": f"{split['driver']:.1f} µs ({split['pool']:.0f} µs on the way out)",
        "Python": platform.python_version(),
        **versions,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
