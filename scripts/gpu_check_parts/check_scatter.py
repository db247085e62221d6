"""Scatters: the CPU's bytes, whatever the duplicates, and again at every repeat."""

from __future__ import annotations

import torch

import nbgather
from gpu_check_parts import data, hashed
from gpu_check_parts.checks import Checks
from gpu_check_parts.data import same
from gpu_check_parts.device import Device

check = Checks()


@check
def digests(device: Device) -> str:
    """Digests of the CPU's results."""
    return hashed.compare(hashed.SCATTERS, device)


@check
def twenty_repeats(device: Device) -> None:
    """The same bits each time, while other work moves blocks about."""
    places = device.pick((3, 1000, 1 << 16), (3,))
    count = device.pick(1 << 18, 40)
    other = device.stream()
    noise = torch.ones(device.pick(1 << 24, 4), device=device.torch)
    for size in places:
        x = data.floats((size,), torch.float32, device.torch)
        src = data.floats((count,), torch.float32, device.torch, 2)
        index = data.indices((count,), size, device.torch)
        first = nbgather.scatter_add(x, 0, index, src)
        for _ in range(device.pick(20, 2)):
            with device.on(other):
                noise.mul_(1.0)
            same(nbgather.scatter_add(x, 0, index, src), first)


@check
def bfloat16_sums(device: Device) -> None:
    """Halves are summed in float32 and rounded once."""
    shape = device.pick((300, 512), (5, 7))
    for dtype in (torch.bfloat16, torch.float16):
        src = data.floats(shape, dtype, device.torch)
        index = data.indices(shape, 4, device.torch)
        x = torch.zeros(4, shape[1], dtype=dtype, device=device.torch)
        wide = nbgather.scatter_add(x.float(), 0, index, src.float())
        same(nbgather.scatter_add(x, 0, index, src), wide.to(dtype))


@check
def integers_as_torch(device: Device) -> None:
    """Sums of integers are torch's; a scatter without duplicates is."""
    shape = device.pick((200, 700), (4, 9))
    for dtype in (torch.int32, torch.int64, torch.uint8):
        x, src = (data.bits(shape, dtype, device.torch, k) for k in (1, 2))
        index = data.indices(shape, shape[1], device.torch)
        same(nbgather.scatter_add(x, 1, index, src), x.scatter_add(1, index, src))
    order = torch.argsort(data.words(shape[0] * shape[1], device.torch).reshape(shape), dim=1)
    same(nbgather.scatter(x, 1, order, src), x.scatter(1, order, src))
