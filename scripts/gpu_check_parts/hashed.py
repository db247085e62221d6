"""Calls whose results on a device must have the digests of what the CPU's kernels give.

``scripts/gpu_hashes.py`` writes them to ``hashes.json``: no CPU kernel runs where the GPU is.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import nbgather
from gpu_check_parts import data

HASHES = Path(__file__).with_name("hashes.json")
Results = tuple[torch.Tensor, ...]


class Case(NamedTuple):
    """A call on a device."""

    call: Callable[[torch.device], Results]
    #: Whether it is made in a dry run too.
    tiny: bool = False


@functools.cache
def kept() -> dict[str, str]:
    """The digests of the CPU's results, by name."""
    return dict(json.loads(HASHES.read_text(encoding="utf-8")))


def _scattered(
    name: str, shape: tuple[int, ...], into: tuple[int, ...], dim: int, values: int,
    dtype: torch.dtype, expanded: bool, device: torch.device,
) -> Results:  # fmt: skip
    """One scatter, the input made of numbers too; ``expanded``: whole rows go to one place."""
    x = data.numbers(into, dtype, device, 1)
    src = data.numbers(shape, dtype, device, 2)
    inner = (*shape[: dim + 1], *(1 for _ in shape[dim + 1 :])) if expanded else shape
    index = data.indices(inner, values, device).expand(shape)
    return (getattr(nbgather, name)(x, dim, index, src),)


def _scatters() -> dict[str, Case]:
    floats = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    others = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.complex64)
    cases: dict[str, Case] = {}
    #: What is scattered, into what, along which dim, to how many places, and whether by rows.
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...], int, int, bool], ...] = (
        ((3, 40), (3, 7), 1, 7, False),
        ((9,), (4,), 0, 4, False),
        ((40, 3), (7, 3), 0, 7, True),
        ((64, 300), (64, 300), 1, 2, False),
        ((300, 64), (500, 64), 0, 500, False),
        ((3, 20_000), (3, 20_000), 1, 20_000, False),
        ((5000, 40), (5000, 40), 1, 40, False),
        ((70, 513, 33), (70, 129, 33), 1, 129, True),
        ((1 << 20,), (1 << 19,), 0, 1 << 19, False),
        ((1 << 18,), (1 << 18,), 0, 3, False),
        ((100_000, 32), (50_000, 32), 0, 50_000, True),
        ((2, 3, 512, 512), (2, 3, 512, 512), 3, 512, False),
        ((1024, 1024), (1024, 1024), 0, 1024, False),
    )
    for shape, into, dim, values, rows in shapes:
        tiny = len(cases) < 3 * 2 * 10
        numel = torch.Size(shape).numel()
        dtypes = (
            floats + others if numel < 100_000 else (torch.float32, torch.bfloat16, torch.int32)
        )
        for name, dtype in itertools.product(("scatter", "scatter_add"), dtypes):
            sides = "x".join(map(str, shape))
            key = f"{name} {sides} dim {dim} to {values}{' rows' if rows else ''} {dtype}"
            call = functools.partial(_scattered, name, shape, into, dim, values, dtype, rows)
            cases[key.replace("torch.", "")] = Case(call, tiny)
    for first in range(0, 1000, 250):
        few = functools.partial(_random_scatters, first, first + 250)
        cases[f"random scatters from {first}"] = Case(few)
    cases["random scatters, twelve"] = Case(functools.partial(_random_scatters, 0, 12), True)
    return cases


def _random_scatters(first: int, last: int, device: torch.device) -> Results:
    """Random sums and moves, each twenty times: again and again the same bits."""
    results: list[torch.Tensor] = []
    for number in range(first, last):
        draw = random.Random(number).randrange
        into = tuple(1 + draw(40) for _ in range(1 + number % 3))
        dim = draw(len(into))
        shape = tuple(1 + draw(60 if d == dim else n) for d, n in enumerate(into))
        dtype = torch.bfloat16 if draw(4) == 0 else torch.float32
        call = functools.partial(
            _scattered, "scatter" if draw(4) == 0 else "scatter_add", shape, into, dim,
            1 + draw(into[dim]), dtype, draw(2) == 0, device,
        )  # fmt: skip
        results += call()
        for _ in range(0 if device.type == "cpu" else 19):
            data.same(call()[0], results[-1])
    return tuple(results)


def _reduced(
    shape: tuple[int, ...], into: tuple[int, ...], dim: int, values: int, dtype: torch.dtype,
    expanded: bool, device: torch.device,
) -> Results:  # fmt: skip
    """Every reduction of one scatter, with the input and without."""
    x = data.numbers(into, dtype, device, 1)
    src = data.numbers(shape, dtype, device, 2)
    inner = (*shape[: dim + 1], *(1 for _ in shape[dim + 1 :])) if expanded else shape
    index = data.indices(inner, values, device).expand(shape)
    return tuple(
        nbgather.scatter_reduce(x, dim, index, src, reduce, include_self=own)
        for reduce, own in (
            ("sum", False), ("prod", True), ("mean", True), ("mean", False), ("amax", True),
            ("amin", False),
        )
    )  # fmt: skip


def _segments(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> Results:
    """Segments of 0 to 9 rows, by their offsets."""
    counts = data.indices((rows,), 10, device, seed=4)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    x = data.numbers((int(offsets[-1]), width), dtype, device, 3)
    return tuple(
        nbgather.segment_reduce(x, reduce, offsets=offsets) for reduce in ("sum", "amax", "amin")
    )


def _reductions() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for shape, into, dim, values, rows, tiny in (
        ((3, 40), (3, 7), 1, 7, False, True), ((40, 3), (7, 3), 0, 7, True, True),
        ((1 << 20,), (1 << 19,), 0, 1 << 19, False, False),
        ((100_000, 32), (50_000, 32), 0, 50_000, True, False),
        ((1024, 1024), (1024, 1024), 0, 1024, False, False),
    ):  # fmt: skip
        for dtype in (torch.float32, torch.bfloat16, torch.int32):
            name = f"reduce {'x'.join(map(str, shape))} dim {dim} to {values} {dtype}"
            call = functools.partial(_reduced, shape, into, dim, values, dtype, rows)
            cases[name.replace("torch.", "")] = Case(call, tiny)
    for count, width in ((5, 3), (100_000, 1), (20_000, 64)):
        call = functools.partial(_segments, count, width, torch.float32)
        cases[f"segments {count}x{width} float32"] = Case(call, count == 5)
    return cases


SPECIAL = (0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45, 0.5, 0.5, 1.0, -1.0)


def _ids(samples: int, device: torch.device) -> torch.Tensor:
    return data.bits((samples,), torch.int64, device, 5)


def _noise(samples: int, tokens: int, device: torch.device) -> Results:
    ids = _ids(samples, device)
    return (
        nbgather.token_noise(2**63 + 5, ids, tokens, epoch=9),
        nbgather.token_noise(-1, ids, tokens, epoch=2**32 - 1),
    )


def _ranked(samples: int, tokens: int, dtype: torch.dtype, device: torch.device) -> Results:
    scores = (data.indices((samples, tokens), 50, device).float() / 7).to(dtype)
    special = torch.tensor(SPECIAL[:tokens], device=device).to(dtype)
    scores[0, : special.numel()] = special
    return tuple(nbgather.rank_tokens(scores, tokens // 4))


def _masked(
    samples: int, tokens: int, width: int, dtype: torch.dtype, dev: torch.device
) -> Results:
    x = data.bits((samples, tokens, width), dtype, dev)
    ids = _ids(samples, dev)
    seeded = nbgather.random_masking(x, 0.75, seed=-3, sample_ids=ids, epoch=2)
    noise = data.indices((samples, tokens), max(tokens // 2, 2), dev).float() / 7
    by_noise = nbgather.random_masking(x, 0.6, noise=noise)
    few = nbgather.random_masking(
        x, seed=1, num_keep=[(7 * k) % (tokens + 1) for k in range(samples)]
    )
    whole = nbgather.restore_tokens(
        seeded.x_masked, seeded.ids_restore, data.bits((width,), dtype, dev)
    )
    return (*seeded, *by_noise, *few, whole)


def _every_length(lengths: range, device: torch.device) -> Results:
    results: list[torch.Tensor] = []
    for length in lengths:
        x = data.bits((2, length, 4), torch.float32, device, length)
        results += nbgather.random_masking(x, 0.75, seed=length)
    return tuple(results)


def _patches(
    shape: tuple[int, ...], size: Any, dtype: torch.dtype, device: torch.device
) -> Results:
    images = data.bits(shape, torch.uint8, device).to(dtype)
    affine = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    results = nbgather.masked_patchify(images, size, 0.75, seed=4)
    if dtype in (torch.uint8, torch.float32):
        results = (*results, *nbgather.masked_patchify(images, size, seed=4, **affine))
    return tuple(results)


def _scored(grid: tuple[int, ...], device: torch.device) -> Results:
    ids = _ids(3, device)
    names = ("random", "grid", "block", "tube", "time_frequency")
    results = [getattr(nbgather.strategies, n)(2**63 + 1, ids, grid, epoch=3) for n in names]
    return (*results, nbgather.strategies.block(1, ids, grid, wrap=True, min_area=1))


def _of_noise(grid: tuple[int, ...], device: torch.device) -> Results:
    """Stripes, and several blocks as scores and as ids."""
    ids, by = _ids(3, device), {"min_keep": 1, "epoch": 3}
    parts = (0.7, 0.3, 0.5)[: len(grid)]
    stripes = nbgather.strategies.stripes(2**63 + 1, ids, grid, ratios=parts)
    blocks = nbgather.strategies.multiblock(7, ids, grid, **by)
    return (stripes, blocks, *nbgather.strategies.multiblock_ids(7, ids, grid, targets=2, **by))


def _maskings() -> dict[str, Case]:
    call = functools.partial
    cases = {
        "lengths 1 to 6": Case(call(_every_length, range(1, 7)), True),
        "lengths 7 to 257": Case(call(_every_length, range(7, 258))),
        "lengths 2047 to 2049": Case(call(_every_length, range(2047, 2050))),
        "lengths 4093 to 4099": Case(call(_every_length, range(4093, 4100))),
        "lengths 16383 to 16386": Case(call(_every_length, range(16383, 16387))),
        "length 65537": Case(call(_every_length, range(65537, 65538))),
        "length 2**20": Case(call(_every_length, range(1 << 20, (1 << 20) + 1))),
    }
    for samples, tokens, width in (
        (2, 13, 3), (3, 16, 4), (64, 196, 96), (2, 2048, 8), (3, 5000, 3), (2, 50_000, 1),
    ):  # fmt: skip
        tiny = tokens < 16
        sides = f"{samples}x{tokens}"
        cases[f"noise {sides}"] = Case(call(_noise, samples, tokens), tiny)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            name = f"ranks {sides} {dtype}".replace("torch.", "")
            cases[name] = Case(call(_ranked, samples, tokens, dtype), tiny)
        for dtype in (torch.float32, torch.bfloat16, torch.uint8, torch.complex128):
            name = f"masking {sides}x{width} {dtype}".replace("torch.", "")
            cases[name] = Case(call(_masked, samples, tokens, width, dtype), tiny)
    for grid in ((3, 4), (14, 14), (8, 14, 14), (64, 80), (130, 140)):
        name = "x".join(map(str, grid))
        cases[f"strategies {name}"] = Case(call(_scored, grid), grid == (3, 4))
        cases[f"strategies of noise {name}"] = Case(call(_of_noise, grid), grid == (3, 4))
    for dtype in (torch.uint8, torch.float32, torch.float64):
        for shape, size, tiny in (
            ((1, 3, 4, 4), 2, True), ((4, 3, 64, 96), 16, False),
            ((2, 3, 4, 32, 32), (2, 8, 8), False),
        ):  # fmt: skip
            name = f"patches {'x'.join(map(str, shape))} {dtype}".replace("torch.", "")
            cases[name] = Case(call(_patches, shape, size, dtype), tiny)
    return cases


SCATTERS = _scatters() | _reductions()
MASKINGS = _maskings()
EVERY = SCATTERS | MASKINGS


def compare(cases: dict[str, Case], device: Any) -> str:
    """Assert that every case's results have the digests that are kept, and say how many."""
    wrong, count = [], 0
    for name, case in cases.items():
        if device.tiny and not case.tiny:
            continue
        count += 1
        try:
            if data.digest(*case.call(device.torch)) != kept()[name]:
                wrong.append(name)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            wrong.append(f"{name}: {error!r}")
    assert count, "no case"
    assert not wrong, f"{len(wrong)} of {count} differ from the CPU's: {'; '.join(wrong)[:3000]}"
    return f"{count} digests"
