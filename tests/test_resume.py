"""The same masks, patches and losses on any ranks and workers, after a stop and after a death."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nbgather

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "resume_anywhere.py"


def run(folder: Path, ranks: int = 1, workers: int = 0, **more: int) -> subprocess.CompletedProcess:
    options = {"ranks": ranks, "workers": workers, **more}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return subprocess.run(
        [sys.executable, str(EXAMPLE), "--folder", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The log of a run that never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, 1), (3, 0)), pytest.param((8, 4), (3, 0), marks=pytest.mark.large)],
)
def test_a_run_goes_on_elsewhere(
    before: tuple[int, int], after: tuple[int, int], whole: str, tmp_path: Path
) -> None:
    stopped = run(tmp_path, *before, stop_after=3)
    assert stopped.returncode == 0, stopped.stderr[-3000:]
    half = (tmp_path / "log.txt").read_text()
    assert whole.startswith(half)
    assert half.count("step ") == 3  # of four steps of an epoch
    resumed = run(tmp_path, *after)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert (tmp_path / "log.txt").read_text() == whole


def test_a_run_goes_on_after_a_rank_was_killed(whole: str, tmp_path: Path) -> None:
    died = run(tmp_path, 2, 0, kill_rank=1, kill_step=5)
    assert died.returncode != 0
    assert whole.startswith((tmp_path / "log.txt").read_text())
    assert (tmp_path / "log.txt").read_text() != whole
    resumed = run(tmp_path, 1, 1)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert (tmp_path / "log.txt").read_text() == whole


def test_losses_fall_and_epochs_differ(whole: str) -> None:
    losses = [float.fromhex(n) for n in re.findall(r"loss (\S+)", whole)]
    assert losses[-1] < 0.9 * losses[0]
    digests = re.findall(r"^ *(\d+) (\w{16})$", whole, re.MULTILINE)
    assert len(digests) == 192
    assert len(set(digests)) > 185


def images() -> np.ndarray:
    """As the example makes them."""
    made = []
    for number in range(96):
        generator = torch.Generator().manual_seed(number)
        size = (3, 16, 16)
        made.append(torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).numpy())
    return np.stack(made)


def digests(made: Any) -> list[str]:
    return [
        hashlib.blake2s(b"".join(part[n].tobytes() for part in made), digest_size=8).hexdigest()
        for n in range(96)
    ]


@pytest.mark.parametrize("chunk", [1, 7, 96])
def test_dask_makes_the_same_samples(chunk: int, whole: str) -> None:
    da = pytest.importorskip("dask.array", reason="dask is not installed")
    array = da.from_array(images(), chunks=(chunk, 3, 16, 16))
    for epoch in (0, 1):
        made = nbgather.masked_patchify(array, 4, 0.75, seed=7, epoch=epoch, scale=1 / 255)
        lines = whole.split("step 5")[epoch]
        want = dict(re.findall(r"^ *(\d+) (\w{16})$", lines, re.MULTILINE))
        got = digests([part.compute() for part in made])
        assert {str(n): d for n, d in enumerate(got)} == want


class Numbered(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 96

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        size = (3, 16, 16)
        return number, torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_goes_on_in_the_middle_of_an_epoch(workers: int, whole: str) -> None:
    stateful = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata is not installed"
    )
    collate = nbgather_collate()

    def loader() -> Any:
        return stateful.StatefulDataLoader(
            Numbered(), 8, shuffle=True, num_workers=workers, collate_fn=collate,
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip

    first, seen = loader(), []
    for step, (ids, made) in enumerate(first):
        seen += zip(ids.tolist(), *made, strict=True)
        if step == 4:
            state = first.state_dict()
            break
    second = loader()
    second.load_state_dict(state)
    for ids, made in second:
        seen += zip(ids.tolist(), *made, strict=True)
    want = dict(re.findall(r"^ *(\d+) (\w{16})$", whole.split("step 5")[0], re.MULTILINE))
    got = {
        str(number): hashlib.blake2s(
            b"".join(part.numpy().tobytes() for part in parts), digest_size=8
        ).hexdigest()
        for number, *parts in seen
    }
    assert len(seen) == 96
    assert got == want


def nbgather_collate() -> Any:
    from nbgather.torch import MaskingCollate

    return MaskingCollate(4, 0.75, seed=7, scale=1 / 255)
