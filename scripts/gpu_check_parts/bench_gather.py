"""Rows of the bench: gathers of rows and elements beside torch's and CuPy's."""

from __future__ import annotations

import math
from typing import Any

import torch

import nbgather
from gpu_check_parts import data
from gpu_check_parts.device import Device
from gpu_check_parts.timing import Call, Contest, Row

#: Bytes of a result that is far larger than any L2.
LARGE_BYTES = 1 << 29
#: For a dry run.
TINY_BYTES = 1 << 9


def rotated(device: Device, make: Any, nbytes: int) -> list[Any]:
    """As many inputs as it takes that the cache holds none of the next."""
    return [make(k) for k in range(max(1, min(64, 3 * device.l2_bytes() // max(nbytes, 1) + 1)))]


def ours(call: Any) -> dict[str, Call]:
    """nbgather in the modes that differ by when an error is told; the first is what is compared."""
    return {
        "nbgather": lambda k: call(k, "clip"),
        "nbgather raise": lambda k: call(k, "raise"),
        "nbgather defer": lambda k: call(k, "defer"),
    }


def cupy_take(x: torch.Tensor, ids: torch.Tensor) -> dict[str, Call]:
    """CuPy's take along the first axis, where CuPy is."""
    try:
        import cupy
    except ImportError:
        return {}
    a, i = cupy.from_dlpack(x), cupy.from_dlpack(ids)

    def call(k: int) -> Any:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            return cupy.take(a, i, axis=0)

    return {"cupy.take": call}


def rows_of(width: int) -> Row:
    """Rows of so many bytes, picked along dim 0."""

    def make(device: Device) -> Contest:
        count = device.pick(LARGE_BYTES, TINY_BYTES) // width or 2
        columns = width // 4
        x = data.floats((1, columns), torch.float32, device.torch).repeat(count, 1)
        ids = data.indices((count,), count, device.torch)
        wide = ids[:, None].expand(count, columns)
        calls = ours(lambda k, mode: nbgather.gather(x, 0, wide, mode=mode))
        calls |= {
            "torch": lambda k: torch.gather(x, 0, wide),
            "index_select": lambda k: torch.index_select(x, 0, ids),
            "take_along_dim": lambda k: torch.take_along_dim(x, ids[:, None], 0),
            "embedding": lambda k: torch.nn.functional.embedding(ids, x),
        }
        return Contest(calls | cupy_take(x, ids), count * (2 * width + 8))

    targets = {"copy": 0.8, "torch": 1.0} if width >= 256 else {"torch": 1.0}
    return Row(f"rows of {width} B", make, targets)


def elements_of(dtype: torch.dtype, index: torch.dtype, dim: int) -> Row:
    """Elements of a square, each index another."""
    item = torch.empty((), dtype=dtype).element_size()

    def make(device: Device) -> Contest:
        side = device.pick(8192 if item <= 8 else 4096, 6)
        x = data.bits((side, side), dtype, device.torch)
        ids = data.indices((side, side), side, device.torch, index)
        calls = ours(lambda k, mode: nbgather.gather(x, dim, ids, mode=mode))
        calls["torch"] = lambda k: torch.gather(x, dim, ids.long())
        if index == torch.int64:
            calls["take_along_dim"] = lambda k: torch.take_along_dim(x, ids, dim)
        return Contest(calls, x.numel() * (2 * item + ids.element_size()))

    kind = str(index).removeprefix("torch.")
    return Row(f"elements of {item} B by {kind}, dim {dim}", make, {"torch": 1.0})


def gather_of(
    name: str, shape: tuple[int, ...], dim: int, part: tuple[int, ...],
    spread: tuple[int, ...] | None = None, targets: dict[str, float] | None = None,
) -> Row:  # fmt: skip
    """float32 of a shape by an index of another, expanded to ``spread``."""

    def make(device: Device) -> Contest:
        def small(sizes: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(min(n, 3) for n in sizes) if device.tiny else sizes

        nbytes = 4 * math.prod(small(shape))
        xs = rotated(
            device, lambda k: data.floats(small(shape), torch.float32, device.torch, k), nbytes
        )
        index = data.indices(small(part), small(shape)[dim], device.torch)
        wide = index if spread is None else index.expand(small(spread))
        calls = ours(lambda k, mode: nbgather.gather(xs[k % len(xs)], dim, wide, mode=mode))
        calls["torch"] = lambda k: torch.gather(xs[k % len(xs)], dim, wide)
        results, replay = device.capture(lambda: (nbgather.gather(xs[0], dim, wide, mode="clip"),))
        calls["nbgather graph"] = lambda k: (replay(), results)[:0]
        return Contest(calls, wide.numel() * 8 + index.numel() * 8)

    return Row(name, make, targets or {"torch": 1.0})


ROWS = [
    *(rows_of(width) for width in (256, 1024, 3072, 16, 64, 128, 512, 4096, 65536)),
    gather_of("MAE rows, expanded", (512, 196, 768), 1, (512, 49, 1), (512, 49, 768),
              {"torch": 1.0, "copy": 0.8}),
    gather_of("MAE rows, repeated", (64, 196, 768), 1, (64, 49, 768)),
    gather_of("graph rows", (1_000_000, 128), 0, (2_000_000, 1), (2_000_000, 128),
              {"torch": 1.0, "copy": 0.8}),
    gather_of("DeBERTa", (10, 10, 512, 512), 3, (10, 10, 512, 512)),
    gather_of("log-prob pick", (4096, 50257), 1, (4096, 1)),
    *(
        elements_of(dtype, index, dim)
        for dtype, index, dim in (
            (torch.float32, torch.int64, 0), (torch.float32, torch.int64, 1),
            (torch.float32, torch.int32, 0), (torch.float32, torch.int32, 1),
            (torch.float16, torch.int64, 1), (torch.float16, torch.int32, 1),
            (torch.uint8, torch.int64, 1), (torch.uint8, torch.int32, 1),
            (torch.float64, torch.int64, 1), (torch.complex128, torch.int64, 1),
            (torch.complex128, torch.int32, 0),
        )
    ),
]  # fmt: skip
