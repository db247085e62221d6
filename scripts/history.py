"""The speed of each row over time: run the benchmarks of this commit, and draw all that is known.

    python scripts/history.py [run [--rows PATTERN]] [draw]

``run`` times the bench's rows by asv (airspeed velocity, `pip install asv`) in this environment and
keeps the results below scripts/asv/results, one file for each commit and machine; commit them.
``draw`` makes the page scripts/docs/history.md and its picture from these files, and from what
`scripts/bench.py` measured in earlier commits (scripts/bench, in git). Without a word it does both:
the one command of a maintainer.
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
PICTURE = ROOT / "scripts/docs/history.png"
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
    if git("status", "--porcelain", "--untracked-files=no").strip():
        sys.exit("error: what is timed is a commit, and files are changed: commit them first")
    commit = git("rev-parse", "HEAD").strip()
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


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def measured() -> list[Point]:
    """What the bench measured, in every commit that measured it again: medians of our own call."""
    found = []
    for path in sorted(ROOT.glob("scripts/bench/*.json")):
        machine = path.name.partition(".")[0]
        if path.name != f"{machine}.json":
            continue  # of calls beside other work, random calls, first calls
        name = str(path.relative_to(ROOT))
        for line in git("log", "--format=%H %ct", "--", name).splitlines():
            commit, seconds = line.split()
            try:
                rows = json.loads(git("show", f"{commit}:{name}"))["rows"]
            except (subprocess.CalledProcessError, KeyError, TypeError):
                continue  # the file was removed, or had another form
            for row in rows:
                own = row["seconds"].get("nbgather")
                if own:
                    date = 1000 * int(seconds)
                    found.append(Point(machine, date, commit, row["name"], own["median"]))
    return found


def points() -> list[Point]:
    """All that is kept, oldest first."""
    found = measured()
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
                machine = f"{held['params']['machine']}, asv"
                found.append(Point(machine, held["date"], held["commit_hash"], name, seconds))
    return sorted(found, key=lambda point: (point.date, point.row))


def draw(found: list[Point]) -> None:
    """The page, and one plot for each row: its time relative to the first that is known."""
    import matplotlib

    matplotlib.use("agg")
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
    figure.savefig(PICTURE, dpi=60)
    commits = list(dict.fromkeys(p.commit[:8] for p in found))
    machines = ", ".join(sorted({p.machine for p in found}))
    PAGE.write_text(f"""# Speed over time

Each plot is a row of `nbgather bench`: what its call takes in one commit after the other, as a part
of what it took in the first that measured it. A maintainer adds a commit by
`python scripts/history.py`; it needs asv.

Commits: {len(commits)}, from {commits[0]} to {commits[-1]}. Machines: {machines}.

![the rows over the commits](history.png)
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
            sys.exit("error: no results are kept below scripts/asv/results or scripts/bench")
        draw(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
