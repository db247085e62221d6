"""Operands, made on the device by integer arithmetic: the same bytes on every device.

Nothing is made on the host and moved, which for gigabytes takes longer than what is measured. The
numbers are a function of position and seed alone, so a digest of what the CPU's kernels make of
them can be kept in a file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch

_MULTIPLIER, _INCREMENT = 0x27D4EB2F, 0x165667B1
#: How many words are made at once: temporaries are of int64.
_CHUNK_WORDS = 1 << 25

#: By size in bytes, what integers of a tensor's bits are.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def words(count: int, device: torch.device, seed: int = 0, start: int = 0) -> torch.Tensor:
    """Numbers from 0 to 2**31 - 1, int64, at the positions from ``start`` on."""
    x = torch.arange(start, start + count, dtype=torch.int64, device=device)
    x += (seed * 0x9E3779B1) & 0x7FFFFFFF
    for shift in (15, 13, 16):
        x = ((x ^ (x >> shift)) * _MULTIPLIER + _INCREMENT) & 0x7FFFFFFF
    return x


def _filled(
    count: int, dtype: torch.dtype, device: Any, make: Callable[[int, int], torch.Tensor]
) -> torch.Tensor:
    """A tensor of what ``make`` gives for so many positions from one on."""
    whole = torch.empty(count, dtype=dtype, device=device)
    for start in range(0, count, _CHUNK_WORDS):
        part = whole[start : start + _CHUNK_WORDS]
        part.copy_(make(part.numel(), start))
    return whole


def bits(shape: tuple[int, ...], dtype: torch.dtype, device: Any, seed: int = 0) -> torch.Tensor:
    """Any bits at all, NaNs among them; bools stay bools."""
    item = torch.empty((), dtype=dtype).element_size()
    nbytes = math.prod(shape) * item

    def make(count: int, start: int) -> torch.Tensor:
        low, high = (words(count, device, seed + k, start) for k in (1, 2))
        return low ^ (high << 16)  # the low 32 bits of it

    raw = _filled(-(-nbytes // 4), torch.int32, device, make).view(torch.uint8)[:nbytes]
    if dtype == torch.bool:
        return (raw & 1).bool().reshape(shape)
    return raw.view(dtype).reshape(shape)


def indices(
    shape: tuple[int, ...], size: int, device: Any, dtype: torch.dtype = torch.int64, seed: int = 0,
    low: int = 0,
) -> torch.Tensor:  # fmt: skip
    """Indices from ``low`` to ``size - 1``, as far as the dtype holds them."""
    info = torch.iinfo(dtype)
    low, high = max(low, info.min), min(size - 1, info.max)

    def make(count: int, start: int) -> torch.Tensor:
        return words(count, device, seed + 17, start) % (high - low + 1) + low

    return _filled(math.prod(shape), dtype, device, make).reshape(shape)


def floats(shape: tuple[int, ...], dtype: torch.dtype, device: Any, seed: int = 0) -> torch.Tensor:
    """Numbers of either sign over 16 powers of two: a sum of them depends on its order."""

    def make(count: int, start: int) -> torch.Tensor:
        mantissa = words(count, device, seed + 3, start) & 0x7FFFFF
        more = words(count, device, seed + 4, start)
        sign, exponent = (more & 1) << 31, (119 + (more >> 1) % 16) << 23
        return (mantissa | exponent | sign).to(torch.int32).view(torch.float32)

    return _filled(math.prod(shape), dtype, device, make).reshape(shape)


def numbers(shape: tuple[int, ...], dtype: torch.dtype, device: Any, seed: int = 0) -> torch.Tensor:
    """Numbers to add: `floats`, or any integers."""
    if dtype.is_complex:
        part = torch.float32 if dtype == torch.complex64 else torch.float64
        return torch.complex(
            floats(shape, part, device, seed), floats(shape, part, device, seed + 9)
        )
    if dtype.is_floating_point:
        return floats(shape, dtype, device, seed)
    return bits(shape, dtype, device, seed)


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bits as integers, of the same shape but for complex numbers' pairs."""
    tensor = tensor.contiguous()
    if tensor.dtype.is_complex:
        tensor = torch.view_as_real(tensor)
    if tensor.dtype == torch.bool:
        return tensor.view(torch.uint8)
    return tensor.view(_WORDS[tensor.element_size()])


def same(got: Any, want: Any) -> None:
    """Assert that two tensors, or tuples of them, are the same: device, dtype, shape, every bit."""
    if isinstance(want, tuple):
        assert isinstance(got, tuple), type(got)
        assert len(got) == len(want), (len(got), len(want))
        for one, other in zip(got, want):
            same(one, other)
        return
    assert isinstance(got, torch.Tensor), type(got)
    assert got.device == want.device, (got.device, want.device)
    assert got.dtype == want.dtype, (got.dtype, want.dtype)
    assert got.shape == want.shape, (tuple(got.shape), tuple(want.shape))
    if not got.numel():
        return
    a, b = raw(got), raw(want)
    if not torch.equal(a, b):
        wrong = (a != b).reshape(-1)
        first = int(wrong.nonzero()[0])
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} elements differ, the first of them at {first}:"
            f" {got.reshape(-1)[first // max(1, a.numel() // got.numel())].item()} instead of"
            f" {want.reshape(-1)[first // max(1, a.numel() // got.numel())].item()}"
        )


def digest(*tensors: torch.Tensor) -> str:
    """A digest of tensors' dtypes, shapes and bits."""
    state = hashlib.blake2b(digest_size=12)
    for tensor in tensors:
        state.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(raw(tensor).cpu().numpy().tobytes())
    return state.hexdigest()
