"""The rows of the benchmark: nbgather beside torch, and the least ratio that each must reach."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import nbgather
from gpu_check_parts import device
from gpu_check_parts.device import random
from gpu_check_parts.timing import Call, timed


def rotated(make: Callable[[int], torch.Tensor], nbytes: int) -> list[torch.Tensor]:
    """As many inputs as it takes that the cache holds none of the next."""
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    return [make(k) for k in range(max(2, min(64, 3 * l2 // max(nbytes, 1) + 1)))]


def recipe(x: torch.Tensor, keep: int) -> tuple[torch.Tensor, ...]:
    """The paper's random_masking, its index expanded."""
    n, length, width = x.shape
    ids_shuffle = torch.argsort(torch.rand(n, length, device=x.device), dim=1)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    wide = ids_shuffle[:, :keep].unsqueeze(-1).expand(-1, -1, width)
    mask = torch.ones([n, length], device=x.device)
    mask[:, :keep] = 0
    return torch.gather(x, 1, wide), torch.gather(mask, 1, ids_restore), ids_restore


def gather_row(
    shape: tuple[int, ...], dim: int, index_shape: tuple[int, ...], dtype: torch.dtype,
    spread: tuple[int, ...] | None = None,
) -> tuple[dict[str, Call], int]:  # fmt: skip
    item = torch.empty((), dtype=dtype).element_size()
    xs = rotated(lambda k: random(shape, dtype, k).to(device.GPU), int(np.prod(shape)) * item)
    index = torch.randint(0, shape[dim], index_shape, device=device.GPU)
    wide = index if spread is None else index.expand(spread)
    moved = wide.numel() * item * 2 + index.numel() * 8
    calls: dict[str, Call] = {
        "nbgather": lambda k: nbgather.gather(xs[k % len(xs)], dim, wide, mode="clip"),
        "torch": lambda k: torch.gather(xs[k % len(xs)], dim, wide),
    }
    return calls, moved


def masking_row(n: int) -> tuple[dict[str, Call], int]:
    xs = rotated(lambda k: torch.randn(n, 196, 768, device=device.GPU), n * 196 * 768 * 4)
    compiled = torch.compile(recipe)
    calls: dict[str, Call] = {
        "nbgather": lambda k: nbgather.random_masking(xs[k % len(xs)], 0.75, seed=k),
        "torch": lambda k: recipe(xs[k % len(xs)], 49),
        "torch.compile": lambda k: compiled(xs[k % len(xs)], 49),
    }
    return calls, n * (49 * 768 * 8 + 196 * 12)


def scatter_row(values: int) -> tuple[dict[str, Call], int]:
    shape = (10, 10, 512, 512)
    xs = rotated(lambda k: torch.zeros(shape, device=device.GPU), 4 * 512 * 512 * 100)
    index = torch.randint(0, values, shape, device=device.GPU)
    src = torch.randn(shape, device=device.GPU)
    calls: dict[str, Call] = {
        "nbgather": lambda k: nbgather.scatter_add(xs[k % len(xs)], 3, index, src),
        "torch": lambda k: torch.scatter_add(xs[k % len(xs)], 3, index, src),
    }
    return calls, index.numel() * 20


def restore_row() -> tuple[dict[str, Call], int]:
    masked = nbgather.random_masking(torch.randn(64, 196, 512, device=device.GPU), 0.75, seed=0)
    token = torch.zeros(512, device=device.GPU)
    visible, ids = masked.x_masked, masked.ids_restore

    def published(k: int) -> torch.Tensor:
        joined = torch.cat([visible, token.view(1, 1, -1).repeat(64, 147, 1)], dim=1)
        return torch.gather(joined, 1, ids.unsqueeze(-1).repeat(1, 1, 512))

    ours = lambda k: nbgather.restore_tokens(visible, ids, token)  # noqa: E731
    return {"nbgather": ours, "torch": published}, 64 * (196 + 49) * 512 * 4


F = torch.float32
ROWS: dict[str, tuple[Callable[[], tuple[dict[str, Call], int]], dict[str, float]]] = {
    "MAE rows, repeated": (lambda: gather_row((64, 196, 768), 1, (64, 49, 768), F), {"torch": 1}),
    "MAE rows, expanded": (
        lambda: gather_row((512, 196, 768), 1, (512, 49, 1), F, (512, 49, 768)),
        {"torch": 1, "copy": 0.85},
    ),
    "graph rows": (
        lambda: gather_row((1_000_000, 128), 0, (2_000_000, 1), F, (2_000_000, 128)),
        {"torch": 1, "copy": 0.85},
    ),
    "rows of 256 bytes": (
        lambda: gather_row((4_000_000, 64), 0, (4_000_000, 1), F, (4_000_000, 64)),
        {"torch": 1, "copy": 0.85},
    ),
    "square, dim 1": (lambda: gather_row((8192, 8192), 1, (8192, 8192), F), {"torch": 1}),
    "square, dim 0": (lambda: gather_row((8192, 8192), 0, (8192, 8192), F), {"torch": 1}),
    "DeBERTa": (
        lambda: gather_row((10, 10, 512, 512), 3, (10, 10, 512, 512), F), {"torch": 1},
    ),
    "float16, dim 1": (
        lambda: gather_row((8192, 8192), 1, (8192, 8192), torch.float16), {"torch": 1},
    ),
    "log-prob pick": (lambda: gather_row((4096, 50257), 1, (4096, 1), F), {"torch": 1}),
    "scatter_add of 2": (lambda: scatter_row(2), {"torch": 3}),
    "scatter_add of 512": (lambda: scatter_row(512), {}),
    "restore": (restore_row, {"torch": 1}),
    **{
        f"masking, batch {n}": (lambda n=n: masking_row(n), {"torch": 5, "torch.compile": 1.5})
        for n in (64, 512, 4096)
    },
}  # fmt: skip


def measured(bandwidth: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Each row's times, ratios, and whether its targets are reached."""
    for name, (make, targets) in ROWS.items():
        calls, moved = make()
        times = timed(calls, rounds)
        ours = times["nbgather"]["min"]
        ratios = {peer: times[peer]["min"] / ours for peer in times if peer != "nbgather"}
        ratios["copy"] = moved / (ours * 1e-6) / bandwidth
        missed = {peer: ratios[peer] for peer, least in targets.items() if ratios[peer] < least}
        listed = ", ".join(f"{peer} {ratio:.2f}" for peer, ratio in ratios.items())
        print(f"{name:22} {ours:10.1f} µs  {listed}" + (f"  MISSED {missed}" if missed else ""))
        sys.stdout.flush()
        yield {"name": name, "microseconds": times, "ratios": ratios, "targets": targets,
               "reached": not missed}  # fmt: skip
        torch.cuda.empty_cache()
