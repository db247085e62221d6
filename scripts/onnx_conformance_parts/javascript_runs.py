"""Runtimes of JavaScript: golden vectors in files, run by ``scripts/js`` in Node or Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbgather.onnx._build import ModelProto
from onnx_conformance_parts import functions, golden_files
from onnx_conformance_parts import ties as order
from onnx_conformance_parts.environments import ROOT
from onnx_conformance_parts.outcomes import Outcomes
from onnx_conformance_parts.vectors import Vector

WORK = ROOT / "build" / "js"
TIMEOUT = 1800


class Bundle(NamedTuple):
    """A row of the table: where it runs, a bundle of onnxruntime-web or the package for Node."""

    where: str
    bundle: str
    provider: str


RUNTIMES = {
    "onnxruntime-node": Bundle("node", "onnxruntime-node", "cpu"),
    "onnxruntime-web wasm, Node": Bundle("node", "ort.wasm.min.mjs", "wasm"),
    "onnxruntime-web WebGPU bundle on wasm, Node": Bundle("node", "ort.webgpu.min.mjs", "wasm"),
    "onnxruntime-web WebGPU, Node": Bundle("node", "ort.webgpu.min.mjs", "webgpu"),
    "onnxruntime-web wasm, Chromium": Bundle("web", "ort.wasm.min.mjs", "wasm"),
    "onnxruntime-web WebGPU bundle on wasm, Chromium": Bundle("web", "ort.webgpu.min.mjs", "wasm"),
    "onnxruntime-web WebGPU, Chromium": Bundle("web", "ort.webgpu.min.mjs", "webgpu"),
}


def prepare() -> str:
    """Node's packages, and the scripts as they are; where Chromium is, if anywhere."""
    if not (WORK / "node_modules").is_dir():
        subprocess.run([str(ROOT / "scripts" / "js_check")], check=True)
    for script in (ROOT / "scripts" / "js").iterdir():
        shutil.copy(script, WORK)
    return shutil.which("chromium") or ""


def run(
    bundle: Bundle, models: Mapping[str, ModelProto], cases: Sequence[Vector], chromium: str
) -> Outcomes:
    """Every case on a runtime; each published model in a process of its own."""
    outcomes = Outcomes("")
    for entry in dict.fromkeys(case.entry for case in cases):
        mine = [case for case in cases if case.entry == entry]
        with tempfile.TemporaryDirectory(prefix="vectors-", dir=WORK) as folder:
            golden_files.write(Path(folder), models, mine)
            _run_model(bundle, Path(folder), mine, outcomes, chromium)
    return outcomes


def _run_model(
    bundle: Bundle, folder: Path, cases: Sequence[Vector], outcomes: Outcomes, chromium: str
) -> None:
    """A process that ends early twice at a case is begun again behind it."""
    done, tried = 0, -1
    while done < len(cases):
        result = folder / "result.json"
        result.unlink(missing_ok=True)
        script = "node_check.mjs" if bundle.where == "node" else "web_check.mjs"
        arguments = [str(folder), *([chromium] if bundle.where == "web" else [])]
        options = {"bundle": bundle.bundle, "provider": bundle.provider, "from": done}
        process = subprocess.run(
            ["node", script, *arguments, json.dumps({**options, "result": str(result)})],
            cwd=WORK, capture_output=True, text=True, timeout=TIMEOUT,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {}
        outcomes.version = answer.get("version", outcomes.version)
        made = answer.get("outcomes", [])
        for case, (kind, *said) in zip(cases[done:], made, strict=False):
            outcomes.add(case.entry, case.group, kind, *said)
        done += len(made)
        if done < len(cases) and tried != done:
            tried = done
        elif done < len(cases):
            lines = (process.stdout + process.stderr).strip().splitlines()
            said = lines[-1] if lines else f"exit status {process.returncode}"
            outcomes.add(cases[done].entry, cases[done].group, "crashed", said)
            done += 1


def takes_functions(bundle: Bundle, chromium: str) -> str:
    """As :func:`functions.run`."""
    file = "fourfold.onnx"
    cases = [Vector(file, file, file, *functions.case())]
    kinds = run(bundle, {file: functions.model()}, cases, chromium).models[file][file]
    if "equal" in kinds:
        return functions.TAKEN
    return f"refused: {next(iter(kinds['said'].values()))}" if "wrong" not in kinds else "**WRONG**"


def ties(bundle: Bundle, chromium: str) -> dict[str, str]:
    """As :func:`ties.run`: the order of equals in TopK."""
    answers = {}
    for dtype in order.DTYPES:
        model = {"order.onnx": order.model(dtype)}
        cases = [
            Vector("order.onnx", "order.onnx", str(length), {"x": x}, {"order": want})
            for length in order.LENGTHS
            for x, want in [order.keys(length, dtype)]
        ]
        groups = run(bundle, model, cases, chromium).models["order.onnx"]
        odd = [(length, kinds) for length, kinds in groups.items() if "equal" not in kinds]
        if not odd:
            answers[dtype] = "stable"
        elif "wrong" in odd[0][1]:
            answers[dtype] = f"not stable from L = {odd[0][0]}"
        else:
            answers[dtype] = f"refused: {next(iter(odd[0][1]['said'].values()))}"
    return answers
