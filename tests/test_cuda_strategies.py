"""Strategies on the simulated GPU: the reference's scores, made where the ids are."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from cases import same
from pretender import pretending
from simulator import DeviceArray, Driver, simulated, to_device
from test_strategies import CASES, IDS, Case, lattice, name

import nbgather
from nbgather import strategies
from nbgather.kernels.cuda import launch_strategies, radix


@pytest.fixture
def gpu() -> Iterator[Driver]:
    with simulated(32) as driver:
        yield driver


def check(gpu: Driver, case: Case, ids: np.ndarray, epoch: int = 3) -> None:
    """Exact scores, and nothing that waits or is copied to the host."""
    strategy, grid, options = case
    backend = None if "spatial" in options else "reference"
    want = strategy(2**63 + 5, ids, grid, epoch=epoch, backend=backend, **options)
    gpu.launches.clear()
    got = strategy(2**63 + 5, to_device(ids), grid, epoch=epoch, **options)
    assert isinstance(got, DeviceArray)
    same(np.array(got.array), want)
    if strategy is lattice:  # a function of NumPy's arrays, of ids that are read
        assert gpu.waits == ["copy"]
        gpu.waits.clear()
        return
    assert gpu.launches
    assert not gpu.waits


@pytest.mark.parametrize("case", CASES, ids=name)
def test_scores_are_those_of_the_reference(gpu: Driver, case: Case) -> None:
    check(gpu, case, IDS[-2:] if case[0] is strategies.block else IDS)


@pytest.mark.parametrize(
    "case",
    [
        (strategies.grid, (9, 11), {}),
        (strategies.block, (9, 11), {"min_area": 2}),
        (strategies.time_frequency, (40, 3), {}),
        (strategies.time_frequency, (90,), {}),
        (strategies.stripes, (2, 90), {"ratios": (0.5, 0.4)}),
    ],
    ids=name,
)
def test_many_tokens_are_sorted_in_passes(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    """As more than a block sorts; their keys of more than 32 bits, too."""
    monkeypatch.setattr(radix, "MAX_WHOLE", 64 if len(case[1]) > 1 else 32)
    check(gpu, case, IDS[:2])
    assert any(key[0] == "radix sort" for key, _, _ in gpu.launches)


def test_more_boxes_than_are_drawn_at_once(gpu: Driver) -> None:
    """Single tokens on 60 take many turns of 32 boxes."""
    check(gpu, (strategies.block, (6, 10), {"min_area": 1, "max_area": 1}), IDS[:2])
    check(gpu, (strategies.block, (2, 9), {"min_area": 18, "max_area": 18}), IDS[:2])


def test_very_many_boxes_are_drawn_on_the_host(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_strategies, "MAX_COMPARED", 100)
    want = strategies.block(1, IDS, (5, 5))
    got = strategies.block(1, to_device(IDS), (5, 5))
    same(np.array(got.array), want)
    assert gpu.waits == ["copy"]
    gpu.captured = True
    with pytest.raises(ValueError, match="which a CUDA graph under capture cannot"):
        strategies.block(1, to_device(IDS), (5, 5))


def test_no_samples_and_narrow_ids(gpu: Driver) -> None:
    for strategy in (strategies.grid, strategies.block, strategies.time_frequency, strategies.tube):
        assert strategy(1, to_device(np.zeros(0, int)), (4, 4)).array.shape == (0, 16)
    with pytest.raises(TypeError, match="sample_ids"):
        strategies.grid(1, to_device(np.zeros(2)), (4, 4))


def test_torch_tensors_and_frames_of_other_dtypes() -> None:
    ids = torch.tensor([4, 9])

    def double(seed: int, ids: torch.Tensor, grid: tuple[int, ...], **options: int) -> torch.Tensor:
        return nbgather.strategies.random(seed, ids, grid).double()

    calls = [
        *(functools.partial(getattr(strategies, s), 1, ids, (3, 4)) for s in
          ("random", "grid", "block", "tube", "time_frequency")),
        functools.partial(strategies.tube, 1, ids, (3, 2, 2), spatial=double),
    ]  # fmt: skip
    wants = [call() for call in calls]
    with pretending(32) as driver:
        gots = [call() for call in calls]
        assert not driver.waits
    for got, want in zip(gots, wants, strict=True):
        assert got.dtype is want.dtype
        assert torch.equal(got, want)
