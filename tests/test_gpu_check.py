"""scripts/gpu_check.py, the one command for a GPU: it runs here whole, and can fail."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
pytest.importorskip("torch", reason="torch is not installed")

import torch
from packaging.requirements import Requirement

import nbgather

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "gpu_check.py"
#: All that there is where a GPU is, besides what these need; CuPy as well, which is not here.
INSTALLED = ("torch", "numba", "numba-cuda", "llvmlite", "cuda-bindings", "numpy")
#: What a dry run cannot do.
SKIPPED = {"cupy_arrays", "numba_arrays", "compiled_into_a_graph"}


def part(name: str) -> ModuleType:
    """A module of the script's."""
    scripts = str(ROOT / "scripts")
    if scripts not in sys.path:
        sys.path.insert(0, scripts)
    return importlib.import_module(f"gpu_check_parts.{name}")


def needed(names: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    """Distributions, and those that they need."""
    found: dict[str, importlib.metadata.Distribution] = {}
    pending = list(names)
    while pending:
        name = pending.pop().lower()
        if name not in found:
            try:
                found[name] = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                continue  # of another system
            for text in found[name].requires or ():
                requirement = Requirement(text)
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    pending.append(requirement.name)
    return found


def environment_of(folder: Path) -> Path:
    """The interpreter of an environment with nothing but what is installed where a GPU is."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for distribution in needed(INSTALLED).values():
        for name in {file.parts[0] for file in distribution.files or ()}:
            target = Path(str(distribution.locate_file(name)))
            if name not in ("..", "__pycache__") and not (packages / name).exists():
                (packages / name).symlink_to(target)
    assert not (packages / "array_api_compat").exists()
    return folder / "bin" / "python"


@pytest.mark.timeout(900)
def test_a_dry_run_does_all_of_it_with_what_is_installed_there(tmp_path: Path) -> None:
    python = environment_of(tmp_path / "environment")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, SCRIPT, "--dry-run", "--out", tmp_path],
        capture_output=True, text=True, env=environment, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    document = json.loads((tmp_path / "gpu_check.json").read_text())
    stages = part("stages").STAGES
    assert [(s["stage"], s["outcome"]) for s in document["stages"]] == [(s, "done") for s in stages]
    assert document["failed"] == []
    outcomes = {check["name"]: check["outcome"] for check in document["checks"]}
    assert {name for name, outcome in outcomes.items() if outcome != "passed"} == SKIPPED
    lines = (tmp_path / "gpu_check.jsonl").read_text().splitlines()
    names = [row["name"] for row in document["rows"]]
    bench = [part(f"bench_{name}") for name in ("gather", "masking", "scatter")]
    rows = [*bench[0].ROWS, *bench[1].ROWS, *bench[1].RANKS, *bench[2].ROWS, *bench[1].COMPILED]
    assert names == [row.name for row in rows]
    assert len(lines) > len(names) + len(outcomes) + 2 * len(stages)
    together = max(stage.seconds for name, stage in stages.items() if name.startswith("check"))
    others = sum(stage.seconds for name, stage in stages.items() if not name.startswith("check"))
    assert together + others < 1000  # limits; all of it takes less


BROKEN = """
import sys
sys.path.insert(0, {scripts!r})
import gpu_check
from types import SimpleNamespace
from nbgather.kernels.cuda import launch
make = launch.{module}.{maker}
def broken(memory, *key):
    def wrong(put):
        return lambda at, value: put(at, value ^ 1)
    store = {{kind: wrong(put) for kind, put in memory.STORE.items()}}
    return make(SimpleNamespace(**{{**vars(memory), "STORE": store}}), *key)
launch.{module}.{maker} = broken
sys.exit(gpu_check.main(["--dry-run", "--out", {out!r}, "--stages", {stage!r}, "--only", {only!r}]))
"""


@pytest.mark.parametrize(
    "module, maker, stage, only",
    [
        ("gather_kernels", "make_gather_rows", "check gather", "row_widths"),
        pytest.param(
            "masking_kernels",
            "make_token_noise",
            "check masking",
            "digests",
            marks=pytest.mark.large,
        ),
    ],
)
def test_a_broken_kernel_is_noticed(
    tmp_path: Path, module: str, maker: str, stage: str, only: str
) -> None:
    code = BROKEN.format(
        scripts=str(SCRIPT.parent), module=module, maker=maker, out=str(tmp_path), stage=stage,
        only=only,
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    document = json.loads((tmp_path / "gpu_check.json").read_text())
    assert document["failed"] == [f"{stage}: {only}"]
    assert "differ" in document["checks"][0]["detail"]


def test_a_stage_that_hangs_or_dies_ends_alone(tmp_path: Path) -> None:
    supervise, report = part("supervise"), part("report")
    lines = tmp_path / "lines"
    found = report.Report(lines, "a stage")

    def hang() -> int:
        found.fact("begun", 1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", "100"])
        while True:
            time.sleep(1)

    def die() -> int:
        found.fact("alive", True)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def lose() -> int:
        raise RuntimeError("CUDA: CUDA_ERROR_ILLEGAL_ADDRESS")

    begun = time.monotonic()
    assert supervise.run(hang, 0.5)[0] == "killed after 0 s"
    assert supervise.run(die, 30)[0] == "failed (signal 9)"
    assert supervise.run(lose, 30)[0] == "failed (status 1)"
    assert supervise.run([sys.executable, "-c", "exit(3)"], 60)[0] == ("failed (status 3)")
    assert supervise.run(lambda: 0, 30)[0] == "done"
    assert time.monotonic() - begun < 60
    with lines.open("a") as file:
        file.write('{"kind": "fact", "na')  # a process that was killed while it wrote
    assert report.document(lines)["facts"] == {"begun": 1, "alive": True}


def test_stages_that_compare_run_together_on_a_gpu(tmp_path: Path) -> None:
    part("stages")
    batches = importlib.import_module("gpu_check").batches
    names = ["facts", "check a", "check b", "bench a", "bench b"]
    assert batches(names, together=True) == [[names[0]], names[1:3], [names[3]], [names[4]]]
    assert batches(names, together=False) == [[name] for name in names]
    supervise = part("supervise")
    late = [sys.executable, "-c", "import time; time.sleep(100)"]
    assert supervise.run(late, 1.0)[0] == "killed after 1 s"


def test_what_ends_a_stage_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages, report = part("stages"), part("report")

    def fail(*arguments: Any) -> None:
        raise RuntimeError("CUDA: CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(stages, "run", fail)
    script = importlib.import_module("gpu_check")
    with pytest.raises(RuntimeError):
        script.main(["--stage", "facts", "--out", str(tmp_path)])
    facts = report.document(tmp_path / "gpu_check.jsonl")["facts"]
    assert facts["what ended facts"].endswith("CUDA: CUDA_ERROR_ILLEGAL_ADDRESS\n")


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    report = part("report")
    found = report.Report(tmp_path / "lines", "s")
    found.line("check", name="a", outcome="passed", detail="", seconds=0)
    found.line("check", name="b", outcome="failed", detail="why", seconds=0)
    found.line("check", name="c", outcome="skipped", detail="why", seconds=0)
    found.line("row", name="r", microseconds={}, missed=["copy 0.5, wanted 0.8"])
    found.line("end", outcome="killed after 5 s", seconds=5)
    wrong = ["s: b", "s: killed after 5 s", "s: r, copy 0.5, wanted 0.8"]
    assert report.document(tmp_path / "lines")["failed"] == wrong


def test_a_target_is_missed_by_the_median() -> None:
    timing = part("timing")
    row = timing.Row("r", None, {"torch": 1.0, "copy": 0.8, "µs": 9.0, "absent": 2.0})
    times = {"nbgather": {"median": 10.0}, "torch": {"median": 9.0}, "cupy": {"error": "none"}}
    judged = timing.judged(row, timing.Contest({}, 90), times, bandwidth=1e7)
    assert judged["missed"] == ["torch 0.90, wanted 1", "µs 10.0 µs, wanted 9"]
    assert judged["ratios"] == {"torch": 0.9, "copy": 0.9}
    assert judged["GB/s"] == pytest.approx(0.009)


def test_the_comparison_sees_every_bit() -> None:
    data = part("data")
    for dtype in (torch.float32, torch.bool, torch.complex64, torch.bfloat16, torch.uint16):
        x = data.bits((3, 5), dtype, torch.device("cpu"))
        data.same(x, x.clone())
        other = x.clone()
        data.raw(other).reshape(-1)[7] ^= 1
        with pytest.raises(
            AssertionError, match=r"1 of \d+ elements differ, the first of them at 7"
        ):
            data.same(other, x)
        assert data.digest(other) != data.digest(x)
    with pytest.raises(AssertionError):
        data.same(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(AssertionError):
        data.same(torch.zeros(2), torch.zeros(1, 2))


def test_sums_of_the_floats_depend_on_their_order() -> None:
    x = part("data").floats((1000,), torch.float32, torch.device("cpu"))
    assert x.isfinite().all()
    zero, index = torch.zeros(1), torch.zeros(1000, dtype=torch.int64)
    forth, back = (nbgather.scatter_add(zero, 0, index, y) for y in (x, x.flip(0)))
    assert not torch.equal(forth, back)


@pytest.mark.parametrize("name", ["x40 dim 1 to 7 float", "lengths 7", "masking 3x16"])
def test_the_digests_are_those_of_the_cpu(name: str) -> None:
    part("data")
    hashes = importlib.import_module("gpu_hashes")
    hashed = part("hashed")
    assert hashed.kept().keys() == hashed.EVERY.keys()
    found = hashes.digests(name)
    assert found
    assert all(hashed.kept()[key] == digest for key, digest in found.items())


@pytest.mark.large
def test_every_digest_is_that_of_the_cpu() -> None:
    part("data")
    assert importlib.import_module("gpu_hashes").digests() == part("hashed").kept()


TOOL = """#!/bin/sh
echo "$@" >> {log}
echo "caching off: $PYTORCH_NO_CUDA_MEMORY_CACHING"
cat {text}
exit {status}
"""


@pytest.mark.parametrize("status, outcome", [(0, "passed"), (86, "failed"), (1, "failed")])
def test_the_sanitizer_is_asked_and_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, outcome: str
) -> None:
    tools, report = part("tools"), part("report")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    text = tmp_path / "text"
    text.write_text("========= ERROR SUMMARY: 7 errors\n")
    program = tmp_path / "compute-sanitizer"
    program.write_text(TOOL.format(log=tmp_path / "log", text=text, status=status))
    program.chmod(0o755)
    tools.sanitize("racecheck", "gpu_check.py", 30, report.Report(tmp_path / "lines", "s"))
    (check,) = report.document(tmp_path / "lines")["checks"]
    assert check["outcome"] == outcome
    assert "7 errors" in check["detail"]
    asked = (tmp_path / "log").read_text()
    assert "--tool racecheck --error-exitcode 86" in asked
    assert asked.endswith("gpu_check.py --child small\n")


def test_the_profilers_table_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools, report = part("tools"), part("report")
    metric = next(iter(tools.METRICS))
    table = (
        f'==PROF== x\n"ID","Kernel Name","{metric}","more"\n"","","ns",""\n"0","rows","5120","1"\n'
    )
    (tmp_path / "text").write_text(table)
    program = tmp_path / "ncu"
    program.write_text(TOOL.format(log=tmp_path / "log", text=tmp_path / "text", status=0))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    tools.profile("gpu_check.py", 30, report.Report(tmp_path / "lines", "s"))
    document: dict[str, Any] = report.document(tmp_path / "lines")
    assert document["facts"] == {"ncu 0": {"kernel": "rows", "time": "5120"}}
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    tools.profile("gpu_check.py", 30, report.Report(tmp_path / "lines", "t"))
    assert report.document(tmp_path / "lines")["checks"][-1]["outcome"] == "skipped"
