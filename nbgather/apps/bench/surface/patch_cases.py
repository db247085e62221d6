"""Cases of patchify, unpatchify and masked_patchify."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import nbgather
from nbgather.apps.bench.contest import Call
from nbgather.apps.bench.operands import installed
from nbgather.apps.bench.surface.case import Case, Traffic, calls_of
from nbgather.apps.bench.surface.draws import MOST_ITEMS, Generator, choice, log_uniform, values
from nbgather.apps.bench.surface.peers import jax_call, tensors
from nbgather.apps.bench.surface.token_cases import numpy_ranks, torch_ranks
from nbgather.operations.keep import kept_tokens

PATCH_SIDES = {1: 1, 2: 2, 4: 3, 8: 3, 14: 2, 16: 5, 32: 1}
CHANNELS = {1: 2, 3: 5, 4: 1, 64: 1}


class Images(NamedTuple):
    """Sizes of images or video, and of their patches."""

    samples: int
    channels: int
    grid: tuple[int, ...]
    patch: tuple[int, ...]
    dtype: str

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels of each side."""
        return tuple(g * p for g, p in zip(self.grid, self.patch, strict=True))

    @property
    def tokens(self) -> tuple[int, int, int]:
        """The shape `[N, L, D]` of the patches."""
        width = math.prod(self.patch) * self.channels
        return self.samples, math.prod(self.grid), width

    @property
    def split(self) -> tuple[int, ...]:
        """The images' shape, each side as patches and pixels in a patch."""
        pairs = (n for pair in zip(self.grid, self.patch, strict=True) for n in pair)
        return self.samples, self.channels, *pairs

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of ``split``, as patches have them: grid, pixels, channels."""
        axes = range(2, 2 + 2 * len(self.grid))
        return 0, *axes[::2], *axes[1::2], 1

    def words(self) -> str:
        """The images in words."""
        shape = [self.samples, self.channels, *self.sides]
        return f"{self.dtype}{shape} by {'×'.join(map(str, self.patch))}"


def _images(rng: Generator, dtypes: Mapping[str, float]) -> Images:
    side = choice(rng, PATCH_SIDES)
    patch: tuple[int, ...] = (
        (side, side) if rng.random() < 0.8 else (side, choice(rng, PATCH_SIDES))
    )
    grid: tuple[int, ...] = (log_uniform(rng, 1, 32), log_uniform(rng, 1, 32))
    if rng.random() < 0.2:
        patch, grid = (choice(rng, {1: 1, 2: 3}), *patch), (log_uniform(rng, 1, 8), *grid)
    channels = choice(rng, CHANNELS)
    pixels = channels * math.prod(patch) * math.prod(grid)
    samples = max(1, min(log_uniform(rng, 1, 256), MOST_ITEMS // pixels))
    return Images(samples, channels, grid, patch, choice(rng, dtypes))


DTYPES = {"float32": 3, "uint8": 2, "float16": 1}


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def patchify_case(rng: Generator) -> Case:
    """``patchify`` against reshape, permute, reshape."""
    drawn = _images(rng, DTYPES)
    x = values(rng, (drawn.samples, drawn.channels, *drawn.sides), drawn.dtype)
    return _rearranged(
        drawn, x, drawn.split, drawn.order, drawn.tokens,
        nbgather.patchify, (drawn.patch,),
    )  # fmt: skip


def unpatchify_case(rng: Generator) -> Case:
    """``unpatchify``, likewise."""
    drawn = _images(rng, DTYPES)
    patches = values(rng, drawn.tokens, drawn.dtype)
    split = tuple(drawn.split[axis] for axis in drawn.order)
    shape = (drawn.samples, drawn.channels, *drawn.sides)
    return _rearranged(
        drawn, patches, split, _inverse(drawn.order), shape,
        nbgather.unpatchify, (drawn.patch, drawn.sides),
    )  # fmt: skip


def _rearranged(
    drawn: Images,
    x: np.ndarray,
    split: tuple[int, ...],
    order: tuple[int, ...],
    shape: tuple[int, ...],
    ours: Callable[..., Any],
    sizes: tuple[Any, ...],
) -> Case:
    """A case that moves every pixel once; ``order`` is that of the axes of ``split``.

    The job is memory of its own: where nothing changes places, reshape alone would give a view.
    """
    operands: dict[str, Any] = {"numpy": (x, *sizes)}
    peers: dict[str, Call] = {
        "numpy": lambda: x.reshape(split).transpose(order).copy().reshape(shape)
    }
    if installed("torch"):
        import torch

        (tensor,) = tensors(x)
        operands["torch"] = (tensor, *sizes)
        whole = torch.contiguous_format
        peers["torch"] = lambda: (
            tensor.view(split).permute(order).clone(memory_format=whole).view(shape)
        )
    if installed("jax"):
        peers["jax"] = jax_call(lambda a: a.reshape(split).transpose(order).reshape(shape), x)
    return Case(
        drawn.words(),
        drawn.patch[-1],
        Traffic(0, x.nbytes, x.nbytes, x.size // drawn.patch[-1], x.nbytes),
        calls_of(ours, operands),
        peers,
    )


def masked_patchify_case(rng: Generator) -> Case:
    """``masked_patchify`` of noise that is there, a third of it from bytes and normalised."""
    drawn = _images(rng, DTYPES)
    affine: dict[str, Any] = {"scale": 1 / 255, "mean": 0.5, "std": 0.25}
    if drawn.dtype != "uint8" or rng.random() < 0.5:
        affine = {}
    ratio = float(rng.uniform(0.1, 0.95))
    samples, length, width = drawn.tokens
    kept = int(kept_tokens(length, ratio))
    x = values(rng, (samples, drawn.channels, *drawn.sides), drawn.dtype)
    noise = rng.random((samples, length), np.float32)
    operands: dict[str, Any] = {"numpy": x}
    noises: dict[str, Any] = {"numpy": noise}
    peers: dict[str, Call] = {"numpy": _numpy_kept(drawn, x, noise, kept, affine)}
    if installed("torch"):
        operands["torch"], noises["torch"] = tensors(x, noise)
        peers |= _torch_kept(drawn, operands["torch"], noises["torch"], kept, affine)

    def masked(name: str) -> Call:
        images, scores = operands[name], noises[name]
        return partial(nbgather.masked_patchify, images, drawn.patch, ratio, noise=scores, **affine)

    read = samples * kept * width * x.itemsize
    written = (read * 4 if affine else read) + 12 * noise.size
    return Case(
        f"{drawn.words()} at {ratio:.2f}{', normalised' if affine else ''}",
        drawn.patch[-1],
        Traffic(noise.nbytes, read, written, samples * kept * width // drawn.patch[-1], x.nbytes),
        {name: masked(name) for name in operands},
        peers,
    )


def _numpy_kept(
    drawn: Images, x: np.ndarray, noise: np.ndarray, kept: int, affine: dict[str, float]
) -> Call:
    samples, _, width = drawn.tokens
    batch = np.arange(samples)[:, None]
    cells = x.reshape(drawn.split).transpose(drawn.order)

    def run() -> tuple[Any, ...]:
        ids_shuffle, ids_restore = numpy_ranks(noise)
        places = np.unravel_index(ids_shuffle[:, :kept], drawn.grid)
        picked = cells[(batch, *places)].reshape(samples, kept, width)
        if affine:
            picked = _normalised(picked.astype(np.float32), affine, np.float32)
        return picked, (ids_restore >= kept).astype(np.float32), ids_restore

    return run


def _normalised(pixels: Any, affine: dict[str, float], number: Callable[[float], Any]) -> Any:
    """In place, where that costs nothing: each step rounded by itself."""
    pixels *= number(affine["scale"])
    pixels -= number(affine["mean"])
    pixels /= number(affine["std"])
    return pixels


def _torch_kept(
    drawn: Images, x: Any, noise: Any, kept: int, affine: dict[str, float]
) -> dict[str, Call]:
    """Cut all patches and mask them, as published; and cut by index what is kept alone."""
    import torch

    samples, length, width = drawn.tokens
    batch = torch.arange(samples)[:, None]
    first = batch * length
    cells = x.view(drawn.split).permute(drawn.order)

    def finished(picked: Any, ids_restore: Any) -> tuple[Any, ...]:
        if affine:
            picked = _normalised(picked.float(), affine, float)
        return picked, (ids_restore >= kept).float(), ids_restore

    def all_cut() -> tuple[Any, ...]:
        ids_shuffle, ids_restore = torch_ranks(noise, True)
        patches = cells.reshape(-1, width)
        rows = (ids_shuffle[:, :kept] + first).view(-1)
        picked = torch.index_select(patches, 0, rows).view(samples, kept, width)
        return finished(picked, ids_restore)

    def kept_cut() -> tuple[Any, ...]:
        ids_shuffle, ids_restore = torch_ranks(noise, False)
        places = torch.unravel_index(ids_shuffle[:, :kept], drawn.grid)
        picked = cells[(batch, *places)].reshape(samples, kept, width)
        return finished(picked, ids_restore)

    return {"torch, all cut": all_cut, "torch, kept cut": kept_cut}
