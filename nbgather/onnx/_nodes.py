"""Groups of nodes that several graphs share, and what they are written with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nbgather.onnx._build import TensorProto

__all__ = ["GATHERS", "PAPER", "Nodes", "any_of", "check_choice", "refuse", "take_rows"]

PAPER = "He et al., Masked Autoencoders Are Scalable Vision Learners, arXiv 2111.06377"

#: The operators that can take rows.
GATHERS = ("elements", "nd")


class Nodes(Protocol):
    """What graphs are written with.

    A :class:`~nbgather.onnx._build.GraphBuilder` for a model of its own, or onnxscript's operators
    for a part of what torch exports. Values of the graph go by their names.
    """

    def constant(self, value: np.ndarray | np.generic) -> Any:
        """A constant, as an input of nodes."""

    def int64(self, value: int | Sequence[int]) -> Any:
        """An int64 constant: 0-d for a number, 1-d for a list."""

    def op(self, kind: str, inputs: Sequence[Any], output: str, doc: str, **attributes: Any) -> str:
        """Add a node with one output; the output's name."""

    def ops(
        self,
        kind: str,
        inputs: Sequence[Any],
        outputs: Sequence[str],
        doc: str,
        *,
        name: str,
        **attributes: Any,
    ) -> list[str]:
        """Add a node with several outputs; their names."""


def check_choice(value: Any, what: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}: it must be one of {', '.join(map(repr, allowed))}")


def refuse(g: Nodes, faults: str, output: str, doc: str) -> str:
    """0 as [1], or a graph that fails where any of ``faults`` holds.

    A range of 2 + faults numbers is added to two: sizes that do not fit fail in every runtime. An
    index out of bounds would not do, nor a Reshape: OpenVINO gives 0 for it, or leaves it out.
    """
    ones = g.op("Cast", [faults], f"{output}_ones", "1 for a fault.", to=TensorProto.INT64)
    count = g.op("ReduceSum", [ones], f"{output}_count", "How many faults.", keepdims=0)
    stop = g.op("Add", [count, g.int64(2)], f"{output}_stop", "2 if there is none.")
    numbers = g.op("Range", [g.int64(0), stop, g.int64(1)], f"{output}_range", "0 and 1, or more.")
    pair = g.op("Add", [numbers, g.int64([0, -1])], output, doc)
    return g.op("Gather", [pair, g.int64([0])], f"{output}_zero", "0 as [1].", axis=0)


def any_of(g: Nodes, flags: str, output: str) -> str:
    """Whether any of a plane of flags is true, as a scalar; false where the plane is empty.

    By a maximum in 4 bytes: onnxruntime finds it faster than a sum, and MNN has none in one byte.
    There is none of an empty plane, so a column of false goes before it, and a row.
    """
    ones = g.op("Cast", [flags], f"{output}_ones", "1 for each.", to=TensorProto.INT32)
    some = g.op("Pad", [ones, g.int64([1, 1, 0, 0])], f"{output}_padded", "Never empty.")
    most = g.op("ReduceMax", [some], f"{output}_most", "1 if there is any.", keepdims=0)
    return g.op("Cast", [most], output, "Is there any?", to=TensorProto.BOOL)


def take_rows(g: Nodes, rows: str, ids: str, output: str, gather: str, doc: str) -> None:
    """``output[n, k] = rows[n, ids[n, k]]``; the ids are below 2**31."""
    if gather == "nd":
        column = g.op("Unsqueeze", [ids, g.int64([2])], f"{output}_ids", "ids as [N, K, 1].")
        g.op("GatherND", [rows, column], output, doc, batch_dims=1)
        return
    # GatherElements reads an index for each item, which is most of its traffic: int32 halves it.
    narrow = g.op("Cast", [ids], f"{output}_ids32", "ids in 4 bytes.", to=TensorProto.INT32)
    column = g.op("Unsqueeze", [narrow, g.int64([2])], f"{output}_ids", "ids as [N, K, 1].")
    shape = g.op("Shape", [rows], f"{output}_from", "The shape of what is gathered from.")
    width = g.op("Gather", [shape, g.int64(2)], f"{output}_width", "D.", axis=0)
    # A sum is faster than Expand on onnxruntime. Of zeros that no runtime takes for a constant:
    # OpenVINO and tract leave such a sum, or a product with ones, out, and its new sizes too.
    places = g.op("Range", [g.int64(0), width, g.int64(1)], f"{output}_places", "0 to D-1.")
    narrow = g.op("Cast", [places], f"{output}_places32", "In 4 bytes.", to=TensorProto.INT32)
    zeros = g.op("Min", [narrow, g.constant(np.int32(0))], f"{output}_zeros", "D times 0.")
    indices = g.op("Add", [column, zeros], f"{output}_indices", "Each id D times.")
    g.op("GatherElements", [rows, indices], output, doc, axis=1)
