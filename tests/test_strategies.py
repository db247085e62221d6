"""Strategies: the same bits everywhere, exact counts, and the distributions that they promise."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import same
from hypothesis import given, settings
from hypothesis import strategies as st

import nbgather
from nbgather import strategies
from nbgather.kernels.cpu import limits

Case = tuple[Callable[..., Any], tuple[int, ...], dict[str, Any]]


@strategies.strategy(draws=1)
def lattice(noise: Any, drawn: Any, grid: tuple[int, ...], *, part: float) -> Any:
    """A strategy of one's own."""
    return noise - (drawn < part) * 1.0


CASES: tuple[Case, ...] = (
    (strategies.random, (14, 14), {}),
    (strategies.grid, (14, 14), {}),
    (strategies.grid, (3, 5, 7), {"stride": 3}),
    (strategies.grid, (9,), {"stride": 1}),
    (strategies.grid, (2, 3), {"stride": 10}),
    (strategies.block, (14, 14), {}),
    (strategies.block, (14, 14), {"wrap": True}),
    (strategies.block, (20,), {}),
    (strategies.block, (3, 6, 8), {"min_aspect": 1}),
    (strategies.block, (2, 3, 4, 5), {"wrap": True}),
    (strategies.block, (1, 1), {}),
    (strategies.block, (5, 1), {"min_aspect": 0.01}),
    (strategies.block, (2, 30), {"min_area": 1, "max_area": 60}),
    (strategies.time_frequency, (8, 32), {}),
    (strategies.time_frequency, (8, 32), {"axes": 0}),
    (strategies.time_frequency, (4, 5, 6), {"axes": (-1, 0)}),
    (strategies.time_frequency, (1, 1, 1), {}),
    (strategies.time_frequency, (124, 4), {}),  # keys of 32 bits have room for 128 lines
    (strategies.time_frequency, (124, 5), {}),
    (strategies.multiblock, (14, 14), {}),
    (strategies.multiblock, (3, 8, 6), {"targets": 2, "overlap": True}),
    (strategies.multiblock, (6, 6), {"min_keep": 20, "target_scale": (0.3, 0.6)}),
    (strategies.stripes, (8, 32), {}),
    (strategies.stripes, (4, 5, 6), {"ratios": (0.0, 1.0, 0.5)}),
    (lattice, (5, 6), {"part": 0.25}),
    (strategies.tube, (4, 6, 7), {}),
    (strategies.tube, (4, 6, 7), {"spatial": strategies.block}),
    (strategies.tube, (2, 9), {"spatial": functools.partial(strategies.grid, stride=3)}),
)
IDS = np.array([0, 1, -5, 2**40 + 3, 7, 2**63 - 1])


def name(case: Case) -> str:
    return f"{case[0].__name__}-{'x'.join(map(str, case[1]))}-{len(case[2])}"


@pytest.fixture(params=CASES, ids=name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def removed(scores: np.ndarray, count: int) -> np.ndarray:
    """Which tokens go, as bool."""
    return nbgather.rank_tokens(scores, scores.shape[1] - count).mask == 1


# The same bits everywhere


def test_every_backend_gives_the_reference_scores(case: Case, backend: str) -> None:
    strategy, grid, own = case
    for seed, epoch in ((3, 0), (-1, 2**32 - 1)):
        want = strategy(seed, IDS, grid, epoch=epoch, backend="reference", **own)
        assert want.shape == (6, np.prod(grid))
        assert want.dtype == np.float32
        same(strategy(seed, IDS, grid, epoch=epoch, backend=backend, **own), want)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
    sides=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    which=st.sampled_from(["grid", "block", "wrap", "lines"]),
    data=st.data(),
)
def test_random_grids_against_the_reference(seed, epoch, sides, which, data) -> None:
    tokens = int(np.prod(sides[-2:]))
    own: dict[str, Any] = {}
    if which == "grid":
        strategy, own = strategies.grid, {"stride": data.draw(st.integers(1, 5))}
    elif which == "lines":
        strategy = strategies.time_frequency
        own = {"axes": data.draw(st.lists(st.integers(0, len(sides) - 1), min_size=1))}
    else:
        strategy = strategies.block
        low, high = sorted(data.draw(st.tuples(*[st.integers(1, tokens)] * 2)))
        aspect = data.draw(st.floats(0.01, 1))
        own = {"min_area": low, "max_area": high, "min_aspect": aspect, "wrap": which == "wrap"}
    got = strategy(seed, IDS, sides, epoch=epoch, **own)
    same(got, strategy(seed, IDS, sides, epoch=epoch, backend="reference", **own))
    assert (np.sort(got) == np.arange(np.prod(sides))).all()


def test_a_sample_has_its_scores_alone_in_any_batch_order_and_thread_count(case: Case) -> None:
    strategy, grid, own = case
    want = strategy(9, IDS, grid, epoch=2, **own)
    same(strategy(9, IDS[::-1], grid, epoch=2, **own), want[::-1].copy())
    for n in range(len(IDS)):
        same(strategy(9, IDS[n : n + 1], grid, epoch=2, **own), want[n : n + 1])
    many = np.tile(IDS, 300)
    with limits.limit_threads(3):
        same(strategy(9, many, grid, epoch=2, **own), np.tile(want, (300, 1)))


def test_an_int_stands_for_ids_and_tensors_come_back(case: Case) -> None:
    strategy, grid, own = case
    want = strategy(9, np.arange(4), grid, **own)
    same(strategy(9, 4, grid, **own), want)
    found = strategy(9, torch.arange(4), grid, **own)
    assert type(found) is torch.Tensor
    same(found.numpy(), want)
    assert strategy(9, 0, grid, **own).shape == (0, np.prod(grid))


def test_every_epoch_and_seed_is_another(case: Case) -> None:
    strategy, grid, own = case
    if np.prod(grid) < 20:
        return
    scores = [
        strategy(seed, 200, grid, epoch=epoch, **own).tobytes()
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1 << 32, 0))
    ]
    assert len(set(scores)) == 4


# Counts


@pytest.mark.parametrize("ratio", [0, 0.1, 0.25, 0.4, 0.6, 0.75, 0.9, 1])
def test_the_count_is_met_exactly(case: Case, ratio: float, backend: str) -> None:
    strategy, grid, own = case
    length = int(np.prod(grid))
    x = np.arange(6 * length).reshape(6, length, 1)
    scores = strategy(4, IDS, grid, **own)
    x_masked, mask, ids_restore = nbgather.random_masking(x, ratio, noise=scores, backend=backend)
    keep = int(length * (1 - ratio))
    assert x_masked.shape == (6, keep, 1)
    assert ((mask == 0).sum(1) == keep).all()
    for n in range(6):
        assert (np.sort(x_masked[n, :, 0]) == x[n, mask[n] == 0, 0]).all()
        assert (x[n, np.argsort(ids_restore[n])[:keep]] == x_masked[n]).all()


# What each promises of a sample


@pytest.mark.parametrize(("grid", "stride"), [((14, 14), 2), ((6, 9), 3), ((4, 6, 8), 2)])
def test_grid_keeps_a_lattice(grid: tuple[int, ...], stride: int) -> None:
    scores = strategies.grid(1, 500, grid, stride=stride)
    keep = int(np.prod(grid)) // stride ** len(grid)
    kept = ~removed(scores, scores.shape[1] - keep).reshape(500, *grid)
    phases = np.zeros(stride ** len(grid), int)
    for one in kept:
        where = np.argwhere(one) % stride
        assert (where == where[0]).all()
        phases[np.ravel_multi_index(where[0], (stride,) * len(grid))] += 1
    expected = 500 / len(phases)
    # Chi-square of 3 to 8 degrees of freedom: above 30 once in 4000 seeds at most.
    assert ((phases - expected) ** 2 / expected).sum() < 30


def test_a_side_shorter_than_the_stride_has_a_lattice_too() -> None:
    scores = strategies.grid(1, 50, (1, 14, 14))
    for one in ~removed(scores, 147).reshape(50, 14, 14):
        where = np.argwhere(one) % 2
        assert (where == where[0]).all()


@pytest.mark.parametrize("spatial", [None, strategies.block])
def test_tube_has_one_mask_over_all_frames(spatial: Any) -> None:
    scores = strategies.tube(1, 100, (8, 14, 14), spatial=spatial)
    # VideoMAE's count: 20 of 196 in each frame.
    gone = removed(scores, 8 * 176).reshape(100, 8, 196)
    assert (gone == gone[:, :1]).all()
    frame = (strategies.random if spatial is None else spatial)(1, 100, (14, 14))
    assert (gone[:, 0] == removed(frame, 176)).all()


@pytest.mark.parametrize("axes", [None, 0, 1])
@pytest.mark.parametrize("count", [1, 40, 100, 211, 255])
def test_time_frequency_removes_whole_lines(axes: int | None, count: int) -> None:
    scores = strategies.time_frequency(2, 200, (16, 16), axes=axes)
    for gone in removed(scores, count).reshape(200, 16, 16):
        rows, columns = gone.all(1), gone.all(0)
        if axes == 0:
            columns[:] = False
        if axes == 1:
            rows[:] = False
        rest = np.argwhere(gone & ~rows[:, None] & ~columns)
        # What is left over lies in the one line that was cut by the count.
        assert len(rest) == 0 or (rest == rest[0]).all(0).any()
    if axes is None and count > 40:
        all_rows = removed(scores, count).reshape(200, 16, 16).all(2).sum()
        all_columns = removed(scores, count).reshape(200, 16, 16).all(1).sum()
        assert 0.8 < all_rows / all_columns < 1.25


def corners(gone: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is gone, which must be a rectangle."""
    rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
    top, left = rows[0], columns[0]
    height, width = rows[-1] - top + 1, columns[-1] - left + 1
    assert gone[top : top + height, left : left + width].all()
    assert gone.sum() == height * width
    return top, left, height, width


def test_a_blocks_place_is_even_up_to_the_last_row_and_column() -> None:
    """Rectangles of 7 x 7 in 14 x 14 have 8 x 8 places; elsewhere the last is never drawn."""
    scores = strategies.block(5, 6400, (14, 14), min_area=49, max_area=49, min_aspect=1)
    places = np.zeros((8, 8), int)
    for gone in removed(scores, 49).reshape(-1, 14, 14):
        top, left, height, width = corners(gone)
        assert (height, width) == (7, 7)
        places[top, left] += 1
    # Chi-square of 63 degrees of freedom: above 120 once in 50,000 seeds.
    assert ((places - 100) ** 2 / 100).sum() < 120


def test_a_blocks_area_and_aspect_are_those_asked_for() -> None:
    scores = strategies.block(6, 4000, (32, 32), min_area=30, max_area=120, min_aspect=0.3)
    sides = []
    for n in range(4000):
        # The first rectangle is the largest rectangle that can be removed by a count.
        order = np.argsort(-scores[n])
        found = [
            count
            for count in range(20, 150)
            if _is_rectangle(order[:count], 32) and not _is_rectangle(order[: count + 1], 32)
        ]
        gone = np.zeros(1024, bool)
        gone[order[: found[-1]]] = True
        sides.append(corners(gone.reshape(32, 32))[2:])
        if n == 399:
            break
    height, width = np.array(sides).T
    areas = height * width
    assert 25 <= areas.min() < 40
    assert 110 < areas.max() < 160
    assert abs(areas.mean() - 75) < 8
    aspects = np.log(height / width)
    assert abs(aspects.mean()) < 0.2
    assert 0.9 < aspects.max() < np.log(1 / 0.3) + 0.3
    assert -np.log(1 / 0.3) - 0.3 < aspects.min() < -0.9


def _is_rectangle(tokens: np.ndarray, side: int) -> bool:
    rows, columns = tokens // side, tokens % side
    return len(tokens) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_of_a_block_that_is_cut_a_side_goes_first() -> None:
    scores = strategies.block(5, 400, (14, 14), min_area=49, max_area=49, min_aspect=1)
    sides = set()
    for whole, part in zip(
        removed(scores, 49).reshape(-1, 14, 14),
        removed(scores, 21).reshape(-1, 14, 14),
        strict=True,
    ):
        top, left, _, _ = corners(whole)
        at = corners(part)
        assert sorted(at[2:]) == [3, 7]
        sides.add((at[0] - top, at[1] - left, at[2]))
    assert sides == {(0, 0, 3), (4, 0, 3), (0, 0, 7), (0, 4, 7)}


# Marginal probabilities


def assert_marginals(gone: np.ndarray, probability: np.ndarray | float) -> None:
    """Frequencies of each token against its probability."""
    n = len(gone)
    spread = np.sqrt(np.asarray(probability) * (1 - np.asarray(probability)) / n)
    z = (gone.mean(0) - probability) / spread
    # The largest of a few hundred normal deviates is above 5 once in some thousand seeds.
    assert np.abs(z).max() < 5


EVEN: tuple[tuple[Case, int], ...] = (
    ((strategies.random, (14, 14), {}), 147),
    ((strategies.grid, (14, 14), {}), 147),
    ((strategies.grid, (14, 14), {}), 100),
    ((strategies.grid, (6, 9), {"stride": 3}), 50),
    ((strategies.block, (14, 14), {"wrap": True}), 78),
    ((strategies.block, (14, 14), {"wrap": True}), 150),
    ((strategies.block, (30,), {"wrap": True}), 13),
    ((strategies.block, (3, 6, 6), {"wrap": True}), 50),
    ((strategies.time_frequency, (8, 16), {}), 90),
    ((strategies.time_frequency, (8, 16), {}), 3),
    ((strategies.time_frequency, (8, 16), {"axes": 1}), 50),
    ((strategies.time_frequency, (4, 4, 4), {}), 30),
    ((strategies.tube, (2, 7, 7), {}), 80),
    ((strategies.tube, (2, 8, 8), {"spatial": functools.partial(strategies.block, wrap=True)}), 64),
)


@pytest.mark.parametrize(("case", "count"), EVEN, ids=lambda v: name(v) if type(v) is tuple else v)
def test_every_token_is_as_likely_to_go(case: Case, count: int) -> None:
    strategy, grid, own = case
    gone = removed(strategy(12345, 20_000, grid, **own), count)
    assert_marginals(gone, count / np.prod(grid))


def test_blocks_inside_the_grid_have_the_marginals_of_their_places() -> None:
    gone = removed(
        strategies.block(7, 20_000, (14, 14), min_area=49, max_area=49, min_aspect=1), 49
    )
    covered = np.zeros((14, 14))
    for top, left in itertools.product(range(8), repeat=2):
        covered[top : top + 7, left : left + 7] += 1 / 64
    assert_marginals(gone, covered.ravel())


def test_blocks_inside_the_grid_reach_every_token_alike_from_all_sides() -> None:
    gone = removed(strategies.block(8, 40_000, (14, 14)), 78).reshape(-1, 14, 14)
    seen = gone.mean(0)
    assert seen.min() > 0.03
    deviation = np.sqrt(2 * 0.25 / 40_000)
    for turned in (seen[::-1], seen[:, ::-1], seen.T):
        assert np.abs(seen - turned).max() < 5 * deviation


def test_samples_and_epochs_are_independent(case: Case) -> None:
    strategy, grid, own = case
    length = int(np.prod(grid))
    if length < 60:
        return
    first = removed(strategy(3, 4000, grid, epoch=0, **own), length // 2).astype(float)
    second = removed(strategy(3, 4000, grid, epoch=1, **own), length // 2).astype(float)
    mean = (first.mean(0) + second.mean(0)) / 2
    if strategy is strategies.grid and own.get("stride", 2) == 2:
        return  # half of a lattice's complement: its own test is that of the phases
    first, second = first - mean, second - mean
    for one, other in ((first, second), (first[1:], first[:-1])):
        products = (one * other).mean(1)
        # The mean of independent products of mean 0.
        assert abs(products.mean()) < 5 * products.std() / np.sqrt(len(products))


# Scores are noise wherever noise is taken


def test_the_onnx_model_takes_scores() -> None:
    from nbgather.onnx import Session, masking_model

    x = np.random.default_rng(0).random((5, 196, 8), np.float32)
    scores = strategies.block(3, 5, (14, 14))
    made = Session(masking_model(0.6)).run(x=x, noise=scores)
    want = nbgather.random_masking(x, 0.6, noise=scores)
    for field in want._fields:
        same(made[field], getattr(want, field))


# Refusals


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: strategies.random(0, 1, (0, 3)), ValueError, "grid is (0, 3): every size"),
        (lambda: strategies.random(0, 1, (2.5,)), TypeError, "grid"),
        (lambda: strategies.random(0, 1, (5000, 5000)), ValueError, "at most 2**24 tokens"),
        (lambda: strategies.grid(0, 1, (4, 4), stride=0), ValueError, "stride is 0"),
        (lambda: strategies.grid(0, 1, (4, 4), stride=1.5), TypeError, "stride"),
        (lambda: strategies.grid(0, 1, ()), ValueError, "grid is ()"),
        (lambda: strategies.block(0, 1, (2,) * 5), ValueError, "at most 4 axes"),
        (lambda: strategies.block(0, 1, (2**17,)), ValueError, "65536"),
        (
            lambda: strategies.block(0, 1, (4, 4), min_area=9, max_area=8),
            ValueError,
            "min_area is 9 and max_area 8: 1 <= min_area <= max_area <= 16",
        ),
        (lambda: strategies.block(0, 1, (4, 4), max_area=17), ValueError, "max_area 17"),
        (lambda: strategies.block(0, 1, (4, 4), min_area=0), ValueError, "min_area is 0"),
        (lambda: strategies.block(0, 1, (4, 4), min_aspect=0), ValueError, "min_aspect is 0.0"),
        (lambda: strategies.block(0, 1, (4, 4), min_aspect=2), ValueError, "min_aspect is 2.0"),
        (
            lambda: strategies.block(0, 1, (4, 4), min_aspect=float("nan")),
            ValueError,
            "min_aspect is nan",
        ),
        (lambda: strategies.block(0, 1, (4, 4), min_aspect="x"), TypeError, "min_aspect is 'x'"),
        (lambda: strategies.time_frequency(0, 1, (4, 4), axes=2), ValueError, "axes is 2"),
        (lambda: strategies.time_frequency(0, 1, (4, 4), axes=()), ValueError, "axes is ()"),
        (lambda: strategies.tube(0, 1, (4,)), ValueError, "frames first"),
        (
            lambda: strategies.tube(0, 1, (4, 3), spatial=lambda *a, **k: np.zeros((1, 4))),
            ValueError,
            "the spatial strategy gave shape (1, 4): [N, 3] is needed",
        ),
        (lambda: strategies.block(2**64, 1, (4, 4)), ValueError, "seed is"),
        (lambda: strategies.block(0, 1, (4, 4), epoch=-1), ValueError, "epoch is -1"),
        (lambda: strategies.block(0, np.zeros(3), (4, 4)), TypeError, "sample_ids has dtype"),
        (lambda: strategies.block(0, 1, (4, 4), backend="x"), ValueError, "backend is 'x'"),
    ],
)
def test_refusals(call: Callable[[], Any], error: type, text: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert text in str(raised.value)


def test_what_is_kept_for_one_kind_of_argument_answers_no_other() -> None:
    """1, 1.0 and True are equal, and so are their tuples."""
    want = [strategies.grid(1, 3, (2, 3), stride=1).tolist() for _ in range(4)]
    assert want[0] == want[3]
    for _ in range(3):
        assert strategies.grid(1, 3, [2, 3], stride=1).tolist() == want[0]
        assert strategies.grid(1, range(3), (2, np.int64(3)), stride=1).tolist() == want[0]
        for grid, stride in (((2.0, 3), 1), ((2, 3), 1.0), ((2, "3"), 1), (([2], 3), 1), (None, 1)):
            with pytest.raises(TypeError):
                strategies.grid(1, 3, grid, stride=stride)
        for seed, epoch in ((1.0, 0), (1, 0.0), ("1", 0), (1, None)):
            with pytest.raises(TypeError):
                strategies.grid(seed, 3, (2, 3), epoch=epoch)
        with pytest.raises(ValueError, match="seed"):
            strategies.grid(2**64, 3, (2, 3))
    least = [strategies.block(1, 3, (6, 7), min_aspect=value) for value in (1, 1.0)]
    same(*least)
    same(strategies.block(1, 3, (6, 7), wrap=1), strategies.block(1, 3, (6, 7), wrap=True))


@pytest.mark.parametrize("name", ["random", "grid", "block", "time_frequency", "tube"])
def test_nothing_to_score(name: str) -> None:
    for ids, grid in (([], (2, 3)), (3, (0, 4)), (0, (2, 2))):
        for _ in range(3):
            try:
                scores = getattr(strategies, name)(1, ids, grid)
            except ValueError as error:
                assert "grid" in str(error) or "area" in str(error)  # noqa: PT017
            else:
                count = 0 if ids == [] else ids
                assert scores.shape == (count, grid[0] * grid[1])


@pytest.mark.parametrize("grid", [(1, 200), (130, 3), (2, 3, 70), (64, 64), (5, 1, 129)])
def test_rows_of_more_words_than_one(grid: tuple[int, ...]) -> None:
    """Rows of blocks are kept as bits; lines and lattices are walked row by row."""
    for call in (
        strategies.grid,
        strategies.time_frequency,
        strategies.block,
        functools.partial(strategies.block, wrap=True, min_aspect=0.01),
    ):
        same(call(5, IDS, grid, epoch=7), call(5, IDS, grid, epoch=7, backend="reference"))
