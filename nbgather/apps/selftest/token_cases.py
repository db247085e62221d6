"""The cases of masking, patches and strategies."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

import nbgather
from nbgather.apps.selftest import inputs
from nbgather.apps.selftest.cases import Case, Given, To, every

LENGTHS = (*range(1, 34), 49, 63, 64, 65, 100, 112, 113, 196, 255, 256, 257, 1568, 2048, 20_000)
SEEDS = (0, 1, -1, 2**63 - 1, -(2**63), 0x299F31D0A4093822)


def _noise(
    number: int, length: int, seed: int, epoch: int, count: int, to: To, given: Given
) -> Any:
    ids = inputs.bits(4000 + number, (count,), np.int64)
    return nbgather.token_noise(seed, to(ids), length, epoch=epoch, **given)


def noises() -> Iterator[Case]:
    """token_noise: every length, ids and seeds of 64 bits."""
    for number, length in enumerate(LENGTHS):
        seed, epoch = SEEDS[number % len(SEEDS)], (0, 1, 2**32 - 1)[number % 3]
        count = 70 if length < 32 else 3
        text = f"token_noise seed {seed}, {count} ids, {length} tokens, epoch {epoch}"

        yield Case(text, functools.partial(_noise, number, length, seed, epoch, count))


def _rank(number: int, length: int, kind: str, dtype: str, kept: int, to: To, given: Given) -> Any:
    scores = inputs.scores(5000 + number, (3, length), kind, dtype)
    return nbgather.rank_tokens(to(scores), kept, **given)


def ranks() -> Iterator[Case]:
    """rank_tokens: ties, -0, NaN, orders that are there already, every length."""
    kinds = ("random", "ties", "special", "sorted", "equal")
    for number, (length, kind, dtype) in every(
        LENGTHS, kinds, ("float32", "float64", "float16"), count=260
    ):
        kept = length * (number % 5) // 4
        text = f"rank_tokens {dtype} [3, {length}] {kind}, {kept} kept"

        yield Case(text, functools.partial(_rank, number, length, kind, dtype, kept))


def _mask(
    number: int, length: int, width: int, how: str, dtype: str, ratio: float, to: To, given: Given
) -> Any:
    x = to(inputs.bits(6000 + number, (3, length, width), dtype))
    ids = to(inputs.bits(6001 + number, (3,), np.int64))
    if how == "noise":
        noise = to(inputs.scores(number, (3, length), "random", "float32"))
        return nbgather.random_masking(x, ratio, noise=noise, **given)
    if how == "counts":
        counts = to(inputs.integers(number, 0, length + 1, (3,)))
        return nbgather.random_masking(x, seed=number, sample_ids=ids, num_keep=counts, **given)
    return nbgather.random_masking(x, ratio, seed=number, sample_ids=ids, **given)


def maskings() -> Iterator[Case]:
    """random_masking by seed and by noise, of one number for all samples or one for each."""
    for number, (length, width, how, dtype) in every(
        (1, 2, 5, 24, 32, 49, 196, 1024, 5000), (1, 3, 16, 200), ("seed", "noise", "counts"),
        ("float32", "uint8", "float16"), count=150,
    ):  # fmt: skip
        ratio = (0.75, 0.5, 0.0, 0.9, 1.0)[number % 5]
        text = f"random_masking {dtype} [3, {length}, {width}], ratio {ratio}, by {how}"

        yield Case(text, functools.partial(_mask, number, length, width, how, dtype, ratio))


def _restore(
    number: int, length: int, width: int, dtype: str, kept: int, to: To, given: Given
) -> Any:
    x = inputs.bits(7000 + number, (2, kept, width), dtype)
    token = inputs.bits(7001 + number, (width,), dtype)
    order = np.argsort(inputs.words(number, 2 * length).reshape(2, length), 1, "stable")
    return nbgather.restore_tokens(to(x), to(order), to(token), **given)


def restores() -> Iterator[Case]:
    """restore_tokens."""
    for number, (length, width, dtype) in every(
        (1, 4, 49, 196), (1, 3, 64, 300), ("float32", "uint8", "float64"), count=40
    ):
        kept = length * (number % 4) // 4
        text = f"restore_tokens {dtype} [2, {kept}, {width}] to {length}"

        yield Case(text, functools.partial(_restore, number, length, width, dtype, kept))


def _cut(images: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Patches by NumPy."""
    ph, pw = sides
    n, c, h, w = images.shape
    cut = images.reshape(n, c, h // ph, ph, w // pw, pw).transpose(0, 2, 4, 3, 5, 1)
    return cut.reshape(n, h // ph * (w // pw), ph * pw * c).copy()


def _images(number: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    draw = inputs.floats if dtype == "float32" else inputs.bits
    return draw(8000 + number, shape, dtype)


def _patch(
    number: int,
    dtype: str,
    shape: tuple[int, ...],
    sides: tuple[int, int],
    how: str,
    to: To,
    given: Given,
) -> Any:
    images = _images(number, dtype, shape)
    if how == "patchify":
        return nbgather.patchify(to(images), sides)
    if how == "unpatchify":
        return nbgather.unpatchify(to(_cut(images, sides)), sides, shape[2:])
    options: Given = {"scale": 1 / 255, "mean": 0.5, "std": 0.25} if how == "normalised" else {}
    ids = to(np.array([7, -9]))
    return nbgather.masked_patchify(
        to(images), sides, 0.6, seed=number, sample_ids=ids, **options, **given
    )


def _patch_plainly(
    number: int, dtype: str, shape: tuple[int, ...], sides: tuple[int, int], how: str
) -> np.ndarray:
    images = _images(number, dtype, shape)
    return _cut(images, sides) if how == "patchify" else images


def patches() -> Iterator[Case]:
    """Patches out of images and into them, all or kept ones; some normalised."""
    sizes = ((8, 12, 4, 4), (32, 48, 16, 16), (6, 10, 3, 2), (64, 704, 32, 32), (14, 28, 14, 14))
    for number, (dtype, channels, (h, w, ph, pw), how) in every(
        ("uint8", "float32"), (1, 3), sizes,
        ("patchify", "unpatchify", "masked_patchify", "normalised"), count=150,
    ):  # fmt: skip
        text = f"{how} {dtype} [2, {channels}, {h}, {w}] by {ph}x{pw}"
        told = number, dtype, (2, channels, h, w), (ph, pw), how
        has_reference = how in ("masked_patchify", "normalised")
        plainly = None if has_reference else functools.partial(_patch_plainly, *told)
        yield Case(text, functools.partial(_patch, *told), plainly)


def _score(number: int, name: str, grid: tuple[int, ...], seed: int, to: To, given: Given) -> Any:
    ids = inputs.bits(9000 + number, (4,), np.int64)
    return getattr(nbgather.strategies, name)(seed, to(ids), grid, epoch=number, **given)


def strategies() -> Iterator[Case]:
    """Strategies on grids of one to three axes."""
    grids = ((1, 1), (4, 6), (14, 14), (8, 32), (3, 5, 4), (124, 5), (40, 40), (13,))
    for number, (name, grid, seed) in every(
        ("random", "grid", "block", "time_frequency", "tube"), grids, (0, -3), count=80
    ):
        if name == "tube" and len(grid) == 1:
            continue
        text = f"strategies.{name} {grid}, seed {seed}"

        yield Case(text, functools.partial(_score, number, name, grid, seed))
