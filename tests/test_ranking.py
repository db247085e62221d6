"""The ranking kernels around every length at which they change, against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from cases import random_bits, rng, same

import nbgather
from nbgather.kernels.constants import MAX_SLOT_BITS
from nbgather.kernels.cpu import launch_masking, limits
from nbgather.kernels.cpu import threads as cpu_threads
from nbgather.kernels.cpu.counting import BLOCK_KEYS
from nbgather.kernels.cpu.ranking import SHORT_BYTES

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
#: Every length up to a few blocks, and those around the last that is ranked without slots.
LENGTHS = sorted(
    {*range(71), *(SHORT_BYTES // item + d for item in (4, 8) for d in (-1, 0, 1)), 128, 196, 257}
)
AWKWARD = [0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 1e-45, -1e-45, 0.5, 0.5, 1.0, -1.0]
Generator = np.random.Generator
KINDS: dict[str, Callable[[Generator, tuple[int, int]], np.ndarray]] = {
    "uniform": lambda generator, pair: generator.random(pair),
    "normal": lambda generator, pair: generator.standard_normal(pair),
    "ascending": lambda generator, pair: np.sort(generator.random(pair), 1),
    "descending": lambda generator, pair: -np.sort(generator.random(pair), 1),
    # But for the last two, whose keys are neighbours.
    "nearly ascending": lambda generator, pair: np.tile(
        1 + np.array([*range(pair[1] - 2), pair[1] - 1, pair[1] - 2][: pair[1]]) * 2.0**-23,
        (pair[0], 1),
    ),
    "awkward": lambda generator, pair: generator.choice(np.array(AWKWARD), pair),
    "few": lambda generator, pair: generator.integers(0, 3, pair) / 4,
    # Each slot is of equal keys, in the last kind but for one.
    "levels": lambda generator, pair: generator.integers(0, 8, pair),
    "levels but one": lambda generator, pair: np.where(
        np.arange(pair[1]) == pair[1] // 2, 3 - 2.0**-20, generator.integers(0, 8, pair)
    ),
    "equal": lambda generator, pair: np.full(pair, -0.25),
    "no finite": lambda generator, pair: generator.choice([math.nan, math.inf, -math.inf], pair),
    # In slots of equal width nearly all are in the first, and in slots of keys they are spread.
    "skewed": lambda generator, pair: np.exp(20 * generator.standard_normal(pair)),
    # Most are equal but for the last bits, whatever the slots.
    "crowded": lambda generator, pair: np.where(
        generator.random(pair) < 0.01, generator.choice([-1e30, 1e30], pair), 0
    ) + 1 + generator.integers(0, 50, pair) * 2.0**-20,
    # Of a width that is no float32, and of one whose reciprocal is none.
    "widest": lambda generator, pair: generator.uniform(-3.4, 3.4, pair) * 1e38,
    "narrowest": lambda generator, pair: generator.integers(-3, 4, pair) * 1e-45,
}  # fmt: skip


def scores_of(kind: str, pair: tuple[int, int], dtype: type) -> np.ndarray:
    """Scores of a kind; out of the range of a narrow dtype they are infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return KINDS[kind](rng(f"{kind}{pair}"), pair).astype(dtype)


def assert_ranks(got: nbgather.TokenMask, scores: np.ndarray, keep: int) -> None:
    """Whether ranks are those of a stable sort that knows nothing of keys."""
    values = scores.astype(np.float64)  # exact; NumPy sorts -0 as 0, and NaN last
    order = np.argsort(values, 1, kind="stable")
    restore = np.argsort(order, 1)
    same(got.ids_keep, order[:, :keep].copy())
    same(got.ids_restore, restore)
    same(got.mask, (restore >= keep).astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_length_of_short_samples(kind: str, dtype: type) -> None:
    for length in LENGTHS:
        scores = scores_of(kind, (7, length), dtype)
        keep = length // 3
        assert_ranks(nbgather.rank_tokens(scores, keep), scores, keep)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [0, 1, 5, 16, 17, 33, 57, 113, 130])
def test_ranks_are_the_references(length: int, dtype: type) -> None:
    for kind in ("uniform", "awkward", "few"):
        scores = scores_of(kind, (3, length), dtype)
        want = nbgather.rank_tokens(scores, length // 2, backend="reference")
        for mine, plain in zip(nbgather.rank_tokens(scores, length // 2), want, strict=True):
            same(mine, plain)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [511, 1568, 4097, 1 << MAX_SLOT_BITS, 70_001])
def test_long_samples(length: int, kind: str, dtype: type) -> None:
    scores = scores_of(kind, (2, length), dtype)
    with limits.limit_threads(1):
        assert_ranks(nbgather.rank_tokens(scores, length // 4), scores, length // 4)


@pytest.mark.parametrize("samples", [1, 2, 31, 32, 33, 513])
@pytest.mark.parametrize("length", [1, 2, 6, 15, 100])
def test_batches_of_short_samples(samples: int, length: int) -> None:
    # A batch of rows is ranked before any is written: each row must come from its own scores.
    scores = scores_of("uniform", (samples, length), np.float32)
    assert_ranks(nbgather.rank_tokens(scores, length // 2), scores, length // 2)


@pytest.mark.parametrize("length", [1, 6, BLOCK_KEYS, 60, 113, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_number_for_each_sample(length: int, dtype: type) -> None:
    scores = scores_of("few", (40, length), dtype)
    numbers = rng("numbers").integers(0, length + 1, 40)
    got = nbgather.rank_tokens(scores, numbers)
    want = nbgather.rank_tokens(scores, numbers, backend="reference")
    for mine, plain in zip(got, want, strict=True):
        same(mine, plain)
    x = random_bits(rng("tokens"), (40, length, 3), "int16")
    mine, *_ = nbgather.random_masking(x, noise=scores, num_keep=numbers)
    plain, *_ = nbgather.random_masking(x, noise=scores, num_keep=numbers, backend="reference")
    same(mine, plain)


def test_every_length_by_seed() -> None:
    ids = np.array([3, -1, 2**40 + 5, 0, 7])
    for length in LENGTHS:
        x = random_bits(rng("seeds"), (5, length, 2), "int32")
        noise = nbgather.token_noise(8, ids, length, epoch=9, backend="reference")
        got = nbgather.random_masking(x, 0.6, seed=8, sample_ids=ids, epoch=9)
        want = nbgather.random_masking(x, 0.6, noise=noise, backend="reference")
        for mine, plain in zip(got, want, strict=True):
            same(mine, plain)


@pytest.mark.parametrize("unlike", ["unaligned", "swapped", "one column"])
def test_scores_that_no_kernel_reads_where_they_lie(unlike: str) -> None:
    plain = scores_of("awkward", (5, 40), np.float32)
    if unlike == "unaligned":
        record = np.zeros((5, 40), np.dtype([("pad", "u1"), ("v", "f4")]))
        record["v"] = plain
        flat = np.frombuffer(b"0" + plain.tobytes(), np.uint8)[1:].view("f4").reshape(5, 40)
        views = [record["v"], flat]
    elif unlike == "swapped":
        views = [plain.astype(">f4"), plain.astype(">f8")]
    else:
        views, plain = [np.repeat(plain, 2, 1)[:, 2:3]], plain[:, 1:2].copy()
    for view in views:
        assert_ranks(nbgather.rank_tokens(view, 1), plain, 1)


# One sample by several threads


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of 40 tokens are split; the threads of each call that was."""
    calls: list[int] = []
    run_tasks = cpu_threads.run_tasks

    def counted(*call: object) -> int:
        calls.append(int(call[-1]))  # type: ignore[call-overload]
        return run_tasks(*call)  # type: ignore[arg-type]

    monkeypatch.setattr(launch_masking, "SPLIT_SAMPLE_TOKENS", 40)
    monkeypatch.setattr(cpu_threads, "splits", lambda work: True)
    monkeypatch.setattr(cpu_threads, "run_tasks", counted)
    return calls


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sample_by_several_threads(threads: int, dtype: type, split: list[int]) -> None:
    lengths = (40, 47, 48, 49, 100, 1000, 5003)
    for length in lengths:
        for kind in KINDS:
            scores = scores_of(kind, (1, length), dtype)
            with limits.limit_threads(threads):
                got = nbgather.rank_tokens(scores, length // 3)
            assert_ranks(got, scores, length // 3)
    assert split == [threads] * len(lengths) * len(KINDS)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("source", ["seed", "noise", "counts"])
def test_tokens_by_several_threads(samples: int, source: str, split: list[int]) -> None:
    for length in (41, 64, 333, 2000):
        x = random_bits(rng("split"), (samples, length, 5), "int16")[:, ::-1]
        call = {
            "seed": lambda x=x: nbgather.random_masking(x, 0.4, seed=6, epoch=2),
            "noise": lambda x=x: nbgather.random_masking(
                x, 0.4, noise=scores_of("normal", x.shape[:2], np.float64)
            ),
            "counts": lambda x=x: nbgather.random_masking(x, seed=6, num_keep=[30, 9][: len(x)]),
        }[source]
        with limits.limit_threads(1):
            want = call()
        assert not split
        with limits.limit_threads(3):
            got = call()
        assert split == [3]
        split.clear()
        for mine, plain in zip(got, want, strict=True):
            same(mine, plain)


def test_a_long_sample_is_split_and_many_are_not() -> None:
    work, tokens = 1 << 30, launch_masking.SPLIT_SAMPLE_TOKENS
    parts = launch_masking._parts_of_samples
    with limits.limit_threads(4):
        assert parts(1, tokens, work) == 4
        assert parts(3, tokens, work) == 4
        assert parts(4, tokens, work) == 1
        assert parts(1, tokens - 1, work) == 1
    with limits.limit_threads(1):
        assert parts(1, tokens, work) == 1
