"""Masking: the CPU's bytes, and the definition by torch's stable sort."""

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
    """Digests of the CPU's results: noise, ranks, masks, patches, lengths 1 to 2**20."""
    return hashed.compare(hashed.MASKINGS, device)


@check
def ranks_by_a_stable_sort(device: Device) -> None:
    """Random masking by noise is the published recipe with a stable sort."""
    lengths = (1, 2, 31, 196, 1024, 2049, 65537, 1 << 20)
    for length in device.pick(lengths, lengths[:3]):
        n, width, kept = 2, 4, length // 4
        noise = (data.indices((n, length), max(length // 3, 2), device.torch) / 64).float()
        x = data.bits((n, length, width), torch.int32, device.torch)
        shuffled = torch.argsort(noise, dim=1, stable=True)
        restore = torch.argsort(shuffled, dim=1, stable=True)
        keep = shuffled[:, :kept]
        visible = torch.gather(x, 1, keep[..., None].expand(n, kept, width))
        got = nbgather.random_masking(x, noise=noise, num_keep=kept)
        same(got.x_masked, visible)
        same(got.ids_restore, restore)
        same(got.mask, (restore >= kept).float())
        back = nbgather.restore_tokens(got.x_masked, got.ids_restore, 0)
        same(back, torch.where(got.mask[..., None] == 0, x, torch.zeros_like(x)))


@check
def a_drawn_mask_is_new_at_each_replay(device: Device) -> None:
    """Neither noise nor a seed: a graph draws from torch's generator of the device."""
    for length in device.pick((196, 700, 9000, 50_000), (8, 600)):
        x = data.floats((3, length, 4), torch.float32, device.torch)
        nbgather.random_masking(x, 0.5)  # the kernels are loaded
        results, replay = device.capture(lambda x=x: tuple(nbgather.random_masking(x, 0.5)))
        seen = set()
        for _ in range(3):
            replay()
            device.synchronize()
            visible, mask, restore = results
            seen.add(data.digest(restore))
            back = nbgather.restore_tokens(visible, restore, 0)
            same(back, torch.where(mask[..., None] == 0, x, torch.zeros_like(x)))
            same(torch.sort(restore, 1).values, torch.arange(length, device=x.device).expand(3, -1))
        assert len(seen) == 3, "replays have the same mask"


@check
def masking_forward_and_backward(device: Device) -> None:
    """The gradient is the cotangent where a token was kept, and 0 elsewhere, bit for bit."""
    n, length, width = device.pick((64, 196, 768), (2, 8, 3))
    x = data.floats((n, length, width), torch.float32, device.torch).requires_grad_()
    result = nbgather.random_masking(x, 0.75, seed=5)
    up = data.floats(tuple(result.x_masked.shape), torch.float32, device.torch, 3)
    result.x_masked.backward(up)
    kept = result.x_masked.shape[1]
    wide = result.ids_restore[..., None].expand(n, length, width)
    want = torch.where(wide < kept, up.gather(1, wide.clamp(max=kept - 1)), torch.zeros_like(x))
    same(x.grad + 0.0, want + 0.0)  # a zero may have either sign
