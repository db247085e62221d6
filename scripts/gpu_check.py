"""Everything that only a GPU can show, in one command: ``python scripts/gpu_check.py``.

Needs Python, torch with CUDA, numba and numba-cuda, and this repository; no network. It compares
every call on the device with the CPU's kernels, bit for bit, and times it beside torch. The results
go to ``scripts/gpu_DEVICE.json``. Exit status 1 if a comparison failed or a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS.parent), str(SCRIPTS)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gpu_check_parts import comparisons, rows, timing  # noqa: E402

import nbgather  # noqa: E402
from nbgather import files  # noqa: E402

#: Python's part of a small gather, at most.
MAX_LAUNCH_MICROSECONDS = 15


def facts() -> dict[str, Any]:
    """What was run, and on what."""
    import numba
    import numba_cuda

    device = torch.cuda.get_device_properties(0)
    return {
        "device": device.name,
        "compute capability": f"{device.major}.{device.minor}",
        "memory GiB": round(device.total_memory / 2**30, 1),
        "multiprocessors": device.multi_processor_count,
        "L2 MiB": round(device.L2_cache_size / 2**20, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch CUDA": torch.version.cuda,
        "numba": numba.__version__,
        "numba-cuda": numba_cuda.__version__,
        "numpy": np.__version__,
        "nbgather": nbgather.__version__,
    }


def main() -> int:
    """Run the checks and the bench; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--only", help="only checks whose name holds this, and no bench")
    parser.add_argument("--no-bench", action="store_true", help="compare, time nothing")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each contestant")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device")
    reason = nbgather.backends.available()["cuda"]
    if reason is not None:
        raise SystemExit(f"the cuda backend is not available: {reason}")
    results: dict[str, Any] = {"facts": facts(), "checks": {}, "rows": []}
    for key, value in results["facts"].items():
        print(f"{key}: {value}")
    failed = 0
    for name, function in comparisons.CHECKS.items():
        if options.only and options.only not in name:
            continue
        started = time.perf_counter()
        try:
            function()
            outcome = "passed"
        except Exception:  # the next check runs, whatever became of this one
            outcome = traceback.format_exc()
            failed += 1
        seconds = time.perf_counter() - started
        results["checks"][name] = {"outcome": outcome, "seconds": seconds}
        print(f"{name:22} {seconds:6.1f} s  {outcome}", flush=True)
    if not (options.no_bench or options.only):
        bandwidth = timing.copy_bandwidth()
        results["copy bytes per second"] = bandwidth
        print(f"a copy on the device moves {bandwidth / 1e12:.2f} TB/s")
        results["launch microseconds"] = timing.launch_cost()
        print("launch, µs:", {k: round(v, 1) for k, v in results["launch microseconds"].items()})
        results["rows"] = list(rows.measured(bandwidth, options.rounds))
        failed += any(not row["reached"] for row in results["rows"])
        failed += results["launch microseconds"]["gather"] > MAX_LAUNCH_MICROSECONDS
    name = results["facts"]["device"].replace(" ", "_")
    path = options.json or SCRIPTS / f"gpu_{name}.json"
    files.write(path, (json.dumps(results, indent=1) + os.linesep).encode())
    print(f"wrote {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
