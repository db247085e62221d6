"""The examples run, and what they show is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        # The models are tiny, and threads of torch that wait for each other spin: where other
        # tests run beside this one, two of them take many times as long as one.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_masks_in_the_data_loader() -> None:
    lines = run("data_loader.py", "--images", "24", "--side", "64").splitlines()
    rows = [line.split() for line in lines[1:7]]
    assert [(row[0], row[1]) for row in rows] == [(w, r) for r in "12" for w in "024"]
    sent = 24 * 2 * 3 * 64 * 64
    for row in rows:
        # Two epochs of 24 images; a quarter of the pixels as float32.
        assert row[2:] == ["48", f"{sent:,}", "25.00%", "yes"]
    (changed,) = re.findall(r"(\d+) of 24 samples have another mask", lines[7])
    assert int(changed) >= 23


def test_training_resumes_and_does_not_depend_on_workers(tmp_path: Path) -> None:
    out = tmp_path / "new" / "digits.png"
    lines = run("train_mae.py", "--epochs", "4", "--out", str(out)).splitlines()
    first, last = map(float, re.findall(r"0\.\d+", lines[0]))
    assert last < 0.7 * first
    assert lines[1:] == [
        "resumed from a checkpoint: same weights True",
        "two loader workers: same weights True",
        f"wrote {out}",
    ]
    assert out.read_bytes()[1:4] == b"PNG"


def trained(name: str, steps: int) -> None:
    """A recipe's masks and losses are the same in every state."""
    lines = run(name, "--steps", str(steps)).splitlines()
    assert lines[1] == "every loss equal to that with the library's own masking, to the bit: True"
    states = [line.split(":")[0] for line in lines[2:5]]
    assert states == ["compiled", "checkpointed", "two ranks"]
    assert all(line.endswith("same masks True") for line in lines[2:5])
    assert "of a step" in lines[5]


def test_vit_mae() -> None:
    trained("vit_mae.py", 2)


@pytest.mark.large
@pytest.mark.parametrize("name", ["vit_mae.py", "video_mae.py", "i_jepa.py"])
def test_recipes(name: str) -> None:
    trained(name, 20)


@pytest.mark.large
def test_timm() -> None:
    pytest.importorskip("timm", reason="timm needs torchvision, which has no build for CPUs here")
    trained("timm_vit.py", 20)
