"""Which runtime takes functions of the model's own domain: a graph of one that calls another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from nbgather.onnx._build import ModelProto, TensorProto
from nbgather.onnx.runtimes import RuntimeSession
from onnx_conformance_parts.outcomes import words

DOMAIN = "nbgather"
TAKEN = "taken"


def model() -> ModelProto:
    """``y``: four times x, by a function that calls another one twice."""
    imports = [helper.make_opsetid("", 17)]
    own = [*imports, helper.make_opsetid(DOMAIN, 1)]
    twice = helper.make_node("Add", ["a", "a"], ["b"])
    calls = [
        helper.make_node("Twice", [a], [b], domain=DOMAIN) for a, b in (("a", "two"), ("two", "b"))
    ]
    port = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Fourfold", ["x"], ["y"], domain=DOMAIN)],
        "fourfold",
        [port("x", TensorProto.FLOAT, ["N"])],
        [port("y", TensorProto.FLOAT, ["N"])],
    )
    made: ModelProto = helper.make_model(graph, opset_imports=own, ir_version=8)
    made.functions.extend(
        [
            helper.make_function(DOMAIN, "Twice", ["a"], ["b"], [twice], imports),
            helper.make_function(DOMAIN, "Fourfold", ["a"], ["b"], calls, own),
        ]
    )
    return made


def case() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs, and the outputs that they have."""
    x = np.arange(5, dtype=np.float32)
    return {"x": x}, {"y": 4 * x}


def run(runtime: str, options: Mapping[str, Any], python: Path) -> str:
    """``taken``, or the runtime's error."""
    feeds, expected = case()
    try:
        with RuntimeSession(
            model(), runtime, python=python, options=options, timeout=120.0
        ) as session:
            got = session.run(feeds)["y"]
    except (RuntimeError, ValueError) as error:
        return f"refused: {words(str(error).rpartition('Error: ')[2])}"
    return TAKEN if np.array_equal(got, expected["y"]) else "**WRONG**"
