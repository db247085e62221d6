"""Time nbgather against its peers; the README's table and picture are made from the JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nbgather import files  # noqa: E402
from nbgather.apps.bench import check_readme, markdown, picture, run_all, update_readme  # noqa: E402
from nbgather.apps.bench.rows import select_rows  # noqa: E402
from nbgather.kernels.cpu import threads  # noqa: E402

RESULTS = ROOT / "scripts" / "bench_cpu.json"
DASK_RESULTS = ROOT / "scripts" / "bench_dask.json"
README = ROOT / "README.md"
PICTURE = ROOT / "scripts" / "pictures" / "bench.png"


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    rows = select_rows(options.rows)
    if not rows:
        raise SystemExit(f"no row matches {options.rows!r}: --list shows them")
    done = 0

    def progress(name: str) -> None:
        nonlocal done
        done += 1
        print(f"[{done}/{len(rows)}] {name}", file=sys.stderr, flush=True)

    return run_all(rows, 1 if options.quick else options.rounds, options.threads, progress)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", help="only rows whose name or group matches this pattern")
    parser.add_argument("--rounds", type=int, default=11, help="turns of each contestant")
    parser.add_argument("--quick", action="store_true", help="one turn of each")
    parser.add_argument("--threads", type=int, default=threads.num_threads())
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--from-json", type=Path, help="report these results, time nothing")
    parser.add_argument("--dask", action="store_true", help="time nbgather.dask instead")
    parser.add_argument(
        "--surface", nargs="*", type=int, metavar=("N", "SEED"),
        help="time N random cases (40) of each function, of this SEED (0), instead of the rows",
    )  # fmt: skip
    parser.add_argument("--only", help="with --surface: these functions, commas between them")
    parser.add_argument("--without", help="with --surface: leave these libraries out, e.g. jax")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument(
        "--update-readme", action="store_true", help="make the README's table and picture anew"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit 1 if the README's table is not of the JSON"
    )
    return parser


def _dask(options: argparse.Namespace) -> int:
    """Time nbgather.dask; a table of its own."""
    from nbgather.apps.bench.dask_rows import dask_markdown, run_dask

    results = run_dask(
        1 if options.quick else min(options.rounds, 3),
        lambda name: print(name, file=sys.stderr, flush=True),
    )
    if options.json or options.update_readme:
        text = json.dumps(results, indent=1) + "\n"
        files.write(options.json or DASK_RESULTS, text.encode())
    if options.update_readme:
        update_readme(README, results)
    print(dask_markdown(results))
    return 0


def _counter(total: int) -> Callable[[str], None]:
    """Counts on one line of a terminal; elsewhere a line for every function."""
    done: list[str] = []

    def count(name: str) -> None:
        new = name not in done
        done.append(name)
        if sys.stderr.isatty():
            end = "\n" if len(done) == total else ""
            print(f"\r[{len(done)}/{total}] {name:20}", end=end, file=sys.stderr, flush=True)
        elif new:
            print(f"[{len(done)}/{total}] {name}", file=sys.stderr, flush=True)

    return count


def _surface(options: argparse.Namespace) -> int:
    """Time random cases of every function; a report of its own."""
    from nbgather.apps.bench.surface import run_surface, select_functions, surface_text

    count, seed = (*options.surface, *(40, 0)[len(options.surface) :])[:2]
    if options.from_json:
        results = json.loads(options.from_json.read_text(encoding="utf-8"))
    else:
        functions = select_functions(options.only)
        progress = _counter(count * len(functions))
        without = tuple((options.without or "").split(",")) if options.without else ()
        results = run_surface(
            count, seed, functions, threads=options.threads, without=without, progress=progress
        )
    if options.json:
        files.write(options.json, (json.dumps(results, indent=1) + "\n").encode())
    print(surface_text(results))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the exit code: 0 done, 1 the README is stale."""
    options = _arguments().parse_args(arguments)
    if options.list:
        for row in select_rows(options.rows):
            print(f"{row.group:8} {row.name:24} {row.about}")
        return 0
    if options.check:
        stored = (json.loads(p.read_text(encoding="utf-8")) for p in (RESULTS, DASK_RESULTS))
        fresh = all(check_readme(README, results) for results in stored)
        print("the README's table is", "up to date" if fresh else "stale: --update-readme")
        return 0 if fresh else 1
    if options.dask:
        return _dask(options)
    if options.surface is not None:
        return _surface(options)
    source = options.from_json or (RESULTS if options.update_readme and not options.json else None)
    results = json.loads(source.read_text(encoding="utf-8")) if source else _measure(options)
    if options.json:
        files.write(options.json, (json.dumps(results, indent=1) + "\n").encode())
    if options.update_readme:
        update_readme(README, results)
        files.write(PICTURE, picture(results))
    print(markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
