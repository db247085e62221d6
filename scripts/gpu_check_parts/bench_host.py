"""What Python takes of a call, and where."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

import nbgather
from gpu_check_parts import data
from gpu_check_parts.device import Device
from gpu_check_parts.report import Report

#: Python's part of a small gather, at most.
MAX_GATHER_MICROSECONDS = 15


def microseconds(device: Device, call: Callable[[], Any]) -> float:
    """The least mean of 50 calls, the device kept out of it."""
    times = []
    for _ in range(device.pick(20, 1)):
        call()
        device.synchronize()
        count = device.pick(50, 1)
        begun = time.perf_counter()
        for _ in range(count):
            call()
        times.append((time.perf_counter() - begun) / count * 1e6)
    return min(times)


class _NoLaunch:
    """The driver, but that it launches nothing."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def launch(self, *arguments: Any) -> None:
        return None

    start = launch


def run(device: Device, report: Report) -> None:
    """Calls that do not wait, with their launch and without; one launch; torch's own call."""
    from nbgather.kernels.cuda import launch

    n, length, width, kept = device.pick((2, 16, 32, 4), (2, 4, 2, 2))
    x = data.floats((n, length, width), torch.float32, device.torch)
    ids = data.indices((n, kept), length, device.torch)
    wide = ids[..., None].expand(n, kept, width)
    src = data.floats((n, kept, width), torch.float32, device.torch)
    masked = nbgather.random_masking(x, 0.75, seed=1)
    token = torch.zeros(width, device=device.torch)
    calls: dict[str, Callable[[], Any]] = {
        "gather clip": lambda: nbgather.gather(x, 1, wide, mode="clip"),
        "gather raise": lambda: nbgather.gather(x, 1, wide),
        "gather defer": lambda: nbgather.gather(x, 1, wide, mode="defer"),
        "gather_tokens clip": lambda: nbgather.gather_tokens(x, ids, mode="clip"),
        "random_masking": lambda: nbgather.random_masking(x, 0.75, seed=1),
        "restore_tokens": lambda: nbgather.restore_tokens(
            masked.x_masked, masked.ids_restore, token
        ),
        "scatter_add": lambda: nbgather.scatter_add(x, 1, wide, src),
        "torch.gather": lambda: torch.gather(x, 1, wide),
        "torch.empty": lambda: torch.empty((n, kept, width), device=device.torch),
        "torch.scatter_add": lambda: torch.scatter_add(x, 1, wide, src),
    }
    costs = {name: round(microseconds(device, call), 2) for name, call in calls.items()}
    report.fact("Python µs", costs)
    slow = costs["gather clip"] > MAX_GATHER_MICROSECONDS and not device.tiny
    report.line(
        "check", name="Python of a small gather", outcome="failed" if slow else "passed",
        detail=f"{costs['gather clip']} µs, at most {MAX_GATHER_MICROSECONDS}", seconds=0.0,
    )  # fmt: skip
    before = launch.driver
    launch.use(_NoLaunch(before))
    try:
        bare = {
            name: round(microseconds(device, calls[name]), 2)
            for name in ("gather clip", "gather_tokens clip", "random_masking")
        }
    finally:
        launch.use(before)
    report.fact("Python µs without the launch", bare)
    rest = {name: round(costs[name] - bare[name], 2) for name in bare}
    report.fact("Python µs of the launch", rest)
