"""Times on the device by events, and of the Python before a launch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import nbgather
from gpu_check_parts import device
from gpu_check_parts.device import indices

#: A call of one contestant; its argument counts the turns.
Call = Callable[[int], Any]


def timed(calls: dict[str, Call], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds on the device, by events, each call in its turn."""
    for call in calls.values():
        for k in range(3):
            call(k)
    microseconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
            torch.cuda.synchronize()
            torch.cuda._sleep(200_000)  # so that the launch does not wait for Python
            begin.record()
            result = calls[name](turn)
            end.record()
            torch.cuda.synchronize()
            microseconds[name].append(begin.elapsed_time(end) * 1e3)
            del result
    return {
        name: {"min": min(times), "median": statistics.median(times)}
        for name, times in microseconds.items()
    }


def copy_bandwidth() -> float:
    """Bytes per second that a copy on the device moves, read and written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device.GPU)
    target = torch.empty_like(source)
    microseconds = timed({"copy": lambda k: target.copy_(source)}, 11)["copy"]["min"]
    return 2 * source.numel() / (microseconds * 1e-6)


def launch_cost() -> dict[str, float]:
    """Microseconds of Python for a call that does not wait, the device kept out of it."""
    x, index = torch.randn(2, 16, 32, device=device.GPU), indices((2, 4), 16).to(device.GPU)
    wide = index[..., None].expand(2, 4, 32)
    calls: dict[str, Callable[[], Any]] = {
        "gather": lambda: nbgather.gather(x, 1, wide, mode="clip"),
        "gather_tokens": lambda: nbgather.gather_tokens(x, index, mode="clip"),
        "random_masking": lambda: nbgather.random_masking(x, 0.75, seed=1),
        "torch.gather": lambda: torch.gather(x, 1, wide),
    }
    costs = {}
    for name, call in calls.items():
        times = []
        for _ in range(30):
            call()
            torch.cuda.synchronize()
            started = time.perf_counter()
            for _ in range(50):
                call()
            times.append((time.perf_counter() - started) / 50 * 1e6)
        costs[name] = min(times)
    return costs
