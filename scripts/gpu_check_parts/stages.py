"""The stages of a run in their order, with their limits; all of them together take ten minutes.

What is rare is compiled in the stages that compare, which run at the same time.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

from gpu_check_parts import cold, stand_ins, tools
from gpu_check_parts.report import Report


class Stage(NamedTuple):
    """What a stage is about, and the most seconds it may take."""

    about: str
    seconds: float


STAGES: dict[str, Stage] = {
    "cold": Stage("a new process with empty caches, up to its first calls", 45),
    "cold again": Stage("a second process", 30),
    "facts": Stage("what is run, and on what", 20),
    "check gather": Stage("gathers against torch's", 150),
    "check scatter": Stage("scatters against the CPU's bytes", 150),
    "check masking": Stage("masking against the CPU's bytes", 150),
    "check concurrency": Stage("streams, threads, graphs, libraries, leaks", 150),
    "bench gather": Stage("gathers, timed", 90),
    "bench masking": Stage("masking, timed", 60),
    "bench ranks": Stage("ranking, timed", 30),
    "bench scatter": Stage("sums, timed", 60),
    "host": Stage("what Python takes of a call", 25),
    **{f"sanitizer {tool}": Stage(f"compute-sanitizer, {tool}", 50) for tool in tools.SANITIZERS},
    "profile": Stage("ncu on eight kernels", 70),
    "bench compiled": Stage("masking beside torch.compile", 70),
}

VERSIONS = ("torch", "numba", "numba-cuda", "llvmlite", "numpy", "cuda-bindings", "cupy-cuda13x",
            "triton")  # fmt: skip
_SMI = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"


@contextlib.contextmanager
def device_of(dry: bool) -> Iterator[Any]:
    """The device of a stage."""
    stand_ins.install()
    if dry:
        from gpu_check_parts.dry_run import dry_device

        with dry_device() as device:
            yield device
    else:
        from gpu_check_parts.device import Device

        yield Device()


def preload() -> None:
    """What makes the processes of a dry run, which are copies of this one, start at once."""
    stand_ins.install()
    from gpu_check_parts import dry_run

    dry_run.preload()


def run(name: str, dry: bool, report: Report, pattern: str, script: str) -> None:
    """One stage, in this process."""
    if name.startswith("cold"):
        cold.run(lambda: device_of(dry), report)
        return
    kind, _, rest = name.partition(" ")
    if kind in ("sanitizer", "profile") and not dry:
        seconds = STAGES[name].seconds - 3
        if kind == "profile":
            tools.profile(script, seconds, report)
        else:
            tools.sanitize(rest, script, seconds, report)
        return
    with device_of(dry) as device:
        _run_on(device, kind, rest, report, pattern)


def _run_on(device: Any, kind: str, rest: str, report: Report, pattern: str) -> None:
    if kind == "facts":
        facts(device, report)
    elif kind == "check":
        module = importlib.import_module(f"gpu_check_parts.check_{rest}")
        module.check.run(device, report, pattern)
    elif kind == "host":
        from gpu_check_parts import bench_host

        bench_host.run(device, report)
    elif kind == "bench":
        from gpu_check_parts import bench_gather, bench_masking, bench_scatter, timing

        rows = {"gather": bench_gather.ROWS, "masking": bench_masking.ROWS,
                "ranks": bench_masking.RANKS, "scatter": bench_scatter.ROWS,
                "compiled": bench_masking.COMPILED}[rest]  # fmt: skip
        timing.run(rows, device, report, pattern)
        report.fact(f"nvidia-smi after {report.stage}", smi())
    elif rest in ("", tools.SANITIZERS[0]):  # the tools themselves are not there in a dry run
        child(device, "large" if kind == "profile" else "small")


def child(device: Any, what: str) -> None:
    """What tools are run on."""
    from gpu_check_parts import small_calls

    if what == "large":
        small_calls.run_large(device)
    else:
        print(f"{small_calls.run(device)} results")


def smi() -> str:
    """What nvidia-smi says of the device, in the order that it is asked."""
    line = ["nvidia-smi", f"--query-gpu={_SMI}", "--format=csv,noheader"]
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"none: {error}"


def facts(device: Any, report: Report) -> None:
    """What is run, and on what."""
    import nbgather

    for name, value in device.facts().items():
        report.fact(name, value)
    for name in VERSIONS:
        try:
            report.fact(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            report.fact(name, None)
    report.fact("python", platform.python_version())
    report.fact("nbgather", nbgather.__version__)
    report.fact("CUDA_HOME", os.environ.get("CUDA_HOME"))
    report.fact("why the backend is not available", nbgather.backends.available()["cuda"])
    report.fact("nvidia-smi", smi())
