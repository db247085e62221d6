"""A run: the rows one after the other, each compared and then timed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from nbgather.apps.bench.contest import COPY, Call, Contest, Row
from nbgather.apps.bench.machine import machine_facts
from nbgather.apps.bench.measure import bandwidth, interleave, split_cost
from nbgather.apps.bench.operands import with_64_bits
from nbgather.kernels.cpu.limits import limit_threads

__all__ = ["run_all", "run_rows"]


def run_all(
    rows: Sequence[Row],
    rounds: int,
    threads: int,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Time rows, ours and the peers on as many threads.

    Parameters
    ----------
    rows : sequence of Row
        What is timed.
    rounds : int
        Turns of each contestant.
    threads : int
        For nbgather and torch.
    progress : callable
        Called with the name of each row before it is timed.

    Returns
    -------
    dict
        ``facts`` of the machine and ``rows``, what the report is made of.

    Raises
    ------
    RuntimeError
        A contestant gave other bytes than nbgather.

    Examples
    --------
    >>> from nbgather.apps.bench import ROWS, run_all
    >>> results = run_all([row for row in ROWS if row.name == "tiny, NumPy"], 1, 1)
    >>> results["facts"]["threads"], len(results["rows"])
    ('1', 1)
    """
    with on_threads(threads), with_64_bits():
        copy = bandwidth(rounds=min(rounds, 7))
        results = list(run_rows(rows, rounds, copy, progress))
        facts = machine_facts(threads, copy, split_cost(rounds=min(rounds, 15)))
        return {"facts": facts, "rows": results}


@contextlib.contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """So many threads for nbgather and torch."""
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(threads)
    with limit_threads(threads):
        yield


def run_rows(
    rows: Iterable[Row],
    rounds: int,
    copy_bandwidth: float,
    progress: Callable[[str], None] = lambda name: None,
) -> Iterator[dict[str, Any]]:
    """Time rows, one after the other, and give a result for each.

    Parameters
    ----------
    rows : iterable of Row
        What is timed.
    rounds : int
        Turns of each contestant.
    copy_bandwidth : float
        Of :func:`bandwidth`, for the floor.
    progress : callable
        Called with the name of each row before it is timed.

    Yields
    ------
    dict
        What the report is made of.

    Raises
    ------
    RuntimeError
        A contestant gave other bytes than nbgather.

    Examples
    --------
    >>> from nbgather.apps.bench import ROWS, run_rows
    >>> (result,) = run_rows([row for row in ROWS if row.name == "tiny, NumPy"], 1, 1e10)
    >>> sorted(result["seconds"])
    ['nbgather', 'numpy']
    """
    for row in rows:
        progress(row.name)
        contest = row.make()
        if contest is None:
            continue
        _compare(row.name, contest)
        yield _timed(row, contest, rounds, copy_bandwidth)
        del contest


def _timed(row: Row, contest: Contest, rounds: int, copy_bandwidth: float) -> dict[str, Any]:
    calls: dict[str, Call] = {"nbgather": contest.ours, **contest.peers}
    if contest.batch == 1 and contest.scales:
        calls["nbgather on 1 thread"] = _on_one_thread(contest.ours)
    if "copy" in row.targets and contest.copied is not None:
        calls[COPY] = contest.copied
    if contest.into is not None:
        calls["nbgather out="] = contest.into
        calls.update({f"{name} out=": call for name, call in contest.peers_into.items()})
    calls |= contest.narrow
    times = interleave(calls, min(rounds, contest.turns or rounds), batch=contest.batch)
    result: dict[str, Any] = {
        "name": row.name,
        "group": row.group,
        "about": row.about,
        "bytes": contest.nbytes,
        "floor": contest.nbytes / copy_bandwidth,
        "seconds": {name: t._asdict() for name, t in times.items()},
        "targets": row.targets,
    }
    return result


def _on_one_thread(call: Call) -> Call:
    def run() -> Any:
        with limit_threads(1):
            return call()

    return run


def _compare(name: str, contest: Contest) -> None:
    """Refuse a contestant that does other work."""
    want = _bits(contest.ours())
    calls = contest.peers | {f"{n} out=": c for n, c in contest.peers_into.items()}
    calls |= contest.narrow
    if contest.into is not None:
        calls["nbgather out="] = contest.into
    for peer, call in calls.items():
        got = _bits(call())
        same = [a.shape == b.shape for a, b in zip(got, want, strict=True)]
        if not contest.random:
            same = [
                a.shape == b.shape and a.dtype == b.dtype and bool(np.array_equal(a, b))
                for a, b in zip(got, want, strict=True)
            ]
        if not all(same):
            raise RuntimeError(f"{name}: {peer} gives another result than nbgather")


def _bits(result: Any) -> list[np.ndarray]:
    parts = result if isinstance(result, tuple) else (result,)
    return [np.asarray(p.detach() if hasattr(p, "detach") else p) for p in parts]
