"""From nothing: what a new process waits for until its first calls are done."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbgather.apps.bench.machine import machine_facts
from nbgather.apps.bench.measure import bandwidth, split_cost
from nbgather.apps.bench.operands import installed
from nbgather.kernels.cpu.limits import num_threads

__all__ = ["run_start", "start_text"]

#: Processes of each row.
DEFAULT_ROUNDS = 11

#: Every program times its steps after NumPy is there, and prints milliseconds as JSON.
_HEAD = """
import json, time
import numpy as np
steps, clock = {}, time.perf_counter
last = clock()

def step(name):
    global last
    steps[name] = 1e3 * (clock() - last)
    last = clock()

x = np.arange(24.0).reshape(2, 3, 4)
index = np.zeros((2, 3, 4), np.int64)
tokens = np.ones((2, 196, 64), np.float32)
last = clock()
"""
_TAIL = """
import sys
steps["all"] = sum(steps.values())
print(json.dumps({"steps": steps, "numba": "numba" in sys.modules}))
"""
_OURS = """
import nbgather
step("import")
nbgather.gather(x, 1, index)
step("first gather")
masked = nbgather.random_masking(tokens, 0.75, seed=1)
step("first masking")
nbgather.restore_tokens(masked.x_masked, masked.ids_restore, 0.0)
step("first restore")
"""
#: A function that numba compiles, where numba itself has compiled one before.
_INSIDE = """
from numba import njit
assert njit(lambda a: a + 1)(1) == 2
last = clock()
import nbgather.numba_ext
nbgather.numba_ext.init()
step("import")
import nbgather
njit(lambda x, index: nbgather.gather(x, 1, index))(x, index)
step("first gather")
"""
#: What others do first: the library that must be installed, and the program.
_PEERS = {
    "torch": """
import torch
step("import")
torch.gather(torch.from_numpy(x), 1, torch.from_numpy(index))
step("first gather")
""",
    "jax": """
import jax
step("import")
jax.numpy.take_along_axis(jax.numpy.asarray(x), jax.numpy.asarray(index), 1).block_until_ready()
step("first gather")
""",
    "onnxruntime": """
import onnxruntime
step("import")
session = onnxruntime.InferenceSession(MODEL)
session.run(None, {"x": tokens, "noise": np.ones((2, 196), np.float32)})
step("first masking")
""",
}
#: Without the kernels that come with the package.
_COMPILED = {"NBGATHER_SHIPPED_KERNELS": "0"}
STEPS = ("import", "first gather", "first masking", "first restore", "all")


def _run(program: str, **environment: str) -> dict[str, Any]:
    # Bytecode is kept, as it is of what is installed.
    environment = {**os.environ, **environment}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    result = subprocess.run(
        [sys.executable, "-c", _HEAD + program + _TAIL],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {
        name: statistics.median(run["steps"][name] for run in runs) for name in runs[0]["steps"]
    }


def run_start(
    rounds: int = DEFAULT_ROUNDS, progress: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """Time the first calls of new processes.

    Parameters
    ----------
    rounds : int
        Processes of each row; where everything is compiled, three at most.
    progress : callable
        Called with the row's name before it is timed.

    Returns
    -------
    dict
        ``facts`` of the machine, and ``rows``: the name, medians of milliseconds by step, and
        whether numba was imported.

    Examples
    --------
    >>> from nbgather.apps.bench.start import STEPS
    >>> STEPS[0]
    'import'
    """
    rows = []

    def add(name: str, count: int, call: Callable[[], dict[str, Any]]) -> None:
        progress(name)
        runs = [call() for _ in range(count)]
        rows.append({"name": name, "ms": _medians(runs), "numba": runs[-1]["numba"]})

    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"

        def cold(program: str) -> dict[str, Any]:
            shutil.rmtree(cache, ignore_errors=True)
            return _run(program, NUMBA_CACHE_DIR=str(cache), **_COMPILED)

        add("nbgather inside njit, all compiled", min(rounds, 3), lambda: cold(_INSIDE))
        add("nbgather, all compiled", min(rounds, 3), lambda: cold(_OURS))
        warm = {"NUMBA_CACHE_DIR": str(cache), **_COMPILED}
        add("nbgather, from its cache", rounds, lambda: _run(_OURS, **warm))
        blocked = {"NUMBA_CACHE_DIR": os.devnull, "HOME": os.devnull}  # no folder can be there
        add("nbgather, as it comes, nothing can be kept", rounds, lambda: _run(_OURS, **blocked))
        for name, program in _PEERS.items():
            if not installed(name):
                continue
            text = program
            if name == "onnxruntime":
                if not installed("onnx"):
                    continue
                from nbgather.onnx import masking_model

                model = Path(folder) / "masking.onnx"
                model.write_bytes(masking_model().SerializeToString())
                text = program.replace("MODEL", repr(str(model)))
            add(name, rounds, lambda text=text: _run(text))  # type: ignore[misc]
    facts = machine_facts(num_threads(), bandwidth(rounds=3), split_cost(rounds=3))
    return {"facts": facts, "rounds": rounds, "rows": rows}


def start_text(results: dict[str, Any]) -> str:
    """The results as a table of milliseconds.

    Parameters
    ----------
    results : dict
        Of :func:`run_start`.

    Returns
    -------
    str

    Examples
    --------
    >>> from nbgather.apps.bench.start import start_text
    >>> row = {"name": "nbgather", "ms": {"import": 1.25}, "numba": False}
    >>> print(start_text({"facts": {}, "rounds": 1, "rows": [row]}).splitlines()[-1])
    | nbgather | 1.2 |  |  |  |  |  |
    """
    facts = ", ".join(f"{name} {value}" for name, value in results["facts"].items())
    lines = [
        f"Medians of {results['rounds']} new processes in ms, after `import numpy`, {facts}.", "",
        f"| | {' | '.join(STEPS)} | imports numba |", "|---" * (len(STEPS) + 2) + "|",
    ]  # fmt: skip
    for row in results["rows"]:
        cells = [f"{row['ms'][step]:.1f}" if step in row["ms"] else "" for step in STEPS]
        lines.append(f"| {row['name']} | {' | '.join(cells)} | {'yes' if row['numba'] else ''} |")
    return "\n".join(lines)
