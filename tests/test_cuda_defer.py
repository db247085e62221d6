"""Errors that no call waits for: what is filled, when the error comes, and what it says."""

from __future__ import annotations

import gc
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from cases import rng, same
from simulated_device import KERNEL_MEMORY, memory
from simulator import DeviceArray, Driver, simulated, to_device

import nbgather.cuda
from nbgather.containers import cuda_interface
from nbgather.engine import device_errors
from nbgather.kernels.cuda import launch as cuda
from nbgather.kernels.cuda import scatter_paths
from nbgather.kernels.cuda.errors import MAX_CALLS, NO_POSITION, RING_SLOTS, Record, Report
from nbgather.kernels.cuda.reports import make_report


@pytest.fixture
def gpu() -> Iterator[Driver]:
    with simulated(32) as driver:
        yield driver


def host(array: DeviceArray) -> np.ndarray:
    return np.array(array.array, order="C")


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) + 1
BAD = np.array([[[0, 1, 2, 0]] * 2, [[2, 2, 7, 0], [1, -3, 0, 9]]])

#: A call, its operands, and where the first bad index is.
CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "gather": (
        lambda x, i, **k: nbgather.gather(x, 1, i, **k),
        (X, BAD),
        "index 7 at (1, 0, 2) is out of bounds for dimension 1 with size 3",
    ),
    "take_along_axis": (
        lambda x, i, **k: nbgather.take_along_axis(x, i, 1, **k),
        (X, np.array([[[-3], [-1]], [[0], [-4]]], np.int8)),
        "index -4 at (1, 1, 0) is out of bounds for dimension 1 with size 3",
    ),
    "gather_tokens": (
        lambda x, i, **k: nbgather.gather_tokens(x, i, **k),
        (X, np.array([[1, 2], [2**64 - 1, 3]], np.uint64)),
        "index 18446744073709551615 at (1, 0) is out of bounds for dimension 1 with size 3",
    ),
    "nothing to gather from": (
        lambda x, i, **k: nbgather.gather(x, 0, i, **k),
        (X[:0, 0], np.zeros((1, 4), int)),
        "index 0 at (0, 0) is out of bounds for dimension 0 with size 0",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_elements_are_filled_and_the_next_call_raises(gpu: Driver, name: str) -> None:
    call, (x, index), text = CALLS[name]
    dx, di = to_device(x), to_device(index)
    got = call(dx, di, mode="defer", fill_value=-1)
    assert not gpu.waits
    same(host(got), call(x, index, mode="fill", fill_value=-1))
    good = np.zeros((2, 1), int)
    with pytest.raises(IndexError) as raised:
        nbgather.gather_tokens(to_device(X), to_device(good), mode="clip")
    function = name if name in nbgather.__all__ else "gather"
    said = f"{text}: found by an earlier {function} on cuda:0, which did not wait"
    assert str(raised.value) == said
    # It was told of once, and the device works on.
    same(host(nbgather.gather_tokens(to_device(X), to_device(good))), X[:, :1])


@pytest.mark.parametrize("name", CALLS)
def test_at_once_it_is_the_same_error_and_no_index_is_copied(gpu: Driver, name: str) -> None:
    call, (x, index), text = CALLS[name]
    for operands, mode in (((x, index), "defer"), (map(to_device, (x, index)), "raise")):
        with pytest.raises(IndexError) as raised:
            call(*operands, mode=mode)
        assert str(raised.value) == text
    assert gpu.waits == ["stream"]
    nbgather.gather_tokens(to_device(X), to_device(np.zeros((2, 1), int)))
    assert len(gpu.pinned) == 1  # the record is used again


def test_a_scatter_leaves_bad_elements_out(gpu: Driver) -> None:
    x, index = X[:, :, 0], BAD[:, 0]
    src = rng("src").normal(size=index.shape).astype(np.float32)
    bad = index > 2
    for call in (nbgather.scatter_add, nbgather.scatter):
        gpu.waits.clear()
        got = call(to_device(x), 1, to_device(index), to_device(src), mode="defer")
        assert not gpu.waits
        wanted = x.copy()
        for n, k in zip(*np.nonzero(~bad), strict=True):
            add = wanted[n, index[n, k]] if call is nbgather.scatter_add else np.float32(0)
            wanted[n, index[n, k]] = add + src[n, k]
        same(host(got), wanted)
        with pytest.raises(IndexError, match=r"index 7 at \(1, 2\) .* by an earlier scatter"):
            nbgather.cuda.check()
        with pytest.raises(IndexError, match=r"^index 7 at \(1, 2\) is out of bounds for dim.*3$"):
            call(to_device(x), 1, to_device(index), to_device(src))
        assert "copy" not in gpu.waits
    with pytest.raises(ValueError, match="mode is 'clip': it must be one of 'raise', 'defer'"):
        nbgather.scatter(to_device(x), 1, to_device(index), to_device(src), mode="clip")


def test_restoring_without_waiting(gpu: Driver) -> None:
    ids = np.array([[1, 0, 2], [0, 3, 1]])
    visible, token = X[:, :2], np.float32(0.5)
    got = nbgather.restore_tokens(to_device(visible), to_device(ids), 0.5, mode="defer")
    assert not gpu.waits
    whole = np.full((2, 3, 4), token)
    whole[0, :2], whole[1, 0], whole[1, 2] = visible[0, ::-1], visible[1, 0], visible[1, 1]
    same(host(got), whole)
    text = r"index 3 at \(1, 1\) is out of bounds for dimension 1 with size 3: found by an earlier"
    with pytest.raises(IndexError, match=f"{text} restore_tokens"):
        nbgather.cuda.check(0)
    with pytest.raises(IndexError, match=r"with size 3$"):
        nbgather.restore_tokens(visible, ids, 0.5, mode="defer")
    with pytest.raises(ValueError, match="mode is 'fill'"):
        nbgather.restore_tokens(visible, ids, 0.5, mode="fill")


def test_a_block_in_which_nothing_waits(gpu: Driver) -> None:
    dx, good, bad = to_device(X), to_device(BAD[:1]), to_device(BAD)
    with nbgather.cuda.deferred():
        nbgather.gather(dx, 1, good)
        assert not gpu.waits
    assert gpu.waits == ["device"]

    def fails(then: Callable[[], Any]) -> None:
        with nbgather.cuda.deferred():
            nbgather.gather(dx, 1, bad)
            then()

    reached: list[int] = []
    with pytest.raises(IndexError, match=r"7 at \(1, 0, 2\)"):
        fails(lambda: reached.append(1))
    assert reached
    nbgather.gather(dx, 1, good)
    assert gpu.waits[-1] == "stream"  # it waits again
    # Another error of the block comes first, and what was put off is not lost.
    with pytest.raises(ZeroDivisionError):
        fails(lambda: 1 / 0)
    with pytest.raises(IndexError, match=r"7 at \(1, 0, 2\)"):
        nbgather.cuda.check()


def test_of_several_calls_the_first_is_named(gpu: Driver) -> None:
    dx = to_device(X)
    for k, value in enumerate((5, 4, 6)):
        index = np.zeros((2, 1 + k, 4), int)
        index[int(k == 0), 0, 3] = value  # a lower position in those that come later
        launched = len(gpu.launches)
        if k == 0:
            nbgather.gather(dx, 1, to_device(index), mode="defer")
        else:  # as from another thread, which looked for errors before
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(device_errors, "poll", lambda *a: None)
                nbgather.gather(dx, 1, to_device(index), mode="defer")
        assert len(gpu.launches) == launched + 1
    with pytest.raises(IndexError, match=r"index 5 at \(1, 0, 3\)"):
        nbgather.cuda.check()
    nbgather.cuda.check()


def test_the_lowest_position_stays_in_any_order_of_the_threads(gpu: Driver) -> None:
    """Each thread lowers it: more values than the ring has slots."""
    x = np.zeros((1, 4), np.float32)
    index = np.arange(4, 4 + 5 * RING_SLOTS)[None]
    for descending in (False, True):
        gpu.launches.extend([None] * ((len(gpu.launches) + descending) % 2))  # turns the order
        nbgather.gather(to_device(x), 1, to_device(index), mode="defer")
        with pytest.raises(IndexError, match=r"index 4 at \(0, 0\) is out of bounds"):
            nbgather.cuda.check()


@pytest.mark.parametrize("order", list(itertools.permutations((3, 5, 9))), ids=str)
def test_threads_that_report_at_the_same_time(order: tuple[int, ...]) -> None:
    """What each has read before is no longer so: only the step that is one for all counts."""
    stale = types.SimpleNamespace(**vars(KERNEL_MEMORY))
    words = np.zeros(4 + 2 * RING_SLOTS, np.uint64)
    address = words.ctypes.data
    stale.READ = {"u8": lambda at: np.uint64(NO_POSITION if at == address + 8 else 0)}
    block = memory.add(address, words.view(np.uint8))
    record, report = Record(address), make_report(stale)
    try:
        for call, position in [(4, order[0]), (5, 1), (4, order[1]), (5, 2), (4, order[2])]:
            report(*map(np.uint64, (address, call, position, 100 + position)))
    finally:
        memory.remove(block)
    assert record.read() == (4, 3, 103)
    assert words[2] == sum(min(order[: k + 1]) == order[k] for k in range(3))  # one slot for each


def test_what_a_record_has_lost_is_not_made_up() -> None:
    words = np.zeros(4 + 2 * RING_SLOTS, np.uint64)
    record = Record(words.ctypes.data)
    assert record.read() is None
    assert words[1] == NO_POSITION
    words[0], words[1] = 1, 5
    report = record.read()
    assert report is not None
    assert (report.position, report.value) == (5, None)
    kind = device_errors.Kind("gather", (9,), 1, (9,), "i8", 0, 4)
    said = "an index was out of bounds for dimension 0 with size 4"
    assert device_errors.text(kind, report) == said
    words[0] = 0
    assert record.read() is None


def test_an_index_that_was_mended_meanwhile(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scatter saw a bad value, and who looks for it finds none."""
    index = to_device(np.array([3]))
    find = cuda.find_bad

    def mended(*args: Any, **kwargs: Any) -> None:
        index.array[0] = 0
        find(*args, **kwargs)

    from nbgather.kernels.cuda import backend

    monkeypatch.setattr(backend, "find_bad", mended)
    x = to_device(np.zeros(3, np.float32))
    with pytest.raises(IndexError, match=r"^an index was out of bounds for dimension 0 with"):
        nbgather.scatter(x, 0, index, 1.0)


def test_capture_and_replay(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is captured is launched again with the same arguments, and tells of its own errors."""
    index = to_device(np.zeros((2, 3), np.int64))
    x = to_device(X)
    replay: list[Callable[[], None]] = []
    launch = gpu.launch
    monkeypatch.setattr(gpu, "launch", lambda *a: replay.append(lambda: launch(*a)))
    gpu.captured = True
    result = nbgather.gather_tokens(x, index, mode="defer", fill_value=9)
    gpu.captured = False
    monkeypatch.undo()
    (again,) = replay
    for bad in (None, 5, 6):
        index.array[...] = 1
        if bad is not None:
            index.array[1, 2] = bad
        again()
        filled = np.repeat(X[:, 1:2], 3, 1)
        if bad is None:
            nbgather.cuda.check()
        else:
            filled[1, 2] = 9
            with pytest.raises(IndexError, match=rf"index {bad} at \(1, 2\) .* earlier gather_tok"):
                nbgather.cuda.check()
        same(host(result), filled)


def test_a_graph_has_its_memory(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a captured call made for itself is still there when the graph is replayed."""
    launches: list[tuple[Any, ...]] = []
    launch = gpu.launch
    monkeypatch.setattr(gpu, "launch", lambda *a: (launches.append(a), launch(*a)))
    monkeypatch.setattr(cuda_interface, "_of_graphs", [])
    x, i = to_device(np.zeros((9, 8), "f4")), to_device(rng("graph").integers(0, 9, (40, 1)))
    index = i.view_of(np.broadcast_to(i.array, (40, 8)))
    src = to_device(np.ones((40, 8), "f4"))
    monkeypatch.setattr(scatter_paths, "MAX_LOOKS", 0)  # so that indices are sorted
    gpu.captured = True
    got = nbgather.scatter_add(x, 0, index, src, mode="defer")
    gpu.captured = False
    gc.collect()
    want = got.array.copy()
    assert want.sum() == 320
    got.array[...] = 0
    for arguments in launches:
        launch(*arguments)
    same(got.array, want)
    assert cuda_interface._of_graphs
    cuda_interface._of_graphs.clear()
    nbgather.scatter_add(x, 0, index, src)
    assert not cuda_interface._of_graphs


def test_a_block_may_end_within_a_capture(gpu: Driver) -> None:
    """Where nothing can be waited for: what is bad is told of after the capture."""
    gpu.captured = True
    with nbgather.cuda.deferred():
        nbgather.gather(to_device(X), 1, to_device(BAD))
    gpu.captured = False
    with pytest.raises(IndexError, match=r"index 7 at \(1, 0, 2\)"):
        nbgather.cuda.check()


def test_a_launch_that_fails_gives_its_record_back(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once what was launched before it is done."""
    x, src = to_device(np.zeros((4, 6), "f4")), to_device(np.ones((4, 6), "f4"))
    index = to_device(np.zeros((4, 6), int))
    nbgather.gather(x, 0, index)
    taken, gpu.waits = len(gpu.pinned), []
    monkeypatch.setattr(gpu, "launch", lambda *a: 1 / 0)
    for call in (
        lambda: nbgather.gather(x, 0, index),
        lambda: nbgather.scatter_add(x, 0, index, src),
    ):
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                call()
    assert len(gpu.pinned) == taken
    assert gpu.waits == ["stream"] * 6


def test_very_many_calls_and_kinds_of_calls(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = device_errors.backends.get("cuda").driver.records
    monkeypatch.setattr(numbers, "_calls", itertools.count(MAX_CALLS - 1))
    for _ in range(3):
        nbgather.gather(to_device(X), 1, to_device(BAD), mode="defer")
        with pytest.raises(IndexError, match="index 7"):
            nbgather.cuda.check()
    monkeypatch.setattr(device_errors, "MAX_KINDS", len(device_errors._kinds))
    nbgather.gather(to_device(X[:, :, :3]), 1, to_device(BAD[:, :, :3]), mode="defer")
    with pytest.raises(IndexError, match=r"^an index was out of bounds: found by"):
        nbgather.cuda.check()


def test_a_position_of_another_call_is_not_told() -> None:
    """Which another stream reported while the record was read."""
    kind = device_errors.Kind("gather", (2, 3), 1, (2, 3), "i8", 1, 3)
    text = device_errors.text(kind, Report(1, 6, 9))
    assert text == "an index was out of bounds for dimension 1 with size 3"
    assert device_errors.text(kind, Report(1, 5, 9)).startswith("index 9 at (1, 2)")


def test_an_error_waits_for_the_end_of_a_capture(gpu: Driver) -> None:
    dx, bad = to_device(X), to_device(BAD)
    nbgather.gather(dx, 1, bad, mode="defer")
    gpu.captured = True
    nbgather.gather(dx, 1, bad, mode="clip")
    gpu.captured = False
    with pytest.raises(IndexError, match=r"7 at \(1, 0, 2\)"):
        nbgather.gather(dx, 1, bad, mode="clip")


def test_a_fill_value_must_fit_everywhere(gpu: Driver) -> None:
    index = np.zeros((2, 1, 4), int)
    for x, i in ((X.astype(np.int8), index), (to_device(X.astype(np.int8)), to_device(index))):
        for _ in range(3):
            with pytest.raises(ValueError, match="fill_value 300 cannot be held"):
                nbgather.gather(x, 1, i, mode="defer", fill_value=300)


def test_check_takes_streams_of_any_library(gpu: Driver) -> None:
    class Torchs:
        cuda_stream = 7

    class Cupys:
        ptr = 7

    class Anyones:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 7

    nbgather.cuda.check(stream=7)  # nothing was put off: nothing is waited for
    assert not gpu.waits
    for stream in (7, Torchs(), Cupys(), Anyones()):
        nbgather.gather(to_device(X), 1, to_device(BAD), mode="defer")
        with pytest.raises(IndexError, match=r"7 at \(1, 0, 2\)"):
            nbgather.cuda.check(stream=stream)
        assert gpu.waits.pop() == "stream"
    Torchs.device = types.SimpleNamespace(index=1)  # type: ignore[attr-defined]
    Cupys.device_id = 1  # type: ignore[attr-defined]
    nbgather.gather(to_device(X), 1, to_device(BAD), mode="defer")
    for stream in (Torchs(), Cupys()):  # of another device, on which nothing was put off
        nbgather.cuda.check(stream=stream)
    with pytest.raises(IndexError, match=r"7 at \(1, 0, 2\)"):
        nbgather.cuda.check(0)
    with pytest.raises(TypeError, match="stream is 'x'"):
        nbgather.cuda.check(stream="x")
    with pytest.raises(ValueError, match="device is -1"):
        nbgather.cuda.check(-1)
