"""What a failure is reported as: a mistake of the user's, or a bug of nbgather's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nbgather
from nbgather import files
from nbgather.apps import bench, cli, commands


def raised_with_debug(monkeypatch: pytest.MonkeyPatch) -> Exception | None:
    monkeypatch.setattr(sys, "argv", ["nbgather", "info", "--debug"])
    try:
        cli.main()
    except Exception as error:
        return error
    return None


def adds_a_number_to_nothing() -> None:
    None + 1  # type: ignore[operator]  # noqa: B018


def asks_for_a_module(name: str) -> Callable[[], None]:
    def ask() -> None:
        __import__(name)

    return ask


def imports_a_name_that_is_not_there() -> None:
    from nbgather.files import nothing  # type: ignore[attr-defined]  # noqa: F401


def raised_by_the_package(statement: str) -> Callable[[], None]:
    """What runs a ``raise`` as if it stood in a file of the package."""
    code = compile(statement, str(Path(cli.__file__).parent / "x.py"), "exec")
    return lambda: exec(code)


BUGS: dict[str, Callable[[], Any]] = {
    "TypeError: unsupported operand": adds_a_number_to_nothing,
    # Ours, but where Python's own expression failed, and not a check.
    "TypeError: 'int' object is not iterable": lambda: bench.interleave(5, 1),  # type: ignore[arg-type]
    "os.PathLike": lambda: files.write(5, b""),  # type: ignore[arg-type]
    "ValueError: cannot reshape array of size 3": lambda: np.zeros(3).reshape(2, 2),
    "IndexError: tuple index out of range": lambda: ()[0],
    "nbgather failed: NotImplementedError (this": raised_by_the_package(
        "raise NotImplementedError"
    ),
    "KeyError: 'no'": lambda: {}["no"],
    "AttributeError: 'NoneType' object": lambda: None.shape,  # type: ignore[attr-defined]
    "ZeroDivisionError: ": lambda: 1 // 0,
    "ModuleNotFoundError: No module named 'nbgather.nothing'": asks_for_a_module(
        "nbgather.nothing"
    ),
    "ImportError: cannot import name 'nothing'": imports_a_name_that_is_not_there,
}

MISTAKES: dict[str, Callable[[], Any]] = {
    "index has dtype float64: an integer dtype": lambda: nbgather.gather(
        np.zeros(3), 0, np.zeros(3)
    ),
    "mask_ratio is 2.0": lambda: nbgather.random_masking(np.zeros((1, 4, 1)), 2.0),
    "index 4 at (0,) is out of bounds": lambda: nbgather.gather(np.zeros(3), 0, np.array([4])),
    "/no/such: No such file or directory": lambda: open("/no/such"),  # noqa: SIM115
    "this command needs surely_not_there: pip install": asks_for_a_module("surely_not_there.part"),
    "not enough memory: Unable to allocate": lambda: np.empty(1 << 60, np.uint8),
}


def test_a_bug_of_ours_is_told_as_one(monkeypatch: pytest.MonkeyPatch, command: Any) -> None:
    for text, bug in BUGS.items():
        monkeypatch.setattr(commands, "app", lambda prog_name, bug=bug: bug())
        code, out, err = command("info")
        assert (code, out) == (1, ""), text
        assert err.startswith("nbgather failed: "), err
        assert text in err
        assert "this is a bug of nbgather's; --debug shows the traceback" in err
        assert err.count("\n") == 1
        assert raised_with_debug(monkeypatch) is not None


def test_a_mistake_is_told_as_one(monkeypatch: pytest.MonkeyPatch, command: Any) -> None:
    for text, mistake in MISTAKES.items():
        monkeypatch.setattr(commands, "app", lambda prog_name, call=mistake: call())
        code, out, err = command("info")
        assert (code, out) == (2, ""), (text, err)
        assert err.startswith("error: "), err
        assert text in err
        assert err.count("\n") == 1
        assert raised_with_debug(monkeypatch) is not None


def test_what_we_say_has_failed_is_neither(monkeypatch: pytest.MonkeyPatch, command: Any) -> None:
    """As when onnxruntime fails in the midst of a run, or contestants of a benchmark differ."""
    fail = raised_by_the_package("raise RuntimeError('it failed')")
    monkeypatch.setattr(commands, "app", lambda prog_name: fail())
    assert command("info") == (1, "", "error: it failed\n")


def test_a_bug_inside_a_command(tmp_path: Path) -> None:
    """As a user sees it, in a process of its own."""
    code = """
import sys
import nbgather
from nbgather.apps import cli
nbgather.random_masking = lambda *args, **options: None + 1
sys.argv = ["nbgather", "mask", *sys.argv[1:]]
cli.main()
"""
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "x.png")
    command = [sys.executable, "-c", code, "x.png", "--size", "32", "--out", "y.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 1
    assert done.stderr == (
        "nbgather failed: TypeError: unsupported operand type(s) for +: 'NoneType' and 'int' (this"
        " is a bug of nbgather's; --debug shows the traceback to report)\n"
    )
    assert not (tmp_path / "y.png").exists()
    done = subprocess.run(
        [*command, "--debug"], capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last)")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("explain", "--input", "[" * 5000 + "]" * 5000, "--index", "[0]"), "maximum recursion"),
        (("explain", "--input", "[1,2]", "--index", "[0.5]"), "index has dtype float64"),
        (("explain", "--input", "[1]", "--output", "[[1]]"), "both must have the same number"),
        (("mask", "x.png", "--size", 1_000_000), "--size is 1000000: it must be at most 4096"),
        (("mask", "x.png", "--out", "."), ".: Is a directory"),
        (("mask", "x.png", "--patch", 500), "each must divide"),
        (("mask", "x.png", "--seed", 10**30), "it must fit in 64 bits"),
        (("mask", "cut.png"), "cut.png cannot be read as an image"),
        (("mask", "."), "error: cut.png cannot be read as an image"),
        (("bench", "--rows", "tiny, NumPy", "--threads", "-3"), "--threads is -3"),
        (("bench", "--rows", "tiny, NumPy", "--threads", "0"), "--threads is 0"),
        (("mask-dataset", "text.npy", "z", "--seed", 0), "x has dtype <U3 of 12 bytes"),
        (("mask-dataset", "struct.npy", "z", "--seed", 0), "of 12 bytes: items of"),
        (("mask-dataset", "images.npy", "z", "--seed", 0, "--patch", 2, "--scale", 0.5),
         "images has dtype float64: uint8 or float32"),
        (("mask-dataset", "x.npy", "x.npy", "--seed", 0), "x.npy: Not a directory"),
        (("demo", "--ratio", "nan", "--out", "z"), "mask_ratio is nan"),
        (("demo", "--image", "x.png", "--out", "x.png"), "x.png: File exists"),
    ],
)  # fmt: skip
def test_mistakes_of_everyday(
    arguments: tuple[Any, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    command: Any,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save("x.png")
    Path("cut.png").write_bytes(Path("x.png").read_bytes()[:60])
    np.save("x.npy", np.zeros((6, 8, 2), np.float32))
    np.save("images.npy", np.zeros((4, 3, 8, 8)))
    np.save("text.npy", np.full((2, 2), "abc"))
    np.save("struct.npy", np.zeros((4, 8), [("a", "f4"), ("b", "f8")]))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    code, out, err = command(*arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_chunk_larger_than_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((6, 8, 2), np.float32))
    for chunk in (10**13, 10**30):
        arguments = "mask-dataset", "x.npy", f"{chunk}.zarr", "--seed", 0, "--chunk", chunk
        code, _, err = command(*arguments)
        assert (code, err) == (0, "")


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert files.write(pipe, b"bytes") == pipe
        assert os.read(reader, 100) == b"bytes"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(IsADirectoryError):
        files.write(tmp_path, b"")
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]
