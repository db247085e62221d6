"""What a file of Spatter's asks for, timed beside a copy of as many bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import nbgather
from nbgather.apps.bench.contest import Call
from nbgather.apps.bench.machine import machine_facts
from nbgather.apps.bench.measure import bandwidth, interleave, split_cost
from nbgather.apps.bench.operands import copy_call
from nbgather.apps.bench.run import on_threads
from nbgather.apps.bench.spatter.configuration import Configuration

__all__ = ["run_spatter", "spatter_markdown"]

COPY = "copy"
#: How the index of a gather is given: one number for each item, or the pattern once, expanded over
#: a view of the source whose rows begin where the patterns do.
WRITTEN_OUT, EXPANDED = "index written out", "pattern expanded"


def run_spatter(
    configurations: Sequence[Configuration],
    rounds: int,
    threads: int,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Time configurations one after the other.

    Parameters
    ----------
    configurations : sequence of Configuration
        Of :func:`load_spatter`.
    rounds : int
        Turns of each call.
    threads : int
        For nbgather.
    progress : callable
        Called with the name of each configuration before it is timed.

    Returns
    -------
    dict
        ``facts`` of the machine and ``spatter``, the seconds of each configuration.

    Raises
    ------
    ValueError
        A configuration needs more memory than there is.

    Examples
    --------
    >>> from nbgather.apps.bench.spatter import load_spatter, run_spatter
    >>> results = run_spatter(load_spatter("uniform")[:0], 1, 1)
    >>> results["spatter"]
    []
    """
    timed = []
    with on_threads(threads):
        for number, configuration in enumerate(configurations):
            progress(configuration.name)
            _check_memory(number, configuration)
            calls = calls_of(configuration) | {COPY: copy_call(configuration.nbytes)}
            times = interleave(calls, rounds)
            timed.append(
                {
                    "name": configuration.name,
                    "kernel": configuration.kernel,
                    "count": configuration.count,
                    "bytes": configuration.nbytes,
                    "seconds": {name: t._asdict() for name, t in times.items()},
                }
            )
            del calls
        copy = bandwidth(rounds=min(rounds, 7))
        facts = machine_facts(threads, copy, split_cost(rounds=min(rounds, 15)))
    return {"facts": facts, "spatter": timed}


def extent(pattern: np.ndarray, delta: int, count: int) -> int:
    """Items that the patterns reach over."""
    return int(pattern.max()) + delta * (count - 1) + 1


def needed_bytes(configuration: Configuration) -> int:
    """The memory that a configuration's calls need together, the copy's included."""
    total = 2 * configuration.nbytes
    if configuration.gathered is not None:
        items = len(configuration.gathered) * configuration.count
        reach = extent(configuration.gathered, configuration.gather_delta, configuration.count)
        total += 8 * (2 * items + reach)
    if configuration.scattered is not None:
        items = len(configuration.scattered) * configuration.count
        reach = extent(configuration.scattered, configuration.scatter_delta, configuration.count)
        total += 8 * (2 * items + 2 * reach)
    return total


def _check_memory(number: int, configuration: Configuration) -> None:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    needed = needed_bytes(configuration)
    if free and needed > 0.8 * free[0]:
        raise ValueError(
            f"configuration {number} ({configuration.name}) needs {needed / 1e9:.1f} GB of memory,"
            f" of which {free[0] / 1e9:.1f} are free: a smaller count needs less"
        )


def _flat_index(pattern: np.ndarray, delta: int, count: int) -> np.ndarray:
    return (pattern + delta * np.arange(count)[:, None]).reshape(-1)


def calls_of(configuration: Configuration) -> dict[str, Call]:
    """The calls of a configuration by name; all give the items in the order of the patterns."""
    count = configuration.count
    gathers: dict[str, Call] = {}
    pattern = configuration.gathered
    if pattern is not None:
        delta, shape = configuration.gather_delta, (count, len(pattern))
        source = np.arange(extent(pattern, delta, count), dtype=np.float64)
        out = np.empty(shape)
        flat = _flat_index(pattern, delta, count)
        reach = int(pattern.max()) + 1
        rows = np.lib.stride_tricks.as_strided(source, (count, reach), (8 * delta, 8))
        wide = np.broadcast_to(pattern, shape)
        gathers = {
            WRITTEN_OUT: partial(nbgather.gather, source, 0, flat, out=out.reshape(-1)),
            EXPANDED: partial(nbgather.gather, rows, 1, wide, out=out),
        }
    places = configuration.scattered
    if places is None:
        return gathers
    delta = configuration.scatter_delta
    index = _flat_index(places, delta, count)
    target = np.zeros(extent(places, delta, count))
    written = np.empty_like(target)
    if pattern is None:
        values = np.arange(len(index), dtype=np.float64)
        return {WRITTEN_OUT: partial(nbgather.scatter, target, 0, index, values, out=written)}

    def both(gather: Call) -> Call:
        return lambda: nbgather.scatter(target, 0, index, gather().reshape(-1), out=written)

    return {name: both(gather) for name, gather in gathers.items()}


def spatter_markdown(results: dict[str, Any]) -> str:
    """The table: GB/s as Spatter counts them, and the part of what a copy reaches.

    Parameters
    ----------
    results : dict
        Of :func:`run_spatter`.

    Returns
    -------
    str

    Examples
    --------
    >>> from nbgather.apps.bench.spatter import spatter_markdown
    >>> seconds = {"index written out": {"min": 4e-3}, "copy": {"min": 2e-3}}
    >>> one = {"name": "UNIFORM:8:1", "kernel": "gather", "count": 10, "bytes": 16_000_000,
    ...        "seconds": seconds}
    >>> print(spatter_markdown({"facts": {}, "spatter": [one]}).splitlines()[-1])
    | gather | UNIFORM:8:1 | 10 | 4.0 (50 %) |  | 8.0 |
    """
    lines = [
        "GB/s of the items that are gathered or scattered, 8 bytes each, and in brackets the part"
        " of what a copy of as many bytes reaches here; a scatter is out of place, so it copies"
        " all it scatters into; "
        + ", ".join(f"{key} {value}" for key, value in results["facts"].items())
        + ".",
        "",
        f"| kernel | pattern | count | {WRITTEN_OUT} | {EXPANDED} | copy |",
        "|---|---|---|---|---|---|",
    ]
    for one in results["spatter"]:
        speeds = {name: one["bytes"] / t["min"] / 1e9 for name, t in one["seconds"].items()}
        cells = [
            f"{speeds[name]:.1f} ({100 * speeds[name] / speeds[COPY]:.0f} %)"
            if name in speeds
            else ""
            for name in (WRITTEN_OUT, EXPANDED)
        ]
        head = [one["kernel"], one["name"], f"{one['count']:,}"]
        lines.append(f"| {' | '.join([*head, *cells, f'{speeds[COPY]:.1f}'])} |")
    return "\n".join(lines)
