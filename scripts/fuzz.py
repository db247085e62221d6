"""Random calls of every operation against the reference, hostile arrays, and interrupts.

    python scripts/fuzz.py [--minutes N] [--cases N] [--only NAME ...] [--seed N]

Each operation gets rounds of cases until the time is over, or until there were so many cases of
each. Operands lie beside pages that nobody may touch, and cannot be written while a call runs. All
of it runs in a process of its own; where that dies, the call that it died of is printed. Exit
status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import faulthandler
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
ROUND_CASES = 250
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
                call = CASES[name](Drawn(data, arena))
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
            )(hypothesis.seed(seed + done)(given(st.data())(one)))
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="for all parts together")
    parser.add_argument("--cases", type=int, default=0, help="of each operation, whatever the time")
    parser.add_argument("--only", nargs="+", help="operations, or " + ", ".join(OTHERS))
    parser.add_argument("--seed", type=int, default=0)
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
        print(f"{part}: {said} ({time.monotonic() - begun:.1f} s)", flush=True)
        if code:
            failed.append(part)
    print(f"fuzz: {len(parts) - len(failed)} passed, {len(failed)} failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
