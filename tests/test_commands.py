"""The commands that no other file tests; and what each does with a user's mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nbgather
from nbgather.apps import warmup


def run(*arguments: Any, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "nbgather", *map(str, arguments)],
        capture_output=True, text=True, timeout=200, **options,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stderr
    return done


def test_info() -> None:
    told = json.loads(run("info", "--json").stdout)
    assert told["versions"]["nbgather"] == nbgather.__version__
    assert told["threads"] >= 1
    reasons = nbgather.backends.available()
    assert {n: s["reason"] for n, s in told["backends"].items()} == reasons
    text = run("info").stdout
    for name, reason in reasons.items():
        assert f"backend {name}" in text
        assert reason is None or reason in text


def test_explain(tmp_path: Path) -> None:
    arguments = "--input", "[[1,2],[3,4]]", "--dim", 1, "--index", "[[1,0]]"
    assert (
        "out[0][1] = input[0][index[0][1]] = input[0][0] = 1" in run("explain", *arguments).stdout
    )
    assert "dim 0 fits" in run("explain", "--input", "[1,2]", "--output", "[2]").stdout
    assert run("explain").stdout.count("index[") > 2
    for kind, start in ((".svg", b"<svg"), (".html", b"<!doctype"), (".png", b"\x89PNG")):
        run("explain", "--out", tmp_path / f"x{kind}")
        assert (tmp_path / f"x{kind}").read_bytes().startswith(start)


def test_bench(tmp_path: Path) -> None:
    paths = tmp_path / "b.json", tmp_path / "b.png"
    done = run("bench", "--rows", "tiny, NumPy", "--quick", "--json", paths[0], "--png", paths[1])
    assert "| tiny, NumPy |" in done.stdout
    (row,) = json.loads(paths[0].read_text())["rows"]
    assert row["seconds"]["numpy"]["min"] > 0
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_warmup_leaves_nothing_to_compile() -> None:
    names = [name for name, _ in warmup.steps()]
    assert len(names) == len(set(names)) == 14
    for name, step in warmup.steps():
        if name in ("gather float32, int64", "masking", "patches", "scatter", "strategies"):
            step()
    assert "groups of kernels are compiled in" in run("warmup").stdout


@pytest.mark.parametrize(
    "words, position, offered",
    [("nbgather ma", 1, {"mask", "mask-dataset"}), ("nbgather mask x --strategy b", 4, {"block"})],
)
def test_the_shell_completes(words: str, position: int, offered: set[str]) -> None:
    code = "from nbgather.apps.cli import main; main()"
    env = {
        **os.environ, "_NBGATHER_COMPLETE": "complete_bash", "COMP_WORDS": words,
        "COMP_CWORD": str(position),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert set(done.stdout.split()) == offered, (done.stdout, done.stderr)


def test_verify_for_a_program() -> None:
    model = Path(__file__).parents[1] / "onnx_models" / "mae_masking.onnx"
    told = json.loads(run("verify", model, "--json").stdout)
    assert told["same"] is True
    assert told["difference"] is None
    assert told["cases"] > 100


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("explain", "--input", "[1,"), "--input is '[1,'"),
        (("explain", "--input", '["a"]', "--index", "[0]"), "nested lists of numbers"),
        (("explain", "--input", "[1]", "--index", "[4]"), "index 4 at (0,) is out of bounds"),
        (("explain", "--out", "x.gif"), "a name that ends in .svg, .html, .png"),
        (("explain", "--cell", "a,b"), "--cell is 'a,b'"),
        (("explain", "--out", "/proc/no/x.svg"), "/proc/no"),
        (("bench", "--rows", "nothing"), "no row matches 'nothing'"),
        (("bench", "--rounds", "0"), "--rounds is 0"),
        (("verify", "no.onnx"), "no.onnx"),
        (("verify", "text.onnx"), "text.onnx"),
        (("mask", "text.png"), "text.png"),
        (("mask", "no.png"), "there is no file no.png"),
        (("export", "--out", "text.png"), "text.png"),
        (("web", "--ort", "no"), "holds no ort.wasm.min.mjs"),
    ],
)
def test_a_mistake_is_one_line_exit_2_and_nothing_written(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    for name in ("text.onnx", "text.png"):
        (tmp_path / name).write_text("not what it says")
    before = sorted(p.name for p in tmp_path.iterdir())
    done = run(*arguments, check=False, cwd=tmp_path)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert "Traceback" in run(*arguments, "--debug", check=False, cwd=tmp_path).stderr


def test_unknown_options_are_told_by_the_command_itself() -> None:
    done = run("explain", "--colour", "red", check=False)
    assert done.returncode == 2
    assert "No such option" in done.stderr
