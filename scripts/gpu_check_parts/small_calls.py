"""About twenty launches on small arrays, for tools that watch every access."""

from __future__ import annotations

import torch

import nbgather
from gpu_check_parts import data
from gpu_check_parts.device import Device


def run(device: Device) -> int:
    """Make the calls; how many."""
    n, length, width = device.pick((3, 37, 12), (2, 5, 2))
    x = data.floats((n, length, width), torch.float32, device.torch)
    ids = data.indices((n, 5), length, device.torch)
    wide = data.indices((n, 5, width), length, device.torch)
    odd = data.bits((n, length, 7), torch.uint8, device.torch)
    masked = nbgather.random_masking(x, 0.75, seed=1)
    results = [
        nbgather.gather(x, 1, wide),
        nbgather.gather(x.half(), 1, wide.int(), mode="clip"),
        nbgather.gather(x, 2, wide[:, :, :3] % width, mode="wrap"),
        nbgather.gather(x, 1, wide - 3, mode="fill", fill_value=2.0),
        nbgather.gather_tokens(x, ids),
        nbgather.gather_tokens(odd, ids, mode="clip"),
        nbgather.gather_tokens(x.transpose(1, 2), ids % width),
        nbgather.scatter(x, 1, wide, x[:, :5].contiguous()),
        nbgather.scatter_add(x, 1, wide, x[:, :5].contiguous()),
        nbgather.scatter_add(x, 1, ids[..., None].expand(n, 5, width), x[:, :5].contiguous()),
        nbgather.scatter_add(x.reshape(-1), 0, wide.reshape(-1), x[:, :5].reshape(-1)),
        nbgather.scatter_add(x.bfloat16(), 1, wide, x[:, :5].bfloat16()),
        nbgather.scatter_add(odd, 1, wide[..., :1], odd[:, :5, :1].contiguous()),
        nbgather.scatter_reduce(x, 1, wide, x[:, :5].contiguous(), "mean"),
        nbgather.scatter_reduce(
            x.reshape(-1), 0, wide.reshape(-1), x[:, :5].reshape(-1), "amax", include_self=False
        ),
        nbgather.segment_reduce(x[0], "amin", offsets=[0, 1, 1, length]),
        nbgather.strategies.block(1, ids[:, 0], (4, 5)),
        nbgather.strategies.time_frequency(1, ids[:, 0], (4, 5)),
        nbgather.strategies.stripes(1, ids[:, 0], (4, 5)),
        nbgather.strategies.multiblock(1, ids[:, 0], (4, 5), min_keep=1),
        *nbgather.strategies.multiblock_ids(1, ids[:, 0], (4, 5), min_keep=1),
        nbgather.random_masking(x, 0.5)[0],
        nbgather.token_noise(1, ids[:, 0], length),
        *nbgather.random_masking(x, 0.5, noise=x[..., 0].contiguous()),
        *nbgather.rank_tokens(
            data.floats((2, device.pick(3000, 40)), torch.float32, device.torch), 7
        ),
        nbgather.restore_tokens(masked.x_masked, masked.ids_restore, 0.0),
        nbgather.masked_patchify(data.bits((2, 3, 8, 8), torch.uint8, device.torch), 4, seed=1)[0],
        nbgather.masked_patchify(
            data.bits((2, 3, 8, 8), torch.uint8, device.torch), 4, seed=1, scale=0.5, mean=0.5
        )[0],
    ]
    device.synchronize()
    return len(results)


def run_large(device: Device) -> None:
    """One call of each of eight kinds, large, for a profiler; warm."""
    n, length, width = device.pick((512, 196, 768), (2, 5, 2))
    side = device.pick(8192, 4)
    x = data.floats((n, length, width), torch.float32, device.torch)
    ids = data.indices((n, max(length // 4, 1)), length, device.torch)
    square = data.floats((side, side), torch.float32, device.torch)
    index = data.indices((side, side), side, device.torch)
    rows = index[:, :1].expand(side, side)
    masked = nbgather.random_masking(x, 0.75, seed=1)
    noise = data.floats(device.pick((64, 16384), (2, 6)), torch.float32, device.torch)
    calls = (
        lambda: nbgather.gather_tokens(x, ids, mode="clip"),
        lambda: nbgather.gather(square, 0, index, mode="clip"),
        lambda: nbgather.gather(square, 1, index, mode="clip"),
        lambda: nbgather.random_masking(x, 0.75, seed=1),
        lambda: nbgather.restore_tokens(masked.x_masked, masked.ids_restore, 0.0),
        lambda: nbgather.rank_tokens(noise, 5),
        lambda: nbgather.scatter_add(square, 0, rows, square),
        lambda: nbgather.scatter_add(square, 1, index, square),
    )
    for call in calls:
        call()
    device.synchronize()
    if not device.tiny:
        torch.cuda.profiler.start()
    for call in calls:
        call()
        device.synchronize()
    if not device.tiny:
        torch.cuda.profiler.stop()
