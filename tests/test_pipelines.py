"""Every recipe of the page on pipelines runs, with the library that it is for."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader

import nbgather
from nbgather.torch import MaskingCollate

PAGE = Path(__file__).resolve().parents[1] / "scripts" / "docs" / "pipelines.md"


def recipes() -> dict[str, list[str]]:
    """The blocks of Python of the page, by the heading that they stand under."""
    parts = re.split(r"^## (.*)$", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    found = {h: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for h, text in pairs}
    return {heading: blocks for heading, blocks in found.items() if blocks}


RECIPES = recipes()


def pixels(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def expected(numbers: list[int], **options: Any) -> Any:
    batch = np.stack([pixels(n) for n in numbers])
    return nbgather.masked_patchify(batch, 16, sample_ids=numbers, channels="last", **options)


def same(got: Any, want: Any) -> bool:
    return all(np.array_equal(np.asarray(a), b) for a, b in zip(got, want, strict=True))


def test_every_recipe_has_a_test() -> None:
    assert sorted(RECIPES) == sorted([
        "A strategy of your own", "Blocks for a predictor", "Dask and xarray",
        "Hugging Face datasets", "Packed tokens", "Ray Data", "WebDataset", "torch",
    ])  # fmt: skip


def test_torch_and_packed_tokens() -> None:
    scope: dict[str, Any] = {
        "nbgather": nbgather, "torch": torch, "DataLoader": DataLoader,
        "dataset": [(n, torch.zeros(3, 32, 32, dtype=torch.uint8)) for n in range(3)],
        "epochs": 1, "mean": 0.5, "std": 0.5,
        "x": torch.rand(3, 6, 48), "ratios": [0.5, 0.2, 0.7], "heads": 2,
        "mask_token": torch.zeros(16),
        "counts": [4, 3, 2], "load": lambda n: np.zeros((3, 32, 16 * (n + 1)), np.uint8),
        "seed": 0, "epoch": 0, "sample_ids": torch.arange(3),
    }  # fmt: skip
    for block in RECIPES["torch"] + RECIPES["Packed tokens"]:
        exec(block.replace("num_workers=4, persistent_workers=True", "num_workers=0"), scope)
    assert (scope["patches"].shape, scope["mask"].shape) == ((3, 1, 768), (3, 4))
    assert scope["whole"].shape == (3, 6, 16)
    assert scope["packed"].grids
    scope["x"] = torch.rand(3, 196, 4)
    for block in RECIPES["Blocks for a predictor"] + RECIPES["A strategy of your own"]:
        exec(block, scope)
    assert scope["context"].shape[0] == 3
    _, made = scope["collate"]([(n, torch.zeros(3, 32, 32)) for n in range(3)])
    assert set(made.mask[:, :2].sum(1).tolist()) <= {0.0, 2.0}


def test_dask_and_xarray() -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    import dask.array as da

    from nbgather import dask as nd

    x = np.arange(12.0).reshape(3, 4)
    picks = xarray.DataArray(da.from_array(np.array([[3, 0], [1, 1], [2, 3]])), dims=("n", "pick"))
    scope: dict[str, Any] = {
        "data": xarray.DataArray(da.from_array(x), dims=("n", "time")), "picks": picks, "nd": nd,
        "nbgather": nbgather, "x": da.from_array(x), "index": np.array([[0], [1], [2]]),
    }  # fmt: skip
    for block in RECIPES["Dask and xarray"]:
        exec(block, scope)
    assert scope["picked"].values.tolist() == [[3.0, 0.0], [5.0, 5.0], [10.0, 11.0]]
    assert scope["choice"].plan


def test_webdataset(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as archive:
        for number in (7, 3, 0):
            file = io.BytesIO()
            PIL.Image.fromarray(pixels(number)).save(file, "PNG")  # what a name says is not read
            member = tarfile.TarInfo(f"train/img_{number:05}.jpg")
            member.size = file.tell()
            archive.addfile(member, io.BytesIO(file.getvalue()))
    scope: dict[str, Any] = {"urls": str(path), "epoch": 3}
    (block,) = RECIPES["WebDataset"]
    exec(block, scope)
    (made,) = scope["loader"]
    assert isinstance(scope["data"], wds.DataPipeline)
    assert same(made, expected([7, 3, 0], seed=0, epoch=3))


def test_hugging_face_datasets() -> None:
    datasets = pytest.importorskip(
        "datasets", reason="datasets is not installed: with pyarrow and pandas it has 300 MB"
    )
    pictures = [PIL.Image.fromarray(pixels(n, 224, 224)) for n in range(10)]
    features = datasets.Features({"image": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"image": pictures}, features=features)
    collate = MaskingCollate(16, seed=3)
    scope: dict[str, Any] = {"dataset": dataset, "collate": collate}
    with_transform, streamed = RECIPES["Hugging Face datasets"]
    exec(with_transform.replace("num_workers=4", "num_workers=1").replace("64", "4"), scope)
    whole = {}
    for ids, made in scope["loader"]:
        whole.update(zip(ids.tolist(), zip(*made, strict=True), strict=True))
    batch = np.stack([pixels(n, 224, 224) for n in range(10)])
    want = nbgather.masked_patchify(batch, 16, seed=3, sample_ids=range(10), channels="last")
    assert all(same(whole[n], [part[n] for part in want]) for n in range(10))
    exec(streamed.replace("64", "4"), scope)
    seen = scope["ids"].tolist()
    for ids, made in DataLoader(scope["stream"], 4, collate_fn=scope["masked"]):
        seen += ids.tolist()
        for n, *parts in zip(ids.tolist(), *made, strict=True):
            assert all(map(torch.equal, parts, whole[n]))
    assert seen == list(range(10))


@pytest.mark.large
def test_ray_data() -> None:
    """Ray starts processes of its own, which takes many seconds."""
    ray = pytest.importorskip(
        "ray", reason="ray is not installed: with pyarrow and pandas it has 500 MB"
    )
    pytest.importorskip("ray.data", reason="ray is installed without ray[data]")
    items = [{"number": n, "image": pixels(n)} for n in (5, 2, 9, 4)]
    scope: dict[str, Any] = {"images": ray.data.from_items(items), "nbgather": nbgather, "epoch": 1}
    (block,) = RECIPES["Ray Data"]
    exec(block, scope)
    try:
        rows = scope["patches"].take_all()
    finally:
        ray.shutdown()
    assert sorted(row["number"] for row in rows) == [2, 4, 5, 9]
    for row in rows:
        want = expected([row["number"]], seed=0, epoch=1)
        assert same([row[name][None] for name in want._fields], want)
