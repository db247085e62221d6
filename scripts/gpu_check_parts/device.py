"""The device that is checked, operands for it, and the comparison of its results with the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: A test puts the CPU here.
GPU = torch.device("cuda")


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Random bits on the CPU; bools stay bools."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = torch.empty((), dtype=dtype).element_size()
    data = torch.randint(0, 256, (*shape, size), dtype=torch.uint8, generator=generator)
    return data.view(dtype).reshape(shape)


def indices(shape: tuple[int, ...], size: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Random indices below ``size`` that fit any integer dtype, on the CPU."""
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, min(size, 127), shape, generator=generator).to(dtype)


def same(got: Any, want: Any) -> None:
    """Assert that what came on the device has the bits of what came on the CPU."""
    if isinstance(want, tuple):
        assert type(got) is type(want)
        for a, b in zip(got, want, strict=True):
            same(a, b)
        return
    assert got.device.type == GPU.type, got.device
    assert got.dtype == want.dtype, (got.dtype, want.dtype)
    assert got.shape == want.shape, (got.shape, want.shape)
    a, b = got.cpu().contiguous(), want.contiguous()
    if a.numel():
        assert torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def both(call: Callable[..., Any], *arrays: Any, **options: Any) -> None:
    """The same call on the device and on the CPU."""
    gpu_arrays = [a.to(GPU) if isinstance(a, torch.Tensor) else a for a in arrays]
    gpu_options = {k: v.to(GPU) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    same(call(*gpu_arrays, **gpu_options), call(*arrays, **options))
