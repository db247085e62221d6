"""The speed of each row over time: run the benchmarks of this commit, and draw all that is known.

    python scripts/history.py [run [--rows PATTERN]] [draw]

``run`` times the bench's rows by asv (airspeed velocity, `pip install asv`) in this environment and
keeps the results below scripts/asv/results, one file for each commit and machine; commit them.
``draw`` makes the page scripts/docs/history.md and its picture from these files. Without a word
both are done: the one command of a maintainer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ASV = ROOT / "scripts/asv"
RESULTS = ASV / "results"
PAGE = ROOT / "scripts/docs/history.md"
PICTURE = ROOT / "scripts/docs/history.svg"
BENCHMARK = "rows.Rows.time_row"


class Point(NamedTuple):
    """A row's time in a commit on a machine."""

    machine: str
    date: int
    commit: str
    row: str
    seconds: float


def run(rows: str | None, machine: str | None) -> None:
    """Time the rows of the commit that is checked out, which must be clean."""
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if changed.strip():
        sys.exit("error: what is timed is a commit, and files are changed: commit them first")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    if rows:
        environment["NBGATHER_ASV_ROWS"] = rows
    asv = [sys.executable, "-m", "asv"]
    name = ["--machine", machine] if machine else []
    subprocess.run([*asv, "machine", "--yes", *name], cwd=ASV, env=environment, check=True)
    subprocess.run(
        [*asv, "run", "--python=same", f"--set-commit-hash={commit}", *name],
        cwd=ASV, env=environment, check=True,
    )  # fmt: skip
    tidy()


def tidy() -> None:
    """Leave nothing in the results that only tells where this environment lies."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for path in RESULTS.glob("*/*-existing-*.json"):
        held = json.loads(path.read_text())
        held["env_name"] = f"existing-{version}"
        held["python"] = held["params"]["python"] = version
        path.write_text(json.dumps(held, indent=1) + "\n")
        path.rename(path.with_name(f"{held['commit_hash'][:8]}-{version}.json"))


def points() -> list[Point]:
    """All that is kept, oldest first."""
    found = []
    for path in sorted(RESULTS.glob("*/*.json")):
        if path.name in ("machine.json", "benchmarks.json"):
            continue
        held = json.loads(path.read_text())
        entry = held["results"].get(BENCHMARK)
        if not entry:
            continue
        values = dict(zip(held["result_columns"], entry, strict=False))
        names = [name.strip("'\"") for name in values["params"][0]]
        for name, seconds in zip(names, values["result"] or [], strict=False):
            if seconds is not None and seconds == seconds:
                machine = held["params"]["machine"]
                found.append(Point(machine, held["date"], held["commit_hash"], name, seconds))
    return sorted(found, key=lambda point: (point.date, point.row))


def draw(found: list[Point]) -> None:
    """The page, and one plot for each row: its time relative to the first that is known."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "nbgather"
    from matplotlib import pyplot

    rows = sorted({point.row for point in found})
    columns = 3
    height = max(-(-len(rows) // columns), 1)
    figure, grid = pyplot.subplots(
        height, columns, figsize=(12, 1.9 * height), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(rows) :]:
        axes.set_visible(False)
    for axes, row in zip(grid.flat, rows, strict=False):
        for machine in sorted({p.machine for p in found}):
            own = [p for p in found if (p.row, p.machine) == (row, machine)]
            if own:
                axes.plot([p.seconds / own[0].seconds for p in own], "o-", label=machine)
        axes.set_title(row, fontsize=8)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=7)
        axes.set_xticks([])
    figure.savefig(PICTURE, metadata={"Date": None})
    commits = list(dict.fromkeys(p.commit[:8] for p in found))
    machines = ", ".join(sorted({p.machine for p in found}))
    last = {p.row: p for p in found}
    lines = "\n".join(f"| {row} | {1e3 * last[row].seconds:.4g} |" for row in rows)
    PAGE.write_text(f"""# Speed over time

Each plot is a row of `nbgather bench`: what a turn of its calls takes in one commit after the
other, as a part of what it took in the first. A maintainer adds a commit by
`python scripts/history.py`.

Commits: {len(commits)}, from {commits[0] if commits else "none"} to
{commits[-1] if commits else "none"}. Machines: {machines}.

![the rows over the commits](history.svg)

| row | ms, the latest |
|---|---|
{lines}
""")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="run, draw (default: both)")
    parser.add_argument("--rows", help="a pattern of rows or groups, as of nbgather bench")
    parser.add_argument("--machine", help="what this machine is called (default: its host name)")
    given = parser.parse_args()
    if not set(given.what) <= {"run", "draw"}:
        parser.error(f"{given.what} is not among run and draw")
    if "run" in given.what or not given.what:
        run(given.rows, given.machine)
    if "draw" in given.what or not given.what:
        found = points()
        if not found:
            sys.exit("error: no results are kept below scripts/asv/results")
        draw(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
