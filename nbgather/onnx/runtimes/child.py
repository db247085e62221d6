"""A process that runs one model on one runtime: ``python child.py DESCRIPTION``.

It is run by the Python that the runtime is installed in, and imports nothing but NumPy and that
runtime: the environment need hold no nbgather. DESCRIPTION is JSON: ``runtime``, ``model`` (a
path), the names of ``inputs`` and ``outputs`` in the model's order, and ``options``. The first
frame on the standard output says what was loaded or why it was refused; each frame of arrays on
the standard input is then answered by one of the outputs, or of the runtime's error.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import IO, Any

if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules are none of the runtime's

import numpy as np

__all__ = ["LOADERS"]

Arrays = Mapping[str, np.ndarray]
#: From arrays by name to the outputs, by name or in the model's order.
Run = Callable[[Arrays], Any]

_LENGTH = struct.Struct("<Q")


def write(stream: IO[bytes], fields: Mapping[str, Any], arrays: Arrays | None = None) -> None:
    """A frame: the length of its header, the header as JSON, the bytes of its arrays."""
    little = {
        name: np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).reshape(array.shape)
        for name, array in (arrays or {}).items()
    }
    places = [[name, a.dtype.name, a.shape, a.nbytes] for name, a in little.items()]
    header = json.dumps({**fields, "arrays": places}).encode()
    stream.write(
        b"".join([_LENGTH.pack(len(header)), header, *(a.tobytes() for a in little.values())])
    )
    stream.flush()


def read(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The next frame; EOFError where the other side has ended."""
    fields = json.loads(_exactly(stream, _LENGTH.unpack(_exactly(stream, _LENGTH.size))[0]))
    arrays = {}
    for name, dtype, shape, nbytes in fields.pop("arrays"):
        kind = np.dtype(dtype).newbyteorder("<")
        values = np.frombuffer(_exactly(stream, nbytes), kind).reshape(shape)
        arrays[name] = values.astype(kind.newbyteorder("="))  # which may be written to
    return fields, arrays


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError(f"{len(data)} of {count} bytes came")
    return data


class Model:
    """What is to be loaded: a path, the names of inputs and outputs, the runtime's options."""

    def __init__(self, description: Mapping[str, Any], folder: str) -> None:
        self.path: str = description["model"]
        self.inputs: list[str] = description["inputs"]
        self.outputs: list[str] = description["outputs"]
        self.options: dict[str, Any] = description.get("options", {})
        #: For files that the runtime makes of the model.
        self.folder = Path(folder)


def _onnxruntime(model: Model) -> Run:
    """Options: ``level``, a name of GraphOptimizationLevel; ``ort``, through the .ort format."""
    ort = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    level = f"ORT_{model.options.get('level', 'enable_all').upper()}"
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    providers = ["CPUExecutionProvider"]
    path = model.path
    if model.options.get("ort"):
        path = str(model.folder / "model.ort")
        options.optimized_model_filepath = path
        options.add_session_config_entry("session.save_model_format", "ORT")
        ort.InferenceSession(model.path, options, providers=providers)
        options = ort.SessionOptions()
        options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=providers)
    quiet = ort.RunOptions()
    quiet.log_severity_level = 4
    return lambda feeds: session.run(model.outputs, dict(feeds), quiet)


def _onnx(model: Model) -> Run:
    evaluator = import_module("onnx.reference").ReferenceEvaluator(model.path)

    def run(feeds: Arrays) -> Any:
        with np.errstate(all="ignore"):
            return evaluator.run(model.outputs, dict(feeds))

    return run


def _openvino(model: Model) -> Run:
    """Option: ``device``, by default CPU."""
    openvino = import_module("openvino")
    compiled = openvino.Core().compile_model(model.path, model.options.get("device", "CPU"))

    def run(feeds: Arrays) -> Any:
        results = compiled(dict(feeds))
        # A value may have several names, of which any_name is one.
        named = {name: value for port, value in results.items() for name in port.names}
        return {name: named[name] for name in model.outputs}

    return run


def _tract(model: Model) -> Run:
    loaded = import_module("tract").onnx().load(model.path)
    order = [loaded.input_name(i) for i in range(loaded.input_count())]
    runnable = loaded.into_model().into_runnable()

    def run(feeds: Arrays) -> Any:
        results = runnable.run([feeds[name] for name in order if name in feeds])
        return [tensor.to_numpy() for tensor in results]

    return run


def _opencv(model: Model) -> Run:
    dnn = import_module("cv2").dnn
    net = dnn.readNetFromONNX(model.path)

    def run(feeds: Arrays) -> Any:
        for name, array in feeds.items():
            net.setInput(array, name)
        return list(net.forward(model.outputs))

    return run


def _mnn(model: Model) -> Run:
    mnn = import_module("MNN")
    converted = str(model.folder / "model.mnn")
    # Not the command mnnconvert: that one installs a package and reports to its makers.
    arguments = ["mnnconvert", "-f", "ONNX", "--modelFile", model.path, "--MNNModel", converted]
    with _printed(model.folder / "said") as said:
        import_module("_tools").mnnconvert(arguments)
    if not os.path.exists(converted):
        reasons = [line for line in said if "Not Support" in line or "rror" in line]
        raise RuntimeError((reasons or said or ["its converter gives no reason"])[-1])
    expr = import_module("MNN.expr")
    module = mnn.nn.load_module_from_file(converted, model.inputs, model.outputs)
    kinds = {"float32": expr.float, "int32": expr.int, "int64": expr.int64, "uint8": expr.uint8}

    def run(feeds: Arrays) -> Any:
        variables = []
        for name in model.inputs:
            array = feeds[name]
            if array.dtype == np.int64:  # which it keeps in 32 bits
                if np.any(array != array.astype(np.int32)):
                    raise OverflowError(f"{name} does not fit in 32 bits")
                array = array.astype(np.int32)
            kind = kinds[array.dtype.name]
            variables.append(expr.const(array, list(array.shape), expr.NCHW, kind))
        return [np.array(v.read()) for v in module.forward(variables)]

    return run


@contextlib.contextmanager
def _printed(path: Path) -> Iterator[list[str]]:
    """The lines that are written to the error stream meanwhile, where the output goes too."""
    lines: list[str] = []
    stream = os.dup(2)
    with path.open("w+b") as file:
        os.dup2(file.fileno(), 2)
        os.dup2(file.fileno(), 1)
        try:
            yield lines
        finally:
            os.dup2(stream, 2)
            os.dup2(stream, 1)
            os.close(stream)
            file.seek(0)
            lines += file.read().decode(errors="replace").split("\n")


def _iree(model: Model) -> Run:
    tools = Path(sys.executable).parent
    source, binary = model.folder / "model.mlir", model.folder / "model.vmfb"
    _command([str(tools / "iree-import-onnx"), model.path, "-o", str(source)])
    flags = ["--iree-hal-target-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=host"]
    _command([str(tools / "iree-compile"), str(source), *flags, "-o", str(binary)])
    runtime = import_module("iree.runtime")
    module = runtime.load_vm_flatbuffer_file(str(binary), driver="local-task")
    function = next(
        module[name]
        for name in module.vm_module.function_names
        if not name.startswith("__") and "$" not in name  # $async takes fences too
    )

    def run(feeds: Arrays) -> Any:
        results = function(*(feeds[name] for name in model.inputs))
        results = results if isinstance(results, (list, tuple)) else [results]
        return [np.asarray(result) for result in results]

    return run


def _command(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.splitlines()
        errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
        raise RuntimeError((errors or lines or [f"exit {done.returncode}"])[0])


def _tvm(model: Model) -> Run:
    tvm, onnx = import_module("tvm"), import_module("onnx")
    relax = import_module("tvm.relax")
    convert = import_module("tvm.relax.frontend.onnx").from_onnx
    program = convert(onnx.load(model.path), keep_params_in_input=False)
    machine = relax.VirtualMachine(tvm.compile(program, target="llvm"), tvm.cpu())

    def run(feeds: Arrays) -> Any:
        results = machine["main"](*(tvm.runtime.tensor(feeds[name]) for name in model.inputs))
        results = [results] if hasattr(results, "numpy") else results
        return [result.numpy() for result in results]

    return run


#: By the names that verify takes: the packages that bring the runtime, and what loads a model.
LOADERS: dict[str, tuple[tuple[str, ...], Callable[[Model], Run]]] = {
    "onnxruntime": (("onnxruntime",), _onnxruntime),
    "onnx": (("onnx",), _onnx),
    "openvino": (("openvino",), _openvino),
    "tract": (("tract",), _tract),
    "opencv": (("opencv-python-headless", "opencv-python"), _opencv),
    "mnn": (("mnn",), _mnn),
    "iree": (("iree-base-compiler", "iree-base-runtime"), _iree),
    "tvm": (("apache-tvm",), _tvm),
}


def version(runtime: str) -> str | None:
    """Of the first installed package that brings the runtime."""
    for package in LOADERS[runtime][0]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None


def _named(outputs: list[str], results: Any) -> Arrays:
    """The outputs by name; some runtimes have None for one that is empty."""
    if not isinstance(results, Mapping):
        results = dict(zip(outputs, results, strict=True))
    arrays = {name: np.asarray(value) for name, value in results.items()}
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"the output {name} is {results[name]!r}")
    return arrays


def _line(error: BaseException) -> str:
    text = str(error).split("\n\nStack backtrace")[0]
    return f"{type(error).__name__}: {' '.join(text.split())}"


def main(description: Mapping[str, Any]) -> None:
    """Load, then answer until the other side closes."""
    # What a runtime prints must not come between the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    runtime = description["runtime"]
    installed = version(runtime)
    if installed is None:
        write(answers, {"missing": " or ".join(LOADERS[runtime][0])})
        return
    with tempfile.TemporaryDirectory(prefix="nbgather-") as folder:
        model = Model(description, folder)
        try:
            run = LOADERS[runtime][1](model)
        except Exception as error:
            write(answers, {"version": installed, "refused": _line(error)})
            return
        write(answers, {"version": installed})
        while True:
            try:
                _, feeds = read(sys.stdin.buffer)
            except EOFError:
                return
            try:
                results = run(feeds)
                arrays = _named(model.outputs, results)
            except Exception as error:
                write(answers, {"refused": _line(error)})
            else:
                write(answers, {}, arrays)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
