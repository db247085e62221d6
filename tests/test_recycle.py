"""Reused memory of large results: never in two results at once, never more kept than the limit."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import nbgather
from nbgather.engine import recycle

ROWS, WIDTH = 64, 8192  # 2 MiB of float32


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NBGATHER_RECYCLE_BYTES", "0")
    recycle.empty(1 << 20)  # removes what other tests left
    monkeypatch.delenv("NBGATHER_RECYCLE_BYTES")
    yield
    gc.collect()


def gathered(value: float, tensors: bool = False):
    x = np.full((ROWS, 2), value, np.float32)
    index = np.zeros((ROWS, WIDTH), np.int64)
    if tensors:
        return nbgather.gather(torch.from_numpy(x), 1, torch.from_numpy(index))
    return nbgather.gather(x, 1, index)


def address(array) -> int:
    return array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data


@pytest.mark.parametrize("tensors", [False, True])
def test_memory_comes_back_when_the_last_view_goes(tensors: bool) -> None:
    first = gathered(1, tensors)
    start = address(first)
    assert start % recycle.ALIGNMENT_BYTES == 0
    view = first[3:5].T
    del first
    second = gathered(2, tensors)
    assert address(second) != start
    assert (view == 1).all()
    del view
    third = gathered(3, tensors)
    assert address(third) == start
    assert (second == 2).all()
    assert (third == 3).all()


def test_no_two_results_ever_share_memory() -> None:
    generator = np.random.default_rng(0)
    held: dict[int, np.ndarray] = {}
    for step in range(300):
        if held and generator.random() < 0.5:
            del held[int(generator.choice(list(held)))]
        else:
            held[step] = gathered(step)
        assert all((array == value).all() for value, array in held.items())
        assert recycle.kept() <= recycle.DEFAULT_LIMIT_BYTES


def test_threads_never_share_memory() -> None:
    wrong: list[float] = []

    def work(base: int) -> None:
        for k in range(60):
            results = [gathered(base + k + j / 4) for j in range(3)]
            wrong.extend(j for j, a in enumerate(results) if not (a == base + k + j / 4).all())

    threads = [threading.Thread(target=work, args=(1000 * t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_limit_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGATHER_RECYCLE_BYTES", str(5 << 20))
    results = [gathered(k) for k in range(6)]
    del results
    assert 4 << 20 <= recycle.kept() <= 5 << 20
    monkeypatch.setenv("NBGATHER_RECYCLE_BYTES", "0")
    gathered(1)
    assert recycle.kept() == 0


def test_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGATHER_RECYCLE_BYTES", "0")
    for k in range(3):
        gathered(k)
        assert recycle.kept() == 0


@pytest.mark.parametrize("text", ["-1", "1e9", "all"])
def test_a_bad_limit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = gathered(1)
    monkeypatch.setenv("NBGATHER_RECYCLE_BYTES", text)
    with pytest.raises(ValueError) as raised:
        gathered(2)
    message = f"NBGATHER_RECYCLE_BYTES is {text!r}: a whole number from 0 up is needed (0: off)"
    assert str(raised.value) == message
    del result  # nothing is raised from a finaliser


@pytest.mark.parametrize("last", [0, 1, 2])
def test_the_latest_of_equal_blocks_is_taken(last: int) -> None:
    """The one that the caches may still hold, not the one that has been cold for longest."""
    results = [gathered(n) for n in range(3)]
    start = address(results[last])
    order = [n for n in range(3) if n != last] + [last]
    for n in order:
        results[n] = None
    assert address(gathered(3)) == start


def test_a_much_larger_block_is_not_taken() -> None:
    large = np.zeros((4 * ROWS, 2), np.float32)
    nbgather.gather(large, 1, np.zeros((4 * ROWS, WIDTH), np.int64))
    kept = recycle.kept()
    small = gathered(1)
    assert recycle.kept() == kept
    del small


def test_small_results_are_not_kept() -> None:
    nbgather.gather(np.zeros((2, 3)), 1, np.zeros((2, 2), int))
    assert recycle.kept() == 0


def test_a_failed_call_gives_its_memory_back() -> None:
    index = np.zeros((ROWS, WIDTH), np.int64)
    index[-1, -1] = 9
    for _ in range(2):
        with pytest.raises(IndexError):
            nbgather.gather(np.zeros((ROWS, 2), np.float32), 1, index)
        gc.collect()
    assert recycle.kept() <= 2 * (ROWS * WIDTH * 4 + 8192)


def test_a_forked_child_has_its_own() -> None:
    result = gathered(1)
    start = address(result)
    del result
    pid = os.fork()
    if pid == 0:
        result = gathered(2)
        os._exit(0 if recycle.kept() == 0 and (result == 2).all() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    again = gathered(3)
    assert address(again) == start


def test_results_that_outlive_the_interpreter() -> None:
    code = (
        "import nbgather, numpy as np, sys\n"
        "x, i = np.ones((64, 2)), np.zeros((64, 8192), int)\n"
        "sys.kept = nbgather.gather(x, 1, i)\n"
        "late = nbgather.gather(x, 1, i)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
