"""Models on other runtimes: each in a process of its own, whatever becomes of that."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nbgather.onnx import gather_model, masking_model, verify
from nbgather.onnx.runtimes import RUNTIMES, RuntimeSession
from nbgather.onnx.runtimes.child import LOADERS

#: A package called openvino that does what the test wants, in its own words.
STAND_IN = """
import os, signal, sys, time
import numpy as np
import onnxruntime

class Port:
    def __init__(self, name):
        self.names = {name, name + "_too"}

class Core:
    def compile_model(self, path, device):
        assert device == "CPU"
        session = onnxruntime.InferenceSession(path)
        def run(feeds):
            print("what a runtime prints")
            names = [port.name for port in session.get_outputs()]
            outputs = session.run(names, feeds)
            WHAT
            return {Port(name): output for name, output in zip(names, outputs)}
        LOAD
        return run
"""


@pytest.fixture
def openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs the stand-in, with a line that goes wrong."""

    def install(what: str = "pass", load: str = "pass") -> None:
        text = STAND_IN.replace("WHAT", what).replace("LOAD", load)
        (tmp_path / "openvino.py").write_text(text)
        info = tmp_path / "openvino-1.2.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: openvino\nVersion: 1.2.3\n")
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)

    return install


NOISE = {"noise": np.array([[0.2, 0.1]], np.float32)}


def model() -> Any:
    return masking_model(0.5, with_x=False)


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnx"])
def test_runtimes_that_are_here(runtime: str) -> None:
    with RuntimeSession(masking_model(0.5, with_x=False, ids_keep=True), runtime) as session:
        result = session.run(NOISE)
        assert session.label.startswith(f"{runtime} 1.")
        assert [port.name for port in session.inputs] == ["noise"]
        assert session.outputs[0].shape == ("N", "L")
        assert session.metadata["mask_ratio"] == "0.5"
        verification = verify(session)
    assert {name: a.tolist() for name, a in result.items()} == {
        "mask": [[1, 0]], "ids_restore": [[1, 0]], "ids_keep": [[1]],
    }  # fmt: skip
    assert result["mask"].dtype == np.float32
    assert verification == (verification.kind, 88, None, session.label)


@pytest.mark.parametrize("option", [{"level": "disable_all"}, {"ort": True}])
def test_options_of_onnxruntime(option: dict[str, Any]) -> None:
    with RuntimeSession(model(), "onnxruntime", options=option) as session:
        assert session.run(NOISE)["mask"].tolist() == [[1, 0]]


def test_arrays_keep_their_kinds() -> None:
    data = np.arange(4, dtype=np.int16).reshape(2, 2)[:, ::-1]
    with RuntimeSession(gather_model(1, 2, dtype="int16"), "onnxruntime") as session:
        for count in (0, 3):
            index = np.ones((2, count), np.int64)
            output = session.run({"data": data, "indices": index})["output"]
            assert output.dtype == np.int16
            assert output.tolist() == [[0] * count, [2] * count]
            output += 1  # it can be written to
        with pytest.raises(RuntimeError, match=r"failed on onnxruntime 1\.\S+: \w+: .*[Oo]ut of "):
            session.run({"data": data, "indices": np.full((2, 1), 2)})
        assert session.run({"data": data, "indices": np.ones((2, 1), np.int64)})


def test_what_a_runtime_prints_is_no_answer(openvino: Any) -> None:
    openvino()
    verification = verify(model(), runtime="openvino")
    assert verification.same, verification.difference
    assert verification.runtime == "openvino 1.2.3"


@pytest.mark.parametrize(
    "what, words",
    [
        ("outputs[0] = 1 - outputs[0]", "mask at (0, 0) is "),
        ("outputs[0] = outputs[0].astype(np.float16)", "mask is float16"),
        ("raise KeyError('no such\\nkernel')", "failed on openvino 1.2.3: KeyError: "),
        ("outputs[0] = None", "TypeError: the output mask is None"),
        ("os.kill(os.getpid(), signal.SIGFPE)", "openvino 1.2.3 ended its process with SIGFPE"),
        ("sys.stderr.write('a panic\\n'); os._exit(3)", "with exit status 3: a panic"),
    ],
)
def test_a_difference_and_a_crash_are_told(what: str, words: str, openvino: Any) -> None:
    openvino(what)
    difference = verify(model(), runtime="openvino").difference
    assert difference is not None
    assert words in difference
    assert "\n" not in difference


def test_a_process_that_ended_is_begun_again(openvino: Any) -> None:
    openvino("if len(feeds['noise']) == 2: os.abort()")
    with RuntimeSession(model(), "openvino") as session:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="SIGABRT"):
                session.run({"noise": np.zeros((2, 2), np.float32)})
            assert session.run(NOISE)["mask"].tolist() == [[1, 0]]


def test_a_runtime_that_never_answers(openvino: Any) -> None:
    openvino("time.sleep(100)")
    with (
        RuntimeSession(model(), "openvino", timeout=5) as session,
        pytest.raises(RuntimeError, match=r"openvino 1\.2\.3 gave no answer within 5 s"),
    ):
        session.run(NOISE)


@pytest.mark.parametrize(
    "load, words",
    [
        ("raise ValueError('no operator TopK')", "can load: ValueError: no operator TopK"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended its process with SIGSEGV"),
    ],
)
def test_a_model_that_is_refused(load: str, words: str, openvino: Any) -> None:
    openvino(load=load)
    with pytest.raises(ValueError, match=words):
        verify(model(), runtime="openvino")


@pytest.mark.parametrize("package", sorted({*RUNTIMES} - {"onnxruntime", "onnx"}))
def test_a_runtime_that_is_not_there(package: str) -> None:
    if importlib.util.find_spec({"opencv": "cv2", "mnn": "MNN"}.get(package, package)):
        pytest.skip(f"{package} is installed here")
    with pytest.raises(ImportError, match=f"the runtime {package} is not installed here: pip"):
        verify(model(), runtime=package)


def test_a_model_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match=r"text\.onnx is no ONNX model: "):
        verify(tmp_path / "text.onnx", runtime="onnx")
    with pytest.raises(FileNotFoundError, match=r"no\.onnx"):
        verify(tmp_path / "no.onnx", runtime="onnx")
    with pytest.raises(ValueError, match="runtime is 'cat': it must be one of onnxruntime, onnx"):
        verify(model(), runtime="cat")


def test_the_child_needs_nothing_of_ours() -> None:
    """An environment with a runtime and NumPy alone will do."""
    child = Path(sys.modules[LOADERS["onnx"][1].__module__].__file__ or "")
    code = (
        f"import sys; sys.path.insert(0, {str(child.parent)!r}); import child\n"
        "print([m for m in ('nbgather', 'onnx', 'onnxruntime', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_command(command: Any, openvino: Any, tmp_path: Path) -> None:
    path = tmp_path / "mask.onnx"
    onnx.save(model(), path)
    done = command("verify", path, "--runtime", "openvino")
    assert done.code == 2
    assert done.err == "error: the runtime openvino is not installed here: pip install openvino\n"
    openvino("outputs[0] = 1 - outputs[0]")
    done = command("verify", path, "--runtime", "openvino")
    assert done.code == 1
    assert "DIFFERENT on openvino 1.2.3 in case 1, with noise [1, 1]: mask at (0, 0)" in done.out
    done = command("verify", path, "--runtime", "onnx", "--json")
    assert done.code == 0
    assert json.loads(done.out)["runtime"].startswith("onnx 1.")
