"""The types that users' checkers see."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nbgather
import nbgather.masking

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "typing_sample.py"


def check(command: list[str]) -> str:
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.large  # pyright checks the same sample, in a sixth of the time
def test_mypy() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-incremental"]
    # torch's own sources are many, and whether they are right is torch's affair.
    assert "Success" in check([*command, "--follow-imports=silent", str(SAMPLE)])


@pytest.mark.skipif(
    importlib.util.find_spec("basedpyright") is None, reason="basedpyright is not installed"
)
def test_pyright() -> None:
    command = [sys.executable, "-m", "basedpyright", "--level", "error"]
    assert "0 errors" in check([*command, "--pythonpath", sys.executable, str(SAMPLE)])


@pytest.mark.large
def test_the_sample_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        SAMPLE.read_text().replace("x_masked, mask, ids_restore = made", "a, b = made")
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-incremental"]
    run = subprocess.run(
        [*command, "--follow-imports=silent", str(wrong)], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "Too many values to unpack" in run.stdout


def test_results_are_named_tuples_in_every_python() -> None:
    made = nbgather.random_masking(np.zeros((1, 4, 2)), seed=0)
    assert type(made) is nbgather.MaskedTokens is nbgather.masking.MaskedTokens
    assert type(pickle.loads(pickle.dumps(made))) is nbgather.MaskedTokens
    assert made._fields == ("x_masked", "mask", "ids_restore")
    assert made._replace(mask=3).mask == 3
    assert nbgather.MaskedTokens.__doc__.startswith("What :func:")
