"""Strategies on the simulated GPU: the reference's scores, made where the ids are."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

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
    for strategy in (strategies.grid, strategies.stripes, strategies.multiblock, lattice):
        by = {"part": 0.5} if strategy is lattice else {}
        with pytest.raises(TypeError, match="sample_ids has dtype float64"):
            strategy(1, to_device(np.zeros(2)), (4, 4), **by)
    with pytest.raises(TypeError, match="sample_ids has dtype float64"):
        strategies.multiblock_ids(1, to_device(np.zeros(2)), (4, 4))


def test_torch_tensors_and_frames_of_other_dtypes() -> None:
    ids = torch.tensor([4, 9])

    def double(seed: int, ids: torch.Tensor, grid: tuple[int, ...], **options: int) -> torch.Tensor:
        return nbgather.strategies.random(seed, ids, grid).double()

    calls = [
        *(functools.partial(getattr(strategies, s), 1, ids, (3, 4)) for s in
          ("random", "grid", "block", "tube", "time_frequency", "stripes", "multiblock")),
        functools.partial(lattice, 1, ids, (3, 4), part=0.5),
        functools.partial(strategies.tube, 1, ids, (3, 2, 2), spatial=double),
    ]  # fmt: skip
    wants = [call() for call in calls]
    with pretending(32) as driver:
        gots = [call() for call in calls]
        assert not driver.waits
    for got, want in zip(gots, wants, strict=True):
        assert got.dtype is want.dtype
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ((5, 7), {"targets": 2}),
        ((2, 4, 3), {"targets": 1, "overlap": True}),
        ((6, 6), {"targets": 3, "min_keep": 20, "target_scale": (0.3, 0.6)}),
        ((6, 6), {"targets": 2, "min_keep": 25, "target_scale": (0.9, 1.0)}),
        ((6, 6), {"targets": 2, "target_scale": (0.25, 0.25), "target_aspect": (0.25, 0.25)}),
        ((1, 40), {"target_aspect": (0.1, 9.0), "context_aspect": (0.07, 15.0), "min_keep": 0}),
    ],
)
def test_blocks_as_ids_and_as_scores(
    gpu: Driver, grid: tuple[int, ...], options: dict[str, Any]
) -> None:
    want = strategies.multiblock_ids(2**64 - 7, IDS, grid, epoch=5, **options)
    got = strategies.multiblock_ids(2**64 - 7, to_device(IDS), grid, epoch=5, **options)
    for one, other in zip(got, want, strict=True):
        same(np.array(one.array), other)
    assert [key for key, _, _ in gpu.launches] == ["block ids"]
    check(gpu, (strategies.multiblock, grid, options), IDS)


def test_more_blocks_than_threads_and_no_samples(gpu: Driver) -> None:
    many = {"targets": 40, "target_scale": (0.01, 0.05), "context_scale": (0.7, 1.0)}
    check(gpu, (strategies.multiblock, (9, 9), many), IDS[:2])
    none = strategies.multiblock_ids(1, to_device(np.zeros(0, int)), (4, 4))
    assert [array.array.shape[0] for array in none] == [0] * 4
    for strategy in (strategies.stripes, strategies.multiblock, lattice):
        options = {"part": 0.5} if strategy is lattice else {}
        assert strategy(1, to_device(np.zeros(0, int)), (4, 4), **options).array.shape == (0, 16)


def test_packed_ids_need_arrays_that_compute(gpu: Driver) -> None:
    with pytest.raises(TypeError, match="simulator has no function 'reshape' for its arrays"):
        strategies.multiblock_ids(1, to_device(IDS), (4, 4), packed=True)


def test_grids_of_very_many_axes_and_other_backends(gpu: Driver) -> None:
    many = (*(1,) * 60, 3)
    for grid, ratios in (((2, *many), (0.5, *(0.0,) * 60, 0.4)), ((2, 3), (0.5, 0.4))):
        got = strategies.stripes(1, to_device(IDS), grid, ratios=ratios)
        same(np.array(got.array), strategies.stripes(1, IDS, grid, ratios=ratios))
    for strategy in (strategies.stripes, strategies.multiblock):
        got = strategy(1, to_device(IDS), (4, 4), backend="reference")
        same(np.array(got.array), strategy(1, IDS, (4, 4)))


def test_a_function_of_ones_own_reads_the_ids_on_the_host(gpu: Driver) -> None:
    gpu.captured = True
    with pytest.raises(ValueError, match="which a CUDA graph under capture cannot give"):
        lattice(1, to_device(IDS), (4, 4), part=0.5)
    strategies.multiblock(1, to_device(IDS), (4, 4))
    strategies.stripes(1, to_device(IDS), (4, 4))
    assert not gpu.waits
