"""Calls beside other work: what several threads are worth where the cores are not free.

Each call is timed by one thread and by all, in turns, in each state of the machine; torch's own way
of the same job, on its threads, takes turns with them where there is one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import nbgather
from nbgather.apps.bench.contest import Call
from nbgather.apps.bench.machine import machine_facts
from nbgather.apps.bench.measure import bandwidth, split_cost
from nbgather.apps.bench.operands import floats, generator, installed, onnx_session
from nbgather.kernels.cpu.limits import limit_threads, num_threads

__all__ = ["beside_text", "run_beside"]

#: Turns of each contestant.
DEFAULT_TURNS = 41
#: A process that keeps a core busy.
BUSY = "while True: pass"
#: How many threads call at once in that state.
CALLERS = 8

State = Callable[[], contextlib.AbstractContextManager[Call]]


@contextlib.contextmanager
def _quiet() -> Iterator[Call]:
    yield lambda: None


def _busy(processes: int) -> State:
    @contextlib.contextmanager
    def state() -> Iterator[Call]:
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
        time.sleep(0.3)
        try:
            yield lambda: None
        finally:
            for other in others:
                other.kill()
                other.wait()

    return state


@contextlib.contextmanager
def _torch_awake() -> Iterator[Call]:
    import torch

    x = torch.ones(1 << 20)
    yield lambda: x.add_(1)


@contextlib.contextmanager
def _pools_awake() -> Iterator[Call]:
    """Calls before each turn that wake the threads of torch, of JAX and of onnxruntime."""
    calls: list[Call] = []
    with _torch_awake() as wake:
        calls.append(wake)
        if installed("jax"):
            import jax

            square = jax.jit(lambda a: a @ a)
            a = jax.numpy.ones((256, 256))
            calls.append(lambda: square(a).block_until_ready())
        if installed("onnxruntime"):
            from nbgather.onnx import gather_model

            session = onnx_session(gather_model(1, rank=2))
            feed = {"input": floats((512, 512)), "index": np.zeros((512, 512), np.int64)}
            names = [i.name for i in session.get_inputs()]
            given = dict(zip(names, feed.values(), strict=True))
            calls.append(lambda: session.run(None, given))
        yield lambda: [call() for call in calls]


@contextlib.contextmanager
def _data_loader() -> Iterator[Call]:
    """A DataLoader of two workers whose batches are masked, read all the time by a thread."""
    import torch

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 1 << 20

        def __getitem__(self, k: int) -> Any:
            tokens = torch.ones(8, 196, 256)
            return nbgather.random_masking(tokens, seed=0).x_masked

    loader = torch.utils.data.DataLoader(Images(), batch_size=None, num_workers=2)
    stop = threading.Event()

    def read() -> None:
        for _ in loader:
            if stop.is_set():
                break

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(1.0)
    try:
        yield lambda: None
    finally:
        stop.set()
        reader.join()


def _callers() -> contextlib.AbstractContextManager[Call]:
    """Other threads of this process that gather all the time."""

    @contextlib.contextmanager
    def state() -> Iterator[Call]:
        x, index = floats((256, 512)), np.zeros((256, 512), np.int64)
        stop = threading.Event()

        def call() -> None:
            while not stop.is_set():
                nbgather.gather(x, 1, index)

        threads = [threading.Thread(target=call) for _ in range(CALLERS - 1)]
        for thread in threads:
            thread.start()
        try:
            yield lambda: None
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    return state()


def states() -> dict[str, State]:
    """The states of the machine, by name."""
    cores = os.cpu_count() or 1
    result: dict[str, State] = {"quiet": _quiet}
    if installed("torch"):
        result["after a torch operator"] = _torch_awake
    result[f"{cores} busy processes"] = _busy(cores)
    result[f"{2 * cores} busy processes"] = _busy(2 * cores)
    if installed("torch"):
        result["pools awake"] = _pools_awake
        result["DataLoader, 2 workers"] = _data_loader
    result[f"{CALLERS} calling threads"] = _callers
    return result


#: A call of ours, and what makes torch's own way of the job.
Job = tuple[Call, Callable[[Any], Call]]


def _restore(n: int) -> Job:
    kept, ranks = floats((n, 49, 512)), generator().random((n, 196)).argsort(1)

    def peer(torch: Any) -> Call:
        x, index = torch.from_numpy(kept), torch.from_numpy(ranks)[:, :, None].expand(-1, -1, 512)
        tokens = torch.zeros(1, 1, 512).expand(n, 147, -1)
        return lambda: torch.cat([x, tokens], 1).gather(1, index)

    return lambda: nbgather.restore_tokens(kept, ranks, 0.0), peer


def _masking(n: int) -> Job:
    tokens = floats((n, 196, 768))

    def peer(torch: Any) -> Call:
        x = torch.from_numpy(tokens)

        def recipe() -> Any:
            ids = torch.rand(n, 196).argsort(1)
            return x.gather(1, ids[:, :49, None].expand(-1, -1, 768)), ids.argsort(1)

        return recipe

    return lambda: nbgather.random_masking(tokens, seed=1), peer


def _gather(n: int) -> Job:
    x, index = floats((n, 1024)), generator().integers(0, 1024, (n, 1024))

    def peer(torch: Any) -> Call:
        return partial(torch.gather, torch.from_numpy(x), 1, torch.from_numpy(index))

    return lambda: nbgather.gather(x, 1, index), peer


def _scatter_add(n: int) -> Job:
    x, index = floats((n, 1024)), generator().integers(0, 1024, (n, 1024))

    def peer(torch: Any) -> Call:
        values = torch.from_numpy(x)
        return partial(torch.scatter_add, values, 1, torch.from_numpy(index), values)

    return lambda: nbgather.scatter_add(x, 1, index, x), peer


def _noise(n: int) -> Job:
    return lambda: nbgather.token_noise(1, n, 196), lambda torch: partial(torch.rand, n, 196)


def _patchify(n: int) -> Job:
    images = floats((n, 3, 224, 224))

    def peer(torch: Any) -> Call:
        x = torch.from_numpy(images).reshape(n, 3, 14, 16, 14, 16).permute(0, 2, 4, 3, 5, 1)
        return lambda: x.reshape(n, 196, 768)

    return lambda: nbgather.patchify(images, 16), peer


#: Small, middle and large ones of each kind; the shape's text, and its first number.
JOBS: dict[str, tuple[Callable[[int], Job], str, tuple[int, ...]]] = {
    "restore": (_restore, "49,512", (8, 64, 256)),
    "masking": (_masking, "196,768", (4, 64, 256)),
    "gather": (_gather, "1024", (256, 1024, 4096)),
    "scatter_add": (_scatter_add, "1024", (256, 1024, 4096)),
    "noise": (_noise, "196", (256, 1024, 16384)),
    "patchify": (_patchify, "3,224,224", (4, 16, 64)),
}


def calls(select: Callable[[str], bool]) -> dict[str, tuple[Call, Call | None]]:
    """The calls by name: ours, and torch's own."""
    torch = importlib.import_module("torch") if installed("torch") else None
    result = {}
    for name, (make, shape, numbers) in JOBS.items():
        for n in numbers:
            text = f"{name} [{n},{shape}]"
            if select(text):
                ours, peer = make(n)
                result[text] = ours, None if torch is None else peer(torch)
    return result


def _turns(contestants: dict[str, Call], before: Call, turns: int) -> dict[str, list[float]]:
    """Seconds of each turn, in order of their length."""
    names = list(contestants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for call in contestants.values():
        for _ in range(3):
            call()
    for number in range(turns):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            before()
            begun = time.perf_counter()
            contestants[name]()
            times[name].append(time.perf_counter() - begun)
    return {name: sorted(t) for name, t in times.items()}


def run_beside(
    turns: int = DEFAULT_TURNS,
    progress: Callable[[str], None] = lambda name: None,
    select: Callable[[str], bool] = lambda name: True,
) -> dict[str, Any]:
    """Time calls in the states of the machine.

    Parameters
    ----------
    turns : int
        Of each contestant.
    progress : callable
        Called with the state's name before it is entered.
    select : callable
        Says by name which states and calls are timed.

    Returns
    -------
    dict
        ``facts`` of the machine, and ``rows``: the state, the call, and for each contestant the
        median and the time that 90 % of the turns did not exceed, in seconds.

    Examples
    --------
    >>> from nbgather.apps.bench.beside import run_beside
    >>> results = run_beside(3, select=lambda name: name in ("quiet", "noise [256,196]"))
    >>> results["rows"][0]["call"], sorted(results["rows"][0]["seconds"])[0]
    ('noise [256,196]', 'all threads')
    """
    count, rows = num_threads(), []
    chosen = calls(select)
    for state, enter in states().items():
        if not select(state):
            continue
        progress(state)
        with enter() as before:
            for name, (ours, peer) in chosen.items():
                contestants: dict[str, Call] = {
                    "one thread": _limited(ours, 1),
                    "all threads": _limited(ours, count),
                }
                if peer is not None:
                    contestants["torch"] = peer
                times = _turns(contestants, before, turns)
                rows.append({
                    "state": state, "call": name,
                    "seconds": {
                        who: {"median": t[len(t) // 2], "p90": t[len(t) * 9 // 10]}
                        for who, t in times.items()
                    },
                })  # fmt: skip
    facts = machine_facts(count, bandwidth(rounds=3), split_cost(rounds=3))
    return {"facts": facts, "turns": turns, "rows": rows}


def _limited(call: Call, count: int) -> Call:
    def limited() -> Any:
        with limit_threads(count):
            return call()

    return limited


def beside_text(results: dict[str, Any]) -> str:
    """The results as a table: medians, and what 90 % did not exceed, in microseconds.

    Parameters
    ----------
    results : dict
        Of :func:`run_beside`.

    Returns
    -------
    str

    Examples
    --------
    >>> from nbgather.apps.bench.beside import beside_text
    >>> row = {"state": "quiet", "call": "c", "seconds": {w: {"median": 2e-6, "p90": 3e-6}
    ...        for w in ("one thread", "all threads")}}
    >>> print(beside_text({"facts": {}, "turns": 1, "rows": [row]}).splitlines()[-1])
    | quiet | c | 2 (3) | 2 (3) | 1.00 (1.00) |  |
    """
    facts = ", ".join(f"{name} {value}" for name, value in results["facts"].items())
    lines = [
        f"Medians (90 %) of {results['turns']} turns in µs, {facts}.", "",
        "| state | call | one thread | all threads | of one | torch |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in results["rows"]:
        seconds = row["seconds"]
        cells = [
            f"{1e6 * seconds[who]['median']:.0f} ({1e6 * seconds[who]['p90']:.0f})"
            if who in seconds else "" for who in ("one thread", "all threads", "torch")
        ]  # fmt: skip
        one, every = seconds["one thread"], seconds["all threads"]
        of_one = f"{every['median'] / one['median']:.2f} ({every['p90'] / one['p90']:.2f})"
        lines.append(
            f"| {row['state']} | {row['call']} | {cells[0]} | {cells[1]} | {of_one} | {cells[2]} |"
        )
    return "\n".join(lines)
