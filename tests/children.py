"""Child processes that call nbgather: what they run, and how they must end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

SECONDS = 120
#: Whose threads a call may run on: our own, or OpenMP's, which torch keeps awake.
WAYS = ("own", "torch")

#: What every child starts with: arrays large enough for several threads, and the right result.
WORK = """
import os, sys, numpy as np, nbgather
TORCH = "TEST_WITH_TORCH" in os.environ
PARENT = os.getpid()
if TORCH:
    import torch
generator = np.random.default_rng(0)
x = generator.integers(0, 1 << 30, (256, 40, 65)).astype(np.int32)
index = generator.integers(0, 40, (256, 30, 65))
expected = np.take_along_axis(x, index, 1)

def check():
    if TORCH and os.getpid() == PARENT:  # in a forked child torch itself would hang
        torch.ones(1 << 18).add_(1)
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


def child(code: str, way: str = "own", seconds: float = SECONDS, **environment: str) -> str:
    """Run code after ``WORK`` in a fresh interpreter; it must end well, in time."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if name == "NUMBA_CACHE_DIR" or not name.startswith(("NUMBA_", "NBGATHER_"))
    }
    if way == "torch":
        settings["TEST_WITH_TORCH"] = "1"
    result = subprocess.run(
        [sys.executable, "-c", WORK + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=settings | environment,
    )
    assert result.returncode == 0, (result.returncode, result.stderr[-3000:])
    return result.stdout


#: Eight threads that call ``check`` at the same time.
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

#: Signals while calls run, or while they compile; prints how many arrived.
INTERRUPTS = """
import random, signal, threading, time
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
