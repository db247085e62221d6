"""What a GPU call keeps for the next one holds nothing of its caller's."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from simulator import Driver, simulated, to_device

import nbgather
from nbgather import _cuda_arrays


@pytest.fixture
def gpu() -> Driver:
    _cuda_arrays._constants.clear()
    with simulated() as driver:
        yield driver


def test_normalising_keeps_no_images(gpu: Driver) -> None:
    images = np.zeros((2, 3, 4, 4), np.float32)
    on_device = to_device(images)
    witness = weakref.ref(on_device)
    masked = nbgather.masked_patchify(on_device, 2, seed=1, scale=0.5, mean=(1, 2, 3))
    assert len(_cuda_arrays._constants) == 1
    del on_device, masked
    gc.collect()
    assert witness() is None


def test_numbers_are_kept_for_the_next_call_and_bounded(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cuda_arrays, "_MOST_CONSTANTS", 3)
    images = to_device(np.zeros((1, 1, 4, 4), np.float32))
    for k in range(7):
        nbgather.masked_patchify(images, 2, seed=1, scale=float(k + 1))
    assert len(_cuda_arrays._constants) == 3
    before = list(_cuda_arrays._constants.values())
    nbgather.masked_patchify(images, 2, seed=1, scale=float(k + 1))
    after = list(_cuda_arrays._constants.values())
    assert all(a is b for a, b in zip(before, after))
