"""Time nbgather against its peers; the README's table and picture are made from the JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nbgather import _files  # noqa: E402
from nbgather.backends import parallel  # noqa: E402
from nbgather.bench import (  # noqa: E402
    bandwidth,
    check_readme,
    markdown,
    picture,
    run_rows,
    split_cost,
    update_readme,
)
from nbgather.bench.rows import chosen  # noqa: E402

RESULTS = ROOT / "scripts" / "bench_cpu.json"
README = ROOT / "README.md"
PICTURE = ROOT / "scripts" / "pictures" / "bench.png"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.exists() else []
    found = [line.partition(":")[2].strip() for line in names if line.startswith("model name")]
    return found[0] if found else platform.processor()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _facts(threads: int, copy: float, split: dict[str, float]) -> dict[str, str]:
    versions = {p: _version(p) for p in ("numba", "numpy", "torch", "jax", "onnxruntime")}
    return {
        "CPU": _cpu(),
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        "copy bandwidth": f"{copy / 1e9:.1f} GB/s",
        "splitting a call": f"{split['driver']:.1f} µs ({split['pool']:.0f} µs on the way out)",
        "Python": platform.python_version(),
        **versions,
    }


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    os.environ["NBGATHER_NUM_THREADS"] = str(options.threads)
    try:
        import torch

        torch.set_num_threads(options.threads)
    except ImportError:
        pass
    rows = chosen(options.rows)
    if not rows:
        raise SystemExit(f"no row matches {options.rows!r}: --list shows them")
    copy = bandwidth()
    rounds = 2 if options.quick else options.rounds
    done = 0

    def progress(name: str) -> None:
        nonlocal done
        done += 1
        print(f"[{done}/{len(rows)}] {name}", file=sys.stderr, flush=True)

    results = list(run_rows(rows, rounds, copy, progress))
    return {"facts": _facts(options.threads, copy, split_cost()), "rows": results}


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", help="only rows whose name or group matches this pattern")
    parser.add_argument("--rounds", type=int, default=11, help="turns of each contestant")
    parser.add_argument("--quick", action="store_true", help="two turns of each")
    parser.add_argument("--threads", type=int, default=parallel.num_threads())
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--from-json", type=Path, help="report these results, time nothing")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument(
        "--update-readme", action="store_true", help="make the README's table and picture anew"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit 1 if the README's table is not of the JSON"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the exit code: 0 done, 1 the README is stale."""
    options = _arguments().parse_args(arguments)
    if options.list:
        for row in chosen(options.rows):
            print(f"{row.group:8} {row.name:24} {row.about}")
        return 0
    if options.check:
        fresh = check_readme(README, json.loads(RESULTS.read_text(encoding="utf-8")))
        print("the README's table is", "up to date" if fresh else "stale: --update-readme")
        return 0 if fresh else 1
    source = options.from_json or (RESULTS if options.update_readme and not options.json else None)
    results = json.loads(source.read_text(encoding="utf-8")) if source else _measure(options)
    if options.json:
        _files.write(options.json, (json.dumps(results, indent=1) + "\n").encode())
    if options.update_readme:
        update_readme(README, results)
        _files.write(PICTURE, picture(results))
    print(markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
