"""What the rows share: random operands, a copy to compare with, sessions of onnxruntime."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from nbgather.apps.bench.contest import Call
from nbgather.kernels.cpu import launch as cpu
from nbgather.kernels.cpu import limits
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


@contextlib.contextmanager
def with_64_bits() -> Iterator[None]:
    """JAX with int64 and float64, so that nobody has an index of half the bytes."""
    if not installed("jax"):
        yield
        return
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def compiled(recipe: Callable[..., Any], *operands: Any) -> dict[str, Call]:
    """A recipe of torch's, compiled and warm; none where there is no compiler to do it."""
    import torch

    call = partial(torch.compile(recipe, dynamic=False), *operands)
    try:
        with torch.no_grad():
            call()
    except Exception as error:  # whatever a compiler that is missing or old raises
        print(f"torch.compile does not work here: {type(error).__name__}", file=sys.stderr)
        return {}
    return {"compiled": call}


def onnx_session(model: Any) -> Any:
    """A session of onnxruntime with as many threads as nbgather has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = limits.num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
