"""Device functions for kernels of a user's: compiled for every architecture, and simulated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

import nbgather
from nbgather.cuda import device

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "scripts" / "docs" / "compiled.md"
ARCHITECTURES = ((8, 0), (9, 0))


def example() -> str:
    """The kernel of the page, and what it is launched with."""
    return PAGE.read_text().partition("```python\nimport math")[2].partition("```")[0]


def test_the_pages_kernel_on_a_simulated_gpu(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import math" + example())
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "True True\n"


@pytest.mark.parametrize("cc", ARCHITECTURES)
def test_the_pages_kernel_is_compiled(cc: tuple[int, int]) -> None:
    from numba import cuda
    from numba.cuda import types

    # As in the page, where the line that launches it comes after.
    scope: dict[str, object] = {}
    exec("import math" + example().partition("\nx = ")[0], scope)
    array = types.Array
    arguments = (
        array(types.float32, 3, "C"), types.int64, types.int64, types.int64,
        array(types.int64, 1, "C"), array(types.float32, 3, "C"), array(types.float32, 2, "C"),
    )  # fmt: skip
    kernel = scope["mask_tokens"]
    ptx, _ = cuda.compile_ptx(kernel.py_func, types.void(*arguments), cc=cc)  # type: ignore[attr-defined]
    assert f".target sm_{cc[0]}{cc[1]}" in ptx
    assert ".local" not in ptx


def test_positions_are_those_of_gather() -> None:
    @njit
    def positions(index, size, mode):
        return [device.position(i, size, mode) for i in index]

    x, index = np.arange(5), np.array([0, 4, 5, -1, -7, 2**62])
    for mode, name in enumerate(("raise", "clip", "wrap", "fill")):
        want = [0, 4, -1, -1, -1, -1]
        if name in ("clip", "wrap"):
            want = nbgather.gather(x, 0, index, mode=name).tolist()
        assert positions(index, 5, mode) == want


def test_noise_and_ranks() -> None:
    @njit
    def noise(seed, epoch, sample, count):
        return [device.token_noise(seed, epoch, sample, t) for t in range(count)]

    @njit
    def ranks(scores):
        return [device.rank(scores, len(scores), t) for t in range(len(scores))]

    for seed, epoch, sample in ((0, 0, 0), (-5, 7, 2**40 + 3), (2**62, 2**32 - 1, -1)):
        want = nbgather.token_noise(seed, [sample], 9, epoch=epoch)[0]
        assert noise(seed, epoch, sample, 9) == want.tolist()
    scores = np.array([np.nan, 0.0, -0.0, 1, -np.inf, np.nan, 1, 0.5])
    assert ranks(scores) == nbgather.rank_tokens(scores[None], 3).ids_restore[0].tolist()
