"""`scripts/soak`: the scenarios end well, and what is lost or doubled is noticed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from script_modules import script_module

ROOT = Path(__file__).parents[1]
soak = script_module("soak")


def run(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/soak.py", "--minutes", "0", *words],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed" in done.stdout


def test_two_writers_at_once() -> None:
    run("--only", "two_writers")


@pytest.mark.large
@pytest.mark.parametrize("scenario", [s.__name__ for s in soak.SCENARIOS])
def test_every_scenario(scenario: str) -> None:
    run("--only", scenario)


def test_what_is_lost_or_doubled_is_noticed(tmp_path: Path) -> None:
    job = soak.Job(tmp_path)
    job.finish()
    job.check()
    chunks = sorted(p for p in (job.target / "mask").rglob("*") if p.is_file())
    chunk = next(p for p in chunks if p.name != "zarr.json")
    shutil.copy(chunk, chunk.with_name("doubled"))
    with pytest.raises(soak.Wrong, match="chunks on disk"):
        job.check()
    chunk.with_name("doubled").unlink()
    chunk.unlink()
    with pytest.raises(soak.Wrong, match="not the mask of the whole"):
        job.check()
