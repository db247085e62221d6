"""Each command once in a process of its own; and those that no other file tests."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import nbgather
from nbgather.apps import warmup
from nbgather.apps.commands import app, models
from nbgather.onnx import masking_model, verify
from nbgather.onnx.card import CARD

MODELS = Path(__file__).parents[1] / "onnx_models"

#: For each command its arguments, and a part of what it prints; ``web`` is in test_web.py.
SMOKE: dict[str, tuple[tuple[Any, ...], str]] = {
    "info": ((), f"nbgather         {nbgather.__version__}"),
    "demo": (("--image", "photo.png", "--out", "out"), "compared bytes are equal"),
    "mask": (("photo.png", "--size", 32), "wrote masked.png"),
    "mask-dataset": (("x.npy", "out.zarr", "--seed", 0), "wrote out.zarr"),
    "explain": ((), "out[1][1][3] = input[1][index[1][1][3]][3] = input[1][0][3] = 15"),
    "bench": (("--rows", "tiny, NumPy", "--quick"), "| tiny, NumPy |"),
    "warmup": ((), "groups of kernels are compiled in"),
    "selftest": (("--quick",), "cases are equal, every bit"),
    "export": (("--only", "mae_restore.onnx"), "wrote onnx_models/mae_restore.onnx"),
    "verify": ((MODELS / "mae_restore.onnx",), "cases equal to the reference"),
}

#: What compiles for long, and is run in this process by other tests.
LONG = ("warmup", "bench", "selftest")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a command runs: a photo, a dataset, and files that are not what they say."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save("photo.png")
    np.save("x.npy", np.zeros((6, 8, 2), np.float32))
    for name in ("text.onnx", "text.png"):
        Path(name).write_text("not what it says")
    return tmp_path


def steps_of_warmup() -> list[Any]:
    """Those of gathers compile alike: one of them, and the others as ``large``."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.large
            if name.startswith("gather ") and name != "gather float32, int64"
            else (),
        )
        for name, _ in warmup.steps()
    ]


@pytest.mark.parametrize("name", steps_of_warmup())
def test_a_step_of_warmup(name: str) -> None:
    """First: where nothing is compiled yet, the workers share what the command below needs.

    The command itself, in a process, is ``large``: it compiles them all.
    """
    dict(warmup.steps())[name]()


@pytest.mark.timeout(900)  # where nothing is compiled yet, warmup takes minutes
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.large if n in LONG else ()) for n in SMOKE]
)
def test_each_command_in_a_process_of_its_own(name: str, folder: Path) -> None:
    arguments, text = SMOKE[name]
    done = subprocess.run(
        [sys.executable, "-m", "nbgather", name, *map(str, arguments)],
        capture_output=True, text=True, timeout=850,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert text in done.stdout


def test_every_command_has_such_a_test() -> None:
    names = {
        registered.name or registered.callback.__name__.replace("_", "-")
        for registered in app.registered_commands
    }
    assert names == {*SMOKE, "web"}


def test_info(command: Any) -> None:
    facts = json.loads(command("info", "--json").out)
    assert facts["versions"]["nbgather"] == nbgather.__version__
    assert facts["threads"] >= 1
    reasons = nbgather.backends.available()
    assert {n: s["reason"] for n, s in facts["backends"].items()} == reasons
    text = command("info").out
    for name, reason in reasons.items():
        assert f"backend {name}" in text
        assert reason is None or reason in text


def test_explain(command: Any, tmp_path: Path) -> None:
    arguments = "--input", "[[1,2],[3,4]]", "--dim", 1, "--index", "[[1,0]]"
    assert (
        "out[0][1] = input[0][index[0][1]] = input[0][0] = 1" in command("explain", *arguments).out
    )
    assert "dim 0 fits" in command("explain", "--input", "[1,2]", "--output", "[2]").out
    assert command("explain").out.count("index[") > 2
    for kind, start in ((".svg", b"<svg"), (".html", b"<!doctype"), (".png", b"\x89PNG")):
        assert command("explain", "--out", tmp_path / f"x{kind}").code == 0
        assert (tmp_path / f"x{kind}").read_bytes().startswith(start)


def test_bench(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbgather.apps.bench.run.bandwidth", lambda rounds: 1e10)
    paths = tmp_path / "b.json", tmp_path / "b.png"
    arguments = "--rows", "tiny, NumPy", "--quick", "--json", paths[0], "--png", paths[1]
    done = command("bench", *arguments)
    assert done.code == 0, done.err
    assert "| tiny, NumPy |" in done.out
    (row,) = json.loads(paths[0].read_text())["rows"]
    assert row["seconds"]["numpy"]["min"] > 0
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_bench_of_random_calls(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbgather.apps.bench.surface.run.bandwidth", lambda rounds: 1e10)
    paths = tmp_path / "s.json", tmp_path / "s.png"
    arguments = "--surface", "--count", 2, "--only", "token_noise", "--json", paths[0]
    done = command("bench", *arguments, "--png", paths[1], "--threads", 1)
    assert done.code == 0, done.err
    assert "| token_noise |" in done.out
    assert [case["function"] for case in json.loads(paths[0].read_text())["cases"]] == [
        "token_noise"
    ] * 2
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    for wrong in (("--only", "gather"), ("--surface", "--only", "x"), ("--surface", "--seed", -1)):
        done = command("bench", *wrong)
        assert done.code == 2
        assert done.err.startswith("error: ")


def test_the_steps_of_warmup_have_names() -> None:
    names = [name for name, _ in warmup.steps()]
    assert len(names) == len(set(names)) == 15


@pytest.mark.parametrize(
    "words, position, offered",
    [("nbgather ma", 1, {"mask", "mask-dataset"}), ("nbgather mask x --strategy b", 4, {"block"})],
)
def test_the_shell_completes(
    words: str, position: int, offered: set[str], command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_NBGATHER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(position))
    done = command()
    assert set(done.out.split()) == offered, done


def test_verify_for_a_program(command: Any) -> None:
    result = json.loads(command("verify", MODELS / "mae_masking.onnx", "--json").out)
    assert result["same"] is True
    assert result["difference"] is None
    assert result["cases"] > 100


@pytest.mark.parametrize(
    "arguments, text",
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
        (("mask", "photo.png", "--out", "x.svg"), "--out is x.svg: a name that ends in .png"),
        (("mask", "no.png"), "there is no file no.png"),
        (("export", "--out", "text.png"), "text.png"),
        (("export", "--ratio", "1.5", "-o", "m.onnx"), "mask_ratio is 1.5"),
        (("export", "--noise", "loud", "-o", "m.onnx"), "noise is 'loud': it must be one of"),
        (("export", "--gather", "x", "-o", "m.onnx"), "gather is 'x': it must be one of"),
        (("export", "--dtype", "float31", "-o", "m.onnx"), "dtype is float31: it must be one of"),
        (("export", "--opset", "3", "-o", "m.onnx"), "opset is 3: it must be between"),
        (("export", "--seed-words", "-o", "m.onnx"), "seed_words is for noise='seed'"),
        (("export", "--ids-keep"), "-o is not given"),
        (("export", "--ids-keep", "--check", "-o", "m.onnx"), "--check and --only are of the"),
        (("export", "--ratio", ".5", "--ratio-input", "-o", "m.onnx"), "--ratio is 0.5 beside"),
        (("export", "--runtime", "cat", "-o", "m.onnx"), "runtime is 'cat': it must be one of"),
        (("export", "--ids-keep", "-o", "."), ". is a folder: the model's file is needed"),
        (("verify", MODELS / "mae_restore.onnx", "--runtime", "cat"), "runtime is 'cat'"),
        (("web", "--ort", "no"), "holds no ort.wasm.min.mjs"),
    ],
)
def test_a_mistake_is_one_line_exit_2_and_nothing_written(
    arguments: tuple[str, ...], text: str, folder: Path, command: Any
) -> None:
    before = sorted(p.name for p in folder.iterdir())
    done = command(*arguments)
    assert done.code == 2, done
    assert text in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert sorted(p.name for p in folder.iterdir()) == before
    assert "Traceback" in command(*arguments, "--debug").err


def test_one_masking_model_is_written_with_its_card(command: Any, folder: Path) -> None:
    options = "--ratio", 0.6, "--noise", "seed", "--seed-words", "--optional-epoch"
    kinds = "--gather", "nd", "--ids-keep", "--dtype", "int16", "--opset", 19, "--ir-version", 9
    done = command("export", *options, *kinds, "--runtime", "onnxruntime", "-o", "deep/mask.onnx")
    assert done.code == 0, done.err
    model = onnx.load("deep/mask.onnx")
    (opset,) = model.opset_import
    assert (opset.version, model.ir_version) == (19, 9)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["mask_ratio"] == "0.6"
    assert metadata["inputs"] == (
        "x int16 [N, L, D]; seed_words int32 [2]; sample_id_words int32 [N, 2];"
        " epoch_word int32 [] (optional)"
    )
    assert metadata["outputs"].endswith("ids_restore int64 [N, L]; ids_keep int64 [N, K]")
    assert metadata["opset"] == "19, IR 9"
    assert metadata["verified"] == f"onnxruntime {onnxruntime.__version__}: 352 cases equal"
    size = Path("deep/mask.onnx").stat().st_size
    assert done.out.splitlines() == [
        f"wrote deep/mask.onnx ({size:,} bytes)",
        *(f"{name + ':':<10}{metadata[name]}" for name in CARD),
    ]
    assert {node.op_type for node in model.graph.node} >= {"GatherND", "BitwiseXor"}


@pytest.mark.parametrize(
    "options, inputs, outputs",
    [
        ((), ["x", "noise"], ["x_masked", "mask", "ids_restore"]),
        (("--mask-only", "--noise-dtype", "float16"), ["noise"], ["mask", "ids_restore"]),
        (("--mask-only", "--ratio-input"), ["noise", "mask_ratio"], ["mask", "ids_restore"]),
    ],
)
def test_options_of_one_model(
    options: tuple[str, ...], inputs: list[str], outputs: list[str], command: Any, folder: Path
) -> None:
    assert command("export", *options, "-o", "m.onnx").code == 0
    graph = onnx.load("m.onnx").graph
    assert [port.name for port in graph.input] == inputs
    assert [port.name for port in graph.output] == outputs


def test_every_option_of_the_model_has_one_of_the_command() -> None:
    ours = {*inspect.signature(models.export).parameters}
    theirs = {*inspect.signature(masking_model).parameters}
    assert theirs - ours == {"mask_ratio", "with_x"}  # --ratio and --mask-only
    assert ours - theirs == {"ratio", "mask_only", "out", "only", "check", "runtime", "debug"}


def test_a_model_that_is_not_right_is_not_written(
    command: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbgather.onnx.masking_model", lambda **_: masking_model(0.9))
    monkeypatch.setattr(
        "nbgather.onnx.card.verify", lambda model, runtime: verify(model, mask_ratio=0.1)
    )
    Path("old.onnx").write_text("as it was")
    done = command("export", "-o", "old.onnx")
    assert done.code == 1
    assert done.err.startswith("error: the model is not right on onnxruntime 1.")
    assert done.err.count("\n") == 1
    assert Path("old.onnx").read_text() == "as it was"


def test_unknown_options_are_told_by_the_command_itself(command: Any) -> None:
    done = command("explain", "--colour", "red")
    assert done.code == 2
    assert "No such option" in done.err


def test_warmup_takes_every_step(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    names = [name for name, _ in warmup.steps()]
    planned = [(name, lambda name=name: taken.append(name)) for name in names]
    monkeypatch.setattr(warmup, "steps", lambda: planned)
    assert "15 groups of kernels are compiled in" in command("warmup").out
    assert taken == names
