"""The compiled function that repeats small calls, by itself."""

from __future__ import annotations

import numpy as np
import pytest

from nbgather.kernels import memory, small
from nbgather.kernels.cpu import launch
from nbgather.kernels.plans import GatherPlan

ITEMS = ("u1", "f2", "f4", "f8", "c16")


def planned(x: np.ndarray, index: np.ndarray) -> GatherPlan:
    """The plan of ``take_along_axis(x, index, 1)`` for contiguous operands of two dimensions."""
    plan = GatherPlan()
    plan.form, plan.mode, plan.from_end = "last", "raise", False
    plan.as_items, plan.row_nbytes = None, 0
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


def table() -> np.ndarray:
    """A table that knows NumPy's arrays alone."""
    words = np.zeros(len(small.TABLE), np.int64)
    for name, value in (("none", None), ("array", np.ndarray), ("integer", int)):
        words[small.TABLE.index(name)] = id(value)
    return words


def layout(array: np.ndarray) -> small.Layout:
    return small.Layout(
        small.ARRAY, id(array.dtype), array.shape, array.strides, array.itemsize, 0, array.nbytes,
        min(array.itemsize, 8) - 1,
    )  # fmt: skip


@pytest.mark.parametrize("index_dtype", ["i8", "i4"])
@pytest.mark.parametrize("dtype", ITEMS)
def test_a_gather_is_repeated(dtype: str, index_dtype: str) -> None:
    x = np.arange(32).reshape(4, 8).astype(dtype)
    index = np.array([[0, 3, 7], [1, 1, 1], [2, 0, 5], [7, 6, 4]], index_dtype)
    expected = np.take_along_axis(x, index, 1)
    plan = planned(x, index)
    step = launch.gather(
        plan, small.result(0), small.operand(0), small.operand(1), 0, run=launch.step
    )
    numbers = small.numbers_of((layout(x), layout(index)), 1, 1, -1, [step])
    call = numbers, (np.empty, (expected.shape, x.dtype), None), None
    words = table()
    chain = words, call
    run = launch.repeating(words)
    assert run is not None
    result = run(chain, x, index)
    assert type(result) is np.ndarray
    assert result.tobytes() == expected.tobytes()
    # Views read from where they begin.
    both, indices = np.stack([np.ones_like(x), x]), np.stack([np.ones_like(index), index])
    assert run(chain, both[1], indices[1]).tobytes() == expected.tobytes()
    # Nothing is done where an address is not aligned, a layout another, an object another.
    bad = index.copy()
    bad[2, 1] = 8
    others = [
        (x, unaligned(index)), (x, bad), (x, index[::-1]), (x[:3], index), (x,), (x, index, None),
        (x, index.astype("u1")), (x, index.tolist()), (None, index), (x, 3), (object(), index),
        (x.view(np.ma.MaskedArray), index), (x, index) * 4,
    ]  # fmt: skip
    if x.itemsize > 1:
        others.append((unaligned(x), index))
    for other in others:
        assert run(chain, *other) is None
    assert run((words,), x, index) is None


def test_limits_of_what_is_repeated() -> None:
    x = np.zeros((1,) * (small.MAX_NDIM + 1))
    assert small.numbers_of([layout(x)], 1, 1, -1, []) is None
    one = layout(np.zeros(3))
    assert small.numbers_of([one] * (small.MAX_OPERANDS + 1), 1, 1, -1, []) is None
    step = small.Step(0, np.zeros(small.MAX_ARGS + 1, np.int64), 1, ())
    assert small.numbers_of([one], 1, 1, -1, [step]) is None
    assert small.numbers_of([one], small.MAX_RESULTS + 1, 1, -1, []) is None
    assert small.numbers_of([one], 1, 1, -1, []) is not None


def test_where_arrays_are_not_as_the_c_api_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.ARRAYS_ARE_KNOWN
    monkeypatch.setattr(memory, "ARRAYS_ARE_KNOWN", False)
    assert launch.repeating(table()) is None
