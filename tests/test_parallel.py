"""Threads, forks, layers, caches, interpreter exit: no abort, no hang, the right bytes."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from cases import rng, same

import nbgather
from nbgather.kernels.cpu import cache
from nbgather.kernels.cpu import threads as cpu_threads

SECONDS = 120
LAYERS = ("default", "omp", "workqueue")

#: What every child starts with: arrays large enough for several threads, and the right result.
WORK = """
import sys, numpy as np, nbgather
generator = np.random.default_rng(0)
x = generator.integers(0, 1 << 30, (256, 40, 65)).astype(np.int32)
index = generator.integers(0, 40, (256, 30, 65))
expected = np.take_along_axis(x, index, 1)

def check():
    result = nbgather.gather(x, 1, index)
    assert result.dtype == expected.dtype and result.tobytes() == expected.tobytes()
    try:
        nbgather.gather(x, 1, np.where(np.arange(65) == 64, 40, index))
    except IndexError as error:
        assert str(error).startswith("index 40 at (0, 0, 64) is out of bounds"), error
    else:
        raise AssertionError("a bad index passed")
    masked = nbgather.random_masking(x, 0.5, seed=1)
    assert (masked.mask.sum(1) == 20).all()
    return masked.ids_restore.tobytes()
"""


def child(code: str, layer: str = "default", **environment: str) -> str:
    """Run code after ``WORK`` in a fresh interpreter; it must end well, in time."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if name == "NUMBA_CACHE_DIR" or not name.startswith(("NUMBA_", "NBGATHER_"))
    }
    if layer != "default":
        settings["NUMBA_THREADING_LAYER"] = layer
    result = subprocess.run(
        [sys.executable, "-c", WORK + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=settings | environment,
    )
    assert result.returncode == 0, (result.returncode, result.stderr[-3000:])
    return result.stdout


@pytest.fixture
def empty_cache(tmp_path: Path) -> str:
    folder = tmp_path / "cache"
    folder.mkdir()
    return str(folder)


@pytest.fixture(scope="module")
def whole_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that ``check`` needs, compiled once; to be copied."""
    folder = tmp_path_factory.mktemp("whole")
    child("check()", NUMBA_CACHE_DIR=str(folder))
    return folder


def kernel_files(folder: Path) -> list[Path]:
    """The files of kernels and of the driver on one thread: those that are compiled quickly."""
    slow = {path for path in folder.rglob("*.nbc") if path.name.startswith("drivers._parallel")}
    assert len(slow) == 1
    return sorted(set(folder.rglob("*.nbc")) - slow)


@pytest.fixture
def cold_kernels(whole_cache: Path, tmp_path: Path) -> str:
    """A cache without the kernels, but with the driver that takes longest to compile."""
    folder = tmp_path / "cold"
    shutil.copytree(whole_cache, folder)
    for path in kernel_files(folder):
        path.unlink()
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
def test_eight_threads_cold(layer: str, empty_cache: str, request: pytest.FixtureRequest) -> None:
    # The driver for all threads is compiled once, the kernels for each layer.
    folder = empty_cache if layer == "default" else request.getfixturevalue("cold_kernels")
    code = THREADS.replace("ROUNDS", "1")
    assert child(code, layer, NUMBA_CACHE_DIR=folder) == "done\n"


@pytest.mark.parametrize("layer", LAYERS)
def test_eight_threads_warm(layer: str) -> None:
    assert child("check()\n" + THREADS.replace("ROUNDS", "20"), layer) == "done\n"


def test_users_own_parallel_numba_at_the_same_time_on_workqueue() -> None:
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


INTERRUPTS = """
import os, random, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
x = generator.random((64, 200, 500), np.float32)
index = generator.integers(0, 200, x.shape)
expected = np.take_along_axis(x, index, 1)
random.seed(0)
met = 0

def poke(delay, ended):
    # Once more if the first one was lost, as it is within a callback of ctypes.
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
out = np.empty_like(expected)
assert nbgather.gather(x, 1, index, out=out) is out and np.array_equal(out, expected)
print(met)
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_an_interrupt(layer: str) -> None:
    code = INTERRUPTS.replace("TIMES", "20").replace("WITHIN", "0.05")
    assert child("check()\n" + code, layer) == "20\n"


def test_an_interrupt_while_a_kernel_compiles(empty_cache: str) -> None:
    # An interrupted import of numba cannot be repeated in the same process: that is over before.
    load = "import nbgather.kernels.cpu.launch\n"
    code = INTERRUPTS.replace("TIMES", "4").replace("WITHIN", "1.0")
    assert 0 < int(child(load + code, NUMBA_CACHE_DIR=empty_cache)) <= 4  # llvmlite may lose one


def test_an_interrupted_call_waits_for_its_threads() -> None:
    """No thread writes to a result after its call has ended, also if by an interrupt."""
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
    # The part that had begun was finished, and the rest of the range was not begun any more.
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


def test_a_fork_while_a_thread_compiles(cold_kernels: str) -> None:
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
    assert child(code, NUMBA_CACHE_DIR=cold_kernels) == "done\n"


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


#: Nobody, not even root, can write to the cache's folder.
READ_ONLY = """
import os, sys

FOLDER = os.environ["NUMBA_CACHE_DIR"]

def refuse(event, args):
    if event in ("open", "os.mkdir", "os.rename", "os.remove") and str(args[0]).startswith(FOLDER):
        if event != "open" or args[2] & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied")

sys.addaudithook(refuse)
try:
    open(FOLDER + "/file", "w")
except PermissionError:
    pass
else:
    raise AssertionError("a file could be written")
"""

#: A file cannot grow beyond so many bytes, as on a full disk.
FULL_DISK = """
import resource

resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
"""

OBSTACLES = {"read only": READ_ONLY, "full disk": FULL_DISK}

#: A gather by a kernel and the driver for all threads; prints which of the two was compiled.
ONE_KERNEL = """
from numba.core.dispatcher import _FunctionCompiler

compiled, compile_ = [], _FunctionCompiler.compile

def counted(self, *args):
    compiled.append(self.py_func.__name__)
    return compile_(self, *args)

_FunctionCompiler.compile = counted
assert nbgather.gather(x, 1, index).tobytes() == expected.tobytes()
print("gather_elements" in compiled, "_parallel" in compiled)
"""


def test_a_read_only_cache_and_home(tmp_path: Path) -> None:
    # Nobody can write below a file that is where a folder is needed.
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    elsewhere = {"HOME": str(blocked), "XDG_CACHE_HOME": str(blocked / "cache")}
    everything = {"NUMBA_CACHE_DIR": "", **elsewhere}
    assert child("check()\nprint('done')", **everything) == "done\n"
    one_thread = {"NBGATHER_NUM_THREADS": "1", **elsewhere}
    folder = str(blocked / "cache")
    assert child(ONE_KERNEL, NUMBA_CACHE_DIR=folder, **one_thread) == "True False\n"


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_cache_that_can_only_be_read(obstacle: str, cold_kernels: str) -> None:
    """What is in it is used, and what is not is compiled and not kept; nothing is left behind."""
    folder = Path(cold_kernels)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert len(before) == 1
    assert child(OBSTACLES[obstacle] + ONE_KERNEL, NUMBA_CACHE_DIR=cold_kernels) == "True False\n"
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert after == before


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
def test_a_damaged_cache(damage: str, whole_cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(whole_cache, folder)
    # What `ONE_KERNEL` needs. The driver for all threads takes longest to compile: for it, one kind
    # of damage is enough.
    names = ("gather.", "drivers._serial", *["drivers._parallel"] * (damage == "half"))
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nbc")}
    damaged = {path for path in stamps if path.name.startswith(names)}
    assert len(damaged) == len(names)
    for path in damaged:
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
        assert cache.read(path) is None
    compiled = f"True {damage == 'half'}\n"
    assert child(ONE_KERNEL, NUMBA_CACHE_DIR=str(folder)) == compiled
    # They were replaced, not avoided: the next process finds what it needs.
    assert stamps.keys() == set(folder.rglob("*.nbc"))
    for path, stamp in stamps.items():
        assert cache.read(path) is not None
        assert path in damaged or path.stat().st_mtime_ns == stamp


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
        expected = nbgather.gather(x, dim, index)
    with cpu_threads.limit_threads(threads):
        same(nbgather.gather(x, dim, index), expected)
        same(nbgather.gather(x[..., ::-1], dim, index[..., ::-1]), expected[..., ::-1].copy())


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
    message = f"NBGATHER_NUM_THREADS is {text!r}: a whole number from 1 up is needed"
    assert str(raised.value) == message


def test_the_thread_count_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGATHER_NUM_THREADS", "3")
    assert cpu_threads.num_threads() == 3
    with cpu_threads.limit_threads(1):
        assert cpu_threads.num_threads() == 1
    assert cpu_threads.num_threads() == 3
