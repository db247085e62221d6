"""A whole run: the rows one after the other, and what machine they ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nbgather.apps.bench.measure import bandwidth, split_cost
from nbgather.apps.bench.rows import Row, run_rows

__all__ = ["run_all"]


def run_all(
    rows: Sequence[Row],
    rounds: int,
    threads: int,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Time rows, ours and the peers on as many threads.

    Parameters
    ----------
    rows : sequence of Row
        What is timed.
    rounds : int
        Turns of each contestant.
    threads : int
        For nbgather and torch.
    progress : callable
        Called with the name of each row before it is timed.

    Returns
    -------
    dict
        ``facts`` of the machine and ``rows``, what the report is made of.

    Raises
    ------
    RuntimeError
        A contestant gave other bytes than nbgather.

    Examples
    --------
    >>> from nbgather.apps.bench import ROWS, run_all
    >>> made = run_all([row for row in ROWS if row.name == "tiny, NumPy"], 1, 1)
    >>> made["facts"]["threads"], len(made["rows"])
    ('1', 1)
    """
    before = os.environ.get("NBGATHER_NUM_THREADS")
    os.environ["NBGATHER_NUM_THREADS"] = str(threads)
    try:
        import torch

        torch.set_num_threads(threads)
    except ImportError:
        pass
    try:
        copy = bandwidth()
        results = list(run_rows(rows, rounds, copy, progress))
        return {"facts": _facts(threads, copy, split_cost()), "rows": results}
    finally:
        if before is None:
            del os.environ["NBGATHER_NUM_THREADS"]
        else:
            os.environ["NBGATHER_NUM_THREADS"] = before


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.exists() else []
    found = [line.partition(":")[2].strip() for line in names if line.startswith("model name")]
    return found[0] if found else platform.processor()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _facts(threads: int, copy: float, split: dict[str, float]) -> dict[str, str]:
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
