"""The published models on every runtime that could be had: the tables of scripts/docs/runtimes.md.

    python scripts/onnx_conformance.py                  every runtime, every case; minutes to hours
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent)]

from onnx_conformance_parts import (  # noqa: E402
    environments,
    javascript_runs,
    page,
    python_runs,
    ties,
    vectors,
)

from nbgather import files  # noqa: E402

KEPT = SCRIPTS / "onnx_conformance.json"
ROWS = (*environments.RUNTIMES, *javascript_runs.RUNTIMES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", help="rows whose name has this")
    parser.add_argument("--part", choices=vectors.SIZES, default="full")
    parser.add_argument("--save", type=Path, help="write what came to this file too")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {"rows": {}}
    if options.check:
        fresh = page.PAGE.read_text() == page.text(kept)
        print(f"{page.PAGE.name} is {'up to date' if fresh else 'not what the results say'}")
        return 0 if fresh else 1
    if not options.page:
        rows = [row for row in ROWS if any(part in row for part in options.only or [""])]
        found = measure(rows, options.part)
        if options.save:
            files.write(options.save, json.dumps(found, indent=1, ensure_ascii=False).encode())
        if options.part != "full":
            return compare(found, kept)
        kept["models"] = page.digests(vectors.models())
        kept["rows"] = {
            row: found.get(row) or kept["rows"][row]
            for row in ROWS
            if row in {*kept["rows"], *found}
        }
        files.write(KEPT, (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode())
    files.write(page.PAGE, page.text(kept).encode())
    wrong = page.wrong(kept)
    print("\n".join(wrong) or f"wrote {page.PAGE}")
    return 1 if wrong else 0


def measure(rows: Sequence[str], part: str) -> dict[str, Any]:
    """What came of each row, for the file."""
    models = vectors.models()
    cases = list(vectors.vectors(part, models))
    found = {}
    for row in rows:
        begun = time.monotonic()
        if row in environments.RUNTIMES:
            one = environments.RUNTIMES[row]
            python = environments.python_of(one)
            outcomes = python_runs.run(one.runtime, one.options, python, models, cases)
            found[row] = outcomes.json() | {"ties": ties.run(one.runtime, one.options, python)}
        else:
            bundle = javascript_runs.RUNTIMES[row]
            chromium = javascript_runs.prepare()
            found[row] = javascript_runs.run(bundle, models, cases, chromium).json()
            found[row]["ties"] = javascript_runs.ties(bundle, chromium)
        print(f"{row} {found[row]['version']}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return found


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
