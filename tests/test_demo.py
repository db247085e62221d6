"""The demo and its command: what it writes, what it compares, how it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nbgather
from nbgather.apps import cli, demo
from nbgather.apps.photos import load_photo
from nbgather.onnx import Session


@pytest.fixture(autouse=True)
def timed_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long calls take is shown, and no test's concern."""
    monkeypatch.setattr(demo, "TIMING_SECONDS", 0.005)


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_demo_compares_everything(tmp_path: Path) -> None:
    rows = demo.run_demo(out=tmp_path)
    assert [row.name for row in rows] == [
        *("gather, dim 0", "gather, dim 1", "gather, dim 2", "infer_gather, dim 1"),
        *("x_masked", "mask", "ids_restore", "restored"),
    ]
    for row in rows:
        assert row.same
        assert set(row.equal) == ({"torch"} if "infer" in row.name else set(demo.PEERS))
        assert row.nbytes == np.prod(row.shape) * np.dtype(row.dtype).itemsize
    shapes = {row.name: row.shape for row in rows}
    assert shapes["x_masked"] == (1, 49, 768)
    assert shapes["mask"] == shapes["ids_restore"] == (1, 196)


def test_the_demos_files_are_whole(tmp_path: Path) -> None:
    demo.run_demo(out=tmp_path / "new" / "folder", seed=5, mask_ratio=0.6)
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == [demo.MODEL, demo.PICTURE]
    patches = nbgather.patchify(load_photo(), 16)
    want = nbgather.random_masking(patches, 0.6, seed=5)
    outputs = Session(folder / demo.MODEL).run(x=patches, noise=nbgather.token_noise(5, 1, 196))
    assert np.array_equal(outputs["ids_restore"], want.ids_restore)
    pixels = picture(folder / demo.PICTURE)
    assert pixels.shape[1] > 3 * pixels.shape[0]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10_000


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_demo_with_all_or_nothing_removed(ratio: float, tmp_path: Path) -> None:
    assert all(row.same for row in demo.run_demo(out=tmp_path, mask_ratio=ratio))
    assert (tmp_path / demo.PICTURE).exists()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (300, 90), (224, 224)])
def test_any_photo_becomes_a_square(size: tuple[int, int], mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("photo.tif" if mode in ("CMYK", "I;16") else "photo.png")
    Image.new(mode, size, 1).save(path)
    photo = load_photo(path)
    assert photo.shape == (1, 3, 224, 224)
    assert photo.dtype == np.float32
    assert photo.min() >= 0
    assert photo.max() <= 1


def test_a_photo_is_cut_in_its_middle(tmp_path: Path) -> None:
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 255
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    photo = load_photo(tmp_path / "photo.png")
    assert photo[..., 3:-3].min() == 1  # resizing looks over the edge


def test_the_command(command: Any, tmp_path: Path) -> None:
    done = command("demo", "--out", tmp_path, "--seed", 3, "--ratio", 0.5)
    assert done.code == 0
    assert "x_masked" in done.out
    assert "compared bytes are equal" in done.out
    assert str(tmp_path / demo.PICTURE) in done.out.replace("\n", "")
    assert done.err == ""


def test_a_difference_is_exit_1(command: Any, monkeypatch, tmp_path: Path) -> None:
    right = demo.random_masking

    def wrong(*args, **kwargs):
        masked = right(*args, **kwargs)
        masked.mask[0, 7] = 1 - masked.mask[0, 7]
        return masked

    monkeypatch.setattr(demo, "random_masking", wrong)
    done = command("demo", "--out", tmp_path)
    assert done.code == 1
    assert "DIFFERENT: mask" in done.out


def _text(path: Path) -> Path:
    path.write_text("not an image")
    return path


def _cut(path: Path) -> Path:
    Image.new("RGB", (64, 64), 5).save(path)
    path.write_bytes(path.read_bytes()[:60])
    return path


def _file_for_a_folder(path: Path) -> Path:
    path.write_text("")
    return path / "below"


MISTAKES = {
    "missing": (lambda p: ("--image", str(p / "none.png")), "there is no file"),
    "text": (lambda p: ("--image", str(_text(p / "a.png"))), "cannot be read as an image"),
    "cut": (lambda p: ("--image", str(_cut(p / "a.png"))), "cannot be read as an image"),
    "folder": (lambda p: ("--image", str(p)), "cannot be read as an image"),
    "ratio": (lambda p: ("--ratio", "1.5"), "mask_ratio is 1.5"),
    "seed": (lambda p: ("--seed", str(2**70)), "seed is"),
    "out": (lambda p: ("--out", str(_file_for_a_folder(p / "f"))), "Not a directory"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_2(name: str, command: Any, tmp_path: Path) -> None:
    make, text = MISTAKES[name]
    target = tmp_path / "out"
    arguments = make(tmp_path)
    if "--out" not in arguments:
        arguments += ("--out", str(target))
    done = command("demo", *arguments)
    assert done.code == 2
    assert text in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert "wrote" not in done.out
    assert not target.exists() or not any(target.iterdir())


def test_debug_shows_the_traceback(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["nbgather", "demo", "--ratio", "2", "--debug"])
    with pytest.raises(ValueError, match="mask_ratio is 2"):
        cli.main()


@pytest.mark.parametrize("missing", ["typer", "rich", "matplotlib", "torch", "onnx", "PIL"])
def test_a_missing_package_is_named(missing: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"sys.argv = ['nbgather', 'demo', '--out', {str(tmp_path / 'out')!r}]\n"
        "from nbgather.apps.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert f"needs {missing}: pip install" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_and_version(command: Any) -> None:
    assert command("--version")[:2] == (0, f"nbgather {nbgather.__version__}\n")
    done = command("demo", "--help")
    assert done.code == 0
    assert "--image" in done.out
    assert command("no-such-command").code == 2


# nbgather mask

STRATEGIES = ("random", "block", "grid", "tube", "time_frequency")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.full((60, 80, 3), (200, 30, 30), np.uint8)).save(path)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.gif"
    frames = [Image.fromarray(np.full((64, 64, 3), 40 * k, np.uint8)) for k in range(1, 5)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_mask_command_draws_the_strategys_mask(
    strategy: str, photo: Path, tmp_path: Path, command: Any
) -> None:
    out = tmp_path / "new" / "masked.png"
    arguments = "--strategy", strategy, "--ratio", 0.6, "--seed", 3, "-o", out
    assert command("mask", photo, *arguments)[:2] == (0, f"wrote {out}\n")
    pixels = picture(out)
    grid = (1, 14, 14) if strategy == "tube" else (14, 14)
    scores = getattr(nbgather.strategies, strategy)(3, 1, grid)
    mask = nbgather.rank_tokens(scores, 78).mask.reshape(14, 14)
    # The panels are the only coloured parts: the right one has the patches that stay.
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 60)
    columns = np.flatnonzero(red.any(0))
    left = (
        columns[: np.argmax(np.diff(columns) > 1) + 1] if (np.diff(columns) > 1).any() else columns
    )
    height, width = np.flatnonzero(red[:, left[0]]), len(left)
    right = left[0] + (pixels.shape[1] - width) - 2 * left[0]
    cell = width / 14
    coloured = np.array(
        [
            [
                red[int(height[0] + (r + 0.5) * cell), int(right + (c + 0.5) * cell)]
                for c in range(14)
            ]
            for r in range(14)
        ]
    )
    assert (coloured == (mask == 0)).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_mask_command_on_a_video(
    strategy: str, video: Path, tmp_path: Path, command: Any
) -> None:
    out = tmp_path / "masked.png"
    assert command("mask", video, "--strategy", strategy, "-o", out).code == 0
    rows = picture(out)
    assert rows.shape[1] > rows.shape[0]  # four frames wide, two rows high


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("missing.png",), "there is no file missing.png"),
        (("{text}",), "cannot be read as an image"),
        (("{photo}", "--ratio", "1.5"), "mask_ratio is 1.5: it must be between 0 and 1"),
        (("{photo}", "--ratio", "nan"), "mask_ratio is nan"),
        (("{photo}", "--patch", "15"), "sides (224, 224) cannot be cut into patches of (15, 15)"),
        (("{photo}", "--size", "8"), "sides (8, 8) cannot be cut into patches of (16, 16)"),
        (("{photo}", "--size", "0"), "--size is 0: it must be at least 1"),
        (("{photo}", "--patch", "0"), "patch_size is"),
        (("{photo}", "--epoch", "-1"), "epoch is -1"),
        (("{photo}", "--strategy", "spiral"), "'spiral' is not one of"),
        (("{photo}", "-o", "{photo}/out.png"), "photo.png: File exists"),
    ],
)
def test_mistakes_with_the_mask_command(
    arguments, text: str, photo: Path, tmp_path: Path, command: Any
) -> None:
    (tmp_path / "note.txt").write_text("no image")
    before = sorted(tmp_path.iterdir())
    filled = [a.format(photo=photo, text=tmp_path / "note.txt") for a in arguments]
    if "-o" not in filled:
        filled += ["-o", str(tmp_path / "out.png")]
    done = command("mask", *filled)
    assert done.code == 2
    assert text in " ".join(done.err.split()), done.err
    assert "Traceback" not in done.err
    assert sorted(tmp_path.iterdir()) == before
