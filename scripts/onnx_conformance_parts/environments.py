"""An environment for each runtime, below build/, made when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from nbgather.onnx.catalog import OLDEST_ONNXRUNTIME

ROOT = Path(__file__).resolve().parents[2]
LEVELS = ("disable_all", "enable_basic", "enable_extended", "enable_all")


class Runtime(NamedTuple):
    """A row of the table.

    ``packages`` are what pip installs into an environment of its own; without any, what the tests
    have is used. ``script`` makes the environment instead.
    """

    runtime: str
    options: dict[str, object]
    packages: tuple[str, ...] = ()
    environment: str = ""


def _levels(title: str, environment: str) -> dict[str, Runtime]:
    rows = {
        f"{title}, {level.removeprefix('enable_').replace('disable_all', 'no')} optimisations": {
            "level": level
        }
        for level in LEVELS
    }
    rows[f"{title}, .ort format"] = {"ort": True}
    return {
        name: Runtime("onnxruntime", options, environment=environment)
        for name, options in rows.items()
    }


#: What runs in Python, by the names of the table. The versions are those of the committed table.
RUNTIMES: dict[str, Runtime] = {
    **_levels("onnxruntime, newest", ""),
    **_levels("onnxruntime, oldest", f"onnxruntime-{OLDEST_ONNXRUNTIME}"),
    "onnx ReferenceEvaluator": Runtime("onnx", {}),
    "OpenVINO": Runtime("openvino", {}, ("openvino==2026.4.1",)),
    "OpenCV": Runtime("opencv", {}, ("opencv-python-headless==5.0.0.93",)),
    "tract": Runtime("tract", {}, ("tract==0.23.9",)),
    "MNN": Runtime("mnn", {}, ("mnn==3.6.1",)),
    "IREE": Runtime(
        "iree", {}, ("iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0", "onnx")
    ),
    "TVM": Runtime("tvm", {}, ("apache-tvm==0.27.0.post1", "onnx")),
}


def python_of(runtime: Runtime) -> Path:
    """The interpreter that has the runtime; its environment is made where there is none."""
    if runtime.environment:
        # scripts/old_onnxruntime knows which version this Python has a wheel of.
        found = sorted((ROOT / "build").glob("onnxruntime-*/.stamp"))
        if not found:
            subprocess.run([str(ROOT / "scripts" / "old_onnxruntime")], check=True)
            found = sorted((ROOT / "build").glob("onnxruntime-*/.stamp"))
        return found[0].parent / "bin" / "python"
    if not runtime.packages:
        return Path(sys.executable)
    folder = ROOT / "build" / "conformance" / runtime.runtime
    stamp, python = folder / ".stamp", folder / "bin" / "python"
    wanted = "\n".join(runtime.packages)
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"making an environment with {', '.join(runtime.packages)}", file=sys.stderr)
        base = Path(sys.base_prefix, "bin", "python3")
        subprocess.run([str(base), "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "numpy", *runtime.packages], check=True)
        stamp.write_text(wanted)
    return python
