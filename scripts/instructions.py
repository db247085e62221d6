"""How many instructions the tiny calls take, counted by valgrind: a number that no load changes.

    python scripts/instructions.py [--write]

Compares with scripts/instructions.json, which holds counts for each kind of environment (Python,
NumPy, numba, valgrind, kind of kernels). Exit status 1 where a call takes more than 5 % more, 3
where nothing can be compared, with the reason. ``--write`` puts this environment's counts there:
review what grew.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BASELINE = ROOT / "scripts/instructions.json"
#: The part by which a count may grow.
MAX_GROWTH = 0.05
CANNOT = 3
WARM_CALLS, CALLS = 60, 100

#: A request to valgrind on x86-64, as its header `valgrind.h` writes it: rotations that change
#: nothing and an exchange that does nothing, which it knows; rax has the request's address.
_REQUEST = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")
_CALLGRIND = ord("C") << 24 | ord("T") << 16
_DUMP, _ZERO, _START, _STOP = (_CALLGRIND + k for k in (0, 1, 4, 5))


def requester() -> Callable[[int], None]:
    """A function that makes a request of callgrind."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_REQUEST)
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    call = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(address)
    words = (ctypes.c_uint64 * 6)()

    def request(number: int, _kept: Any = code) -> None:
        words[0] = number
        call(ctypes.addressof(words))

    return request


def calls() -> dict[str, Callable[[], Any]]:
    """The calls, by a name."""
    import numpy as np

    import nbgather

    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    index, ids = np.array([[[0] * 4, [2] * 4]] * 2), np.array([[2, 0], [1, 1]])
    out, into, noise = np.empty((2, 2, 4), "f4"), np.zeros((2, 3, 4), "f4"), x[..., 0].copy()
    order = np.array([[2, 0, 1], [0, 1, 2]])
    return {
        "gather": lambda: nbgather.gather(x, 1, index),
        "gather, out": lambda: nbgather.gather(x, 1, index, out=out),
        "take_along_axis": lambda: nbgather.take_along_axis(x, index, 1),
        "gather_tokens": lambda: nbgather.gather_tokens(x, ids),
        "scatter": lambda: nbgather.scatter(into, 1, index, x),
        "scatter_add": lambda: nbgather.scatter_add(into, 1, index, x),
        "rank_tokens": lambda: nbgather.rank_tokens(noise, 2),
        "random_masking, noise": lambda: nbgather.random_masking(x, 0.5, noise=noise),
        "random_masking, seed": lambda: nbgather.random_masking(x, 0.5, seed=1),
        "restore_tokens": lambda: nbgather.restore_tokens(x[:, :2], order, 0.0),
    }


def child() -> None:
    """Make the calls under callgrind: a dump for each."""
    request, table = requester(), calls()
    print(environment(), flush=True)
    for call in table.values():
        for _ in range(WARM_CALLS):
            call()
        request(_START)
        call()
        request(_ZERO)
        for _ in range(CALLS):
            call()
        request(_DUMP)
        request(_STOP)


def environment() -> str:
    """What counts depend on besides the sources."""
    import numba
    import numpy as np

    from nbgather.kernels.cpu import shipped

    kind = shipped.kind()
    python = ".".join(platform.python_version_tuple()[:2])
    kernels = kind.name if kind else platform.machine()
    return f"Python {python}, NumPy {np.__version__}, numba {numba.__version__}, {kernels}"


def obstacle() -> str | None:
    """Why nothing can be counted here."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        return f"requests to valgrind are written for Linux on x86-64, not {platform.machine()}"
    if shutil.which("valgrind") is None:
        return "there is no valgrind"
    return None


def counted() -> tuple[str, dict[str, int]]:
    """The environment, and instructions of a call by name."""
    version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        settings = {**os.environ, "PYTHONHASHSEED": "0", "NBGATHER_NUM_THREADS": "1"}
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet",
             f"--callgrind-out-file={folder}/out", sys.executable, __file__, "--child"],
            capture_output=True, text=True, env=settings,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"error: the calls cannot be made: {done.stderr[-500:]}")
        files = [Path(f"{folder}/out.{k + 1}") for k in range(len(calls()))]
        totals = [re.search(r"^(?:totals|summary): (\d+)", f.read_text(), re.M) for f in files]
    counts = [int(found[1]) // CALLS if found else 0 for found in totals]
    where = f"{done.stdout.strip().splitlines()[0]}, {version.strip()}"
    return where, dict(zip(calls(), counts, strict=True))


def grown(counts: dict[str, int], known: dict[str, int]) -> list[str]:
    """What takes more than it may."""
    return [
        f"{name} takes {count} instructions, {100 * count / known[name] - 100:.1f} % more than"
        f" {known[name]}"
        for name, count in counts.items()
        if name in known and count > known[name] * (1 + MAX_GROWTH)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep this environment's counts")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if given.child:
        child()
        return 0
    reason = obstacle()
    if reason:
        print(f"not compared: {reason}")
        return CANNOT
    where, counts = counted()
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    known = baseline.get(where)
    print(where)
    for name, count in counts.items():
        print(f"  {name}: {count}" + (f" ({known[name]} kept)" if known and name in known else ""))
    if given.write:
        baseline[where] = counts
        BASELINE.write_text(json.dumps(baseline, indent=1, sort_keys=True) + "\n")
        return 0
    if known is None:
        print("not compared: scripts/instructions.json has no counts of this environment")
        return CANNOT
    more = grown(counts, known)
    print(*more, sep="\n")
    return int(bool(more))


if __name__ == "__main__":
    sys.exit(main())
