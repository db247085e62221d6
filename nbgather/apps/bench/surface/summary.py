"""What a run over the surface says: a table of functions and size classes, and the worst calls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nbgather.apps.bench.surface.bounds import bound_of

__all__ = ["surface_text"]

#: Below this, ours or the best peer's, a call is its own overhead.
SMALL_SECONDS = 3e-6
OURS = "nbgather "
OUT = " out="
WORST = 10


class Call(NamedTuple):
    """One call of ours beside its best peer.

    Attributes
    ----------
    case : dict
        Of :func:`run_surface`.
    container : str
        ``numpy`` or ``torch``, with `` out=`` where that was given.
    ours, theirs : float
        Seconds, the best peer's infinite where there is none.
    peer : str
        Whose that is.
    """

    case: dict[str, Any]
    container: str
    ours: float
    theirs: float
    peer: str

    @property
    def ratio(self) -> float:
        """How many times faster than the best peer."""
        return self.theirs / self.ours

    @property
    def small(self) -> bool:
        """Whether the call counts, rather than its loop."""
        return min(self.ours, self.theirs) < SMALL_SECONDS

    def against(self, library: str) -> float | None:
        """The ratio to one library's best way, None where it has none."""
        into = self.container.endswith(OUT)
        times = [
            t
            for name, t in self.case["seconds"].items()
            if name.startswith(library) and (into or not name.endswith(OUT))
        ]
        return min(times) / self.ours if times else None


def calls_of_results(results: dict[str, Any]) -> Iterator[Call]:
    """Every call of ours; one with ``out=`` has peers with and without."""
    for case in results["cases"]:
        seconds = case["seconds"]
        for name, ours in seconds.items():
            if not name.startswith(OURS):
                continue
            peers = {
                peer: t
                for peer, t in seconds.items()
                if not peer.startswith(OURS) and (name.endswith(OUT) or not peer.endswith(OUT))
            }
            best = min(peers, key=peers.__getitem__, default="")
            theirs = peers.get(best, math.inf)
            yield Call(case, name.removeprefix(OURS), ours, theirs, best)


def geometric_mean(ratios: Sequence[float]) -> float:
    """Of ratios; nan of none."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan


def share_below(ratios: Sequence[float], limit: float) -> float:
    """The part of them that is less; nan of none."""
    return sum(r < limit for r in ratios) / len(ratios) if ratios else math.nan


def _number(value: float, text: str = ".2f") -> str:
    return "" if math.isnan(value) else format(value, text)


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.0f} %"


def _time(seconds: float) -> str:
    if math.isinf(seconds):
        return ""
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


CONTAINERS = ("numpy", "numpy out=", "torch", "torch out=")


def _row(function: str, title: str, calls: Sequence[Call]) -> str:
    compared = [call for call in calls if call.peer]
    ratios = [call.ratio for call in compared]
    cells = [
        function,
        title,
        str(len(calls)),
        f"**{_number(geometric_mean(ratios))}**" if ratios else "",
        _share(share_below(ratios, 0.9)),
        _share(share_below(ratios, 0.7)),
        *(
            _number(geometric_mean([c.ratio for c in compared if c.container == container]))
            for container in CONTAINERS
        ),
        *(
            _number(geometric_mean([r for c in compared if (r := c.against(library))]))
            for library in ("numpy", "torch")
        ),
        _time(geometric_mean([call.ours for call in calls])),
    ]
    return f"| {' | '.join(cells)} |"


def surface_text(results: dict[str, Any], worst: int = WORST) -> str:
    """The report in Markdown.

    Parameters
    ----------
    results : dict
        Of :func:`run_surface`.
    worst : int
        How many calls are listed of each function and size class.

    Returns
    -------
    str

    Examples
    --------
    >>> from nbgather.apps.bench.surface import surface_text
    >>> case = {"function": "gather", "text": "x", "row": 4, "loads": 4, "spread": 64,
    ...         "bytes": {"index": 8, "source": 4, "result": 4},
    ...         "seconds": {"nbgather numpy": 4e-6, "numpy": 8e-6}}
    >>> results = {"facts": {}, "copy": 1e10, "threads": 1, "count": 1, "seed": 0, "cases": [case]}
    >>> print(surface_text(results).splitlines()[-1])
    - 2.00 numpy: x: 4.0 µs, numpy 8.0 µs; call 100 %
    """
    calls = list(calls_of_results(results))
    functions = list(dict.fromkeys(case["function"] for case in results["cases"]))
    lines = [
        f"{results['count']} random cases of each function, seed {results['seed']}; best peer's"
        " time / ours, "
        + ", ".join(f"{key} {value}" for key, value in results["facts"].items())
        + ".",
        "",
        "| function | calls of | calls | mean | < 0.9 | < 0.7 | numpy | numpy out= | torch"
        " | torch out= | to numpy | to torch | our mean time |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    classes = {"under 3 µs": True, "3 µs and more": False}
    details: list[str] = []
    for function in functions:
        for title, small in classes.items():
            chosen = [c for c in calls if c.case["function"] == function and c.small is small]
            if chosen:
                lines.append(_row(function, title, chosen))
                details += _worst(f"{function}, {title}", chosen, calls, results, worst)
    return "\n".join([*lines, *details])


def _worst(
    title: str, chosen: Sequence[Call], calls: Sequence[Call], results: dict[str, Any], most: int
) -> list[str]:
    """The calls that are furthest behind, and what bounds each."""
    compared = sorted((call for call in chosen if call.peer), key=lambda call: call.ratio)[:most]
    if not compared:
        return []
    lines = ["", f"Worst of {title}:", ""]
    for call in compared:
        alike = [
            other.ours
            for other in calls
            if other.case["function"] == call.case["function"] and other.container == call.container
        ]
        word = bound_of(call.case, call.ours, min(alike), results["copy"], results["threads"])
        lines.append(
            f"- {call.ratio:.2f} {call.container}: {call.case['text']}: {_time(call.ours)},"
            f" {call.peer} {_time(call.theirs)}; {word}"
        )
    return lines
