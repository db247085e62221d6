"""The report: a Markdown table and a picture, both made from the results alone."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from nbgather import files, plotting
from nbgather.apps.bench.contest import COPY
from nbgather.apps.bench.dask_rows import dask_markdown

__all__ = ["check_readme", "markdown", "picture", "update_readme"]

#: The marks that a table stands between in the README, by its name.
MARKS = {name: (f"<!-- {name}:begin -->", f"<!-- {name}:end -->") for name in ("bench", "dask")}
OURS, INTO, ALONE = "nbgather", "nbgather out=", "nbgather on 1 thread"


def best_peer(row: dict[str, Any], into: bool = False) -> tuple[str, float]:
    """The fastest peer and its shortest time; ``into``: those that write to ``out=`` too."""
    peers = {
        name: t["min"]
        for name, t in row["seconds"].items()
        if not name.startswith("nbgather") and (into or not name.endswith("out="))
    }
    name, seconds = min(peers.items(), key=lambda item: item[1])
    return name, float(seconds)


def ratio(row: dict[str, Any], into: bool = False) -> float | None:
    """How many times faster than the best peer; None where there is no such call."""
    ours = row["seconds"].get(INTO if into else OURS)
    return None if ours is None else best_peer(row, into)[1] / ours["min"]


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


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


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
        "Shortest of the interleaved turns, the same arrays for all, "
        + ", ".join(f"{key} {value}" for key, value in facts.items())
        + ".",
        "",
        "| | | nbgather | with out= | best peer | ratio | out= | of the floor | 1 → 2 threads"
        " | to reach |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        peer, seconds = best_peer(row)
        ours, into = row["seconds"][OURS]["min"], row["seconds"].get(INTO)
        alone = row["seconds"].get(ALONE)
        into_ratio = ratio(row, into=True)
        cells = [
            row["name"],
            row["about"],
            _time(ours),
            _time(into and into["min"]),
            f"{peer} {_time(seconds)}",
            f"{seconds / ours:.2f}",
            "" if into_ratio is None else f"{into_ratio:.2f}",
            f"{row['floor'] / ours:.0%}",
            "" if alone is None else f"{alone['min'] / ours:.2f}",
            _targets(row),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for group in dict.fromkeys(row["group"] for row in results["rows"]):
        mean = geometric_mean([row for row in results["rows"] if row["group"] == group])
        lines += ["", f"Geometric mean over the {group} rows: {mean:.2f} times the best peer."]
    return "\n".join(lines)


def picture(results: dict[str, Any]) -> bytes:
    """The ratios as a PNG: a bar a row on a log scale, with 1.0 marked.

    Parameters
    ----------
    results : dict
        What ``scripts/bench.py --json`` writes.

    Returns
    -------
    bytes

    Examples
    --------
    >>> from nbgather.apps.bench import picture
    >>> times = {"nbgather": {"min": 1e-3, "median": 2e-3}, "torch": {"min": 3e-3, "median": 3e-3}}
    >>> row = {"name": "r", "group": "gather", "about": "x", "bytes": 8, "floor": 5e-4,
    ...        "seconds": times, "targets": {"best": 1.0}}
    >>> picture({"facts": {}, "rows": [row]})[1:4]
    b'PNG'
    """
    rows = results["rows"][::-1]
    figure = plotting.new_figure(10, 0.36 * len(rows) + 1.4)
    axes = figure.subplots()
    ratios = [ratio(row) or 1.0 for row in rows]
    colours = [plotting.GOOD if r >= 1 else plotting.BAD for r in ratios]
    axes.barh([row["name"] for row in rows], [r - 1 for r in ratios], left=1, color=colours)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    low, high = min(0.4, *ratios), max(2.0, *ratios)
    axes.set_xlim(low * 0.9, high * 5)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    ticks = [t for t in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if low * 0.9 <= t <= high * 1.5]
    axes.set_xticks(ticks, [f"{t:g}×" for t in ticks])
    axes.minorticks_off()
    for k, (row, r) in enumerate(zip(rows, ratios, strict=True)):
        share = row["floor"] / row["seconds"][OURS]["min"]
        text = f" {r:.2f}× {best_peer(row)[0]}, {share:.0%} of the floor"
        axes.text(max(r, 1), k, text, va="center", fontsize=plotting.LABEL_POINTS)
    axes.set_xlabel("times faster than the best peer (log scale)")
    axes.spines[["top", "right"]].set_visible(False)
    return plotting.png_bytes(figure)


def _with_table(readme: str, results: dict[str, Any]) -> str:
    dask = "contestants" in results
    table, name = (dask_markdown(results), "dask") if dask else (markdown(results), "bench")
    begin, end = MARKS[name]
    if begin not in readme or end not in readme:
        raise ValueError(f"the README has no place for the table: {begin} and {end} are needed")
    before, _, rest = readme.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def update_readme(path: str | os.PathLike[str], results: dict[str, Any]) -> None:
    """Put the table between its marks in a README.

    Parameters
    ----------
    path : path
        The README.
    results : dict
        What ``scripts/bench.py --json`` writes.

    Raises
    ------
    ValueError
        The marks are missing.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from nbgather.apps.bench import check_readme, update_readme
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "README.md"
    ...     _ = path.write_text("<!-- bench:begin --><!-- bench:end -->")
    ...     update_readme(path, {"facts": {}, "rows": []})
    ...     check_readme(path, {"facts": {}, "rows": []})
    True
    """
    target = Path(path)
    text = _with_table(target.read_text(encoding="utf-8"), results)
    files.write(target, text.encode())


def check_readme(path: str | os.PathLike[str], results: dict[str, Any]) -> bool:
    """Whether a README has the table of these results.

    Parameters
    ----------
    path : path
        The README.
    results : dict
        What ``scripts/bench.py --json`` writes.

    Returns
    -------
    bool

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from nbgather.apps.bench import check_readme
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "README.md"
    ...     _ = path.write_text("<!-- bench:begin -->old<!-- bench:end -->")
    ...     check_readme(path, {"facts": {}, "rows": []})
    False
    """
    text = Path(path).read_text(encoding="utf-8")
    return _with_table(text, results) == text
