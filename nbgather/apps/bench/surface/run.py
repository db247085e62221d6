"""A run over the surface: cases drawn, compared and timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from nbgather.apps.bench.contest import Call
from nbgather.apps.bench.machine import machine_facts
from nbgather.apps.bench.measure import bandwidth, split_cost
from nbgather.apps.bench.operands import with_64_bits
from nbgather.apps.bench.run import on_threads
from nbgather.apps.bench.surface.case import Case
from nbgather.apps.bench.surface.draws import generator_of
from nbgather.apps.bench.surface.functions import FUNCTIONS
from nbgather.apps.bench.surface.race import race

__all__ = ["DEFAULT_COUNT", "run_surface"]

#: Cases of each function that a run of a few minutes has.
DEFAULT_COUNT = 40

#: What peers raise of operands that they do not serve.
REFUSALS = (NotImplementedError, RuntimeError, TypeError, ValueError)


def run_surface(
    count: int,
    seed: int,
    functions: Sequence[str] = tuple(FUNCTIONS),
    *,
    threads: int,
    seconds: float = 0.5,
    without: Sequence[str] = (),
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Time random cases of functions, ours and the peers on as many threads.

    Parameters
    ----------
    count : int
        Cases of each function. Those of a larger count begin with those of a smaller one.
    seed : int
        Other cases.
    functions : sequence of str
        Whose cases.
    threads : int
        For nbgather, torch and onnxruntime; JAX takes every core.
    seconds : float
        For the turns of one case.
    without : sequence of str
        Libraries that are left out.
    progress : callable
        Called with the function's name before each case.

    Returns
    -------
    dict
        ``facts`` of the machine, ``count``, ``seed``, and ``cases``.

    Raises
    ------
    RuntimeError
        A peer gave another result than nbgather.

    Examples
    --------
    >>> from nbgather.apps.bench.surface import run_surface
    >>> results = run_surface(1, 0, ["token_noise"], threads=1, seconds=0.01)
    >>> results["cases"][0]["function"], results["count"]
    ('token_noise', 1)
    """
    with on_threads(threads), with_64_bits():
        copy = bandwidth(rounds=3)
        cases = list(_timed(count, seed, functions, seconds, tuple(without), progress))
        facts = machine_facts(threads, copy, split_cost(rounds=3))
    return {
        "facts": facts, "copy": copy, "threads": threads, "count": count, "seed": seed,
        "cases": cases,
    }  # fmt: skip


def _timed(
    count: int,
    seed: int,
    functions: Sequence[str],
    seconds: float,
    without: tuple[str, ...],
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    for function in functions:
        for number in range(count):
            progress(function)
            case = FUNCTIONS[function](generator_of(seed, function, number))
            peers = {
                name: call for name, call in case.peers.items() if not name.startswith(without)
            } if without else case.peers  # fmt: skip
            refused = _compare(f"{function} {number}", case, peers)
            calls = {f"nbgather {name}": call for name, call in case.ours.items()}
            calls |= {name: call for name, call in peers.items() if name not in refused}
            yield {
                "function": function,
                "number": number,
                "text": case.text,
                "row": case.row,
                "bytes": {
                    "index": case.traffic.index,
                    "source": case.traffic.source,
                    "result": case.traffic.result,
                },
                "loads": case.traffic.loads,
                "spread": case.traffic.spread,
                "seconds": race(calls, seconds),
                "refused": refused,
            }
            del case, calls, peers


def _compare(name: str, case: Case, peers: dict[str, Call]) -> dict[str, str]:
    """Refuse a peer that does other work; those that do not take the operands, and why."""
    ours = list(case.ours.items())
    want = _arrays(ours[0][1]())
    for container, call in ours[1:]:
        if not _same(_arrays(call()), want, "bits"):
            raise RuntimeError(f"{name} ({case.text}): {container} differs from {ours[0][0]}")
    refused = {}
    for peer, call in peers.items():
        try:
            got = _arrays(call())
        except REFUSALS as error:
            refused[peer] = " ".join(str(error).split())[:200]
            continue
        if not _same(got, want, case.exact):
            raise RuntimeError(f"{name} ({case.text}): {peer} gives another result than nbgather")
    return refused


def _arrays(result: Any) -> list[np.ndarray]:
    parts = result if isinstance(result, tuple) else (result,)
    return [np.asarray(part) for part in parts]


def _same(got: list[np.ndarray], want: list[np.ndarray], how: str) -> bool:
    if len(got) != len(want) or any(a.shape != b.shape for a, b in zip(got, want, strict=True)):
        return False
    if how == "shape":
        return True
    pairs = [(a, b) for a, b in zip(got, want, strict=True)]
    if how == "close":
        scale = max(float(np.abs(b).max(initial=1.0)) for b in want)
        return all(np.allclose(a, b, rtol=1e-4, atol=1e-5 * scale) for a, b in pairs)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)
