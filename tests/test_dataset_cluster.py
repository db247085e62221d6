"""Pictures as a dataset, and mask_dataset on a cluster: the same bytes as anywhere."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from cases import rng
from PIL import Image

import nbgather
from nbgather.dask import sources
from nbgather.dask.dataset import mask_dataset
from nbgather.torch import MaskingCollate

ARRAYS = ("x_masked", "mask", "ids_restore")
SIDES, PATCH, SEED = (16, 24), 8, 11


def same(target: Path, want: Any) -> None:
    group = zarr.open_group(str(target), mode="r")
    for name, part in zip(ARRAYS, want, strict=True):
        held = np.asarray(group[name])
        assert (held.dtype, held.shape) == (part.dtype, part.shape)
        assert held.tobytes() == part.tobytes()


@pytest.fixture
def images() -> np.ndarray:
    return rng("pictures").integers(0, 256, (13, 3, *SIDES), np.uint8)


@pytest.fixture
def folder(tmp_path: Path, images: np.ndarray) -> Path:
    """The images as files, of which the last ones lie deeper, beside what is no picture."""
    folder = tmp_path / "pictures"
    (folder / "z" / ".hidden").mkdir(parents=True)
    for k, image in enumerate(images):
        path = folder / ("z" if k > 8 else ".") / f"{k:02}.png"
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    (folder / "labels.txt").write_text("0 1 2")
    (folder / "z" / ".hidden" / "00.png").write_bytes(b"no picture")
    return folder


def archived(folder: Path, target: Path, names: Any, mode: Any = "w") -> Path:
    target.parent.mkdir(exist_ok=True)
    with tarfile.open(target, mode) as archive:
        for name in names:
            archive.add(folder / name, str(name))
    return target


def names_in(folder: Path) -> list[Path]:
    return sorted(
        p.relative_to(folder) for p in folder.rglob("[0-9]*.png") if ".hidden" not in p.parts
    )


@pytest.mark.parametrize("kind", ["folder", "archive", "archives"])
def test_pictures(kind: str, folder: Path, images: np.ndarray, tmp_path: Path) -> None:
    source, names = folder, names_in(folder)
    if kind == "archive":
        source = archived(folder, tmp_path / "all.tar", ["labels.txt", *names])
    elif kind == "archives":
        for k in range(3):
            archived(folder, tmp_path / "shards" / f"{k}.tar", names[5 * k : 5 * k + 5])
        source = tmp_path / "shards"
    target = mask_dataset(
        source, tmp_path / "y.zarr", 0.5, seed=SEED, epoch=2, patch_size=PATCH, chunk=4, scale=0.5
    )
    same(target, nbgather.masked_patchify(images, PATCH, 0.5, seed=SEED, epoch=2, scale=0.5))
    assert sources.opened(source, None, 8).shape == (13, 3, 8, 8)


def test_the_masks_are_those_of_the_training_loader(
    folder: Path, images: np.ndarray, tmp_path: Path
) -> None:
    """What was stored is what a loader of any shuffle gives the model for the same ids."""
    target = mask_dataset(folder, tmp_path / "y.zarr", 0.75, seed=SEED, patch_size=PATCH, chunk=5)
    stored = [np.asarray(zarr.open_group(str(target), mode="r")[name]) for name in ARRAYS]
    data = [(k, torch.from_numpy(image)) for k, image in enumerate(images)]
    collate = MaskingCollate(PATCH, 0.75, seed=SEED)
    order = np.random.default_rng(0).permutation(len(data)).tolist()
    seen = []
    for batch in torch.utils.data.DataLoader(data, 4, sampler=order, collate_fn=collate):
        ids, masked = batch
        seen += ids.tolist()
        for part, whole in zip(masked, stored, strict=True):
            assert part.numpy().tobytes() == whole[ids].tobytes()
    assert sorted(seen) == list(range(13))


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], text: str, source: Path, **options: Any) -> None:
        with pytest.raises(error) as caught:
            mask_dataset(source, tmp_path / "no.zarr", seed=0, patch_size=PATCH, chunk=4, **options)
        assert text in str(caught.value)

    names = names_in(folder)
    refused(ValueError, "holds pictures: array='x'", folder, array="x")
    refused(ValueError, "size is 0", folder, size=0)
    refused(ValueError, "it must be between 1 and 8192", folder, size=10**7)
    with pytest.raises(ValueError, match="holds pictures: patch_size is needed"):
        mask_dataset(folder, tmp_path / "no.zarr", seed=0)
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), "u1"))
    refused(ValueError, "size=8 goes with pictures", tmp_path / "x.npy", size=8)
    (tmp_path / "empty").mkdir()
    refused(ValueError, "holds no pictures", tmp_path / "empty")
    archived(folder, tmp_path / "packed.tar", names, "w:gz")
    refused(ValueError, "without compression", tmp_path / "packed.tar")
    whole = archived(folder, tmp_path / "whole.tar", names)
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:1000])
    refused(ValueError, "cut.tar", tmp_path / "cut.tar")
    archived(folder, folder / "more.tar", names)
    refused(ValueError, "one of both is needed", folder)
    (folder / "more.tar").unlink()
    assert not (tmp_path / "no.zarr").exists()
    Image.new("RGB", (9, 16)).save(folder / "zz.png")
    refused(ValueError, "zz.png has 16 x 9 pixels, and 00.png 16 x 24: give a size", folder)
    # What came before is kept, and settings that are others are seen.
    refused(ValueError, "begun with other settings", folder, size=8)
    (folder / "zz.png").unlink()
    refused(ValueError, "begun with other settings", folder)


def test_work_goes_on_only_with_the_same_pictures(folder: Path) -> None:
    held = sources.opened(folder, None, None)
    function, arguments = held.__reduce__()
    assert function(*arguments).shape == held.shape
    (folder / "03.png").unlink()
    sources._reopened.cache_clear()
    with pytest.raises(ValueError, match="other pictures here than where"):
        function(*arguments)


ON_A_CLUSTER = """
import os, signal, sys
import numpy as np
from pathlib import Path
from dask.distributed import Client, LocalCluster
import nbgather
from nbgather.dask.dataset import mask_dataset

OPTIONS = {"seed": 11, "patch_size": 8, "chunk": 1}

def killed_once(marker):
    # Within a task, as if the machine had gone.
    if not os.path.exists(marker):
        open(marker, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)

class Stop(Exception):
    pass

if __name__ == "__main__":
    source, target, marker = sys.argv[1:]
    options = {"threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        died = client.submit(killed_once, marker, pure=False)
        def stop(progress):
            if progress.done == 6:
                raise Stop
        try:
            mask_dataset(source, target, 0.5, client=client, progress=stop, **OPTIONS)
        except Stop:
            pass
        died.result()
    begun = len(os.listdir(Path(target) / ".nbgather" / "done"))
    assert 6 <= begun < 13, begun
    # Another scheduler, with another number of workers.
    with LocalCluster(n_workers=1, **options) as cluster, Client(cluster) as client:
        states = []
        mask_dataset(source, target, 0.5, client=client, progress=states.append, **OPTIONS)
        assert [s.done for s in states] == list(range(begun, 14)), states
        bad = Path(source) / "zz.png"
        bad.write_bytes(b"no picture")
        try:
            mask_dataset(source, target + "2", 0.5, client=client, **OPTIONS)
        except ValueError as error:
            assert "zz.png cannot be read as an image" in str(error), error
        bad.unlink()
    print("done")
"""


def test_on_a_cluster(folder: Path, images: np.ndarray, tmp_path: Path) -> None:
    """A worker dies, the caller stops in the middle, and another cluster does the rest."""
    script = tmp_path / "cluster.py"
    script.write_text(ON_A_CLUSTER)
    target = tmp_path / "y.zarr"
    run = [sys.executable, str(script), str(folder), str(target), str(tmp_path / "marker")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=240)
    assert done.stdout == "done\n", done.stderr[-3000:]
    assert (tmp_path / "marker").exists()
    same(target, nbgather.masked_patchify(images, PATCH, 0.5, seed=SEED))


def test_the_command_starts_processes(folder: Path, images: np.ndarray, tmp_path: Path) -> None:
    target = tmp_path / "y.zarr"
    words = ["mask-dataset", folder, target, "--seed", SEED, "--patch", PATCH, "--workers", 1]
    run = [sys.executable, "-m", "nbgather", *map(str, words)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("wrote ")
    same(target, nbgather.masked_patchify(images, PATCH, seed=SEED))
