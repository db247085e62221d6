"""Memory that changes while calls run: arrays that another thread resizes, a file that shrinks.

What can be helped, and what cannot:

* An ndarray that is resized in place by another thread (``refcheck=False``) frees memory that a
  call reads: nobody can help that, and NumPy's own functions die of it as well. With NumPy's check
  of references, which is the default, the resize is refused while the call has the array in its
  hands: this is tried here.
* A memory map whose file is made shorter by somebody else is memory that is not there: reading it
  ends the process by SIGBUS, in NumPy, torch and here. This is tried in a process of its own, and
  told as it is.
* Values that change while a call runs give values of before or after; indices that change are
  checked in the moment in which they are used, so nothing outside is read or written: tried here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

import nbgather

SHRINKS = """
import numpy as np, os, sys, nbgather
path = sys.argv[1]
np.zeros((1 << 20, 4), "f4").tofile(path)
x = np.memmap(path, "f4", "r", shape=(1, 1 << 20, 4))
ids = np.arange(1 << 20)[None, ::-1].copy()
nbgather.gather_tokens(x, ids)
os.truncate(path, 4096)
print("shrunk", flush=True)
nbgather.gather_tokens(x, ids)
"""


def resized(until: float) -> int:
    """Calls while another thread resizes the array that it can; how many resizes went through."""
    stop, done = threading.Event(), [0]
    held = [np.zeros((1, 100_000), "f4")]

    def resize() -> None:
        while not stop.is_set():
            try:
                held[0].resize((1, 50_000 + done[0] % 7))
                done[0] += 1
            except ValueError:  # it is in use
                pass
            held[0] = np.zeros((1, 100_000), "f4")

    thread = threading.Thread(target=resize)
    thread.start()
    try:
        index = np.full((1, 400_000), 49_999)
        while time.monotonic() < until:
            try:
                assert not nbgather.gather(held[0], 1, index).any()
            except IndexError as error:
                raise AssertionError("a size that never was") from error
    finally:
        stop.set()
        thread.join()
    return done[0]


def changing_indices(until: float) -> int:
    """An index that another thread spoils while calls read it; how many calls refused it."""
    stop, refused = threading.Event(), 0
    x, index = np.ones((64, 1000), "f4"), np.zeros((64, 20_000), "i8")

    def spoil() -> None:
        generator = np.random.default_rng(0)
        while not stop.is_set():
            row, column = generator.integers(0, 64), generator.integers(0, 20_000)
            index[row, column] = generator.integers(-(1 << 62), 1 << 62)
            time.sleep(0.0002)
            index[row, column] = 0

    thread = threading.Thread(target=spoil)
    thread.start()
    calls = [
        lambda: nbgather.gather(x, 1, index),
        lambda: nbgather.take_along_axis(x, index, 1),
        lambda: nbgather.scatter(x, 1, index[:, :1000], x),
        lambda: nbgather.scatter_add(x, 1, index[:, :1000], x),
    ]
    try:
        while time.monotonic() < until:
            for call in calls:
                try:
                    call()
                except IndexError:
                    refused += 1
    finally:
        stop.set()
        thread.join()
    return refused


def shrunk() -> str:
    """How a process ends that reads a map whose file is gone."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "map")
        done = subprocess.run([sys.executable, "-c", SHRINKS, path], capture_output=True, text=True)
    assert done.stdout == "shrunk\n", done.stderr
    return signal.Signals(-done.returncode).name if done.returncode < 0 else "no signal"


def main(seconds: float, seed: int) -> None:
    now = time.monotonic()
    resizes = resized(now + max(seconds / 2, 1))
    refused = changing_indices(time.monotonic() + max(seconds / 2, 1))
    print(f"{resizes} resizes beside calls, {refused} calls refused a spoilt index,", end=" ")
    print(f"a map that shrank ended its process by {shrunk()}")
