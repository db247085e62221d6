"""Write the published ONNX models and their README, or check that they are up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nbgather.onnx import CATALOG, export_all, stale_files  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the exit code: 0 done, 1 something is stale or cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "onnx_models", help="the folder (default: onnx_models)"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[entry.file for entry in CATALOG],
        help="write this model alone; may be given again",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a file is not up to date"
    )
    options = parser.parse_args(arguments)
    if options.check:
        lines = stale_files(options.out)
        print("\n".join(lines) if lines else f"{options.out} is up to date")
        return 1 if lines else 0
    try:
        for path in export_all(options.out, options.only):
            print(f"{path} ({path.stat().st_size} bytes)")
    except OSError as error:
        print(f"cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
