"""The results of several machines side by side: one column for each kind of CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from nbgather.apps.bench.contest import NARROW
from nbgather.apps.bench.report import best_peer, geometric_mean, markdown, narrow_ratio, ratio
from nbgather.apps.bench.surface.summary import (
    calls_of_results,
    share_below,
    surface_text,
)
from nbgather.apps.bench.surface.summary import geometric_mean as mean_of

__all__ = ["Kind", "kinds_markdown", "surface_markdown"]

#: What the files of a kind are called behind its name.
ROWS, SURFACE = ".json", ".surface.json"


class Kind(NamedTuple):
    """What was measured on one kind of CPU.

    Attributes
    ----------
    name : str
        The kind, as its files are called.
    rows, surface : dict or None
        What ``scripts/bench.py`` wrote, of the rows and of random calls.
    """

    name: str
    rows: dict[str, Any] | None
    surface: dict[str, Any] | None

    @property
    def title(self) -> str:
        """The CPU's name and, where it was written down, its kind."""
        facts = (self.rows or self.surface or {"facts": {}})["facts"]
        cpu = facts.get("CPU", self.name)
        for word in ("(R)", "(TM)", " Processor", " CPU"):
            cpu = cpu.replace(word, "")
        return f"{cpu} ({facts['kind']})" if "kind" in facts else cpu


def load_kinds(folder: Path) -> list[Kind]:
    """Every kind that has a file in a folder, in the order of their names."""
    read = {path.name: path for path in sorted(folder.glob("*.json"))}
    names = dict.fromkeys(name.partition(".")[0] for name in read)

    def content(name: str) -> dict[str, Any] | None:
        path = read.get(name)
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    return [Kind(name, content(name + ROWS), content(name + SURFACE)) for name in names]


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def kinds_markdown(kinds: list[Kind]) -> str:
    """What the rows' ratios come to, then folded each of them; a column for each kind.

    A row that a kind's file lacks stays empty.

    Parameters
    ----------
    kinds : list of Kind

    Returns
    -------
    str

    Examples
    --------
    >>> from nbgather.apps.bench.kinds import Kind, kinds_markdown
    >>> row = {"name": "r", "group": "gather", "about": "x[2]",
    ...        "seconds": {"nbgather": {"min": 1e-3}, "torch": {"min": 3e-3}}}
    >>> runs = [Kind("k", {"facts": {"CPU": "a CPU"}, "rows": [row]}, None)]
    >>> print(kinds_markdown(runs).splitlines()[2])
    | gather | 1 | **3.00**, 3.00 (r) |
    """
    measured = {kind.title: kind.rows for kind in kinds if kind.rows is not None}
    rows = {title: {row["name"]: row for row in run["rows"]} for title, run in measured.items()}
    every = {row["name"]: row for run in measured.values() for row in run["rows"]}
    groups = []
    for group in dict.fromkeys(row["group"] for row in every.values()):
        parts = ([row for row in run["rows"] if row["group"] == group] for run in measured.values())
        count = sum(row["group"] == group for row in every.values())
        groups.append([group, str(count), *map(_mean_and_least, parts)])
    lines = [
        [name, row["about"], *(_cell(of_kind.get(name)) for of_kind in rows.values())]
        for name, row in every.items()
    ]
    summary = _table(["", "rows", *(f"{title}: mean, least" for title in measured)], groups)
    table = _table(["", "", *measured], lines)
    older = [title for title, run in measured.items() if _jax_is_narrow(run)]
    if older:
        table += f"\n\nOn {', '.join(older)} JAX's index was int32 in every row."
    head = f"<details>\n<summary>Each of the {len(every)} rows</summary>"
    return f"{summary}\n\n{head}\n\n{table}\n\n</details>"


def _mean_and_least(rows: list[dict[str, Any]]) -> str:
    """The geometric mean of a group's rows, and the row that is the slowest against its peers."""
    if not rows:
        return ""
    least = min(rows, key=lambda row: ratio(row) or 1.0)
    return f"**{geometric_mean(rows):.2f}**, {ratio(least) or 1.0:.2f} ({least['name']})"


def _jax_is_narrow(run: dict[str, Any]) -> bool:
    """Whether a run is of before JAX had an index as wide as ours."""
    names = {name for row in run["rows"] for name in row["seconds"]}
    return "jax" in names and f"jax{NARROW}" not in names


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    text = f"**{ratio(row):.2f}** {best_peer(row)[0]}"
    more = {"out=": ratio(row, into=True), "int32": narrow_ratio(row)}
    return text + "".join(f", {key} {r:.2f}" for key, r in more.items() if r is not None)


def surface_markdown(kinds: list[Kind]) -> str:
    """What the random calls say of each function, two columns for each kind.

    Of calls of 3 µs and more: the geometric mean, and the part below 0.9; of shorter ones: the
    geometric means to NumPy and to torch.

    Parameters
    ----------
    kinds : list of Kind

    Returns
    -------
    str

    Examples
    --------
    >>> from nbgather.apps.bench.kinds import surface_markdown
    >>> surface_markdown([])
    ''
    """
    measured = {kind.title: kind.surface for kind in kinds if kind.surface is not None}
    if not measured:
        return ""
    head, columns = ["function"], []
    for title, results in measured.items():
        head += [f"{title}, 3 µs and more", "shorter"]
        columns.append(_functions(results))
    every = dict.fromkeys(name for column in columns for name in column)
    lines = []
    for name in every:
        cells = [column.get(name, ("", "")) for column in columns]
        lines.append([name, *(cell for pair in cells for cell in pair)])
    return _table(head, lines)


def _functions(results: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """What is said of the longer and of the shorter calls of each function."""
    calls = list(calls_of_results(results))
    said = {}
    for name in dict.fromkeys(call.case["function"] for call in calls):
        of_function = [call for call in calls if call.case["function"] == name and call.peer]
        long = [call.ratio for call in of_function if not call.small]
        short = [call for call in of_function if call.small]
        first = f"**{mean_of(long):.2f}**, {share_below(long, 0.9):.0%} below 0.9" if long else ""
        means = {
            library: mean_of([r for call in short if (r := call.against(library)) is not None])
            for library in ("numpy", "torch")
        }
        second = ", ".join(f"{k} {mean:.2f}" for k, mean in means.items() if not math.isnan(mean))
        said[name] = first.replace("%", " %"), second
    return said


def rows_document(kinds: list[Kind]) -> str:
    """The whole table of each kind, for a page of the documentation."""
    return "\n\n".join(
        f"### {kind.title}\n\n{markdown(kind.rows)}" for kind in kinds if kind.rows is not None
    )


def surface_document(kinds: list[Kind], pictures: str, worst: int) -> str:
    """The map and the summary of each kind; ``pictures`` is the map's address, with {kind}."""
    return "\n\n".join(
        f"### {kind.title}\n\n![A map of the calls of each function: their size, the length of"
        f" their rows, and how many times faster than the best peer they are]"
        f"({pictures.format(kind=kind.name)})\n\n{surface_text(kind.surface, worst)}"
        for kind in kinds
        if kind.surface is not None
    )
