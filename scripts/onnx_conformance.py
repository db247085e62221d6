"""The published models on every runtime that could be had: the tables of scripts/docs/runtimes.md.

    python scripts/onnx_conformance.py                  every runtime, every case of the models that
                                                        have changed since; up to an hour
    python scripts/onnx_conformance.py --only OpenVINO  rows whose name has this, beside those kept
    python scripts/onnx_conformance.py --page           the page alone, from what is kept
    python scripts/onnx_conformance.py --check          fail if the page says something else
    python scripts/onnx_conformance.py --part weekly    fewer cases; nothing is kept, and an outcome
                                                        that the kept file does not have is an error

What came is kept in scripts/onnx_conformance.json. Environments are made below build/conformance;
rows that need Node, its packages or Chromium take those of scripts/js_check. Exit status 1 where an
outcome is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent)]

from onnx_conformance_parts import (  # noqa: E402
    environments,
    functions,
    javascript_runs,
    page,
    python_runs,
    ties,
    vectors,
)

from nbgather import files  # noqa: E402
from nbgather.onnx import CATALOG  # noqa: E402

KEPT = SCRIPTS / "onnx_conformance.json"
ROWS = (*environments.RUNTIMES, *javascript_runs.RUNTIMES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", help="rows whose name has this")
    parser.add_argument("--part", choices=vectors.SIZES, default="full")
    parser.add_argument("--save", type=Path, help="of a smaller part: a file for what came")
    parser.add_argument("--anew", action="store_true", help="models too that have not changed")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    kept = read()
    if options.check:
        fresh = page.PAGE.read_text() == page.text(kept)
        print(f"{page.PAGE.name} is {'up to date' if fresh else 'not what the results say'}")
        return 0 if fresh else 1
    if not options.page:
        rows = [row for row in ROWS if any(part in row for part in options.only or [""])]
        if options.part != "full":
            found = run(rows, options.part, {})
            if options.save:
                files.write(options.save, json.dumps(found, ensure_ascii=False).encode())
            return compare(found, kept)
        for row in rows:
            found = run([row], "full", {} if options.anew else kept["rows"])
            kept = read()  # another process may have written rows meanwhile
            known = kept["rows"] | found
            kept["rows"] = {row: known[row] for row in ROWS if row in known}
            files.write(KEPT, (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode())
    files.write(page.PAGE, page.text(kept).encode())
    wrong = page.wrong(kept)
    print("\n".join(wrong) or f"wrote {page.PAGE}")
    return 1 if wrong else 0


def run(rows: Sequence[str], part: str, kept: Mapping[str, Any]) -> dict[str, Any]:
    """What comes of some rows now, for the file; models that have not changed are not run."""
    models = vectors.models()
    now = page.digests(models)
    found = {}
    for row in rows:
        cases = vectors.vectors(part, models)
        old = kept.get(row, {})
        known = old.get("digests", {})
        mine = [case for case in cases if now[case.entry] != known.get(case.entry)]
        found[row] = measure(row, models, mine, old) | {"digests": now}
    return found


def read() -> dict[str, Any]:
    """What is kept."""
    return json.loads(KEPT.read_text()) if KEPT.is_file() else {"rows": {}}


def measure(
    row: str,
    models: dict[str, Any],
    cases: Sequence[vectors.Vector],
    old: dict[str, Any],
) -> dict[str, Any]:
    """What came of a row, for the file: of these cases, and of other models what came before."""
    begun = time.monotonic()
    if row in environments.RUNTIMES:
        one = environments.RUNTIMES[row]
        python = environments.python_of(one)
        made = python_runs.run(one.runtime, one.options, python, models, cases).json()
        made["ties"] = old.get("ties") or ties.run(one.runtime, one.options, python)
        made["functions"] = old.get("functions") or functions.run(one.runtime, one.options, python)
    else:
        bundle = javascript_runs.RUNTIMES[row]
        chromium = javascript_runs.prepare()
        made = javascript_runs.run(bundle, models, cases, chromium).json()
        made["ties"] = old.get("ties") or javascript_runs.ties(bundle, chromium)
        made["functions"] = old.get("functions") or javascript_runs.takes_functions(
            bundle, chromium
        )
    made["version"] = made["version"] or old.get("version", "")
    every = {**old.get("models", {}), **made["models"]}
    made["models"] = {entry.file: every[entry.file] for entry in CATALOG if entry.file in every}
    print(f"{row} {made['version']}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return made


def compare(found: dict[str, Any], kept: dict[str, Any]) -> int:
    """Whether every kind of outcome is one that the kept file has for the model and group."""
    news = []
    for row, made in found.items():
        for model, groups in made["models"].items():
            for group, counts in groups.items():
                known = kept["rows"].get(row, {}).get("models", {}).get(model, {}).get(group, {})
                said = counts.pop("said", {})
                news += [
                    f"{row}, {model}, {group}: {kind} {counts[kind]}, {said.get(kind, '')}"
                    for kind in counts
                    if kind not in known
                ]
    print("\n".join(news) or f"{len(found)} runtimes as the table has them")
    return 1 if news else 0


if __name__ == "__main__":
    sys.exit(main())
