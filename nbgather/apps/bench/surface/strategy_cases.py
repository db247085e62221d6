"""Cases of the strategies: scores of which the lowest stay.

A peer gives scores that mask as the strategy does; they need not be the same numbers. Rectangles
that are drawn until a count is met (``block``) have no vectorised recipe, and so no ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nbgather import strategies
from nbgather.apps.bench.contest import Call
from nbgather.apps.bench.operands import installed
from nbgather.apps.bench.surface.case import Case, Traffic, calls_of
from nbgather.apps.bench.surface.draws import Generator, choice, log_uniform
from nbgather.apps.bench.surface.peers import tensors

MOST_SAMPLES, MOST_SIDE, MOST_FRAMES = 256, 32, 16


def strategies_case(rng: Generator) -> Case:
    """One of the strategies on a random grid."""
    name = choice(rng, {"random": 1, "block": 2, "grid": 2, "tube": 1, "time_frequency": 2})
    samples = log_uniform(rng, 1, MOST_SAMPLES)
    grid: tuple[int, ...] = (log_uniform(rng, 2, MOST_SIDE), log_uniform(rng, 2, MOST_SIDE))
    if name == "tube" or (name != "time_frequency" and rng.random() < 0.25):
        grid = (log_uniform(rng, 2, MOST_FRAMES), *grid)
    ids = np.sort(rng.integers(0, 1_000_000, samples))
    operands: dict[str, Any] = {"numpy": (1, ids, grid)}
    peers: dict[str, Call] = {}
    if name in RECIPES:
        bits = np.random.Generator(np.random.Philox(1))
        peers["numpy"] = RECIPES[name](
            np, lambda *shape: bits.random(shape, np.float32), samples, grid
        )
    if installed("torch"):
        import torch

        operands["torch"] = (1, *tensors(ids), grid)
        if name in RECIPES:
            peers["torch"] = RECIPES[name](torch, torch.rand, samples, grid)
    strategy, length = getattr(strategies, name), math.prod(grid)
    return Case(
        f"{name}, {samples} ids, grid {list(grid)}",
        length,
        Traffic(ids.nbytes, 0, 4 * samples * length, samples * length, 4 * length),
        calls_of(strategy, operands),
        peers,
        "shape",
    )


def _random(xp: Any, noise: Callable[..., Any], samples: int, grid: tuple[int, ...]) -> Call:
    length = math.prod(grid)
    return lambda: noise(samples, length)


def _tube(xp: Any, noise: Callable[..., Any], samples: int, grid: tuple[int, ...]) -> Call:
    frame = math.prod(grid[1:])
    return lambda: xp.tile(noise(samples, frame), (1, grid[0]))


def _grid(xp: Any, noise: Callable[..., Any], samples: int, grid: tuple[int, ...]) -> Call:
    """Noise, and 1 more off the lattice that each sample's phase begins."""
    places = [xp.arange(side) % 2 for side in grid]

    def scores() -> Any:
        phases = noise(samples, len(grid)) < 0.5
        off = None
        for axis, place in enumerate(places):
            shape = [samples, *(len(place) if d == axis else 1 for d in range(len(grid)))]
            wrong = ((place == 1)[None, :] ^ phases[:, axis : axis + 1]).reshape(shape)
            off = wrong if off is None else off | wrong
        return (noise(samples, *grid) + off).reshape(samples, -1)

    return scores


def _lines(xp: Any, noise: Callable[..., Any], samples: int, grid: tuple[int, ...]) -> Call:
    """A token goes with the first of its lines: each line has noise, and a token the larger."""

    def scores() -> Any:
        rows, columns = noise(samples, grid[0], 1), noise(samples, 1, grid[1])
        return xp.maximum(rows, columns).reshape(samples, -1)

    return scores


RECIPES = {"random": _random, "tube": _tube, "grid": _grid, "time_frequency": _lines}
