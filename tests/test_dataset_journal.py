"""What mask_dataset leaves beside its arrays: nothing once it is done, enough to go on before."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from cases import random_bits, rng, same

import nbgather
from nbgather.dask.dataset import Progress, mask_dataset

TOKENS = random_bits(rng("journal"), (10, 16, 4), "f4")
CHUNKS = 3  # of 4 samples


@pytest.fixture(params=[3, 2], autouse=True)
def _zarr_format(request: Any) -> Iterator[None]:
    with zarr.config.set(default_zarr_format=request.param):
        yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", TOKENS)
    return tmp_path / "x.npy"


def run(source: Path, target: Path, **options: Any) -> list[Progress]:
    states: list[Progress] = []
    settings: dict[str, Any] = {"seed": 5, "chunk": 4, "progress": states.append, **options}
    assert mask_dataset(source, target, 0.5, **settings) == target
    return states


def check(target: Path) -> None:
    """All is there, and a listing has nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(str(target), mode="r")
        assert sorted(name for name, _ in group.members(max_depth=None)) == [
            "ids_restore", "mask", "x_masked",
        ]  # fmt: skip
        assert len(list(group.array_keys())) == 3
        assert group.tree() is not None
    for name, want in nbgather.random_masking(TOKENS, 0.5, seed=5)._asdict().items():
        same(np.asarray(group[name]), want)
    assert group.attrs["nbgather"]["complete"] is True
    assert group.attrs["nbgather"]["settings"]["seed"] == 5


def test_a_listing_does_not_warn(source: Path, tmp_path: Path) -> None:
    states = run(source, tmp_path / "y.zarr")
    assert states == [Progress(n, CHUNKS) for n in range(CHUNKS + 1)]
    check(tmp_path / "y.zarr")


def states(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_what_is_complete_is_left_alone(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "y.zarr"
    run(source, target)
    before = states(target)
    assert run(source, target) == [Progress(CHUNKS, CHUNKS)]
    assert states(target) == before
    with pytest.raises(ValueError, match="begun with other settings, which its attribute 'nbg"):
        run(source, target, seed=6)
    assert states(target) == before


class Stopped(BaseException):
    """A process that ends here."""


def stop(*args: Any, **kwargs: Any) -> None:
    raise Stopped


@pytest.mark.parametrize("number", range(CHUNKS + 1))
def test_it_goes_on_after_each_chunk(source: Path, tmp_path: Path, number: int) -> None:
    target = tmp_path / "y.zarr"

    def stop_at(state: Progress) -> None:
        if state.done == number:
            raise Stopped

    with pytest.raises(Stopped):
        run(source, target, progress=stop_at)
    with pytest.raises(ValueError, match=r"other settings, which .*settings\.json holds"):
        run(source, target, seed=6)
    assert run(source, target) == [Progress(n, CHUNKS) for n in range(number, CHUNKS + 1)]
    check(target)


def test_a_finish_that_was_cut_short(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "y.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stop)
        with pytest.raises(Stopped):
            run(source, target)
    (target / ".nbgather" / "settings.json").unlink()  # some of it was removed
    (target / ".nbgather" / "done" / "1").unlink()
    (target / "zarr.1234.partial").touch()  # zarr's own way to write a file whole
    (target / ".zattrs.1234.partial").touch()
    assert run(source, target) == [Progress(CHUNKS, CHUNKS)]
    check(target)


@pytest.mark.parametrize("count", range(4))
def test_a_beginning_that_was_cut_short(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    target, create, left = tmp_path / "y.zarr", zarr.Group.create_array, [count]

    def counted(group: Any, *args: Any, **options: Any) -> Any:
        left[0] -= 1
        return create(group, *args, **options) if left[0] >= 0 else stop()

    with monkeypatch.context() as patched:
        patched.setattr(zarr.Group, "create_array", counted)
        patched.setattr("nbgather.files.write", stop)
        with pytest.raises(Stopped):
            run(source, target)
    run(source, target)
    check(target)


KILLED = """
import os, sys
import zarr
from nbgather.dask.dataset import mask_dataset

zarr.config.set(default_zarr_format=int(sys.argv[4]))

def kill(state):
    if state.done == int(sys.argv[3]):
        os.kill(os.getpid(), 9)

mask_dataset(sys.argv[1], sys.argv[2], 0.5, seed=5, chunk=4, progress=kill)
"""


@pytest.mark.parametrize("number", [1, CHUNKS])
def test_it_goes_on_after_a_kill(source: Path, tmp_path: Path, number: int) -> None:
    target, kind = tmp_path / "y.zarr", zarr.config.get("default_zarr_format")
    command = [sys.executable, "-c", KILLED, source, target, number, kind]
    done = subprocess.run(list(map(str, command)), capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert run(source, target)[0] == Progress(number, CHUNKS)
    check(target)


def test_a_full_disk_is_told_of_by_its_place(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by what comes back from a worker; what was written in part is written again."""
    target, write, left = tmp_path / "y.zarr", zarr.Array.__setitem__, [4]

    def full(array: Any, rows: Any, values: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(array, rows, values)

    with monkeypatch.context() as patched:
        patched.setattr(zarr.Array, "__setitem__", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            run(source, target)
    back = pickle.loads(pickle.dumps(caught.value))
    assert (back.errno, back.filename) == (errno.ENOSPC, str(target))
    assert run(source, target)[0] == Progress(1, CHUNKS)  # the second chunk has x_masked alone
    check(target)


def as_0_1_0_left_it(target: Path, done: int) -> None:
    """Make a complete group into what 0.1.0 left of it when so many chunks were done."""
    group = zarr.open_group(str(target), mode="r+")
    settings = group.attrs["nbgather"]["settings"]
    del group.attrs["nbgather"]
    (target / ".nbgather" / "done").mkdir(parents=True)
    (target / ".nbgather" / "begun").touch()
    # The text is compared by 0.1.0, so this is how it was written.
    text = json.dumps({k: settings[k] for k in ORDER_0_1_0}, indent=1)
    (target / ".nbgather" / "settings.json").write_text(text)
    for number in range(CHUNKS):
        if number < done:
            (target / ".nbgather" / "done" / str(number)).touch()
        else:
            for name in ("x_masked", "mask", "ids_restore"):
                group[name][4 * number : 4 * number + 4] = 0


ORDER_0_1_0 = ("source", "mask_ratio", "chunk", "patch_size", "scale", "seed", "epoch")


@pytest.mark.parametrize("done", [0, 2, CHUNKS])
def test_the_journal_of_0_1_0_is_understood(source: Path, tmp_path: Path, done: int) -> None:
    target = tmp_path / "y.zarr"
    run(source, target)
    as_0_1_0_left_it(target, done)
    with pytest.raises(ValueError, match="begun with other settings"):
        run(source, target, epoch=1)
    assert run(source, target) == [Progress(n, CHUNKS) for n in range(done, CHUNKS + 1)]
    check(target)


def test_a_beginning_of_0_1_0_without_its_journal(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "y.zarr"
    group = zarr.open_group(str(target), mode="a")
    group.create_array("x_masked", shape=(10, 8, 4), chunks=(4, 8, 4), dtype="f4")
    run(source, target)
    check(target)


def test_what_is_not_ours_is_left_alone(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "y.zarr"
    group = zarr.open_group(str(target), mode="a")
    group.create_array("mask", shape=(4,), chunks=(4,), dtype="f4")[:] = 7  # data of somebody's
    before = states(target)
    with pytest.raises(ValueError, match="holds something else: choose another target"):
        run(source, target)
    assert states(target) == before
    for name in ("empty", "other"):
        (tmp_path / name).mkdir()
    run(source, tmp_path / "empty")
    check(tmp_path / "empty")
    zarr.open_group(str(tmp_path / "other"), mode="a").create_group("theirs")
    with pytest.raises(ValueError, match="holds something else"):
        run(source, tmp_path / "other")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "zarr.json").write_text("{")
    (tmp_path / "broken" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds something else"):
        run(source, tmp_path / "broken")


def test_a_dataset_that_is_moved_goes_on(source: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(source, tmp_path / "y.zarr", progress=lambda s: stop() if s.done == 2 else None)
    (tmp_path / "y.zarr").rename(tmp_path / "z.zarr")
    assert run(source, tmp_path / "z.zarr")[0] == Progress(2, CHUNKS)
    check(tmp_path / "z.zarr")


def test_metadata_that_was_consolidated_before_the_end(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "y.zarr"
    run(source, target)
    as_0_1_0_left_it(target, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(target))
    run(source, target)
    assert run(source, target) == [Progress(CHUNKS, CHUNKS)]


def test_no_samples_and_a_bad_scale(source: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", TOKENS[:0])
    assert run(tmp_path / "none.npy", tmp_path / "none.zarr") == [Progress(0, 0)]
    assert zarr.open_group(str(tmp_path / "none.zarr"))["mask"].shape == (0, 16)
    assert not (tmp_path / "none.zarr" / ".nbgather").exists()
    np.save(tmp_path / "images.npy", np.zeros((2, 3, 4, 4), np.float32))
    with pytest.raises(ValueError, match="scale is nan: finite numbers"):
        run(tmp_path / "images.npy", tmp_path / "z", patch_size=2, scale=float("nan"))
    assert not (tmp_path / "z").exists()
