"""The nodes that rank scores as ``torch.argsort(stable=True)`` does."""

from __future__ import annotations

import numpy as np

from nbgather.onnx._build import TensorProto
from nbgather.onnx._nodes import Nodes

__all__ = ["rank_nodes"]


def rank_nodes(
    g: Nodes,
    scores: str,
    noise_type: str | None,
    *,
    grid: str,
    length: str,
    checked: str,
    count: str,
    ids_keep: bool,
) -> None:
    """``ids_restore``, ``mask`` and ``ids_keep`` of scores; ``count`` is K as [1].

    ``checked`` is ``length`` where all sizes agree, and fails where they do not. Only the ranking
    depends on it, so that shape inference can follow ``length`` from x everywhere else.
    """
    ids_shuffle = _argsort(g, scores, noise_type, checked)
    restore = _inverse(g, ids_shuffle, grid, length)
    removed = g.op("GreaterOrEqual", [restore, count], "removed", "Is the rank not below K?")
    g.op("Cast", [removed], "mask", "0 keep, 1 remove.", to=TensorProto.FLOAT)
    if ids_keep:
        g.op(
            "Slice",
            [ids_shuffle, g.int64([0]), count, g.int64([1])],
            "ids_keep",
            "The first K of the ranked tokens.",
        )


def _argsort(g: Nodes, scores: str, dtype: str | None, length: str) -> str:
    """``ids_shuffle``: the stable ascending argsort of the scores, with NaN after +inf.

    Only some onnxruntimes put NaN last in TopK, so TopK gets none: NaN becomes +inf, and +inf
    before that a number above every finite score. Scores narrower than float64 are widened to it,
    which has such a number. Scores of float64 have none, and a second stable sort moves their NaN
    to the end.

    Without a ``dtype`` the scores are integers below 2**24, which float32 holds exactly. They stay
    integers up to TopK, since tools that quantise a model round every product and padding of
    floats to 8 bits.

    Before onnxruntime 1.31.1 TopK of an empty batch ends the process: one row is added before it
    and removed after it.
    """
    is_nan = None
    if dtype is not None and dtype != "float64":
        scores = g.op("Cast", [scores], "scores", "Widened: exact.", to=TensorProto.DOUBLE)
    scores = g.op("Pad", [scores, g.int64([0, 0, 1, 0])], "scores_padded", "One row more.")
    if dtype is not None:
        keys = scores
        is_nan = g.op("IsNaN", [scores], "is_nan", "Where the score is NaN.")
        if dtype != "float64":
            above = g.constant(np.float64(2.0**1000))
            keys = g.op("Min", [scores, above], "finite", "+inf made finite, still the largest.")
        infinity = g.constant(np.float64(np.inf))
        scores = g.op("Where", [is_nan, infinity, keys], "keys", "NaN made +inf.")
    else:
        scores = g.op("Cast", [scores], "keys", "Exact in 24 bits.", to=TensorProto.FLOAT)
    ids = _topk(g, scores, length, "ids_padded", "Tokens by rank, ties stable.")
    if is_nan is not None and dtype == "float64":
        flags = g.op("Cast", [is_nan], "nan_flags", "1 for NaN.", to=TensorProto.FLOAT)
        ranked = g.op("GatherElements", [flags, ids], "nan_ranked", "The flags by rank.", axis=1)
        behind = _topk(g, ranked, length, "nan_behind", "A stable sort of the flags.")
        ids = g.op("GatherElements", [ids, behind], "ids_nan_last", "NaN behind +inf.", axis=1)
    bounds = [g.int64([0]), g.int64([-1]), g.int64([0])]
    return g.op("Slice", [ids, *bounds], "ids_shuffle", "Without the row more.")


def _topk(g: Nodes, scores: str, length: str, output: str, doc: str) -> str:
    """A stable ascending argsort: TopK puts the lower position first among equals."""
    outputs = [f"{output}_sorted", output]
    attributes = {"axis": 1, "largest": 0, "sorted": 1}
    _, order = g.ops("TopK", [scores, length], outputs, doc, name=output, **attributes)
    return order


def _inverse(g: Nodes, ids_shuffle: str, grid: str, length: str) -> str:
    """``ids_restore``: each token's rank, the inverse of the permutation."""
    scalar = g.op("Squeeze", [length, g.int64([0])], "length_scalar", "L as a scalar.")
    ranks = g.op("Range", [g.int64(0), scalar, g.int64(1)], "ranks", "0 to L-1.")
    every = g.op("Expand", [ranks, grid], "ranks_of_all", "0 to L-1 for each sample.")
    doc = "The rank of each token."
    return g.op("ScatterElements", [ids_shuffle, ids_shuffle, every], "ids_restore", doc, axis=1)
