"""Cold, damaged and read-only caches of kernels: by several threads and processes, and in time."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from children import INTERRUPTS, SECONDS, THREADS, WORK, child

from nbgather.kernels.cpu import cache

#: Code in a fresh interpreter that compiles its kernels, and takes none that come with the package.
cold = functools.partial(child, NBGATHER_SHIPPED_KERNELS="0")


@pytest.fixture
def empty_cache(tmp_path: Path) -> str:
    folder = tmp_path / "cache"
    folder.mkdir()
    return str(folder)


#: A ``check`` that compiles a third of what the other one does.
GATHERS = """
def check():
    result = nbgather.gather(x, 1, index)
    assert result.dtype == expected.dtype and result.tobytes() == expected.tobytes()
    return result.tobytes()
"""


@pytest.fixture(scope="module")
def whole_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a gather by the team needs, and one kernel more, compiled once; to be copied."""
    folder = tmp_path_factory.mktemp("whole")
    cold("nbgather.gather(x, 1, index); nbgather.token_noise(1, 4, 9)", NUMBA_CACHE_DIR=str(folder))
    return folder


def test_eight_threads_cold(empty_cache: str) -> None:
    code = GATHERS + THREADS.replace("ROUNDS", "1")
    assert cold(code, NUMBA_CACHE_DIR=empty_cache) == "done\n"


def test_an_interrupt_while_a_kernel_compiles(empty_cache: str) -> None:
    # An interrupted import of numba cannot be repeated in the same process: that is over before.
    load = "import nbgather.kernels.cpu.launch\n"
    code = INTERRUPTS.replace("TIMES", "4").replace("WITHIN", "1.0")
    assert 0 < int(cold(load + code, NUMBA_CACHE_DIR=empty_cache)) <= 4  # llvmlite may lose one


@pytest.mark.parametrize(
    "slow", ["nbgather.indexing", "nbgather.engine.gather", "nbgather.masking"]
)
def test_a_fork_while_a_thread_imports(slow: str) -> None:
    """A child does not wait for the lock of a module that a thread of the parent was loading."""
    code = f"""
    import os, signal, sys, threading, time
    import numpy as np
    import nbgather

    class Slow:  # as on a busy machine, or a disk far away
        def find_spec(self, name, path=None, target=None):
            if name == {slow!r}:
                begun.set()
                time.sleep(0.5)

    begun = threading.Event()
    sys.meta_path.insert(0, Slow())
    x = np.arange(12.0).reshape(3, 4)

    def call():
        assert nbgather.gather(x, 1, np.full((3, 1), 2)).tolist() == [[2.0], [6.0], [10.0]]
        assert nbgather.random_masking(x[..., None], 0.5, seed=1).mask.sum() == 6

    thread = threading.Thread(target=call)
    thread.start()
    assert begun.wait(30)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        call()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "the child hung"
    thread.join()
    print("done")
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=100)
    assert done.stdout == "done\n", done.stderr


def test_a_fork_while_a_thread_compiles(empty_cache: str) -> None:
    code = """
    import os, threading, time
    thread = threading.Thread(target=check)
    thread.start()
    for _ in range(3):
        time.sleep(0.25)
        pid = os.fork()
        if pid == 0:
            check()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    thread.join()
    print("done")
    """
    code = GATHERS + textwrap.dedent(code)
    assert cold(code, NUMBA_CACHE_DIR=empty_cache) == "done\n"


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

resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
"""

OBSTACLES = {"read only": READ_ONLY, "full disk": FULL_DISK}

#: A gather by a kernel and the team; prints what was compiled.
ONE_KERNEL = """
from nbgather.kernels.cpu import compiler

compiled, build = [], compiler._build

def counted(function, entry):
    compiled.append(function.name)
    return build(function, entry)

compiler._build = counted
assert nbgather.gather(x, 1, index).tobytes() == expected.tobytes()
print(*sorted(compiled))
"""
ALL = "helper make_gather run\n"


def test_a_read_only_cache_and_home(tmp_path: Path) -> None:
    # Nobody can write below a file that is where a folder is needed.
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    elsewhere = {"HOME": str(blocked), "XDG_CACHE_HOME": str(blocked / "cache")}
    assert cold(ONE_KERNEL, NUMBA_CACHE_DIR="", **elsewhere) == ALL
    one_thread = {"NBGATHER_NUM_THREADS": "1", **elsewhere}
    folder = str(blocked / "cache")
    assert cold(ONE_KERNEL, NUMBA_CACHE_DIR=folder, **one_thread) == "make_gather run\n"


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_cache_that_can_only_be_read(obstacle: str, whole_cache: Path, tmp_path: Path) -> None:
    """What is in it is used, and what is not is compiled and not kept; nothing is left behind."""
    folder = tmp_path / "part"
    shutil.copytree(whole_cache, folder)
    for path in folder.rglob("*.nbc"):
        if path.name.startswith("gather."):
            path.unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert len(before) > 2
    code = OBSTACLES[obstacle] + ONE_KERNEL
    assert cold(code, NUMBA_CACHE_DIR=str(folder)) == "make_gather\n"
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert after == before


DAMAGE = {
    "cut": lambda data: data[:20],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "text": lambda data: b"not a cache\n" * 9,
    "other object": lambda data: b"\x7fELF" + bytes(99),
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize(
    "damages",
    [
        # Files that end too early, and one of the right length.
        ("half", "zeros", "cut"),
        *(pytest.param((d,) * 3, marks=pytest.mark.large, id=d) for d in DAMAGE),
    ],
)
def test_a_damaged_cache(damages: tuple[str, ...], whole_cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(whole_cache, folder)
    names = "gather.", "team.run", "team.helper"
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nbc")}
    damaged = {path for path in stamps if path.name.startswith(names)}
    for path, damage in zip(sorted(damaged), damages, strict=True):
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
        assert cache.read(path) is None
    assert cold(ONE_KERNEL, NUMBA_CACHE_DIR=str(folder)) == ALL
    # They were replaced, not avoided: the next process finds what it needs.
    assert stamps.keys() == set(folder.rglob("*.nbc"))
    for path, stamp in stamps.items():
        assert cache.read(path) is not None
        assert path in damaged or path.stat().st_mtime_ns == stamp


def test_two_processes_with_one_empty_cache(empty_cache: str) -> None:
    settings = {**os.environ, "NUMBA_CACHE_DIR": empty_cache}
    command = [sys.executable, "-c", WORK + GATHERS + "sys.stdout.write(check().hex())"]
    both = [
        subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outs = [process.communicate(timeout=SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert outs[0][0] == outs[1][0] != b""
