"""Where an index points, as arrays: every mode and integer dtype against the reference's loop."""

from __future__ import annotations

import itertools

import array_api_compat.numpy as namespace
import array_api_compat.torch
import numpy as np
import pytest
import torch

from nbgather.kernels.views.reference import position
from nbgather.operations.positions import narrow_positions, resolve_positions

DTYPES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
SIZES = (1, 2, 3, 127, 128, 300, 2**31, 2**40 + 1, 2**63 - 1)


def values(dtype: str, size: int) -> np.ndarray:
    """What a dtype holds around 0, the size and its own limits."""
    limits = np.iinfo(dtype)
    around = [0, size, -size, 2 * size, limits.min, limits.max, 2**63]
    near = {value + step for value in around for step in range(-3, 4)}
    return np.array(sorted(v for v in near if limits.min <= v <= limits.max), dtype)


@pytest.mark.parametrize("from_end", [False, True])
@pytest.mark.parametrize("mode", ["raise", "clip", "wrap", "fill"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_positions(dtype: str, mode: str, from_end: bool) -> None:
    for size in SIZES:
        index = values(dtype, size)
        expected = [position(int(value), size, mode, from_end) for value in index]
        positions, inside = resolve_positions(namespace, index, size, mode, from_end)
        assert (positions.dtype, inside.dtype) == (np.int64, np.bool_)
        assert inside.tolist() == [p is not None for p in expected]
        assert positions.tolist() == [p or 0 for p in expected]


@pytest.mark.parametrize("mode", ["raise", "clip", "wrap", "fill"])
@pytest.mark.parametrize("dtype", ["i1", "i8", "u8"])
def test_the_same_rule_in_torchs_namespace(dtype: str, mode: str) -> None:
    for size in SIZES:
        index = values(dtype, size)
        expected = resolve_positions(namespace, index, size, mode, True)
        got = resolve_positions(array_api_compat.torch, torch.from_numpy(index), size, mode, True)
        assert all((a.numpy() == b).all() for a, b in zip(got, expected))


@pytest.mark.parametrize("mode", ["raise", "clip", "wrap", "fill"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_in_bounds_of_no_length(dtype: str, mode: str) -> None:
    index = values(dtype, 0).reshape(1, -1)
    positions, inside = resolve_positions(namespace, index, 0, mode, True)
    assert (positions.dtype, inside.dtype) == (np.int64, np.bool_)
    assert positions.shape == inside.shape == index.shape
    assert not positions.any()
    assert not inside.any()


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1)])
def test_shapes_stay_and_the_index_is_not_written(shape: tuple[int, ...]) -> None:
    for dtype in DTYPES:
        index = np.full(shape, 5, dtype)
        index.flags.writeable = False
        for mode in ("raise", "clip", "wrap", "fill"):
            positions, inside = resolve_positions(namespace, index, 4, mode, True)
            assert isinstance(positions, np.ndarray)
            assert isinstance(inside, np.ndarray)
            assert positions.shape == inside.shape == shape


@pytest.mark.parametrize("mode", ["clip", "wrap", "fill", "defer"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_narrow_index_has_the_same_positions(dtype: str, mode: str) -> None:
    """In its own dtype where that holds them; nothing tells what is inside where all is."""
    for size, xp in itertools.product((0, *SIZES), (namespace, array_api_compat.torch)):
        index = values(dtype, size)
        given = index if xp is namespace else torch.from_numpy(index)
        for from_end in (False, True):
            want, told = resolve_positions(namespace, index, size, mode, from_end)
            positions, inside = narrow_positions(xp, given, size, mode, from_end)
            stays = dtype in ("i1", "i2", "i4", "u1") and size <= np.iinfo(dtype).max
            assert np.asarray(positions).dtype == (dtype if stays else np.int64)
            assert np.asarray(positions).tolist() == want.tolist()
            assert (inside is None) == (mode in ("clip", "wrap") and size != 0)
            assert told.all() if inside is None else np.asarray(inside).tolist() == told.tolist()
