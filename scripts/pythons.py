"""Which Pythons, NumPys and numbas nbgather works with: the table of a page, measured.

    python scripts/pythons.py [NAME ...] [--write] [--list]

Each row is an environment of its own below build/pythons: an interpreter that is found here, the
wheel, and the dependencies as the row says. The self-test decides, of extras their own call. An
environment is removed when its row is known. `--write` puts the rows into scripts/pythons.json
and the page scripts/docs/pythons.md; a row that cannot be had says why.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build/pythons"
RESULTS = ROOT / "scripts/pythons.json"
PAGE = ROOT / "scripts/docs/pythons.md"
SECONDS = 1800

VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.14t", "3.15")


class Row(NamedTuple):
    """An environment to be tried."""

    name: str
    python: str
    #: Extras of the wheel; what scripts/smoke_extras.py is asked for; pip's options.
    extras: str = ""
    uses: str = ""
    options: tuple[str, ...] = ()


#: Where an interpreter was looked for that distributions do not have.
ELSEWHERE = {
    "3.14t": "; Debian has no package of it, and the builds of uv and conda, and its source, could"
    " not be fetched there: $NBGATHER_PYTHONS names one that is somewhere else",
}
LOWEST = ("-c", "constraints-lowest.txt")

ROWS = (
    *(Row(f"{v}, newest", v) for v in VERSIONS),
    Row("lowest", "3.10", options=LOWEST),
    Row("lowest, extras but torch", "3.10", "onnx,dask,cli", "onnx jax dask cli", LOWEST),
    Row("lowest, every extra", "3.10", "all", "torch onnx jax dask cli", LOWEST),
    Row("locked, every extra", "3.11", "all", "torch onnx jax dask cli", ("-c", "constraints.txt")),
    Row("pre-releases", "3.14", options=("--pre",)),
)


def interpreters() -> Iterator[tuple[str, str]]:
    """Versions and paths: on PATH, of pyenv, and what $NBGATHER_PYTHONS names, the best last."""
    found = [str(p) for p in Path.home().glob(".pyenv/versions/*/bin/python")]
    found += [shutil.which(f"python{version}") or "" for version in VERSIONS]
    found += os.environ.get("NBGATHER_PYTHONS", "").split(os.pathsep)
    code = (
        "import sys, sysconfig; print('%d.%d' % sys.version_info[:2]"
        " + 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')))"
    )
    for path in filter(None, found):
        done = subprocess.run([path, "-c", code], capture_output=True, text=True)
        if done.returncode == 0:
            yield done.stdout.strip(), path


def run(command: list[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        **options,  # type: ignore[call-overload]
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no word"])[-1].strip()[:160]


SELFTEST = """
import importlib.metadata, platform, sys
from nbgather.apps.selftest import run
quick = "quick" in sys.argv
report = run.run("cpu", quick)
versions = " ".join(f"{n} {importlib.metadata.version(n)}" for n in ("numba", "numpy", "llvmlite"))
equal, cases = sum(report.equal.values()), sum(1 for case in run.chosen(quick))
print(platform.python_version(), versions, equal, cases, sep="|")
for text, what in list(report.different.items())[:1]:
    print(f"{text}: {what}", file=sys.stderr)
sys.exit(bool(report.different))
"""


def tried(row: Row, python: str, wheel: Path, length: str) -> dict[str, str]:
    """What became of a row."""
    home = WORK / row.name.replace(", ", "_").replace(" ", "_")
    shutil.rmtree(home, ignore_errors=True)
    result = {"python": row.python, "versions": "", "result": ""}
    made = run([python, "-m", "venv", "--without-pip", home])
    if made.returncode:
        return {**result, "result": f"no environment: {last_line(made)}"}
    own = home / "bin/python"
    wanted = [f"{wheel}[{row.extras}]" if row.extras else str(wheel)]
    wanted += ["jax"] if "jax" in row.uses else []
    pip = run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            own,
            "install",
            "-q",
            "--only-binary=:all:",
            *row.options,
            *wanted,
        ],
        cwd=ROOT,
    )
    if pip.returncode:
        result["result"] = f"not installed: {last_line(pip)}"
    else:
        settings = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "NUMBA_"))}
        done = run([own, "-c", SELFTEST, length], cwd=WORK, env=settings)
        line = done.stdout.strip().split("|")
        if len(line) == 4:
            result["python"] = line[0] + ("t" if row.python.endswith("t") else "")
            result["versions"] = line[1]
            result["result"] = f"{line[2]} of {line[3]} cases equal"
        if done.returncode:
            result["result"] += f"; {last_line(done)}"
        elif row.uses:
            script = ROOT / "scripts/smoke_extras.py"
            more = run([own, script, *row.uses.split()], cwd=WORK, env=settings)
            said = more.stdout.strip() if more.returncode == 0 else last_line(more)
            result["result"] += f"; {said}"
    shutil.rmtree(home)
    return result


def is_well(said: str) -> bool:
    """Whether all cases were equal, and whatever else was tried went well."""
    cases, _, more = said.partition(" cases equal")
    equal, _, count = cases.partition(" of ")
    return equal == count and "Error" not in more


def page(results: dict[str, dict[str, str]]) -> str:
    rows = "\n".join(
        f"| {name} | {r['python']} | {r['versions']} | {r['result']} |"
        for name, r in results.items()
    )
    return f"""# Pythons

What `python scripts/pythons.py --write` found: each row is an environment of its own, with the
wheel and what it depends on, in which `nbgather selftest` recomputed its cases. *lowest* is
`constraints-lowest.txt`, the oldest versions that the package names; *locked* is `constraints.txt`.

| environment | Python | versions | result |
|---|---|---|---|
{rows}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="rows to try (default: all)")
    parser.add_argument("--write", action="store_true", help="keep the results")
    parser.add_argument("--list", action="store_true", help="print the rows and end")
    parser.add_argument("--quick", action="store_true", help="one case of eight")
    given = parser.parse_args()
    length = "quick" if given.quick else "whole"
    if given.list:
        print(*(row.name for row in ROWS), sep="\n")
        return 0
    WORK.mkdir(parents=True, exist_ok=True)
    built = run([sys.executable, "-m", "build", "--wheel", "--outdir", WORK, ROOT])
    if built.returncode:
        sys.exit(f"error: the wheel cannot be built: {last_line(built)}")
    wheel = max(WORK.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    pythons = dict(interpreters())
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed = False
    for row in ROWS:
        if given.names and row.name not in given.names:
            continue
        if row.python in pythons:
            results[row.name] = tried(row, pythons[row.python], wheel, length)
        else:
            machine = f"{platform.system()} {platform.machine()}"
            where = ELSEWHERE.get(row.python, "")
            results[row.name] = {
                "python": row.python,
                "versions": "",
                "result": f"not tried: no interpreter of it on this machine ({machine}){where}",
            }
        # What cannot be had here is told, and is no failure of ours.
        said = results[row.name]["result"]
        failed |= bool(results[row.name]["versions"]) and not is_well(said)
        print(row.name, *results[row.name].values(), sep=" | ", flush=True)
        if given.write:
            ordered = {r.name: results[r.name] for r in ROWS if r.name in results}
            RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")
            PAGE.write_text(page(ordered))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
