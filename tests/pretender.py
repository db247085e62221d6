"""The host's torch tensors in the place of a GPU's: they go torch's way to the simulated device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from simulator import Driver, memory, simulated

from nbgather.containers import registry
from nbgather.containers.torch import TorchContainer
from nbgather.containers.torch_cuda import TorchCudaContainer
from nbgather.dispatch import run
from nbgather.kernels.cuda.contexts import Place


class Pretender(TorchCudaContainer):
    """The container of CUDA tensors, for tensors of the host."""

    def place(self, array: Any) -> tuple[Place, ...]:
        return (Place(0, 7),)

    def _lies_here(self, array: Any) -> bool:
        return bool(array.is_cpu)

    def address(self, array: Any) -> int:
        storage = array.untyped_storage()
        if storage.nbytes():
            whole = torch.empty(0, dtype=torch.uint8).set_(storage)
            memory.add(storage.data_ptr(), whole.numpy())
        return int(array.data_ptr())


@contextlib.contextmanager
def pretending(threads: int) -> Iterator[Driver]:
    """torch's CPU tensors lie on the simulated GPU for a while."""
    registry.find(torch.zeros(1), "x")
    container = Pretender(run)
    before = TorchContainer.locate, TorchContainer.recall
    TorchContainer.locate = lambda self, array, what: container  # type: ignore[method-assign]
    TorchContainer.recall = lambda self, *args: None  # type: ignore[method-assign]
    try:
        with simulated(threads) as driver:
            yield driver
    finally:
        TorchContainer.locate, TorchContainer.recall = before  # type: ignore[method-assign]
        memory.clear()
