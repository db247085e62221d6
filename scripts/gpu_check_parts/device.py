"""The GPU that is checked: what the checks ask of it besides calls of nbgather and torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch


class Skip(Exception):
    """A check that cannot be made here, and why."""


class ForeignArray:
    """A view of a tensor that tells of itself by the CUDA array interface, on a stream."""

    def __init__(self, tensor: torch.Tensor, stream: int) -> None:
        self.tensor = tensor
        with torch.cuda.device(tensor.device):
            interface = dict(tensor.__cuda_array_interface__)
        self.__cuda_array_interface__ = {**interface, "version": 3, "stream": stream}
        self.shape = tuple(tensor.shape)


class Device:
    """One GPU, by torch."""

    #: Whether this is none but an imitation, on which everything is slow.
    tiny = False

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise SystemExit("torch sees no CUDA device: --dry-run needs none")
        self.torch = torch.device("cuda", torch.cuda.current_device())

    def pick(self, full: Any, tiny: Any) -> Any:
        """A size for a GPU, or for what stands for it."""
        return tiny if self.tiny else full

    def facts(self) -> dict[str, Any]:
        properties = torch.cuda.get_device_properties(self.torch)
        return {
            "device": properties.name,
            "compute capability": f"{properties.major}.{properties.minor}",
            "memory GiB": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "L2 MiB": round(properties.L2_cache_size / 2**20, 1),
        }

    def l2_bytes(self) -> int:
        return int(torch.cuda.get_device_properties(self.torch).L2_cache_size)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def need(self, nbytes: int) -> None:
        """Skip what needs more memory than is free."""
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
        if free < 1.1 * nbytes:
            raise Skip(f"{nbytes / 2**30:.1f} GiB are needed, {free / 2**30:.1f} are free")

    def allocated(self) -> int:
        """Bytes that torch has handed out."""
        return int(torch.cuda.memory_allocated())

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()

    def stream(self) -> Any:
        """A new stream; torch's current one within ``with device.on(stream)``."""
        return torch.cuda.Stream()

    def on(self, stream: Any) -> Any:
        return torch.cuda.stream(stream)

    def handle(self, stream: Any) -> int:
        """A stream's number for the driver."""
        return int(stream.cuda_stream)

    def busy(self, milliseconds: float) -> None:
        """Occupy the current stream for about so long."""
        torch.cuda._sleep(int(milliseconds * 1.7e6))

    def is_idle(self, stream: Any) -> bool:
        return bool(stream.query())

    def record(self) -> Any:
        """A moment in the current stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def microseconds(self, begin: Any, end: Any) -> float:
        """The time between two moments, once both have come."""
        return float(begin.elapsed_time(end)) * 1e3

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Put work into a graph; its results, and what runs it again into them."""
        side = self.stream()
        side.wait_stream(torch.cuda.current_stream())
        with self.on(side):
            work()
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = work()
        return results, graph.replay

    def foreign(self, tensor: torch.Tensor, stream: Any) -> Any:
        """A tensor's memory as an array of no known library."""
        return ForeignArray(tensor, self.handle(stream))

    def foreign_to_host(self, array: Any) -> np.ndarray:
        """What a call gave for such an array."""
        return np.asarray(array.copy_to_host())

    @contextlib.contextmanager
    def deterministic(self) -> Iterator[None]:
        """torch's own deterministic algorithms, for a while."""
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
