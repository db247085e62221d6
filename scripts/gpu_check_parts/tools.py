"""compute-sanitizer and ncu around this script's own stages, where they are installed."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from gpu_check_parts import supervise
from gpu_check_parts.report import Report

SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
#: What compute-sanitizer ends with if it found something.
FOUND_STATUS = 86
METRICS = {
    "gpu__time_duration.sum": "time",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "DRAM %",
    "lts__t_sector_hit_rate.pct": "L2 hit %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy %",
    "launch__registers_per_thread": "registers",
    "smsp__average_warp_latency_issue_stalled_long_scoreboard.pct": "long scoreboard %",
}


def find(name: str) -> str | None:
    """A tool of the CUDA toolkit."""
    folder = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), str(folder))))


def sanitize(tool: str, script: str, seconds: float, report: Report) -> None:
    """The small calls under one tool of compute-sanitizer."""
    begun = time.perf_counter()

    def tell(outcome: str, detail: str) -> None:
        spent = time.perf_counter() - begun
        report.line("check", name=tool, outcome=outcome, detail=detail, seconds=spent)

    program = find("compute-sanitizer")
    if program is None:
        tell("skipped", "compute-sanitizer is not installed")
        return
    line = [program, "--tool", tool, "--error-exitcode", str(FOUND_STATUS), "--print-limit", "20"]
    status, text = _output([*line, *supervise.command(script, ["--child", "small"])], seconds)
    summary = next((t for t in text.splitlines()[::-1] if "SUMMARY" in t), "")
    if status == 0:
        tell("passed", summary)
    elif re.search("not supported|Unable to|LibraryNotLoaded", text) and status != FOUND_STATUS:
        tell("skipped", f"it does not run here: {text[-500:]}")
    else:
        tell("failed", f"status {status} {summary}\n{text[:3000]}")


def profile(script: str, seconds: float, report: Report) -> None:
    """Eight large calls under ncu, a row for each kernel."""
    begun = time.perf_counter()
    program = find("ncu")
    if program is None:
        report.line("check", name="ncu", outcome="skipped", detail="not installed", seconds=0.0)
        return
    line = [program, "--profile-from-start", "off", "--csv", "--page", "raw", "--clock-control",
            "none", "--print-units", "base", "--metrics", ",".join(METRICS)]  # fmt: skip
    status, text = _output([*line, *supervise.command(script, ["--child", "large"])], seconds)
    kernels = parsed(text)
    for number, kernel in enumerate(kernels):
        report.fact(f"ncu {number}", kernel)
    outcome = "passed" if kernels else "skipped"
    detail = f"{len(kernels)} kernels" if kernels else f"status {status}: {text[-1000:]}"
    spent = time.perf_counter() - begun
    report.line("check", name="ncu", outcome=outcome, detail=detail, seconds=spent)


def parsed(text: str) -> list[dict[str, Any]]:
    """The kernels of ncu's table, with those metrics that it has."""
    lines = text.splitlines()
    first = next((k for k, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        return []
    kernels = []
    for row in csv.DictReader(io.StringIO("\n".join(lines[first:]))):
        if not (row.get("ID") or "").isdigit():  # the line of the units
            continue
        kernel = {"kernel": (row.get("Kernel Name") or "")[:120]}
        kernels.append(kernel | {METRICS[k]: v for k, v in row.items() if k in METRICS})
    return kernels


def _output(line: list[str], seconds: float) -> tuple[int, str]:
    """A program's status and all that it printed; what it printed until then, at the limit."""
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
            env=environment, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        text = late.stdout or b""
        return -1, text.decode(errors="replace") if isinstance(text, bytes) else text
    return done.returncode, done.stdout
