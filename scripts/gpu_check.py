"""Everything that only a GPU can show, in one command of ten minutes: ``scripts/gpu_check.py``.

It needs Python, torch with CUDA, numba and numba-cuda, and this repository; no network. Each stage
runs in a process of its own and under its own limit, so that a hang or a lost context ends one of
them. What it finds is appended to ``gpu_check.jsonl`` at once, a line for each thing, and
``gpu_check.json`` is made of the lines after every stage: in the folder ``--out``, or that which
the environment names as ``OUT``. ``scripts/bench.py --keep-gpu FILE --update-readme`` makes the
README's table of the latter. ``--dry-run`` does all of it without a GPU, in the tests'
simulator. Exit status 1 if a comparison failed, a stage did not end or a target was missed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [p for p in (str(SCRIPTS.parent), str(SCRIPTS)) if p not in sys.path]

from gpu_check_parts import report, stages, supervise  # noqa: E402

#: What is kept for the last document and the processes' ends.
RESERVE_SECONDS = 10.0
#: How much longer a dry run's stages may take: the machine may have other things to do.
DRY_PATIENCE = 10


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the folder of the results")
    parser.add_argument("--minutes", type=float, default=9.7, help="for all stages together")
    parser.add_argument("--stages", default="", help="only these, commas between them")
    parser.add_argument("--only", default="", help="only checks and rows whose names hold this")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU, in a simulator")
    parser.add_argument("--stage", help=argparse.SUPPRESS)  # one, in this process
    parser.add_argument("--child", help=argparse.SUPPRESS)  # what a tool is run on
    options = parser.parse_args(given)
    if options.out is None:
        options.out = Path(os.environ.get("OUT") or SCRIPTS.parent / "build" / "gpu_check")
    chosen = [name.strip() for name in options.stages.split(",") if name.strip()]
    unknown = [name for name in chosen if not any(s.startswith(name) for s in stages.STAGES)]
    if unknown:
        parser.error(f"no stage is named {unknown[0]!r}: there are {', '.join(stages.STAGES)}")
    options.chosen = [
        s for s in stages.STAGES if not chosen or any(s.startswith(name) for name in chosen)
    ]
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Run the stages; the exit code."""
    options = arguments(given)
    if options.child:
        with stages.device_of(options.dry_run) as device:
            stages.child(device, options.child)
        return 0
    lines = options.out / "gpu_check.jsonl"
    if options.stage:
        one = report.Report(lines, options.stage)
        run_one(options.stage, options.dry_run, one, options.only)
        return 0
    return run_all(options, lines)


def run_all(options: argparse.Namespace, lines: Path) -> int:
    """Every stage that was chosen, each in its process, until the time is up."""
    options.out.mkdir(parents=True, exist_ok=True)
    lines.write_bytes(b"")
    if options.dry_run:
        stages.preload()
    patience = DRY_PATIENCE if options.dry_run else 1
    ends = time.monotonic() + 60 * options.minutes * patience - RESERVE_SECONDS
    with tempfile.TemporaryDirectory(prefix="nbgather_gpu_check_") as caches:
        os.environ["NUMBA_CACHE_DIR"] = caches  # the first process shall find nothing

        def one(name: str) -> None:
            stage, found = stages.STAGES[name], report.Report(lines, name)
            limit = min(stage.seconds * patience, ends - time.monotonic())
            if limit < 5:
                found.line("end", outcome="left out: the time is up", seconds=0.0)
                return
            found.line("begin", about=f"{name}: {stage.about}", limit=limit)
            outcome, seconds = supervise.run(work(options, name, found), limit)
            found.line("end", outcome=outcome, seconds=seconds)

        for batch in batches(options.chosen, together=not options.dry_run):
            if len(batch) == 1:  # by no thread: a dry run's stages are forks
                one(batch[0])
            else:
                with concurrent.futures.ThreadPoolExecutor(len(batch)) as pool:
                    list(pool.map(one, batch))
            write(options.out / "gpu_check.json", lines)
    document = report.document(lines)
    for text in document["failed"]:
        print(f"WRONG {text}")
    print(f"{len(document['checks'])} checks, {len(document['rows'])} rows,"
          f" {len(document['failed'])} wrong: {options.out / 'gpu_check.json'}")  # fmt: skip
    return 1 if document["failed"] else 0


def run_one(name: str, dry: bool, found: report.Report, pattern: str) -> None:
    """One stage, in this process; what ends it is kept with the rest."""
    try:
        stages.run(name, dry, found, pattern, __file__)
    except BaseException:
        found.fact(f"what ended {name}", traceback.format_exc()[-4000:])
        raise


def batches(names: Sequence[str], together: bool) -> list[list[str]]:
    """Stages that run at the same time: those that only compare, for they compile most of it."""
    result: list[list[str]] = []
    for name in names:
        if together and name.startswith("check") and result and result[-1][0].startswith("check"):
            result[-1].append(name)
        else:
            result.append([name])
    return result


def work(
    options: argparse.Namespace, name: str, found: report.Report
) -> Sequence[str] | Callable[[], int]:
    """What the process of a stage does: a new interpreter, or in a dry run a copy of this one."""
    again = ["--stage", name, "--out", str(options.out), "--only", options.only]
    if options.dry_run and name != "cold again":  # one of them as on a GPU

        def here() -> int:
            run_one(name, True, found, options.only)
            return 0

        return here
    return supervise.command(__file__, again + ["--dry-run"] * options.dry_run)


def write(path: Path, lines: Path) -> None:
    from nbgather import files  # here, for the time of its import is measured

    files.write(path, (json.dumps(report.document(lines), indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
