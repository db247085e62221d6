"""torch's road to the CUDA backend, without a GPU: the CPU's tensors pass for the device's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
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
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A simulated GPU whose arrays are the CPU's tensors."""
    registry.find(torch.zeros(1), "x")
    container = Pretender(run)
    monkeypatch.setattr(TorchContainer, "locate", lambda self, array, what: container)
    monkeypatch.setattr(TorchContainer, "recall", lambda self, *args: None)
    with simulated(32) as driver:
        yield driver
    memory.clear()
