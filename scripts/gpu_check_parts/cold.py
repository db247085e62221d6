"""What the first calls of a process cost: the stage is the process, and its caches are empty."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from gpu_check_parts.report import Report


def run(make_device: Callable[[], Any], report: Report) -> None:
    """Import, context, the first call of each kind of kernel, and the second."""
    begun = time.perf_counter()

    def lap() -> float:
        nonlocal begun
        now = time.perf_counter()
        milliseconds, begun = (now - begun) * 1e3, now
        return round(milliseconds, 2)

    times: dict[str, Any] = {}
    import torch

    times["import torch"] = lap()
    with make_device() as device:
        x = torch.zeros((2, 16, 8), device=device.torch)
        device.synchronize()
        times["torch's context"] = lap()
        import nbgather

        times["import nbgather"] = lap()
        index = torch.zeros((2, 4, 8), dtype=torch.int64, device=device.torch)
        rows, masked = index[..., 0].contiguous(), None
        src = torch.zeros((2, 4, 8), device=device.torch)
        device.synchronize()
        lap()
        calls: dict[str, Callable[[], Any]] = {
            "gather": lambda: nbgather.gather(x, 1, index),
            "gather clip": lambda: nbgather.gather(x, 1, index, mode="clip"),
            "gather of float16 by int32": lambda: nbgather.gather(x.half(), 1, index.int()),
            "take_along_axis": lambda: nbgather.take_along_axis(x, index, 1),
            "gather_tokens": lambda: nbgather.gather_tokens(x, rows),
            "scatter": lambda: nbgather.scatter(x, 1, index, src),
            "scatter_add": lambda: nbgather.scatter_add(x, 1, index, src),
            "scatter_add of bfloat16": lambda: nbgather.scatter_add(
                x.bfloat16(), 1, index, src.bfloat16()
            ),
            "token_noise": lambda: nbgather.token_noise(1, rows[:, 0], 16),
            "random_masking": lambda: nbgather.random_masking(x, 0.75, seed=1),
            "random_masking by noise": lambda: nbgather.random_masking(x, 0.75, noise=x[..., 0]),
            "restore_tokens": lambda: nbgather.restore_tokens(src, torch.argsort(x[..., 0]), 0.0),
        }
        for name, call in calls.items():
            pair = []
            for _ in "ab":
                lap()
                masked = call()
                device.synchronize()
                pair.append(lap())
            times[name] = {"first": pair[0], "second": pair[1]}
        del masked
    modules = ("numba", "numba_cuda", "numba.cuda.compiler", "llvmlite", "cuda.bindings.nvjitlink")
    report.fact(f"milliseconds, {report.stage}", times)
    report.fact(f"loaded, {report.stage}", [name for name in modules if name in sys.modules])
