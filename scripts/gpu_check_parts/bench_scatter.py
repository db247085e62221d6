"""Rows of the bench: sums beside torch's atomics and torch's deterministic way."""

from __future__ import annotations

import torch

import nbgather
from gpu_check_parts import data
from gpu_check_parts.device import Device
from gpu_check_parts.timing import Contest, Row

#: At most so often torch's atomics, and never behind its deterministic way.
TARGETS = {"torch": 1 / 1.5, "torch deterministic": 1.0}


def sums(
    name: str, into: tuple[int, ...], shape: tuple[int, ...], dim: int, places: int,
    rows: bool = False, unique: bool = False, dtype: torch.dtype = torch.float32,
    targets: dict[str, float] | None = None,
) -> Row:  # fmt: skip
    """A scatter_add of ``shape`` into ``into`` at ``places`` places along ``dim``."""

    def make(device: Device) -> Contest:
        def small(sizes: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(min(n, 5) for n in sizes) if device.tiny else sizes

        x = torch.zeros(small(into), dtype=dtype, device=device.torch)
        src = data.floats(small(shape), torch.float32, device.torch).to(dtype)
        inner = (*shape[: dim + 1], *(1 for _ in shape[dim + 1 :])) if rows else shape
        if unique:
            order = torch.argsort(
                data.words(torch.Size(small(inner)).numel(), device.torch).reshape(small(inner)),
                dim,
            )
        else:
            order = data.indices(small(inner), min(places, x.shape[dim]), device.torch)
        index = order.expand(small(shape))

        def deterministic(k: int) -> torch.Tensor:
            with device.deterministic():
                return torch.scatter_add(x, dim, index, src)

        calls = {
            "nbgather": lambda k: nbgather.scatter_add(x, dim, index, src),
            "torch": lambda k: torch.scatter_add(x, dim, index, src),
            "torch deterministic": deterministic,
        }
        if rows and dim == 0:
            calls["index_add"] = lambda k: torch.index_add(x, 0, order.reshape(-1), src)
        item = src.element_size()
        moved = src.numel() * item + order.numel() * 8 + 2 * x.numel() * item
        return Contest(calls, moved)

    return Row(name, make, TARGETS if targets is None else targets)


def reduced(
    name: str, into: tuple[int, ...], shape: tuple[int, ...], places: int, reduce: str
) -> Row:
    """A scatter_reduce along the first dimension, of rows with one index each."""

    def make(device: Device) -> Contest:
        def small(sizes: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(min(n, 5) for n in sizes) if device.tiny else sizes

        x = torch.zeros(small(into), device=device.torch)
        src = data.floats(small(shape), torch.float32, device.torch)
        one = (small(shape)[0], *(1 for _ in shape[1:]))
        order = data.indices(one, min(places, x.shape[0]), device.torch)
        index = order.expand(src.shape)
        calls = {
            "nbgather": lambda k: nbgather.scatter_reduce(x, 0, index, src, reduce),
            "torch": lambda k: torch.scatter_reduce(x, 0, index, src, reduce),
        }
        return Contest(calls, src.nbytes + order.nbytes + 2 * x.nbytes)

    return Row(name, make, {"torch": 1 / 1.5})


M = 1 << 20
ROWS = [
    sums("1-D, 2M to 1M", (M,), (2 * M,), 0, M),
    sums("1-D, 10M to 1M", (M,), (10 * M,), 0, M),
    sums("rows of 512 B, 2M to 1M", (M, 128), (2 * M, 128), 0, M, rows=True,
         targets={**TARGETS, "copy": 0.76}),
    sums("embedding, 16k to 32k rows of 16 KB", (32768, 4096), (16384, 4096), 0, 32768, rows=True,
         targets={**TARGETS, "copy": 0.76}),
    sums("square, dim 0", (8192, 8192), (8192, 8192), 0, 8192),
    sums("square, dim 1", (8192, 8192), (8192, 8192), 1, 8192),
    sums("square, dim 1, unique", (8192, 8192), (8192, 8192), 1, 8192, unique=True),
    sums("DeBERTa, 512 places", (10, 10, 512, 512), (10, 10, 512, 512), 3, 512),
    sums("DeBERTa, 2 places", (10, 10, 512, 512), (10, 10, 512, 512), 3, 2),
    sums("rows of 512 B, bfloat16", (M, 256), (2 * M, 256), 0, M, rows=True, dtype=torch.bfloat16),
    sums("1-D, 1M to 3", (4,), (M,), 0, 3, targets={}),
    sums("1-D, int32, 10M to 1M", (M,), (10 * M,), 0, M, dtype=torch.int32,
         targets={"torch": 1 / 1.1}),
    reduced("amax, 1-D, 2M to 1M", (M,), (2 * M,), M, "amax"),
    reduced("mean, rows of 512 B, 2M to 1M", (M, 128), (2 * M, 128), M, "mean"),
    sums("masking's gradient, 64 x 196", (64, 196, 768), (64, 49, 768), 1, 196, rows=True),
]  # fmt: skip
