"""Interrupts at random moments: the call ends soon, and nothing half-done is seen."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from fuzzing.compare import flat

import nbgather

#: After which a call must have ended. The promise is 0.2 s, on a machine that is not busy.
SECONDS = 0.2


def calls() -> dict[str, Callable[[], Any]]:
    generator = np.random.default_rng(0)
    scores = generator.random((40, 200_000), "f4")
    x = generator.random((64, 400, 500), "f4")
    index = generator.integers(0, 400, x.shape)
    lane, places = np.zeros((1, 1000), "f4"), np.broadcast_to(np.uint8(3), (1, 100_000_000))
    ones = np.broadcast_to(np.float32(1), places.shape)
    images = generator.integers(0, 256, (64, 3, 256, 256)).astype("u1")
    one, out = generator.random((1, 10_000_000), "f4"), np.empty(index.shape, "f4")
    few = generator.random((4, 2_000_000), "f4")  # not fewer than threads, so nobody shares one
    picked = np.take_along_axis(x[:8], index[:8], 1)
    return {
        "rank_tokens": lambda: nbgather.rank_tokens(scores, 50_000),
        "gather": lambda: nbgather.gather(x, 1, index),
        "gather to out": lambda: nbgather.gather(x, 1, index, out=out),
        "one sample": lambda: nbgather.rank_tokens(one, 50_000),
        "few samples": lambda: nbgather.rank_tokens(few, 50_000),
        "one masking": lambda: nbgather.random_masking(one, 0.5, seed=1),
        "mean": lambda: nbgather.scatter_reduce(lane, 1, places[:, ::4], ones[:, ::4], "mean"),
        "segment": lambda: nbgather.segment_reduce(ones[0], "sum", counts=[0, ones.shape[1]]),
        "infer_gather": lambda: nbgather.infer_gather(x[:8], picked),
        "scatter": lambda: nbgather.scatter(x, 1, index, x),
        "scatter_add": lambda: nbgather.scatter_add(lane, 1, places, ones),
        "amax": lambda: nbgather.scatter_reduce(lane, 1, places, ones, "amax"),
        "random_masking": lambda: nbgather.random_masking(x, 0.5, seed=1),
        "masked_patchify": lambda: nbgather.masked_patchify(images, 16, 0.5, seed=1),
        "block": lambda: nbgather.strategies.block(1, 500, (40, 40)),
    }


def digest(result: Any) -> bytes:
    """Of all arrays and numbers of a result."""
    hashed = hashlib.blake2b()
    for part in flat(result):
        hashed.update(np.ascontiguousarray(part))
    return hashed.digest()


class _Sent:
    """An interrupt after a while, unless the call has ended."""

    def __init__(self, delay: float) -> None:
        self.at, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._send, args=(delay,))
        self.start = self._thread.start  # which may meet the interrupt itself

    def _send(self, delay: float) -> None:
        if not self._ended.wait(delay):
            self.at = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def main(seconds: float, seed: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed(seed)
    until, waits, table = time.monotonic() + seconds, [], calls()
    wanted = {name: digest(call()) for name, call in table.items()}
    lasts = {}
    for name, call in table.items():
        begun = time.monotonic()
        call()
        lasts[name] = time.monotonic() - begun
    met = 0
    while met < len(table) or time.monotonic() < until:
        name = list(table)[met % len(table)] if met < len(table) else random.choice(list(table))
        sent, ended = _Sent(random.random() * lasts[name]), 0.0
        try:
            sent.start()
            while True:
                table[name]()
        except KeyboardInterrupt:
            ended = time.monotonic()
        try:
            sent.end()
        except KeyboardInterrupt:  # sent as the call ended
            sent.end()
        waits.append((ended - sent.at, name))
        assert digest(table[name]()) == wanted[name], f"{name} is wrong after an interrupt"
        met += 1
    worst, name = max(waits)
    late = sum(wait > SECONDS for wait, _ in waits)
    median = sorted(waits)[len(waits) // 2][0]
    print(
        f"{met} interrupts: median {median * 1e3:.0f} ms, worst {worst * 1e3:.0f} ms ({name}),",
        end=" ",
    )
    print(f"{late} later than {SECONDS} s")
