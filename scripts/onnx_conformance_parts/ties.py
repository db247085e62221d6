"""Which runtime keeps the order of equals in TopK: a graph of that operator alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbgather.onnx._build import GraphBuilder, ModelProto
from nbgather.onnx.runtimes import RuntimeSession
from onnx_conformance_parts.outcomes import words

DTYPES = ("float32", "int32", "int64", "float64")
LENGTHS = (*range(2, 33), 63, 64, 65, 127, 128, 129, 196, 197, 255, 256, 257, 300, 512, 1000, 1568)


def model(dtype: str) -> ModelProto:
    """``order``: the ascending order of x along its rows, as TopK has it."""
    g = GraphBuilder("order", "TopK alone.", opset=17, ir_version=8)
    g.input("x", dtype, ["N", "L"], "Keys.")
    shape = g.op("Shape", ["x"], "shape", "[N, L].")
    length = g.op("Gather", [shape, g.int64([1])], "length", "L as [1].", axis=0)
    attributes = {"axis": 1, "largest": 0, "sorted": 1}
    g.ops("TopK", ["x", length], ["keys", "order"], "All.", name="order", **attributes)
    g.output("order", "int64", ["N", "L"], "The order.")
    return g.finish({})


def keys(length: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys with many equals, and their stable order."""
    x = np.random.default_rng(length).integers(0, 4, (3, length)).astype(dtype)
    return x, np.argsort(x, 1, kind="stable")


def run(runtime: str, options: Mapping[str, Any], python: Path) -> dict[str, str]:
    """For each dtype: ``stable``, ``not stable from L = ...`` or the error."""
    answers = {}
    for dtype in DTYPES:
        try:
            with RuntimeSession(
                model(dtype), runtime, python=python, options=options, timeout=120.0
            ) as session:
                answers[dtype] = _first_unstable(session, dtype)
        except (RuntimeError, ValueError) as error:
            answers[dtype] = f"refused: {words(str(error).rpartition('Error: ')[2])}"
    return answers


def _first_unstable(session: RuntimeSession, dtype: str) -> str:
    for length in LENGTHS:
        x, want = keys(length, dtype)
        got = session.run({"x": x})["order"]
        if not np.array_equal(got, want):
            sorted_still = np.array_equal(*(np.take_along_axis(x, o, 1) for o in (got, want)))
            return f"{'not stable' if sorted_still else 'WRONG'} from L = {length}"
    return "stable"
