"""The drivers of small calls: by addresses and by the arrays themselves."""

from __future__ import annotations

import numpy as np
import pytest

from nbgather.kernels import memory
from nbgather.kernels.cpu import drivers, launch, threads
from nbgather.kernels.memory import memory_address
from nbgather.kernels.plans import GatherPlan

ITEMS = ("u1", "f2", "f4", "f8", "c16")


def planned(x: np.ndarray, index: np.ndarray) -> GatherPlan:
    """The plan of ``take_along_axis(x, index, 1)`` for contiguous operands of two dimensions."""
    plan = GatherPlan()
    plan.form, plan.mode, plan.from_end = "last", "raise", False
    plan.itemsize, plan.index = x.itemsize, index.dtype.str[1:]
    plan.item_mask, plan.index_mask = min(x.itemsize, 8) - 1, index.itemsize - 1
    (rows, size), width = x.shape, index.shape[1]
    inner, outer = (width, 0, 1, 1), (rows, size, width, width)
    plan.args = np.array([size, size, 1, *inner, *outer, 0, 0, 0], np.int64)
    plan.count, plan.work = index.size, 2 * x.itemsize * index.size
    plan.kernel = launch._gather_kernel(plan)
    return plan


def unaligned(array: np.ndarray) -> np.ndarray:
    """The same values, one byte off."""
    data = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    data[...] = array
    return data


@pytest.mark.parametrize("index_dtype", ["i8", "i4"])
@pytest.mark.parametrize("dtype", ITEMS)
def test_small_calls(dtype: str, index_dtype: str) -> None:
    x = np.arange(32).reshape(4, 8).astype(dtype)
    index = np.array([[0, 3, 7], [1, 1, 1], [2, 0, 5], [7, 6, 4]], index_dtype)
    expected = np.take_along_axis(x, index, 1)
    plan = planned(x, index)
    numbers = launch.small_call(plan)
    assert numbers is not None
    by_address = launch.small()
    assert numbers[[drivers.ITEM_MASK, drivers.INDEX_MASK]].tolist() == [
        plan.item_mask, plan.index_mask,
    ]  # fmt: skip
    by_object = threads.small_objects()
    assert by_object is not None
    out = np.zeros_like(expected)
    addresses = (memory_address(a) for a in (out, x, index))
    assert by_address(*addresses, numbers.ctypes.data) == 0
    assert out.tobytes() == expected.tobytes()

    def run(x: np.ndarray, index: np.ndarray) -> int:
        out[...] = 0
        return by_object(id(out), id(x), id(index), numbers.ctypes.data)

    assert run(x, index) == 0
    assert out.tobytes() == expected.tobytes()
    # Views read from where they begin.
    both, indices = np.stack([np.ones_like(x), x]), np.stack([np.ones_like(index), index])
    assert run(both[1], indices[1]) == 0
    assert out.tobytes() == expected.tobytes()
    # Where an address is not aligned, nothing is done.
    if plan.item_mask:
        assert run(unaligned(x), index) == drivers.UNALIGNED
        assert not out.any()
    assert run(x, unaligned(index)) == drivers.UNALIGNED
    assert not out.any()
    bad = index.copy()
    bad[2, 1] = 8
    assert run(x, bad) == 1


def test_where_arrays_keep_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "DATA_OFFSET", None)
    assert threads.small_objects() is None
