"""Threads, forks, interrupts, interpreter exit: no abort, no hang, the right bytes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import rng, same
from children import INTERRUPTS, SECONDS, THREADS, WAYS, WORK, child

import nbgather
from nbgather.kernels.cpu import limits as cpu_limits


@pytest.mark.parametrize("way", WAYS)
def test_eight_threads_warm(way: str) -> None:
    assert child("check()\n" + THREADS.replace("ROUNDS", "20"), way) == "done\n"


def test_users_own_parallel_numba_at_the_same_time() -> None:
    """Numba's workqueue layer aborts when two threads enter it: nbgather must not enter it."""
    code = """
    import threading, numba

    @numba.njit(parallel=True, nogil=True)
    def users(a):
        for k in numba.prange(a.size):
            a[k] += 1

    users(np.zeros(10))
    check()
    stop = threading.Event()

    def use():
        a = np.zeros(1_000_000)
        while not stop.is_set():
            users(a)

    thread = threading.Thread(target=use)
    thread.start()
    for _ in range(30):
        check()
    stop.set()
    thread.join()
    print("done")
    """
    assert child(code, NUMBA_THREADING_LAYER="workqueue") == "done\n"


@pytest.mark.parametrize("way", WAYS)
def test_a_child_forked_after_use(way: str) -> None:
    code = """
    import os
    first = check()
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if check() == first and check() == first else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert check() == first
    print("done")
    """
    assert child(code, way) == "done\n"


USERS_OWN = {
    "numba": """
        import numba

        @numba.njit(parallel=True)
        def users(a):
            for k in numba.prange(a.size):
                a[k] += 1

        users(np.zeros(1_000_000))
        """,
    "torch": """
        import torch
        a = torch.ones(2000, 2000)
        torch.sort(a @ a)
        """,
}


@pytest.mark.parametrize("loaded", ["before", "after"])
@pytest.mark.parametrize("user", USERS_OWN)
def test_a_child_forked_after_the_users_own_threads(user: str, loaded: str) -> None:
    """The parent used OpenMP through other code: a child that enters it is killed or hangs."""
    start = "import os, numpy as np\n" + textwrap.dedent(USERS_OWN[user])
    body = f"""
    exec({WORK!r}) if {loaded == "before"} else None
    pid = os.fork()
    if pid == 0:
        exec({WORK!r})
        check()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print("done")
    """
    result = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr[-3000:]


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt(way: str) -> None:
    code = INTERRUPTS.replace("TIMES", "20").replace("WITHIN", "0.05")
    assert child("check()\n" + code, way) == "20\n"


def long_calls() -> list[Any]:
    """Each by two threads; by one, where all are led through the same loop, those of two kinds."""
    calls = ("rank", "strategy", "mask", "gather", "sum", "largest")
    usual = ("rank", "sum")
    return [
        *(pytest.param(c, "1", marks=() if c in usual else pytest.mark.large) for c in calls),
        *((call, "2") for call in calls),
    ]


@pytest.mark.parametrize("call, threads", long_calls())
def test_a_long_call_is_interrupted_soon(call: str, threads: str) -> None:
    """And no thread writes to a result after its call has ended."""
    code = f"""
    import signal, threading, time
    from nbgather.kernels import constants
    from nbgather.kernels.cpu import threads
    signal.signal(signal.SIGINT, signal.default_int_handler)
    check()
    scores = np.zeros((2000, 100_000), np.float32)
    tokens = np.zeros((2000, 2000, 64), np.float32)
    row = np.zeros((1, 7), np.float32)
    indices = np.broadcast_to(np.uint8(3), (1, 2_000_000_000))
    ones = np.broadcast_to(np.float32(1), indices.shape)
    calls = {{
        "rank": lambda: nbgather.rank_tokens(scores, 10),
        "strategy": lambda: nbgather.strategies.block(1, 20_000, (60, 60)),
        "mask": lambda: [nbgather.random_masking(tokens, 0.1, seed=1) for _ in range(99)],
        "gather": lambda: nbgather.gather(row, 1, indices),
        "sum": lambda: nbgather.scatter_add(row, 1, indices, ones),
        "largest": lambda: nbgather.scatter_reduce(row, 1, indices, ones, "amax"),
    }}
    # Compiled before, by a call that is long, too, as small ones have other kernels: LLVM calls
    # Python back, and an interrupt that arrives there is lost; one within the text that an import
    # executes is caught, and still makes CPython end as if it had not been.
    whole, rest = indices, ones
    indices, ones = whole[:, :30_000_000], rest[:, :30_000_000]
    if {call!r} in ("gather", "sum", "largest"):
        calls[{call!r}]()
    indices, ones = whole, rest
    sent = []

    def interrupt():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.4, interrupt)
    timer.start()
    try:
        calls[{call!r}]()
        raise AssertionError("it was over too soon")
    except KeyboardInterrupt:
        taken = time.monotonic() - sent[0]
    slots = threads._team.words[constants.HEAD_WORDS:].reshape(-1, constants.SLOT_WORDS)
    busy = [constants.OPEN, constants.TAKEN, constants.INSIDE]
    assert not slots[:, busy].any()
    check()
    print(taken < 1.0 or taken)
    """
    assert child(code, NBGATHER_NUM_THREADS=threads) == "True\n"


@pytest.mark.parametrize("way", WAYS)
def test_forks_while_other_threads_work(way: str) -> None:
    code = """
    import os, threading
    first = check()
    stop = threading.Event()

    def work():
        while not stop.is_set():
            check()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if check() == first else 1)
        assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    print("done")
    """
    assert child(code, way) == "done\n"


@pytest.mark.parametrize(
    "method, way",
    [
        ("fork", "torch"), ("spawn", "own"),
        *(pytest.param(*case, marks=pytest.mark.large)
          for case in (("fork", "own"), ("spawn", "torch"))),
    ],
)  # fmt: skip
def test_multiprocessing(method: str, way: str, tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    body = """
    if __name__ == "__main__":
        import multiprocessing
        first = check()
        with multiprocessing.get_context(METHOD).Pool(2) as pool:
            results = [pool.apply_async(check) for _ in range(4)]
            assert {r.get(90) for r in results} == {first}
        print("done")
    """
    script.write_text(WORK + textwrap.dedent(body).replace("METHOD", repr(method)))
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    if method == "spawn":
        code = f"import subprocess; subprocess.run([sys.executable, {str(script)!r}], check=True)"
    assert child(code, way) == "done\n"


@pytest.mark.parametrize("way", WAYS)
def test_torchs_data_loader(way: str) -> None:
    code = """
    import torch
    from torch.utils.data import DataLoader

    def mask(ids):
        x = torch.arange(2 * 64 * 1024).reshape(2, 64, 1024)
        masked = nbgather.random_masking(x, seed=3, sample_ids=torch.tensor(ids))
        return ids, masked.mask, masked.x_masked

    check()
    masks_by_id = {}
    for workers in (0, 2):
        loader = DataLoader(range(8), batch_size=2, num_workers=workers, collate_fn=mask)
        for epoch in range(2):
            for ids, masks, tokens in loader:
                assert tokens.shape == (2, 16, 1024)
                for i, m in zip(ids, masks):
                    assert masks_by_id.setdefault(i, m.tolist()) == m.tolist()
    assert len(masks_by_id) == 8
    check()
    print("done")
    """
    assert child(code, way) == "done\n"


@pytest.mark.parametrize("way", WAYS)
def test_at_the_end_of_the_interpreter(way: str) -> None:
    code = """
    import atexit
    check()

    class Late:
        def __del__(self):
            check()
            print("late")

    late = Late()
    atexit.register(lambda: print("exit", len(check()) > 0))
    """
    assert child(code, way) == "exit True\nlate\n"


def test_a_thread_that_is_still_working_at_the_end() -> None:
    code = """
    import atexit, threading, time
    check()

    def work():
        while True:
            check()

    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.2)
    atexit.register(lambda: print("exit", len(check()) > 0))
    """
    assert child(code) == "exit True\n"


# In this process


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(300, 50, 64), (1, 200_003), (64, 3, 5000)])
def test_any_number_of_threads(threads: int, shape: tuple[int, ...]) -> None:
    generator = rng("threads")
    x = generator.integers(0, 255, shape).astype(np.float32)
    dim = len(shape) - 2
    index = generator.integers(0, shape[dim], shape)
    with cpu_limits.limit_threads(1):
        expected = nbgather.gather(x, dim, index)
    with cpu_limits.limit_threads(threads):
        same(nbgather.gather(x, dim, index), expected)
        same(nbgather.gather(x[..., ::-1], dim, index[..., ::-1]), expected[..., ::-1].copy())


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("last", [0, 1, 77_777, 199_999])
def test_the_first_bad_index_is_named(threads: int, last: int) -> None:
    index = np.zeros((5, 200_000), np.int64)
    index[3, last] = -9
    index[4, 0] = 12
    with (
        cpu_limits.limit_threads(threads),
        pytest.raises(IndexError) as raised,
    ):
        nbgather.gather(np.zeros((5, 8)), 1, index)
    assert str(raised.value) == (
        f"index -9 at (3, {last}) is out of bounds for dimension 1 with size 8"
    )


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " "])
def test_a_bad_thread_count(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGATHER_NUM_THREADS", text)
    x, index = np.zeros((64, 4096)), np.zeros((64, 4096), np.int64)
    with pytest.raises(ValueError) as raised:
        nbgather.gather(x, 1, index)
    message = f"NBGATHER_NUM_THREADS is {text!r}: a whole number from 1 up is needed"
    assert str(raised.value) == message


def test_the_thread_count_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGATHER_NUM_THREADS", "3")
    assert cpu_limits.num_threads() == 3
    with cpu_limits.limit_threads(1):
        assert cpu_limits.num_threads() == 1
    assert cpu_limits.num_threads() == 3
