"""Make the digests of the self-test anew, by the reference's loops and NumPy: no kernel has a part.

    python scripts/selftest_digests.py [--check]

``--check`` writes nothing; exit status 1 if the digests in the package are others. Review what
changes: a digest changes only where a promise of bits is changed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nbgather.apps.selftest.cases import Case  # noqa: E402
from nbgather.apps.selftest.run import (  # noqa: E402
    DIGESTS,
    DIGITS,
    GROUPS,
    digest,
    expected,
    outcome,
)


def by_reference(case: Case) -> str:
    """The digest of a case's result, computed without a kernel."""
    if case.plainly is not None:
        return digest(case.plainly())
    return digest(outcome(case, lambda array: array, {"backend": "reference"}))


def main() -> int:
    table = {}
    for group, cases in GROUPS.items():
        table[group] = "".join(map(by_reference, cases()))
        print(f"{group}: {len(table[group]) // DIGITS} cases", flush=True)
    if "--check" in sys.argv[1:]:
        return int(table != expected())
    DIGESTS.write_text(json.dumps(table, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
