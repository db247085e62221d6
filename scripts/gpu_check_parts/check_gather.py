"""Gathers against torch's, on the device."""

from __future__ import annotations

from typing import Any

import torch

import nbgather
from gpu_check_parts import data
from gpu_check_parts.checks import Checks
from gpu_check_parts.data import same
from gpu_check_parts.device import Device

check = Checks()

INTEGERS = (
    torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64,
    torch.uint64,
)  # fmt: skip
DTYPES = (
    torch.bool, torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.int64,
    torch.complex64, torch.complex128, torch.float8_e4m3fn,
)  # fmt: skip
SHAPES = ((7,), (5, 33), (4, 3, 5), (3, 40, 70), (2, 3, 4, 129), (64, 50, 96), (300, 500))
TINY_SHAPES = ((7,), (3, 4, 5))
#: Of a fill, exact in every floating dtype.
FILL = 2.5


def take(x: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    """torch.gather of the bits, so that it serves every dtype."""
    if x.dtype.is_complex:
        pairs = torch.view_as_real(x.contiguous())
        wide = index.long()[..., None].expand(*index.shape, 2)
        return torch.view_as_complex(torch.gather(pairs, dim, wide))
    return torch.gather(data.raw(x), dim, index.long()).view(x.dtype)


def bounded(
    x: torch.Tensor, dim: int, index: torch.Tensor, mode: str, from_end: bool
) -> torch.Tensor:
    """What a gather gives by the definition of its mode."""
    size = x.shape[dim]
    i = index.to(torch.int64)  # of uint64 beyond int64 there is none here
    if mode == "wrap":
        return take(x, dim, i.remainder(size))
    if from_end:
        i = torch.where(i < 0, i + size, i)
    inside = (i >= 0) & (i < size)
    result = take(x, dim, i.clamp(0, size - 1))
    if mode == "fill":
        result = torch.where(inside, result, torch.full_like(result, FILL))
    return result


@check
def gathers(device: Device) -> None:
    """Every dtype, dim and shape; elements and rows."""
    for shape in device.pick(SHAPES, TINY_SHAPES):
        for dim, size in enumerate(shape):
            part = (*shape[:dim], 6, *shape[dim + 1 :])
            index = data.indices(part, size, device.torch)
            row = data.indices(
                (*part[: dim + 1], *[1] * (len(shape) - dim - 1)), size, device.torch
            )
            row = row.expand(part)
            for dtype in device.pick(DTYPES, DTYPES[1::3]):
                x = data.bits(shape, dtype, device.torch)
                same(nbgather.gather(x, dim, index), take(x, dim, index))
                same(nbgather.gather(x, dim, row), take(x, dim, row))


@check
def index_dtypes_and_modes(device: Device) -> None:
    """All integers × all modes, with values outside and, in the narrow signed ones, negative."""
    shape, part = device.pick(((3, 40, 70), (3, 9, 70)), ((2, 5, 3), (2, 4, 3)))
    x = data.bits(shape, torch.float32, device.torch)
    size = shape[1]
    for dtype in INTEGERS:
        good = data.indices(part, size, device.torch, dtype)
        along = data.indices(part, size, device.torch, dtype, low=-size)
        same(nbgather.gather(x, 1, good), take(x, 1, good))
        same(nbgather.take_along_axis(x, along, 1), bounded(x, 1, along, "raise", True))
        beyond = data.indices(part, 3 * size, device.torch, dtype, low=-2 * size)
        for mode in ("clip", "wrap", "fill"):
            options: dict[str, Any] = {"mode": mode, "fill_value": FILL}
            got = nbgather.gather(x, 1, beyond, **options)
            same(got, bounded(x, 1, beyond, mode, False))
            got = nbgather.take_along_axis(x, beyond[..., :1], 1, **options)
            wide = beyond[..., :1].expand(part)
            same(got, bounded(x, 1, wide, mode, True))
            got = nbgather.gather_tokens(x, beyond[..., 0], **options)
            same(got, bounded(x, 1, wide, mode, False))
    extreme = torch.tensor([-(2**63), 2**63 - 1, -1, 0, size - 1, size], device=device.torch)
    index = extreme[data.indices(part, 6, device.torch)]
    for mode in ("clip", "wrap", "fill"):
        got = nbgather.gather(x, 1, index, mode=mode, fill_value=FILL)
        same(got, bounded(x, 1, index, mode, False))


@check
def strides(device: Device) -> None:
    """Views: transposed, sliced, expanded, with an offset; into one too."""
    sides = device.pick((40, 30, 20), (4, 3, 2))
    x = data.bits(sides, torch.float32, device.torch)
    index = data.indices((sides[2], 2 * sides[1], sides[0]), sides[1], device.torch)
    for view in (
        x.permute(2, 1, 0),
        x.permute(2, 1, 0)[1:, 1:],
        x[:1].permute(2, 1, 0).expand(*sides[::-1]),
        x.permute(2, 1, 0)[:, ::2],
    ):
        i = index[: view.shape[0]] % view.shape[1]
        same(nbgather.gather(view, 1, i), take(view.contiguous(), 1, i))
        same(nbgather.gather(view, 1, i.transpose(0, 2).contiguous().transpose(0, 2)),
             take(view.contiguous(), 1, i))  # fmt: skip
    out = torch.zeros((sides[2], 2 * sides[1], 2 * sides[0]), device=device.torch)[..., ::2]
    view = x.permute(2, 1, 0)
    assert nbgather.gather(view, 1, index, out=out) is out
    same(out.contiguous(), take(view.contiguous(), 1, index))


@check
def row_widths(device: Device) -> None:
    """Rows of 1 byte to 64 KB, at aligned and odd addresses."""
    for width in device.pick((1, 2, 3, 16, 24, 48, 100, 256, 1000, 4096, 65536), (1, 24)):
        for offset in (0, 1):
            whole = data.bits((9 * width + offset,), torch.uint8, device.torch)
            x = whole[offset:].reshape(3, 3, width)
            ids = data.indices((3, 5), 3, device.torch)
            wide = ids[..., None].expand(3, 5, width)
            same(nbgather.gather_tokens(x, ids), torch.gather(x, 1, wide))


@check
def zero_sizes(device: Device) -> None:
    """Nothing to do is done without a launch that CUDA refuses."""
    for shape, part in (((3, 4), (3, 0)), ((3, 4), (0, 4)), ((0, 4), (0, 4)), ((3, 0), (3, 0))):
        x = torch.zeros(shape, device=device.torch)
        index = torch.zeros(part, dtype=torch.int64, device=device.torch)
        same(nbgather.gather(x, 1, index), torch.gather(x, 1, index))
        same(nbgather.scatter_add(x, 1, index, torch.zeros(part, device=device.torch)), x)
    x = torch.zeros(2, 5, 0, device=device.torch)
    assert nbgather.random_masking(x, 0.5, seed=1).x_masked.shape == (2, 2, 0)
    x = torch.zeros(0, 5, 3, device=device.torch)
    assert nbgather.random_masking(x, 0.5, seed=1).x_masked.shape == (0, 2, 3)


@check
def bad_indices(device: Device) -> None:
    """The IndexError with its place, and the device goes on."""
    x = torch.zeros(3, 4, device=device.torch)
    index = torch.zeros(3, 5, dtype=torch.int64, device=device.torch)
    bad = index.clone()
    bad[1, 2], bad[2, 0] = 4, -1
    restore = index[:, :4].clone()
    restore[1, 2] = 5
    rows = x[..., None].expand(3, 4, 8)
    src = torch.zeros(3, 5, device=device.torch)
    calls: dict[str, Any] = {
        "gather": lambda: nbgather.gather(x, 1, bad),
        "gather_tokens": lambda: nbgather.gather_tokens(rows, bad),
        "scatter_add": lambda: nbgather.scatter_add(x, 1, bad, src),
        "scatter": lambda: nbgather.scatter(x, 1, bad, src),
        "restore_tokens": lambda: nbgather.restore_tokens(x[..., None], restore - 2, 0.0),
    }
    for name, call in calls.items():
        try:
            call()
        except IndexError as error:
            place = "(0, 0)" if name == "restore_tokens" else "index 4 at (1, 2)"
            assert place in str(error), (name, str(error))  # noqa: PT017
        else:
            raise AssertionError(f"{name}: no IndexError")
        device.synchronize()
        same(nbgather.gather(x, 1, index), torch.gather(x, 1, index))


@check
def gradients(device: Device) -> None:
    """Gradients of gather, by float64 and few duplicates, as torch's; of masking, exactly."""
    n, length, width, kept = device.pick((8, 50, 16, 20), (2, 5, 3, 4))
    x = torch.randn(n, length, width, device=device.torch, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    index = data.indices((n, kept, width), length, device.torch)
    weight = torch.randn(n, kept, width, device=device.torch, dtype=torch.float64)
    (nbgather.gather(x, 1, index) * weight).sum().backward()
    (torch.gather(y, 1, index) * weight).sum().backward()
    assert torch.allclose(x.grad, y.grad, rtol=1e-12, atol=1e-12)  # sums in another order
    x.grad = None
    result = nbgather.random_masking(x, 0.75, seed=1)
    result.x_masked.sum().backward()
    same(x.grad[..., 0].float().contiguous(), 1 - result.mask)


@check
def more_than_32_bits(device: Device) -> None:
    """2**32 positions and more: elements, rows, whole copies, sums into a large tensor."""
    count = device.pick((1 << 32) + 1234, 131)
    device.need(count * 4)
    x = data.bits((100,), torch.uint8, device.torch)
    index = data.bits((count,), torch.uint8, device.torch).remainder_(100)
    result = nbgather.gather(x, 0, index)
    step = device.pick(1 << 28, 64)
    for start in range(0, count, step):
        part = slice(start, start + step)
        same(result[part], x[index[part].long()])
    del result
    half, side = device.pick((1 << 32, 1 << 15), (1 << 6, 1 << 2))
    wide = index[:half].view(2, half // 2 // side, side)
    flip = torch.tensor([1, 0], device=device.torch)[:, None, None].expand(wide.shape)
    result = nbgather.gather(wide, 0, flip)
    assert torch.equal(result[0], wide[1])
    assert torch.equal(result[1], wide[0])
    del result
    turned = nbgather.gather_tokens(wide.transpose(1, 2), flip[:, 0, :1])
    assert torch.equal(turned[:, 0], wide.transpose(1, 2)[[0, 1], [1, 0]])
    del turned, wide, flip
    last = torch.tensor([count - 1, 5, count - 1], device=device.torch)
    src = torch.tensor([3, 4, 250], dtype=torch.uint8, device=device.torch)
    before = index[last[:2]].clone()
    added = nbgather.scatter_add(index, 0, last, src)
    assert int(added[count - 1]) == (int(before[0]) + 253) % 256
    assert int(added[5]) == (int(before[1]) + 4) % 256
