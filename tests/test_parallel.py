"""Threads, forks, layers, caches, interpreter exit: no abort, no hang, the right bytes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from cases import rng, same

import nbgather
from nbgather.kernels.cpu import threads as cpu_threads

SECONDS = 120
LAYERS = ("default", "omp", "workqueue")

#: What every child starts with: arrays large enough to be split, and the answer.
WORK = """
import sys, numpy as np, nbgather
generator = np.random.default_rng(0)
x = generator.integers(0, 1 << 30, (256, 40, 65)).astype(np.int32)
index = generator.integers(0, 40, (256, 30, 65))
want = np.take_along_axis(x, index, 1)
masked = None

def check():
    got = nbgather.gather(x, 1, index)
    assert got.dtype == want.dtype and got.tobytes() == want.tobytes()
    try:
        nbgather.gather(x, 1, np.where(np.arange(65) == 64, 40, index))
    except IndexError as error:
        assert str(error).startswith("index 40 at (0, 0, 64) is out of bounds"), error
    else:
        raise AssertionError("a bad index passed")
    made = nbgather.random_masking(x, 0.5, seed=1)
    assert (made.mask.sum(1) == 20).all()
    return made.ids_restore.tobytes()
"""


def child(code: str, layer: str = "default", **environment: str) -> str:
    """Run code after ``WORK`` in a fresh interpreter; it must end well, in time."""
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "NBGATHER_"))}
    if layer != "default":
        settings["NUMBA_THREADING_LAYER"] = layer
    done = subprocess.run(
        [sys.executable, "-c", WORK + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=settings | environment,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    return done.stdout


@pytest.fixture
def empty_cache(tmp_path: Path) -> str:
    folder = tmp_path / "cache"
    folder.mkdir()
    return str(folder)


THREADS = """
from concurrent.futures import ThreadPoolExecutor
import threading

barrier = threading.Barrier(8)

def work(k):
    barrier.wait()
    return {check() for _ in range(ROUNDS)}

with ThreadPoolExecutor(8) as pool:
    assert len(set().union(*pool.map(work, range(8)))) == 1
print("done")
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_eight_threads_cold(layer: str, empty_cache: str) -> None:
    code = THREADS.replace("ROUNDS", "1")
    assert child(code, layer, NUMBA_CACHE_DIR=empty_cache) == "done\n"


@pytest.mark.parametrize("layer", LAYERS)
def test_eight_threads_warm(layer: str) -> None:
    assert child("check()\n" + THREADS.replace("ROUNDS", "20"), layer) == "done\n"


def test_users_own_parallel_numba_at_the_same_time_on_workqueue() -> None:
    """Numba's workqueue layer aborts when two threads enter it: ours must not be one of them."""
    code = """
    import threading, numba

    @numba.njit(parallel=True, nogil=True)
    def users(a):
        for k in numba.prange(a.size):
            a[k] += 1

    users(np.zeros(10))
    check()
    stop = threading.Event()

    def theirs():
        a = np.zeros(1_000_000)
        while not stop.is_set():
            users(a)

    thread = threading.Thread(target=theirs)
    thread.start()
    for _ in range(30):
        check()
    stop.set()
    thread.join()
    print("done")
    """
    assert child(code, "workqueue") == "done\n"


@pytest.mark.parametrize("layer", LAYERS)
def test_a_child_forked_after_use(layer: str) -> None:
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
    assert child(code, layer) == "done\n"


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
    """OpenMP in the parent, by others than us: a child that enters it is killed or waits."""
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
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]


INTERRUPTS = """
import os, random, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
x = generator.random((64, 200, 500), np.float32)
index = generator.integers(0, 200, x.shape)
want = np.take_along_axis(x, index, 1)
random.seed(0)
met = 0

def poke(delay, ended):
    # Again where the first was swallowed, as it is within a callback of ctypes.
    time.sleep(delay)
    while not ended.is_set():
        os.kill(os.getpid(), signal.SIGINT)
        ended.wait(3)

for _ in range(TIMES):
    ended = threading.Event()
    thread = threading.Thread(target=poke, args=(random.random() * WITHIN, ended))
    try:
        thread.start()
        while True:
            nbgather.gather(x, 1, index)
    except KeyboardInterrupt:
        ended.set()
        met += 1
    thread.join()
out = np.empty_like(want)
assert nbgather.gather(x, 1, index, out=out) is out and np.array_equal(out, want)
print(met)
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_an_interrupt(layer: str) -> None:
    code = INTERRUPTS.replace("TIMES", "20").replace("WITHIN", "0.05")
    assert child("check()\n" + code, layer) == "20\n"


def test_an_interrupt_while_a_kernel_compiles(empty_cache: str) -> None:
    code = INTERRUPTS.replace("TIMES", "4").replace("WITHIN", "1.0")
    assert 0 < int(child(code, NUMBA_CACHE_DIR=empty_cache)) <= 4  # llvmlite may swallow one


def test_an_interrupted_call_waits_for_its_threads() -> None:
    """Nobody writes to a result once its call has ended, however it ended."""
    began, go_on = threading.Event(), threading.Event()
    states = []

    def run(lo: int, hi: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            began.set()
            go_on.wait()
            states.append("written")
            return 1
        began.wait()
        threading.Timer(0.2, go_on.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cpu_threads._run_on_pool(run, (), 3, 3, 2)
    # The part that had begun was ended, and what was left of the range is not begun any more.
    assert states == ["written"]


@pytest.mark.parametrize("layer", LAYERS)
def test_forks_while_other_threads_work(layer: str) -> None:
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
    assert child(code, layer) == "done\n"


def test_a_fork_while_a_thread_compiles(empty_cache: str) -> None:
    code = """
    import os, threading, time
    thread = threading.Thread(target=check)
    thread.start()
    for _ in range(4):
        time.sleep(0.25)
        pid = os.fork()
        if pid == 0:
            check()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    thread.join()
    print("done")
    """
    assert child(code, NUMBA_CACHE_DIR=empty_cache) == "done\n"


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method: str, layer: str, tmp_path: Path) -> None:
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
    assert child(code, layer) == "done\n"


@pytest.mark.parametrize("layer", LAYERS)
def test_torchs_data_loader(layer: str) -> None:
    code = """
    import torch
    from torch.utils.data import DataLoader

    def mask(ids):
        x = torch.arange(2 * 64 * 1024).reshape(2, 64, 1024)
        made = nbgather.random_masking(x, seed=3, sample_ids=torch.tensor(ids))
        return ids, made.mask, made.x_masked

    check()
    alone = {}
    for workers in (0, 2):
        loader = DataLoader(range(8), batch_size=2, num_workers=workers, collate_fn=mask)
        for epoch in range(2):
            for ids, masks, tokens in loader:
                assert tokens.shape == (2, 16, 1024)
                for i, m in zip(ids, masks):
                    assert alone.setdefault(i, m.tolist()) == m.tolist()
    assert len(alone) == 8
    check()
    print("done")
    """
    assert child(code, layer) == "done\n"


@pytest.mark.parametrize("layer", LAYERS)
def test_at_the_end_of_the_interpreter(layer: str) -> None:
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
    assert child(code, layer) == "exit True\nlate\n"


@pytest.mark.parametrize("layer", LAYERS)
def test_a_thread_that_is_still_working_at_the_end(layer: str) -> None:
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
    assert child(code, layer) == "exit True\n"


#: What numba tries a folder with before it caches there; no user, not even root, gets past this.
READ_ONLY = """
import tempfile

def refuse(*args, **kwargs):
    raise PermissionError(13, "Permission denied")

tempfile.TemporaryFile = refuse
"""


def test_a_read_only_cache_and_home(tmp_path: Path) -> None:
    # A file where a folder is needed cannot be written below by anybody either.
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    elsewhere = {"HOME": str(blocked), "XDG_CACHE_HOME": str(blocked / "cache")}
    code = "check()\nprint('done')"
    assert child(code, **elsewhere) == "done\n"
    assert child(code, NUMBA_CACHE_DIR=str(blocked / "cache"), **elsewhere) == "done\n"
    assert child(READ_ONLY + code, **elsewhere) == "done\n"


DAMAGE = {
    "cut": lambda data: data[:20],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "text": lambda data: b"not a cache\n" * 9,
    "other object": lambda data: pickle.dumps(["0.0", {}]),
    "no such class": lambda data: b"cno_such_module\nname\n.",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache(damage: str, empty_cache: str) -> None:
    code = "nbgather.gather(x, 1, index); print('done')"
    child(code, NUMBA_CACHE_DIR=empty_cache)
    files = list(Path(empty_cache).rglob("*.nb?"))
    assert {path.suffix for path in files} == {".nbi", ".nbc"}
    for path in files:
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert child(code, NUMBA_CACHE_DIR=empty_cache) == "done\n"
    # It was mended, not gone round: the next process finds what it needs.
    stamps = {path: path.stat().st_mtime_ns for path in Path(empty_cache).rglob("*.nbc")}
    assert child(code, NUMBA_CACHE_DIR=empty_cache) == "done\n"
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_two_processes_with_one_empty_cache(empty_cache: str) -> None:
    settings = {**os.environ, "NUMBA_CACHE_DIR": empty_cache}
    command = [sys.executable, "-c", WORK + "sys.stdout.write(check().hex())"]
    both = [
        subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outs = [process.communicate(timeout=SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert outs[0][0] == outs[1][0] != b""


# In this process


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(300, 50, 64), (1, 200_003), (64, 3, 5000)])
def test_any_number_of_threads(threads: int, shape: tuple[int, ...]) -> None:
    generator = rng("threads")
    x = generator.integers(0, 255, shape).astype(np.float32)
    dim = len(shape) - 2
    index = generator.integers(0, shape[dim], shape)
    with cpu_threads.limit_threads(1):
        want = nbgather.gather(x, dim, index)
    with cpu_threads.limit_threads(threads):
        same(nbgather.gather(x, dim, index), want)
        same(nbgather.gather(x[..., ::-1], dim, index[..., ::-1]), want[..., ::-1].copy())


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("last", [0, 1, 77_777, 199_999])
def test_the_first_bad_index_is_named(threads: int, last: int) -> None:
    index = np.zeros((5, 200_000), np.int64)
    index[3, last] = -9
    index[4, 0] = 12
    with (
        cpu_threads.limit_threads(threads),
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
    said = f"NBGATHER_NUM_THREADS is {text!r}: a whole number from 1 up is needed"
    assert str(raised.value) == said


def test_the_thread_count_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGATHER_NUM_THREADS", "3")
    assert cpu_threads.num_threads() == 3
    with cpu_threads.limit_threads(1):
        assert cpu_threads.num_threads() == 1
    assert cpu_threads.num_threads() == 3
