"""The report of one run: ratios, and a Markdown table, made from the results alone."""

from __future__ import annotations

import math
from typing import Any

from nbgather.apps.bench.contest import COPY, NARROW

__all__ = ["markdown"]

OURS, INTO, ALONE = "nbgather", "nbgather out=", "nbgather on 1 thread"


def best_peer(row: dict[str, Any], into: bool = False) -> tuple[str, float]:
    """The fastest peer and its shortest time; ``into``: those that write to ``out=`` too.

    Who has half the index bytes is no peer.
    """
    peers = {
        name: t["min"]
        for name, t in row["seconds"].items()
        if not name.startswith("nbgather")
        and not name.endswith(NARROW)
        and (into or not name.endswith("out="))
    }
    name, seconds = min(peers.items(), key=lambda item: item[1])
    return name, float(seconds)


def ratio(row: dict[str, Any], into: bool = False) -> float | None:
    """How many times faster than the best peer; None where there is no such call."""
    ours = row["seconds"].get(INTO if into else OURS)
    return None if ours is None else best_peer(row, into)[1] / ours["min"]


def narrow_ratio(row: dict[str, Any]) -> float | None:
    """Both with an int32 index: jax's own width, and ours beside it."""
    jax, ours = (row["seconds"].get(f"{name}{NARROW}") for name in ("jax", OURS))
    return None if jax is None or ours is None else float(jax["min"] / ours["min"])


def reached(row: dict[str, Any]) -> dict[str, tuple[float, float, bool]]:
    """For each target the ratio that was measured, the target, and whether that is enough."""
    ours = row["seconds"][OURS]["min"]
    results = {}
    for name, target in row["targets"].items():
        if name == "copy":
            copied = row["seconds"].get(COPY)
            if copied is None:
                continue
            measured = ours / copied["min"]
            results[name] = (measured, target, measured <= target)
            continue
        if name in ("best", "into"):
            value = ratio(row, name == "into")
        else:
            peer = row["seconds"].get(name)
            value = None if peer is None else peer["min"] / ours
        if value is not None:
            results[name] = (value, target, value >= target)
    return results


def geometric_mean(rows: list[dict[str, Any]]) -> float:
    """Of the ratios to the best peer."""
    ratios = [ratio(row) or 1.0 for row in rows]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def time_text(seconds: float | None) -> str:
    """Microseconds or milliseconds; nothing of None."""
    if seconds is None:
        return ""
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def _spread(taken: dict[str, float]) -> str:
    """The shortest time, and behind it the middle and the slow one."""
    slow = [time_text(taken[key]) for key in ("median", "p90") if key in taken]
    return f"{time_text(taken['min'])} ({', '.join(slow)})"


def _targets(row: dict[str, Any]) -> str:
    texts = []
    for name, (measured, target, enough) in reached(row).items():
        sign = "≤" if name == "copy" else "≥"
        against = {"best": "", "into": "out= ", "copy": "copy "}.get(name, f"{name} ")
        answer = "yes" if enough else f"**no, {measured:.2f}**"
        texts.append(f"{against}{sign} {target:.3g}: {answer}")
    return "<br>".join(texts)


def markdown(results: dict[str, Any]) -> str:
    """The table.

    Parameters
    ----------
    results : dict
        What ``scripts/bench.py --json`` writes.

    Returns
    -------
    str

    Examples
    --------
    >>> from nbgather.apps.bench import markdown
    >>> times = {"nbgather": {"min": 1e-3, "median": 2e-3}, "torch": {"min": 3e-3, "median": 3e-3}}
    >>> row = {"name": "r", "group": "gather", "about": "x", "bytes": 8, "floor": 5e-4,
    ...        "seconds": times, "targets": {"best": 1.0}}
    >>> print(markdown({"facts": {"cpu": "c"}, "rows": [row]}).splitlines()[-1])
    Geometric mean over the gather rows: 3.00 times the best peer.
    """
    facts = results["facts"]
    lines = [
        "Shortest of the interleaved turns (behind ours: median, 90 % of them), the same arrays for"
        " all, " + ", ".join(f"{key} {value}" for key, value in facts.items()) + ".",
        "",
        "| | | nbgather | with out= | best peer | ratio | out= | jax, int32 index | of the floor"
        " | 1 → all threads | to reach |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        peer, seconds = best_peer(row)
        ours, into = row["seconds"][OURS]["min"], row["seconds"].get(INTO)
        alone = row["seconds"].get(ALONE)
        into_ratio, narrow = ratio(row, into=True), narrow_ratio(row)
        cells = [
            row["name"],
            row["about"],
            _spread(row["seconds"][OURS]),
            time_text(into and into["min"]),
            f"{peer} {time_text(seconds)}",
            f"{seconds / ours:.2f}",
            "" if into_ratio is None else f"{into_ratio:.2f}",
            "" if narrow is None else f"{narrow:.2f}",
            f"{row['floor'] / ours:.0%}",
            "" if alone is None else f"{alone['min'] / ours:.2f}",
            _targets(row),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for group in dict.fromkeys(row["group"] for row in results["rows"]):
        mean = geometric_mean([row for row in results["rows"] if row["group"] == group])
        lines += ["", f"Geometric mean over the {group} rows: {mean:.2f} times the best peer."]
    return "\n".join(lines)
