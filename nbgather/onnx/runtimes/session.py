"""A model on any runtime, in a process of its own: a runtime that crashes takes nothing with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from nbgather.onnx import loading
from nbgather.onnx._build import TENSOR_TYPES, ModelProto, onnx, to_bytes
from nbgather.onnx.runner import Port
from nbgather.onnx.runtimes import child

__all__ = ["RUNTIMES", "RuntimeSession", "check_runtime"]

#: The runtimes that a model can be verified on.
RUNTIMES = tuple(child.LOADERS)

_DTYPES = {number: name for name, number in TENSOR_TYPES.items()}


class RuntimeSession:
    """A model on a runtime, in a process of its own that runs until :meth:`close`.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        The model.
    runtime : str
        One of ``RUNTIMES``.
    python : path, optional
        The interpreter of the environment that has the runtime; by default this one.
    options : mapping of str to object, optional
        What the runtime's loader in ``child`` takes.
    timeout : float
        Seconds that loading, or one run, may take.

    Attributes
    ----------
    inputs, outputs : tuple of Port
    optional : tuple of Port
        Inputs that have a default.
    metadata : dict of str to str
        The model's ``metadata_props``.
    label : str
        The runtime and its version.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ImportError
        The runtime is not installed.
    TypeError
        ``model`` is no path, bytes or ModelProto.
    ValueError
        An unknown runtime; no ONNX model, or one that the runtime refuses.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.onnx import masking_model
    >>> from nbgather.onnx.runtimes import RuntimeSession
    >>> with RuntimeSession(masking_model(0.5, with_x=False), "onnx") as session:
    ...     session.run({"noise": np.array([[0.2, 0.1]], np.float32)})["mask"].tolist()
    [[1.0, 0.0]]
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | ModelProto,
        runtime: str,
        *,
        python: str | os.PathLike[str] | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float = 600.0,
    ) -> None:
        check_runtime(runtime)
        proto, self._name = loading.proto(model)
        defaults = {tensor.name for tensor in proto.graph.initializer}
        ports = [_port(value) for value in proto.graph.input]
        self.inputs = tuple(port for port in ports if port.name not in defaults)
        self.optional = tuple(port for port in ports if port.name in defaults)
        self.outputs = tuple(map(_port, proto.graph.output))
        self.metadata = {entry.key: entry.value for entry in proto.metadata_props}
        self.label = runtime
        self._runtime, self._timeout = runtime, timeout
        self._folder = tempfile.TemporaryDirectory(prefix="nbgather-")
        path = Path(self._folder.name, "model.onnx")
        path.write_bytes(to_bytes(proto))
        description = {
            "runtime": runtime, "model": str(path), "inputs": [port.name for port in ports],
            "outputs": [port.name for port in self.outputs], "options": dict(options or {}),
        }  # fmt: skip
        script = str(Path(child.__file__))
        self._command = [str(python or sys.executable), script, json.dumps(description)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model; nothing is checked but what the runtime itself checks.

        Parameters
        ----------
        feeds : mapping of str to numpy.ndarray
            Arrays by name.

        Returns
        -------
        dict of str to numpy.ndarray
            Every output by name.

        Raises
        ------
        RuntimeError
            The runtime refuses to run the model on these, takes too long, or ends its process.
        """
        if self._process is None:
            self._start()
        fields, arrays = self._ask(feeds)
        if "refused" in fields:
            raise RuntimeError(f"{self._name} failed on {self.label}: {fields['refused']}")
        return arrays

    def close(self) -> None:
        """End the process and remove its files."""
        self._stop()
        self._log.close()
        self._folder.cleanup()

    def __enter__(self) -> RuntimeSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        try:
            fields, _ = self._ask(None)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        if "missing" in fields:
            raise ImportError(
                f"the runtime {self._runtime} is not installed here:"
                f" pip install {fields['missing']}"
            )
        self.label = f"{self._runtime} {fields['version']}"
        if "refused" in fields:
            self._stop()
            raise ValueError(
                f"{self._name} is not a model that {self.label} can load: {fields['refused']}"
            )

    def _ask(self, feeds: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Hand over the feeds, if any, and wait for the answer."""
        process = self._process
        assert process is not None
        requests, answers = _pipes(process)
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._timeout, stop)
        timer.start()
        try:
            if feeds is not None:
                child.write(requests, {}, feeds)
            return child.read(answers)
        except (EOFError, OSError):
            status = process.wait()
            self._process = None
            for stream in (requests, answers):
                _close(stream)
            if late.is_set():
                reason = f"gave no answer within {self._timeout:g} s"
            else:
                reason = f"ended its process with {_ending(status)}{self._last_words()}"
            raise RuntimeError(f"{self._name} failed: {self.label} {reason}") from None
        finally:
            timer.cancel()

    def _last_words(self) -> str:
        """The last line that the process printed before it ended."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        said = [" ".join(line.split()) for line in lines if line.strip()]
        return f": {said[-1][:300]}" if said else ""

    def _stop(self) -> None:
        if self._process is not None:
            for stream in _pipes(self._process):
                _close(stream)
            self._process.kill()
            self._process.wait()
            self._process = None


def check_runtime(runtime: Any) -> None:
    """Refuse what is no runtime's name.

    Examples
    --------
    >>> check_runtime("openvino")
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime is {runtime!r}: it must be one of {', '.join(RUNTIMES)}")


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _close(stream: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # a frame that nobody read is left in it
        stream.close()


def _ending(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        return signal.Signals(-status).name
    return f"exit status {status}"


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    sizes = (
        d.dim_param or (d.dim_value if d.HasField("dim_value") else None) for d in kind.shape.dim
    )
    return Port(value.name, _DTYPES.get(kind.elem_type, "unknown"), tuple(sizes))
