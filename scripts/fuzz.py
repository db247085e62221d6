"""Random calls of every operation against the reference, hostile arrays, and interrupts.

    python scripts/fuzz.py [--minutes N] [--cases N] [--only NAME ...] [--seed N] [--write]

Each operation gets rounds of cases until the time is over, or until there were so many cases of
each. Operands lie beside pages that nobody may touch, and cannot be written while a call runs. All
of it runs in a process of its own; where that dies, the call that it died of is printed. Exit
status 1 if anything was found.

Most of the time goes into compiling: of the kernels that random dtypes ask for, most do not come
with the package. They stay in the user's cache (`NUMBA_CACHE_DIR` names another), so a campaign
with the same seed takes seconds again. `--write` puts how many cases there were into
scripts/fuzz.json and the page scripts/docs/fuzz.md.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
RESULTS, PAGE = ROOT / "scripts/fuzz.json", ROOT / "scripts/docs/fuzz.md"
ROUND_CASES = 250
#: Between the seeds of two campaigns: more than a campaign has rounds, which have a seed each.
SEEDS_APART = 10_000
#: What is run besides the operations, as child processes: a name and its arguments.
OTHERS = ("hostile", "interrupts", "memory")


def campaign(name: str, cases: int, until: float, seed: int, last: Path) -> int:
    """Rounds of cases of one operation; how many there were."""
    import hypothesis
    from fuzzing.cases import CASES, Drawn
    from fuzzing.compare import check
    from fuzzing.guarded import Arena
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    count = 0

    with last.open("r+b", buffering=0) as file:

        def one(data: st.DataObject) -> None:
            nonlocal count
            arena = Arena()
            try:
                call = CASES[name](Drawn(data, arena, seed))
                text = repr(call)
                file.seek(0)
                file.write(text.encode()[:4000].ljust(4000))
                hypothesis.note(text)
                check(call, arena)
                count += 1
            finally:
                arena.give_back()

        done = 0
        while done == 0 or (time.monotonic() < until and count < cases):
            body = settings(
                max_examples=min(ROUND_CASES, max(cases - count, 1)),
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )(hypothesis.seed(SEEDS_APART * seed + done)(given(st.data())(one)))
            body()
            done += 1
    return count


def run_child(words: list[str], last: Path) -> tuple[int, str]:
    """A part in a process of its own; its exit status, and what it printed."""
    last.write_bytes(b" " * 4000)
    done = subprocess.run(
        [sys.executable, __file__, *words, "--last", str(last)], capture_output=True, text=True
    )
    said = done.stdout.strip()
    if done.returncode:
        if done.returncode < 0:
            said += f"\ndied of signal {-done.returncode} in {last.read_text().strip()}"
        said += "\n" + done.stderr[-4000:]
    return done.returncode, said


def child(given: argparse.Namespace) -> int:
    faulthandler.enable()
    last = Path(given.last)
    if given.child in OTHERS:
        import importlib

        importlib.import_module(f"fuzzing.{given.child}").main(given.seconds, given.seed)
        return 0
    until = time.monotonic() + given.seconds
    print(campaign(given.child, given.cases or 1 << 60, until, given.seed, last), "cases")
    return 0


def page(results: dict[str, dict[str, Any]]) -> str:
    rows = "\n".join(
        f"| `{name}` | {r['seed']} | {r['said']} | {r['seconds']} |" for name, r in results.items()
    )
    return f"""# Random calls

What `python scripts/fuzz.py --write` printed last of each part, where nothing was found: how many
random calls gave the reference's bits, or its error's words, each made again and again beside pages
that nobody may touch. The seconds are those of a machine that had other work beside.

| part | seed | cases | seconds |
|---|---|---|---|
{rows}
"""


def keep(parts: list[str], name: str, result: dict[str, Any]) -> None:
    """Put what came of a part beside what is known of the others."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = result
    ordered = {part: results[part] for part in parts if part in results}
    RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")
    PAGE.write_text(page(ordered))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="for all parts together")
    parser.add_argument("--cases", type=int, default=0, help="of each operation, whatever the time")
    parser.add_argument("--only", nargs="+", help="operations, or " + ", ".join(OTHERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep how many cases there were")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--last", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given)

    from fuzzing.cases import CASES

    parts = given.only or [*CASES, *OTHERS]
    seconds = 60 * given.minutes / len(parts)
    work = ROOT / "build/fuzz"
    work.mkdir(parents=True, exist_ok=True)
    failed = []
    for part in parts:
        words = ["--child", part, "--seconds", str(1e9 if given.cases else seconds)]
        if part in OTHERS:
            words = ["--child", part, "--seconds", str(seconds)]
        words += ["--cases", str(given.cases), "--seed", str(given.seed)]
        begun = time.monotonic()
        code, said = run_child(words, work / f"{part}.last")
        took = round(time.monotonic() - begun, 1)
        print(f"{part}: {said} ({took} s)", flush=True)
        if code:
            failed.append(part)
        elif given.write:
            result = {"seed": given.seed, "said": said.removesuffix(" cases"), "seconds": took}
            keep([*CASES, *OTHERS], part, result)
    print(f"fuzz: {len(parts) - len(failed)} passed, {len(failed)} failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
