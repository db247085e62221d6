"""What cannot be cut is done on a thread of its own: the same bits, and interrupts end the call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import rng, same

import nbgather
from nbgather.engine import apart, infer, memo
from nbgather.kernels.cpu import launch, limits

X = rng("apart").standard_normal((3, 40, 2)).astype("f4")
LANE = np.zeros(9, "f4"), 0, rng("lane").integers(0, 9, 50), np.arange(50, dtype="f4")

CPU: dict[str, Any] = {"backend": "cpu"}  # else small calls are repeated from notes
CALLS: dict[str, Callable[[], Any]] = {
    "token_noise": lambda: nbgather.token_noise(5, 3, 40, epoch=2, **CPU),
    "rank_tokens": lambda: nbgather.rank_tokens(X[:, :, 0], 9, **CPU),
    "halves": lambda: nbgather.rank_tokens(X[:, :, 0].astype("f2"), 9, **CPU),
    "random_masking": lambda: nbgather.random_masking(X, 0.5, seed=3, **CPU),
    "with noise": lambda: nbgather.random_masking(X, 0.5, noise=X[:, :, 1], **CPU),
    "packed": lambda: nbgather.random_masking(X, seed=3, num_keep=[1, 5, 40], packed=True, **CPU),
    "block": lambda: nbgather.strategies.block(1, 3, (5, 8), **CPU),
    "tube": lambda: nbgather.strategies.tube(1, 3, (2, 5, 8), **CPU),
    "mean": lambda: nbgather.scatter_reduce(*LANE, "mean", **CPU),
    "without input": lambda: nbgather.scatter_reduce(*LANE, "sum", include_self=False, **CPU),
    "segments": lambda: nbgather.segment_reduce(X, "mean", offsets=[0, 1, 3], **CPU),
    "bags": lambda: nbgather.gather_reduce(X, [[0, 1, 0]], "sum", **CPU),
}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """All work is worth a thread of its own; those that were started."""
    started: list[threading.Thread] = []
    begin = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        started.append(thread)
        begin(thread)

    monkeypatch.setattr(apart, "PIECE_BYTES", -1)
    monkeypatch.setattr(threading.Thread, "start", start)
    # A job in the background may have been started with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield started
    signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    for thread in started:
        thread.join()


@pytest.mark.parametrize("name", CALLS)
def test_the_same_bits(name: str, threads: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    got = CALLS[name]()
    assert [thread.name for thread in threads] == ["nbgather"]
    monkeypatch.setattr(apart, "PIECE_BYTES", 1 << 27)
    want = CALLS[name]()
    assert len(threads) == 1
    for one, other in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, want)), strict=True):
        same(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("parts", ["long", "short"])
def test_a_call_with_long_parts_is_not_repeated_by_the_memo(
    parts: str, threads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is repeated sees no signal within a part: here a sample of 37 or 39 tokens.
    monkeypatch.setattr(memo, "PIECE_BYTES", 3800)
    scores = np.zeros((3, 39 if parts == "long" else 37), "f4")
    for _ in range(4):
        nbgather.rank_tokens(scores, 5)
    assert len(threads) == (4 if parts == "long" else 2)


def test_infer_gather(threads: list[Any]) -> None:
    x, index = X[0], rng("infer").integers(0, 40, (7, 2))
    (solution,) = nbgather.infer_gather(x, np.take_along_axis(x, index, 0))
    assert (solution.dim, solution.is_unique) == (0, True)
    same(solution.index, index)
    assert len(threads) == 1


def test_copies_of_what_no_kernel_can_walk(threads: list[Any]) -> None:
    """Of an input that is not aligned; they are not the result."""
    odd = np.ndarray(X.shape, "f4", np.zeros(X.nbytes + 1, "u1"), 1)
    odd[...] = X
    index = rng("odd").integers(0, 40, (3, 7, 2))
    same(nbgather.gather(odd, 1, index, **CPU), np.take_along_axis(X, index, 1))
    same(nbgather.scatter(X, 1, index, odd, **CPU), nbgather.scatter(X, 1, index, X, **CPU))
    assert len(threads) == 4  # two copies, and two scatters, whose lanes all count as long here


def test_errors_and_the_limit_of_threads_go_with_it(threads: list[Any]) -> None:
    with limits.limit_threads(3):
        assert apart.run(1, None, limits.num_threads) == 3
    with pytest.raises(ZeroDivisionError):
        apart.run(1, None, lambda: 1 // 0)
    assert len(threads) == 2


def test_no_other_thread_waits_for_one(threads: list[Any]) -> None:
    seen: list[Any] = []
    other = threading.Thread(
        target=lambda: seen.append(apart.run(1, None, threading.current_thread))
    )
    other.start()
    other.join()
    assert seen == [other]


class _Slow:
    """A kernel that does not end before it may, and an interrupt soon after it has begun."""

    def __init__(self, kernel: Callable[..., Any]) -> None:
        self.kernel, self.may_end, self.ended = kernel, threading.Event(), threading.Event()
        self.sent = 0.0

    def __call__(self, *operands: Any, **options: Any) -> Any:
        self.sent = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)
        assert self.may_end.wait(60)
        try:
            return self.kernel(*operands, **options)
        finally:
            self.ended.set()


@pytest.mark.parametrize("name", ["scatter", "masking"])
def test_an_interrupt_ends_the_call_at_once(
    name: str, threads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = _Slow(getattr(launch, name))
    out = np.full(9, 5, "f4")
    call: Callable[[], Any] = lambda: nbgather.scatter_reduce(*LANE, "mean", out=out, **CPU)  # noqa: E731
    if name == "masking":
        call = CALLS["random_masking"]
    want = call() if name == "masking" else nbgather.scatter_reduce(*LANE, "mean")
    with monkeypatch.context() as patch:
        patch.setattr(launch, name, slow)
        with pytest.raises(KeyboardInterrupt):
            call()
        waited = time.monotonic() - slow.sent
        assert not slow.ended.is_set()
        assert waited < 5  # soon, on a machine that is busy too
        slow.may_end.set()
        assert slow.ended.wait(60)
    for thread in threads:
        thread.join()
    assert (out == 5).all()  # whatever the thread made
    got = call()
    for one, other in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, want)), strict=True):
        same(one, other)


def test_infer_gather_ends_between_its_steps(
    threads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    unique, left = np.unique, []

    def slow(*operands: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        assert left_it.wait(60)
        return unique(*operands, **options)

    left_it = threading.Event()
    monkeypatch.setattr(np, "unique", slow)
    monkeypatch.setattr(infer, "_along", lambda *operands: left.append("went on"))
    with pytest.raises(KeyboardInterrupt):
        nbgather.infer_gather(X, X[:1])
    left_it.set()
    for thread in threads:
        thread.join()
    assert not left


ENDS = """
import numpy as np, nbgather, os, signal, threading, time
scores = np.random.default_rng(0).random((1, 5_000_000), "f4")
nbgather.rank_tokens(scores[:, :1_500_000], 5)
threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    nbgather.rank_tokens(scores, 5)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.large
def test_the_process_may_end_meanwhile() -> None:
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
