"""Rows of the bench: masking beside the published recipe, gradients, ranking, restoring."""

from __future__ import annotations

import torch

import nbgather
from gpu_check_parts import data
from gpu_check_parts.bench_gather import rotated
from gpu_check_parts.device import Device
from gpu_check_parts.timing import Contest, Row


def recipe(x: torch.Tensor, keep: int) -> tuple[torch.Tensor, ...]:
    """The paper's random_masking, its index expanded."""
    n, length, width = x.shape
    ids_shuffle = torch.argsort(torch.rand(n, length, device=x.device), dim=1)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    wide = ids_shuffle[:, :keep].unsqueeze(-1).expand(-1, -1, width)
    mask = torch.ones([n, length], device=x.device)
    mask[:, :keep] = 0
    return torch.gather(x, 1, wide), torch.gather(mask, 1, ids_restore), ids_restore


def sizes(device: Device, *numbers: int) -> tuple[int, ...]:
    return tuple(min(n, 4) for n in numbers) if device.tiny else numbers


def masking(n: int, length: int, width: int, compiled: bool = False) -> Row:
    """Forward alone."""

    def make(device: Device) -> Contest:
        shape = sizes(device, n, length, width)
        nbytes = 4 * torch.Size(shape).numel()
        xs = rotated(device, lambda k: data.floats(shape, torch.float32, device.torch, k), nbytes)
        kept = int(shape[1] * 0.25)
        results, replay = device.capture(
            lambda: tuple(nbgather.random_masking(xs[0], 0.75, seed=1))
        )
        calls = {
            "nbgather": lambda k: nbgather.random_masking(xs[k % len(xs)], 0.75, seed=k),
            "nbgather graph": lambda k: (replay(), results)[:0],
            "torch": lambda k: recipe(xs[k % len(xs)], kept),
        }
        moved = shape[0] * (kept * shape[2] * 8 + shape[1] * 12)
        plain = torch.zeros(moved // 2, dtype=torch.uint8, device=device.torch)
        beside = torch.empty_like(plain)
        calls["copy of as many bytes"] = lambda k: beside.copy_(plain)
        if compiled:
            quick = torch.compile(recipe) if not device.tiny else recipe
            calls["torch.compile"] = lambda k: quick(xs[k % len(xs)], kept)
        return Contest(calls, moved)

    # Copy speed, as near as two tasks so short can be told apart.
    targets = {"torch": 1.0, "copy of as many bytes": 0.8}
    if compiled:
        targets = {"torch": 5.0, "torch.compile": 1.5}
    return Row(
        f"masking {n} x {length} x {width}" + (", compiled" if compiled else ""), make, targets
    )


def with_gradient(n: int, length: int, width: int) -> Row:
    """Forward and backward."""

    def make(device: Device) -> Contest:
        shape = sizes(device, n, length, width)
        x = data.floats(shape, torch.float32, device.torch).requires_grad_()
        kept = int(shape[1] * 0.25)
        up = torch.ones((shape[0], kept, shape[2]), device=device.torch)

        def ours(k: int) -> torch.Tensor:
            return torch.autograd.grad(nbgather.random_masking(x, 0.75, seed=k).x_masked, x, up)[0]

        def theirs(k: int) -> torch.Tensor:
            return torch.autograd.grad(recipe(x, kept)[0], x, up)[0]

        moved = shape[0] * (kept * shape[2] * 12 + shape[1] * (12 + shape[2] * 4))
        return Contest({"nbgather": ours, "torch": theirs}, moved)

    return Row(f"masking {n} x {length} x {width}, with gradient", make, {"torch": 1.0})


def restore(n: int, length: int, width: int) -> Row:
    """The decoder's unshuffle."""

    def make(device: Device) -> Contest:
        shape = sizes(device, n, length, width)
        x = data.floats(shape, torch.float32, device.torch)
        masked = nbgather.random_masking(x, 0.75, seed=0)
        token = torch.zeros(shape[2], device=device.torch)
        visible, ids, kept = masked.x_masked, masked.ids_restore, masked.x_masked.shape[1]

        def published(k: int) -> torch.Tensor:
            tokens = token.view(1, 1, -1).repeat(shape[0], shape[1] - kept, 1)
            joined = torch.cat([visible, tokens], dim=1)
            return torch.gather(joined, 1, ids.unsqueeze(-1).expand(-1, -1, shape[2]))

        calls = {
            "nbgather": lambda k: nbgather.restore_tokens(visible, ids, token),
            "torch": published,
        }
        return Contest(calls, shape[0] * ((shape[1] + kept) * shape[2] * 4 + shape[1] * 8))

    return Row(f"restore {n} x {length} x {width}", make, {"torch": 1.0})


def ranking(n: int, length: int, most: float | None = None) -> Row:
    """Ranks alone, by noise."""

    def make(device: Device) -> Contest:
        shape = sizes(device, n, length)
        noise = (data.words(shape[0] * shape[1], device.torch).float() / 2**31).reshape(shape)
        kept = shape[1] // 4

        def sorts(k: int) -> torch.Tensor:
            return torch.argsort(torch.argsort(noise, dim=1, stable=True), dim=1)

        calls = {"nbgather": lambda k: nbgather.rank_tokens(noise, kept), "torch": sorts}
        return Contest(calls, shape[0] * shape[1] * 18)

    targets = {"torch": 1.0} | ({"µs": most} if most else {})
    return Row(f"ranks {n} x {length}", make, targets)


def patches(n: int, side: int) -> Row:
    """Kept patches of images, cut and normalised."""

    def make(device: Device) -> Contest:
        count, pixels, size = device.pick((n, side, 16), (2, 4, 2))
        images = data.bits((count, 3, pixels, pixels), torch.uint8, device.torch)
        affine = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        mean, std = (
            torch.tensor(affine[k], device=device.torch)[:, None, None] for k in ("mean", "std")
        )

        def published(k: int) -> tuple[torch.Tensor, ...]:
            normal = (images.float() / 255 - mean) / std
            across = pixels // size
            cut = normal.reshape(count, 3, across, size, across, size).permute(0, 2, 4, 3, 5, 1)
            cut = cut.reshape(count, across**2, size**2 * 3)
            return recipe(cut, int(across**2 * 0.25))

        calls = {
            "nbgather": lambda k: nbgather.masked_patchify(images, size, 0.75, seed=k, **affine),
            "torch": published,
        }
        return Contest(calls, images.numel() // 4 * 5)

    return Row(f"patches of {n} x 3 x {side} x {side}", make, {"torch": 1.0})


ROWS = [
    *(masking(n, 196, 768) for n in (64, 512, 4096)),
    masking(64, 1024, 768), masking(256, 1568, 768), masking(16, 8192, 256), masking(2, 65536, 64),
    *(with_gradient(n, 196, 768) for n in (64, 512)),
    restore(64, 196, 512), restore(512, 196, 512),
    patches(256, 224),
]  # fmt: skip
RANKS = [
    ranking(64, 256), ranking(64, 1024), ranking(64, 2048), ranking(64, 4096), ranking(64, 16384),
    ranking(64, 65536, 300.0), ranking(1, 65536), ranking(1, 1 << 20, 200.0), ranking(4096, 196),
]  # fmt: skip
COMPILED = [masking(n, 196, 768, compiled=True) for n in (64, 512, 4096)]
