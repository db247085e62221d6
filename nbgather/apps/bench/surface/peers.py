"""Sessions of onnxruntime and compiled functions of JAX, as their users have them: warm."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from nbgather.apps.bench.contest import Call
from nbgather.apps.bench.operands import installed, onnx_session

#: What GatherElements and its like exist for; the others are no peers.
ONNX_DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8")


def jax_call(function: Callable[..., Any], *operands: np.ndarray) -> Call:
    """A function of JAX, compiled, on operands that are JAX's already."""
    import jax

    compiled = jax.jit(function)
    arrays = [jax.numpy.asarray(operand) for operand in operands]
    return lambda: jax.block_until_ready(compiled(*arrays))


def tensors(*operands: np.ndarray) -> list[Any]:
    """The same memory as torch's tensors."""
    import torch

    return [torch.from_numpy(operand) for operand in operands]


@functools.cache
def _session(operator: str, dtypes: tuple[str, ...], ranks: tuple[int, ...], options: tuple) -> Any:
    from onnx import helper

    types = [helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in dtypes]
    inputs = [
        helper.make_tensor_value_info(f"i{k}", types[k], [f"{k}_{d}" for d in range(rank)])
        for k, rank in enumerate(ranks[:-1])
    ]
    output = helper.make_tensor_value_info("out", types[0], [f"o{d}" for d in range(ranks[-1])])
    node = helper.make_node(operator, [i.name for i in inputs], ["out"], **dict(options))
    model = helper.make_model(
        helper.make_graph([node], operator, inputs, [output]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    return onnx_session(model)


def onnx_calls(
    operator: str, operands: tuple[np.ndarray, ...], out: np.ndarray, **options: Any
) -> dict[str, Call]:
    """One operator under onnxruntime, fresh and into memory that is bound to its output."""
    if not installed("onnxruntime") or operands[0].dtype.name not in ONNX_DTYPES:
        return {}
    dtypes = tuple(operand.dtype.name for operand in operands)
    ranks = (*(operand.ndim for operand in operands), out.ndim)
    session = _session(operator, dtypes, ranks, tuple(options.items()))
    feeds = {f"i{k}": operand for k, operand in enumerate(operands)}
    binding = session.io_binding()
    for name, operand in feeds.items():
        binding.bind_cpu_input(name, operand)
    binding.bind_output("out", "cpu", 0, out.dtype, out.shape, out.ctypes.data)

    def into() -> np.ndarray:
        session.run_with_iobinding(binding)
        return out

    return {"onnxruntime": lambda: session.run(None, feeds)[0], "onnxruntime out=": into}
