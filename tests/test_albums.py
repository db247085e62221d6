"""``nbgather mask`` on folders and archives: every picture's mask, one sheet, and what is bad."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nbgather
from nbgather import figures
from nbgather.apps import albums

OPTIONS = ("--size", 32, "--patch", 8, "--ratio", 0.5, "--seed", 3, "--epoch", 2)


def picture(shade: int, kind: str = "PNG", frames: int = 1) -> bytes:
    file = io.BytesIO()
    every = [Image.fromarray(np.full((40, 50, 3), shade + 9 * n, np.uint8)) for n in range(frames)]
    more = {"save_all": True, "append_images": every[1:]} if frames > 1 else {}
    every[0].save(file, kind, **more)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    album = Path("album")
    (album / "b").mkdir(parents=True)
    (album / "c.png").write_bytes(picture(10))
    (album / "a.jpg").write_bytes(picture(90, "JPEG"))
    (album / "b" / "x.gif").write_bytes(picture(50, "GIF", 2))
    (album / ".hidden.png").write_bytes(b"")
    (album / "notes.txt").write_text("no picture")
    return album


def archived(names: dict[str, bytes], name: str = "shard.tar") -> Path:
    with tarfile.open(name, "w:gz" if name.endswith("gz") else "w") as archive:
        for member, data in names.items():
            head = tarfile.TarInfo(member)
            head.size = len(data)
            archive.addfile(head, io.BytesIO(data))
    return Path(name)


def kept(strategy: str, number: int, grid: tuple[int, ...]) -> list[int]:
    scores = getattr(nbgather.strategies, strategy)(3, np.array([number]), grid, epoch=2)
    length = int(np.prod(grid))
    return nbgather.rank_tokens(scores, length // 2).ids_keep[0].tolist()


@pytest.mark.parametrize("strategy", ["random", "block", "tube"])
def test_a_folder(strategy: str, folder: Path, command: Any) -> None:
    arguments = "mask", folder, *OPTIONS, "--strategy", strategy, "-o", "deep/sheet.png", "--json"
    done = command(*arguments)
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert [(p["id"], p["name"]) for p in told["pictures"]] == [
        (0, "a.jpg"), (1, "b/x.gif"), (2, "c.png"),
    ]  # fmt: skip
    for entry, frames in zip(told["pictures"], (1, 2, 1), strict=True):
        grid = (frames, 4, 4) if frames > 1 or strategy == "tube" else (4, 4)
        assert entry["grid"] == list(grid)
        assert entry["ids_keep"] == kept(strategy, entry["id"], grid)
        assert entry["removed"] * 2 == entry["patches"]
    assert told["skipped"] == []
    first = Path("deep/sheet.png").read_bytes()
    assert command(*arguments) == done
    assert Path("deep/sheet.png").read_bytes() == first
    assert first.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["shard.tar", "shard.tar.gz"])
def test_an_archive(name: str, folder: Path, command: Any) -> None:
    archived({"9.jpg": picture(5, "JPEG"), "9.cls": b"4", "2.png": picture(7)}, name)
    told = json.loads(command("mask", name, *OPTIONS, "--json").out)
    assert [(p["id"], p["name"]) for p in told["pictures"]] == [(0, "9.jpg"), (1, "2.png")]
    assert told["pictures"][1]["ids_keep"] == kept("random", 1, (4, 4))
    done = command("mask", name, *OPTIONS, "--preview", 1)
    assert done.out == "wrote masked.png\n"


def test_one_picture_for_a_program(folder: Path, command: Any) -> None:
    told = json.loads(command("mask", folder / "c.png", *OPTIONS, "--json").out)
    assert (told["out"], told["seed"], told["strategy"]) == ("masked.png", 3, "random")
    (entry,) = told["pictures"]
    assert (entry["name"], entry["ids_keep"]) == ("c.png", kept("random", 0, (4, 4)))


def test_bad_pictures_are_told_one_by_one(folder: Path, command: Any) -> None:
    (folder / "aa.png").write_bytes(b"junk")
    (folder / "z.jpg").write_bytes(picture(90, "JPEG")[:300])
    done = command("mask", folder, *OPTIONS)
    lines = done.err.splitlines()
    assert (done.code, done.out, len(lines)) == (2, "", 2)
    assert lines[0].startswith("error: album/aa.png cannot be read as an image")
    assert lines[1].startswith("error: album/z.jpg cannot be read as an image")
    assert not Path("masked.png").exists()
    done = command("mask", folder, *OPTIONS, "--skip-bad", "--json")
    assert done.code == 0
    assert [line.split(" ")[:2] for line in done.err.splitlines()] == [
        ["skipped:", "album/aa.png"], ["skipped:", "album/z.jpg"],
    ]  # fmt: skip
    told = json.loads(done.out)
    assert [(p["id"], p["name"]) for p in told["pictures"]] == [
        (0, "a.jpg"), (2, "b/x.gif"), (3, "c.png"),  # as if none was bad
    ]  # fmt: skip
    assert told["pictures"][2]["ids_keep"] == kept("random", 3, (4, 4))
    assert len(told["skipped"]) == 2


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("empty",), "empty holds no pictures"),
        (("bad",), "bad holds no picture that can be read: bad/x.png cannot be read"),
        (("text.tar",), "text.tar cannot be read as a tar archive"),
        (("cut.tar",), "cut.tar breaks off: unexpected end of data"),
        (("no.tar",), "there is no file no.tar"),
        (("album", "--preview", 0), "--preview is 0: it must be at least 1"),
        (("album", "--preview", 97), "--preview is 97: it must be at most 96"),
        (("album", "--patch", 9), "each must divide"),
        (("album", "--ratio", 1.5), "mask_ratio is 1.5"),
        (("album", "--out", "album"), "album: Is a directory"),
    ],
)
def test_mistakes(arguments: tuple[Any, ...], text: str, folder: Path, command: Any) -> None:
    Path("empty").mkdir()
    Path("bad").mkdir()
    Path("bad/x.png").write_bytes(b"junk")
    Path("text.tar").write_text("no archive")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    archive = archived({"a.png": picture(1), "b.png": file.getvalue()})
    Path("cut.tar").write_bytes(archive.read_bytes()[:4000])
    done = command("mask", *OPTIONS, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert text in done.err
    assert done.err.count("\n") == 1
    assert not Path("masked.png").exists()


def test_a_sheet_shows_each_picture_beside_what_is_left_of_it() -> None:
    every = []
    for number in range(5):
        frames = np.full((1, 3, 1 + number % 2, 32, 32), number / 10, np.float32)
        masked = albums.mask_picture(frames, number, strategy="random", ratio=0.5, patch=8)
        every.append((f"{number}" * 40, masked))
    figure = figures.contact_sheet(every, title="all")
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 5
    for number, axes in enumerate(drawn):
        assert axes.get_title() == "…" + f"{number}" * 35
        pixels = np.asarray(axes.images[0].get_array())
        first = every[number][1].mask[:16]
        assert pixels.shape == (32, 66, 3)
        assert np.allclose(pixels[:, :32], number / 10)
        grey = np.isclose(pixels[::8, 34::8, 0].reshape(-1), figures.REMOVED_GREY)
        assert (grey == (first == 1)).all()
