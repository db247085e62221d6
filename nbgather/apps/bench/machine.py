"""What machine a run is on, and with what versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path


def machine_facts(threads: int, copy: float, split: float) -> dict[str, str]:
    """What the report begins with: bytes per second of a copy, microseconds of a split call."""
    versions = {p: _version(p) for p in ("numba", "numpy", "torch", "jax", "onnxruntime")}
    return {
        "CPU": _cpu(),
        "kind": cpu_kind(),
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        "copy bandwidth": f"{copy / 1e9:.1f} GB/s",
        "splitting a call": f"{split:.1f} µs",
        "Python": platform.python_version(),
        **versions,
    }


def cpu_kind(text: str | None = None) -> str:
    """The kind of the CPU as a file's name: its maker, family and model.

    ``text`` is that of ``/proc/cpuinfo``; this machine's by default.
    """
    known = _cpuinfo(text)
    maker = known.get("vendor_id", "")
    parts = [MAKERS.get(maker, maker), known.get("cpu family", ""), known.get("model", "")]
    if not maker:  # as Arm's kernels have it
        parts = [known.get(key, "") for key in ("CPU implementer", "CPU part")]
        parts = ["arm", *parts] if all(parts) else [platform.machine() or "unknown"]
    name = "-".join(part for part in parts if part)
    return re.sub(r"[^a-z0-9-]+", "_", name.lower())


#: What the makers of x86-64 call themselves.
MAKERS = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}


def _cpuinfo(text: str | None = None) -> dict[str, str]:
    """What is said of the first core."""
    info = Path("/proc/cpuinfo")
    if text is None:
        text = info.read_text() if info.exists() else ""
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu() -> str:
    return _cpuinfo().get("model name") or platform.processor()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
