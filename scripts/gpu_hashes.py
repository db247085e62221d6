"""Write the digests that scripts/gpu_check.py compares a device's results with.

python scripts/gpu_hashes.py            make them by the CPU's kernels
python scripts/gpu_hashes.py --check    fail if a file of other digests is there
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS.parent), str(SCRIPTS)]

import torch  # noqa: E402
from gpu_check_parts import data, hashed  # noqa: E402

from nbgather import files  # noqa: E402


def digests(pattern: str = "") -> dict[str, str]:
    """Every case's digest on the CPU, for names that hold a pattern."""
    cpu = torch.device("cpu")
    names = [name for name in hashed.EVERY if pattern in name]
    return {name: data.digest(*hashed.EVERY[name].call(cpu)) for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail if something would change")
    parser.add_argument("--only", default="", help="with --check: names that hold this")
    options = parser.parse_args()
    if options.check:
        found = digests(options.only)
        wrong = [name for name, digest in found.items() if hashed.kept().get(name) != digest]
        if hashed.kept().keys() != hashed.EVERY.keys():
            wrong.append("other cases")
        print(f"{len(found)} digests, {len(wrong)} wrong", *wrong, sep="\n")
        return bool(wrong)
    found = digests()
    files.write(hashed.HASHES, (json.dumps(found, indent=0) + "\n").encode())
    print(f"{len(found)} digests: {hashed.HASHES}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
