"""Gather on Dask over random chunkings, sizes and dtypes: time, memory and bytes between workers.

Each problem lies on disk, a file for each chunk, and is computed by every contestant in turn: in
two threads of one process, or on a cluster of two processes with a thread each.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["PEERS", "Problem", "run_dask_surface", "surface_lines"]

SCHEDULERS = ("threads", "processes")
OURS = "nbgather"
#: The most bytes of a problem's input, and of its result; the least of the input.
MOST, LEAST = 1 << 28, 1 << 25
#: What takes a value for each item of a list of indices, which must be in memory, is only asked for
#: so many; and masked sums only over so many chunks.
MOST_POINTS, MOST_SUMS = 1 << 20, 8


class Problem(NamedTuple):
    """``x`` and an index on disk, which is gathered with along ``dim``."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dim: int
    picked: int
    pieces: int
    dtype: str
    kind: str

    @property
    def index_shape(self) -> tuple[int, ...]:
        """The shape of the index, and of the result."""
        return (*self.shape[: self.dim], self.picked, *self.shape[self.dim + 1 :])

    @property
    def index_chunks(self) -> tuple[int, ...]:
        """How the index is cut."""
        piece = max(-(-self.picked // self.pieces), 1)
        return (*self.chunks[: self.dim], piece, *self.chunks[self.dim + 1 :])

    def text(self) -> str:
        """The problem in a line."""
        shape, chunks = list(self.shape), list(self.chunks)
        return f"{self.dtype} {shape} in {chunks}, dim {self.dim}, K {self.picked} in {self.pieces}"


def draw(generator: np.random.Generator) -> Problem:
    """A random problem: its sizes, chunks and counts are even on a scale of logarithms."""

    def between(low: float, high: float) -> int:
        return round(math.exp(generator.uniform(math.log(low), math.log(high))))

    dtype = str(generator.choice(["u1", "f2", "f4", "f4", "f4", "f8", "c16"]))
    items = between(LEAST, MOST) // np.dtype(dtype).itemsize
    ndim = int(generator.integers(2, 4))
    dim = int(generator.integers(0, ndim))
    length = between(64, max(items / 64, 65))
    rest = [max(items // length, 1)]
    if ndim == 3:
        first = between(1, rest[0])
        rest = [first, max(rest[0] // first, 1)]
    shape = (*rest[:dim], length, *rest[dim:])
    cuts = [between(2, 16) if d == dim else between(1, 4) for d in range(ndim)]
    chunks = tuple(max(-(-n // c), 1) for n, c in zip(shape, cuts, strict=True))
    most = min(2.0 * length, MOST / math.prod(rest) / np.dtype(dtype).itemsize)
    picked = max(between(max(length / 64, 1), max(most, length / 64, 2)), 1)
    pieces = int(generator.choice([1, 1, 2, 4]))
    return Problem(
        shape, chunks, dim, picked, pieces, dtype, str(generator.choice(["i8", "i8", "i4"]))
    )


def _load(folder: str, block_id: tuple[int, ...] | None = None) -> Any:
    if block_id is None:
        raise ValueError("a block without an id")
    return np.load(f"{folder}/{'.'.join(map(str, block_id))}.npy")


def _stored(folder: Path, shape: Any, chunks: Any, dtype: Any, make: Any) -> Any:
    """An array of which each chunk is a file, made by ``make(shape)``."""
    import dask.array as da
    from dask.array.core import normalize_chunks

    sizes = normalize_chunks(chunks, shape)
    folder.mkdir()
    for block in np.ndindex(*map(len, sizes)):
        part = tuple(s[b] for s, b in zip(sizes, block, strict=True))
        np.save(folder / f"{'.'.join(map(str, block))}.npy", make(part))
    return da.map_blocks(
        _load, str(folder), chunks=sizes, dtype=dtype, meta=np.empty((0,) * len(shape), dtype)
    )


def _operands(problem: Problem, folder: Path, seed: int) -> tuple[Any, Any]:
    generator, dtype = np.random.default_rng(seed), np.dtype(problem.dtype)
    length = problem.shape[problem.dim]

    def values(shape: Any) -> np.ndarray:
        return generator.integers(0, 100, shape, np.uint8).astype(dtype)

    def indices(shape: Any) -> np.ndarray:
        return generator.integers(0, length, shape).astype(problem.kind)

    return (
        _stored(folder / "x", problem.shape, problem.chunks, dtype, values),
        _stored(folder / "index", problem.index_shape, problem.index_chunks, problem.kind, indices),
    )  # fmt: skip


# The contestants


def _ours(x: Any, index: Any, dim: int) -> Any:
    from nbgather import dask

    return dask.take_along_axis(x, index, dim)


def _rechunked(x: Any, index: Any, dim: int) -> Any:
    """Bring the axis together, then take block by block."""
    import dask.array as da

    whole, asked = x.rechunk({dim: -1}), index.rechunk({dim: -1})
    return da.map_blocks(
        lambda a, i: np.take_along_axis(a, i, dim), whole, asked, dtype=x.dtype, chunks=asked.chunks
    )


def _masked_sum(x: Any, index: Any, dim: int) -> Any:
    """Each chunk gives its part, and they add: the design of the open pull request (dask #3663)."""
    import dask.array as da

    if x.numblocks[dim] > MOST_SUMS:
        return None
    index = index.rechunk({dim: -1})
    total, start = None, 0
    for k, size in enumerate(x.chunks[dim]):

        def part(a: Any, i: Any, start: int = start) -> Any:
            inside = (i >= start) & (i < start + a.shape[dim])
            return np.where(inside, np.take_along_axis(a, np.where(inside, i - start, 0), dim), 0)

        one = x.blocks[tuple(slice(k, k + 1) if d == dim else slice(None) for d in range(x.ndim))]
        given = da.map_blocks(part, one, index, dtype=x.dtype, chunks=index.chunks)
        total, start = given if total is None else total + given, start + size
    return total


def _points(x: Any, index: Any, dim: int) -> Any:
    """Dask's ``vindex``: a list of points, which must be in memory."""
    if index.size > MOST_POINTS:
        return None
    indices = index.compute()
    grid = list(np.ogrid[tuple(map(slice, indices.shape))])
    grid[dim] = indices
    return x.vindex[tuple(np.broadcast_arrays(*grid))]


PEERS: dict[str, Callable[[Any, Any, int], Any]] = {
    OURS: _ours,
    "rechunk, then take": _rechunked,
    "masked sum": _masked_sum,
    "vindex": _points,
}


# What is measured


def _words(block: Any) -> Any:
    """A sum over a block that tells whether its bytes are right, wherever it is cut."""
    block = np.ascontiguousarray(block)
    words = block.reshape(-1).view(f"u{min(block.itemsize, 8)}")
    return np.full((1,) * block.ndim, words.sum(dtype=np.uint64))


def peak() -> int:
    """The most bytes that this process has had in memory, of Linux."""
    # Not ru_maxrss, which a process inherits from the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _reset() -> int:
    """Give back what is free, and forget the peak of this process's memory; the bytes it has."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def _sent(dask_worker: Any) -> int:
    return int(dask_worker.transfer_outgoing_bytes_total)


class _Local:
    """Two threads of this process."""

    client = None

    def begin(self) -> None:
        self.before = _reset()

    def end(self) -> dict[str, float]:
        return {"peak": peak() - self.before, "moved": 0.0}


class _Cluster:
    """Two processes of a thread each."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def begin(self) -> None:
        self.before, self.sent = self.client.run(_reset), self.client.run(_sent)

    def end(self) -> dict[str, float]:
        peaks, sent = self.client.run(peak), self.client.run(_sent)
        return {
            "peak": float(max(peaks[w] - self.before[w] for w in peaks)),
            "moved": float(sum(sent[w] - self.sent[w] for w in sent)),
        }


@contextlib.contextmanager
def _scheduler(name: str) -> Iterator[Any]:
    import dask

    if name == "threads":
        with dask.config.set(scheduler="threads", num_workers=2):
            yield _Local()
        return
    from dask.distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield _Cluster(client)


def _measured(contestant: str, operands: tuple[Any, Any], dim: int, on: Any) -> Any:
    """What one turn of a contestant took and gave; None where it does not do this."""
    on.begin()
    begun = time.perf_counter()
    lazy = PEERS[contestant](*operands, dim)
    if lazy is None:
        return None
    total = lazy.map_blocks(_words, dtype=np.uint64, chunks=(1,) * lazy.ndim).sum().compute()
    result = {"seconds": time.perf_counter() - begun, "check": int(total), **on.end()}
    if contestant == OURS:
        from nbgather import dask

        [choice] = dask.explain(lazy)
        result |= {"plan": choice.plan, "memory": choice.memory, "expected": choice.moved}
    return result


def _contest(problem: Problem, on: Any, rounds: int, seed: int) -> dict[str, dict[str, Any]]:
    best: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        operands = _operands(problem, Path(folder), seed)
        _measured(OURS, operands, problem.dim, on)  # what is loaded once is not timed
        for turn in range(rounds):
            names = list(PEERS)[:: 1 if turn % 2 else -1]
            for name in names:
                if turn and name not in best:
                    continue
                result = _measured(name, operands, problem.dim, on)
                if result is None:
                    continue
                kept = best.setdefault(name, result)
                least = {k: min(kept[k], result[k]) for k in ("seconds", "moved")}
                # Where threads are not at their peaks at once is luck, and memory is for the rest.
                best[name] = result | least | {"peak": max(kept["peak"], result["peak"])}
    checks = {name: result.pop("check") for name, result in best.items()}
    if len(set(checks.values())) > 1:
        raise RuntimeError(f"{problem.text()}: the contestants give different results: {checks}")
    return best


def run_dask_surface(
    count: int, seed: int, rounds: int, progress: Callable[[str], None] = lambda name: None
) -> list[dict[str, Any]]:
    """Time random problems on two threads, and on two processes.

    Parameters
    ----------
    count, seed : int
        How many problems for each scheduler, and of which random numbers.
    rounds : int
        Turns of each contestant.
    progress : callable
        Called with each problem before its turn.

    Returns
    -------
    list of dict
        For each problem its text, the scheduler, and for each contestant the shortest seconds, the
        largest peak of a worker's memory above what it had, and the fewest bytes between workers.

    Raises
    ------
    RuntimeError
        The contestants gave different results.

    Examples
    --------
    >>> from nbgather.apps.bench.dask_surface import run_dask_surface
    >>> run_dask_surface(0, 0, 1)
    []
    """
    cases = []
    for scheduler in SCHEDULERS if count else ():
        generator = np.random.default_rng(seed)
        with _scheduler(scheduler) as on:
            for k in range(count):
                problem = draw(generator)
                progress(f"{scheduler}: {problem.text()}")
                results = _contest(problem, on, rounds, seed + k)
                cases.append({"text": problem.text(), "scheduler": scheduler, "results": results})
    return cases


def _mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def surface_lines(cases: list[dict[str, Any]]) -> list[str]:
    """What came out, a line for each scheduler, and then for each problem.

    Parameters
    ----------
    cases : list of dict
        Of :func:`run_dask_surface`.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from nbgather.apps.bench.dask_surface import surface_lines
    >>> ours = {"seconds": 1.0, "peak": 50.0, "moved": 0}
    >>> peer = {"seconds": 2.0, "peak": 100.0, "moved": 0}
    >>> case = {"text": "x", "scheduler": "threads"}
    >>> case["results"] = {"nbgather": ours, "rechunk, then take": peer}
    >>> print(surface_lines([case])[2])
    | threads | 1 | 2.00 | 2.00 | 0.50 | 0.50 |
    """
    lines = [
        "| scheduler | problems | times the best peer's speed | slowest | peak memory of rechunk's"
        " | largest |",
        "|---|---|---|---|---|---|",
    ]
    for scheduler in SCHEDULERS:
        rows = [case for case in cases if case["scheduler"] == scheduler]
        if rows:
            speeds, peaks = [_speed(row) for row in rows], [_memory(row) for row in rows]
            lines.append(
                f"| {scheduler} | {len(rows)} | {_mean(speeds):.2f} | {min(speeds):.2f}"
                f" | {_mean(peaks):.2f} | {max(peaks):.2f} |"
            )
    return lines


def _speed(case: dict[str, Any]) -> float:
    times = {name: result["seconds"] for name, result in case["results"].items()}
    ours = times.pop(OURS)
    return float(min(times.values()) / ours)


def _memory(case: dict[str, Any]) -> float:
    results = case["results"]
    return float(max(results[OURS]["peak"], 1.0) / max(results["rechunk, then take"]["peak"], 1.0))


def problem_lines(cases: list[dict[str, Any]]) -> list[str]:
    """A line for each problem: speed and memory against the others, and what was expected."""
    lines = []
    for case in cases:
        ours = case["results"][OURS]
        others = " ".join(f"{name} {r['seconds']:.3f}" for name, r in case["results"].items())
        lines.append(
            f"{_speed(case):5.2f} x, memory {_memory(case):.2f}, {ours['plan']:11} peak"
            f" {ours['peak'] / 2**20:.0f} MiB (expected {ours['memory'] / 2**20:.0f}), moved"
            f" {ours['moved'] / 2**20:.0f} MiB (expected {ours['expected'] / 2**20:.0f}),"
            f" {case['scheduler']}: {case['text']}: {others}"
        )
    return lines
