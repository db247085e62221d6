"""Torch tensors on a GPU; the stream is torch's own current one, asked for at every call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nbgather.containers import torch_calls
from nbgather.containers.base import Container, Run, needs_seed
from nbgather.containers.cuda_arrays import CudaArrays
from nbgather.containers.torch import TorchContainer
from nbgather.containers.torch_dtypes import torch_dtype
from nbgather.kernels.cuda.driver import Place
from nbgather.operations.base import DType, Operation, Spec
from nbgather.operations.on_device import OnDevice

#: The bits of whole numbers that were filled with, by number and dtype; what is looked up again and
#: again is 0.
_whole_numbers: dict[tuple[int, torch.dtype], np.ndarray] = {}
MAX_WHOLE_NUMBERS = 1024


class TorchCudaContainer(CudaArrays, TorchContainer):
    """Torch tensors on a GPU."""

    name = "torch"
    #: No small call is repeated: what a launch costs is not on the way to it.
    exact_types = frozenset((torch.Tensor, torch.nn.Parameter))

    def __init__(self, run: Run) -> None:
        Container.__init__(self, run)

    def locate(self, array: Any, what: str) -> Container:
        return self

    def spec(self, array: Any) -> Spec:
        return super().spec(array)._replace(device=str(array.device))

    def _lies_here(self, array: Any) -> bool:
        return bool(array.is_cuda)

    def place(self, array: Any) -> tuple[Place, ...]:
        index = array.device.index
        return (Place(index, torch._C._cuda_getCurrentRawStream(index)),)

    def empty(self, shape: tuple[int, ...], like: Any, dtype: DType | None = None) -> Any:
        kind = like.dtype if dtype is None else torch_dtype(dtype)
        # torch's own pool knows when memory is free again.
        return torch.empty(shape, dtype=kind, device=like.device)

    def with_seed(self, operation: Operation, operands: tuple[Any, ...]) -> Operation:
        if not needs_seed(operation, operands):
            return operation
        # As dropout's: from the device's own generator, which a CUDA graph draws from anew at each
        # replay, and for a kernel to read, so that nothing waits.
        seed: Any = OnDevice(torch_calls.drawn_seed(operands[0].device))
        return replace(operation, seed=seed)

    def item_bits(self, value: Any, like: Any, what: str) -> np.ndarray:
        if type(value) is not int:
            return super().item_bits(value, like, what)
        key = (value, like.dtype)
        bits = _whole_numbers.get(key)
        if bits is None:
            bits = super().item_bits(value, like, what)
            if len(_whole_numbers) < MAX_WHOLE_NUMBERS:
                _whole_numbers[key] = bits
        return bits

    def number_row(self, value: Any, inner: tuple[int, ...], like: Any) -> Any:
        # Made on the device: a CUDA graph under capture cannot wait for a copy.
        self.item_bits(value, like, "mask_token")
        return torch.full(inner, value, dtype=like.dtype, device=like.device)

    def upload(self, array: np.ndarray, like: Any) -> Any:
        return torch.from_numpy(array).to(like.device)


SERVES = TorchCudaContainer
