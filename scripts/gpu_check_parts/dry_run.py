"""What stands for a GPU where there is none: the tests' simulator, the CPU's tensors on it."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_check_parts.device import Device

TESTS = Path(__file__).resolve().parents[2] / "tests"
#: Threads of a block: each runs as Python.
THREADS = 32
#: Of stages.
MODULES = ("bench_gather", "bench_host", "bench_masking", "bench_scatter", "check_concurrency",
           "check_gather", "check_masking", "check_scatter", "small_calls")  # fmt: skip


class DryDevice(Device):
    """The simulator as a device: small sizes, no streams, and a clock for events."""

    tiny = True

    def __init__(self) -> None:
        self.torch = torch.device("cpu")

    def facts(self) -> dict[str, Any]:
        return {"device": "simulated", "compute capability": "0.0", "L2 MiB": 0}

    def l2_bytes(self) -> int:
        return 0

    def synchronize(self) -> None:
        pass

    def need(self, nbytes: int) -> None:
        assert nbytes < 1 << 27, f"{nbytes} bytes, in a dry run"

    def allocated(self) -> int:
        return 0

    def empty_cache(self) -> None:
        pass

    def stream(self) -> Any:
        return None

    def on(self, stream: Any) -> Any:
        return contextlib.nullcontext()

    def handle(self, stream: Any) -> int:
        return 7

    def busy(self, milliseconds: float) -> None:
        pass

    def is_idle(self, stream: Any) -> bool:
        return False  # as if it were still busy

    def record(self) -> Any:
        return time.perf_counter()

    def microseconds(self, begin: Any, end: Any) -> float:
        return float(end - begin) * 1e6

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        results = work()

        def replay() -> None:
            for old, new in zip(results, work(), strict=True):
                old.copy_(new)

        return results, replay

    def foreign(self, tensor: torch.Tensor, stream: Any) -> Any:
        from simulator import DeviceArray

        return DeviceArray(tensor.numpy())

    def foreign_to_host(self, array: Any) -> np.ndarray:
        return np.asarray(array.array)


def preload() -> None:
    """Import what the stages need, once for the processes that are copies of this one."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    import pretender  # noqa: F401

    for name in MODULES:
        importlib.import_module(f"gpu_check_parts.{name}")


@contextlib.contextmanager
def dry_device() -> Iterator[DryDevice]:
    """A dry device, the calls of this process going to it."""
    preload()
    from pretender import pretending

    with pretending(THREADS):
        yield DryDevice()
