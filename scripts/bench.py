"""Time nbgather against its peers; the README's tables and pictures are made from the JSON files.

``--keep`` writes what was measured to scripts/bench, one file for each kind of CPU and table, and
``--update-readme`` makes the README, the documentation's page and the pictures of all files there.
"""

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
from nbgather.apps.bench import check_tables, markdown, picture, run_all, update_tables  # noqa: E402
from nbgather.apps.bench.beside import DEFAULT_TURNS, beside_text, run_beside  # noqa: E402
from nbgather.apps.bench.dask_surface import (  # noqa: E402
    problem_lines,
    run_dask_surface,
    surface_lines,
)
from nbgather.apps.bench.gpu import gpu_markdown, keep_gpu, load_gpus  # noqa: E402
from nbgather.apps.bench.kinds import (  # noqa: E402
    kinds_markdown,
    load_kinds,
    rows_document,
    surface_document,
    surface_markdown,
)
from nbgather.apps.bench.machine import cpu_kind  # noqa: E402
from nbgather.apps.bench.rows import select_rows  # noqa: E402
from nbgather.apps.bench.start import run_start, start_text  # noqa: E402
from nbgather.apps.bench.surface import (  # noqa: E402
    DEFAULT_COUNT,
    run_surface,
    select_functions,
    surface_json,
    surface_map,
    surface_text,
)
from nbgather.kernels.cpu import limits  # noqa: E402

KEPT = ROOT / "scripts" / "bench"
GPUS = KEPT / "gpu"
DASK_RESULTS = ROOT / "scripts" / "bench_dask.json"
DASK_COUNT = 24
README = ROOT / "README.md"
PAGE = ROOT / "scripts" / "docs" / "speed.md"
PICTURES = ROOT / "scripts" / "pictures"
#: The worst calls of each function and size class that the documentation lists.
WORST_SHOWN = 3


def _counter(total: int) -> Callable[[str], None]:
    """Counts on one line of a terminal; elsewhere a line whenever the name changes."""
    done: list[str] = []

    def count(name: str) -> None:
        new = name not in done
        done.append(name)
        if sys.stderr.isatty():
            end = "\n" if len(done) == total else ""
            print(f"\r[{len(done)}/{total}] {name:24}", end=end, file=sys.stderr, flush=True)
        elif new:
            print(f"[{len(done)}/{total}] {name}", file=sys.stderr, flush=True)

    return count


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", help="only rows whose name or group matches this pattern")
    parser.add_argument("--rounds", type=int, default=11, help="turns of each contestant")
    parser.add_argument("--quick", action="store_true", help="one turn of each")
    parser.add_argument("--threads", type=int, default=limits.num_threads())
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--from-json", type=Path, help="report these results, time nothing")
    parser.add_argument(
        "--dask", nargs="*", type=int, metavar=("N", "SEED"),
        help=f"time N random problems ({DASK_COUNT}) on Dask, of this SEED (0), instead",
    )  # fmt: skip
    parser.add_argument(
        "--surface", nargs="*", type=int, metavar=("N", "SEED"),
        help=f"time N random calls ({DEFAULT_COUNT}) of each function, of this SEED (0), instead",
    )  # fmt: skip
    parser.add_argument(
        "--beside", action="store_true", help="time calls beside other work, instead"
    )
    parser.add_argument(
        "--start", action="store_true", help="time the first calls of new processes, instead"
    )
    parser.add_argument(
        "--keep-gpu", type=Path, metavar="JSON",
        help="keep the gpu_check.json of a run of scripts/gpu_check.py; time nothing",
    )  # fmt: skip
    parser.add_argument("--only", help="with --surface: these functions, commas between them")
    parser.add_argument("--without", help="with --surface: leave these libraries out, e.g. jax")
    parser.add_argument("--png", type=Path, help="draw the ratios here")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument(
        "--keep", action="store_true", help="keep the results as those of this kind of CPU"
    )
    parser.add_argument(
        "--update-readme", action="store_true",
        help="make the tables and pictures anew, of what is kept; alone it times nothing",
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true", help="exit 1 if a table is not of what is kept"
    )
    return parser


#: What stands where no kind of CPU has its random calls timed.
NOT_MEASURED = (
    "*No kind of CPU has been measured yet: `scripts/bench.py --surface --keep --update-readme`.*"
)


def _kept(suffix: str, text: Callable[[dict[str, Any]], str]) -> str:
    """The tables of every kind that has a file of this suffix."""
    paths = sorted(KEPT.glob(f"*.{suffix}"))
    tables = [text(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    return "\n\n".join(tables) or "*No kind of CPU has been measured yet.*"


def _tables() -> dict[Path, dict[str, str]]:
    """The tables of each document, made of what is kept."""
    kinds = load_kinds(KEPT)
    dask = "\n".join(surface_lines(json.loads(DASK_RESULTS.read_text(encoding="utf-8"))))
    maps = "../pictures/surface_{kind}.png"
    return {
        README: {
            "bench": kinds_markdown(kinds), "dask": dask,
            "surface": surface_markdown(kinds) or NOT_MEASURED,
            "gpu": gpu_markdown(load_gpus(GPUS)),
        },
        PAGE: {
            "rows": rows_document(kinds),
            "surface": surface_document(kinds, maps, WORST_SHOWN) or NOT_MEASURED,
            "beside": _kept("beside.json", beside_text),
            "start": _kept("start.json", start_text),
        },
    }  # fmt: skip


def _update() -> None:
    """Make every table and picture anew."""
    for document, tables in _tables().items():
        update_tables(document, tables)
    kinds = load_kinds(KEPT)
    runs = {kind.title: kind.rows for kind in kinds if kind.rows is not None}
    files.write(PICTURES / "bench.png", picture(runs))
    for kind in kinds:
        if kind.surface is not None:
            files.write(PICTURES / f"surface_{kind.name}.png", surface_map(kind.surface))


def _dask(options: argparse.Namespace) -> None:
    """Time nbgather.dask over random problems; a table of its own."""
    count, seed = (*options.dask, *(DASK_COUNT, 0)[len(options.dask) :])
    results = run_dask_surface(
        count, seed, 1 if options.quick else min(options.rounds, 5),
        lambda name: print(name, file=sys.stderr, flush=True),
    )  # fmt: skip
    if options.json or options.keep:
        text = json.dumps(results, indent=1) + "\n"
        files.write(options.json or DASK_RESULTS, text.encode())
    print("\n".join([*problem_lines(results), "", *surface_lines(results)]))


def _beside(options: argparse.Namespace) -> None:
    """Time calls beside other work."""
    if options.from_json:
        results = json.loads(options.from_json.read_text(encoding="utf-8"))
    else:
        turns = 5 if options.quick else DEFAULT_TURNS
        results = run_beside(turns, lambda name: print(name, file=sys.stderr, flush=True))
    _write(options, (json.dumps(results, indent=1) + "\n").encode(), "beside.json")
    print(beside_text(results))


def _start(options: argparse.Namespace) -> None:
    """Time the first calls of new processes."""
    if options.from_json:
        results = json.loads(options.from_json.read_text(encoding="utf-8"))
    else:
        rounds = 1 if options.quick else options.rounds
        results = run_start(rounds, lambda name: print(name, file=sys.stderr, flush=True))
    _write(options, (json.dumps(results, indent=1) + "\n").encode(), "start.json")
    print(start_text(results))


def _surface(options: argparse.Namespace) -> None:
    """Time random calls of every function."""
    count, seed = (*options.surface, *(DEFAULT_COUNT, 0)[len(options.surface) :])[:2]
    if options.keep and (options.only or options.without):
        raise SystemExit("--keep is of all functions and peers: without --only and --without")
    if options.from_json:
        results = json.loads(options.from_json.read_text(encoding="utf-8"))
    else:
        functions = select_functions(options.only)
        results = run_surface(
            count, seed, functions,
            threads=options.threads,
            without=options.without.split(",") if options.without else (),
            progress=_counter(count * len(functions)),
        )  # fmt: skip
    _write(options, surface_json(results), "surface.json")
    if options.png:
        files.write(options.png, surface_map(results))
    print(surface_text(results))


def _rows(options: argparse.Namespace) -> None:
    """Time the rows of the table."""
    if options.keep and (options.rows or options.quick):
        raise SystemExit("--keep is of all rows and turns: without --rows and --quick")
    if options.from_json:
        results = json.loads(options.from_json.read_text(encoding="utf-8"))
    else:
        rows = select_rows(options.rows)
        if not rows:
            raise SystemExit(f"no row matches {options.rows!r}: --list shows them")
        rounds = 1 if options.quick else options.rounds
        results = run_all(rows, rounds, options.threads, _counter(len(rows)))
    _write(options, (json.dumps(results, indent=1) + "\n").encode(), "json")
    if options.png:
        files.write(options.png, picture({results["facts"].get("CPU", ""): results}))
    print(markdown(results))


def _write(options: argparse.Namespace, content: bytes, suffix: str) -> None:
    """Write results where they are wanted; those of another machine are not kept as this one's."""
    if options.json:
        files.write(options.json, content)
    if options.keep and not options.from_json:
        files.write(KEPT / f"{cpu_kind()}.{suffix}", content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the exit code: 0 done, 1 the README is stale."""
    options = _arguments().parse_args(arguments)
    if options.list:
        for row in select_rows(options.rows):
            print(f"{row.group:8} {row.name:24} {row.about}")
        return 0
    if options.check:
        fresh = all(check_tables(document, tables) for document, tables in _tables().items())
        print("the tables are", "up to date" if fresh else "stale: --update-readme")
        return 0 if fresh else 1
    timed = options.keep or options.json or options.from_json or options.rows
    if options.keep_gpu:
        print(f"kept as {keep_gpu(options.keep_gpu, GPUS).relative_to(ROOT)}")
    elif options.dask is not None:
        _dask(options)
    elif options.beside:
        _beside(options)
    elif options.start:
        _start(options)
    elif options.surface is not None:
        _surface(options)
    elif timed or not options.update_readme:
        _rows(options)
    if options.update_readme:
        _update()
    return 0


if __name__ == "__main__":
    sys.exit(main())
