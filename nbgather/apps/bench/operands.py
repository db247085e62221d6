"""What the rows share: random operands, a copy to compare with, sessions of onnxruntime."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from nbgather.apps.bench.contest import Call
from nbgather.kernels.cpu import launch as cpu
from nbgather.kernels.cpu import threads
from nbgather.kernels.memory import memory_address


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


def generator() -> np.random.Generator:
    """The generator of every operand: the same numbers in every run."""
    return np.random.default_rng(0)


def floats(shape: tuple[int, ...]) -> np.ndarray:
    """Random float32, 0 to 1."""
    return generator().random(shape, np.float32)


def copy_call(nbytes: int) -> Call:
    """A call that copies so many bytes by all cores."""
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    return lambda: cpu.copy(memory_address(target), memory_address(source), nbytes)


def onnx_session(model: Any) -> Any:
    """A session of onnxruntime with as many threads as nbgather has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads.num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
