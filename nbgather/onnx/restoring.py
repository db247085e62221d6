"""The decoder's unshuffle as a model."""

from __future__ import annotations

from typing import Any

from nbgather.onnx._build import GraphBuilder, ModelProto, check_versions, dtype_name
from nbgather.onnx._nodes import GATHERS, PAPER, Nodes, any_of, check_choice, refuse, take_rows
from nbgather.operations.tokens import RestoreTokens

__all__ = ["restore_model"]


def restore_model(
    *, gather: str = "elements", dtype: Any = "float32", opset: int = 17, ir_version: int = 8
) -> ModelProto:
    """The decoder's unshuffle, the same as :func:`nbgather.restore_tokens`.

    Inputs ``x_visible`` `[N, K, D]`, ``ids_restore`` int64 `[N, L]`, ``mask_token`` `[D]`; output
    ``x`` `[N, L, D]`: ``x_visible[n, ids_restore[n, l]]`` where that rank is below K, else
    ``mask_token``. Every size is dynamic, and K may be 0. A rank that is negative or not below L,
    K above L, and sizes that differ fail in the graph.

    Parameters
    ----------
    gather : {"elements", "nd"}
        GatherElements, or GatherND, which copies whole rows and is several times faster.
    dtype : dtype
        Of the tokens: float16, bfloat16, float32, float64, any integer, bool.
    opset, ir_version : int
        Versions to write.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    TypeError
        A dtype that is not supported; a version that is not a whole number.
    ValueError
        An unknown choice; a version out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.onnx import restore_model, run
    >>> visible = np.array([[[5.0], [7.0]]], np.float32)
    >>> ids, token = np.array([[2, 0, 3, 1]]), np.zeros(1, np.float32)
    >>> result = run(restore_model(), x_visible=visible, ids_restore=ids, mask_token=token)
    >>> result["x"].tolist()
    [[[0.0], [5.0], [0.0], [7.0]]]
    """
    check_choice(gather, "gather", GATHERS)
    x_type = dtype_name(dtype, "dtype")
    check_versions(opset, ir_version)
    g = GraphBuilder(
        "mae_restore",
        "Visible tokens back in their places, the mask token everywhere else.",
        opset=opset,
        ir_version=ir_version,
    )
    g.input("x_visible", x_type, ["N", "K", "D"], "Visible tokens in the order of their rank.")
    g.input("ids_restore", "int64", ["N", "L"], "The rank of each token.")
    g.input("mask_token", x_type, ["D"], "What stands in for a removed token.")

    restore_nodes(g, gather)
    shape = list(RestoreTokens().shape(("N", "K", "D"), ("N", "L")))
    g.output("x", x_type, shape, "Every token in its place.")
    return g.finish({"source": PAPER})


def restore_nodes(g: Nodes, gather: str) -> None:
    """The nodes of a restoring, from ``x_visible``, ``ids_restore`` and ``mask_token`` to ``x``."""
    grid = g.op("Shape", ["ids_restore"], "grid", "[N, L].")
    x_shape = g.op("Shape", ["x_visible"], "x_shape", "[N, K, D].")
    batch = g.op("Gather", [grid, g.int64([0])], "batch", "N as [1].", axis=0)
    length = g.op("Gather", [grid, g.int64([1])], "length", "L as [1].", axis=0)
    width = g.op("Shape", ["mask_token"], "width", "D of the mask token as [1].")
    visible = g.op("Gather", [x_shape, g.int64([1])], "visible", "K as [1].", axis=0)

    # Concat alone would let differing sizes pass where one of its inputs is empty.
    sizes = g.op("Gather", [x_shape, g.int64([0, 2])], "sizes", "[N, D] of the tokens.", axis=0)
    expected = g.op("Concat", [batch, width], "sizes_wanted", "[N, D] of the rest.", axis=0)
    same = g.op("Equal", [sizes, expected], "sizes_same", "Are N and D the same?")
    differ = g.op("Not", [same], "sizes_differ", "Are they not?")
    too_many = g.op("Greater", [visible, length], "too_many", "Is K above L?")
    faults = g.op("Concat", [differ, too_many], "faults", "What is wrong.", axis=0)
    no_fault = refuse(g, faults, "sizes_checked", "Fails if N or D differ or K is above L.")
    negative = g.op("Less", ["ids_restore", g.int64(0)], "negative", "Is the rank below 0?")
    beyond = g.op("GreaterOrEqual", ["ids_restore", length], "beyond", "Is the rank not below L?")
    wrong = g.op("Or", [negative, beyond], "wrong", "Is it no rank at all?")
    any_wrong = any_of(g, wrong, "any_wrong")
    no_wrong = refuse(g, any_wrong, "ranks_checked", "Fails unless all ranks are 0 to L-1.")
    zero = g.op("Add", [no_fault, no_wrong], "checked", "0 where nothing is wrong.")

    # Row K of each sample is the mask token.
    token_row = g.op("Add", [visible, zero], "mask_at", "The mask token's row, K, as [1].")
    token = g.op("Unsqueeze", ["mask_token", g.int64([0, 1])], "token", "As [1, 1, D].")
    zeros = g.op("Expand", [g.int64(0), batch], "zeros", "0 for each sample.")
    # Gather, since onnxruntime has no Expand of bfloat16.
    row = g.op("Gather", [token, zeros], "mask_row", "The mask token, once a sample.", axis=0)
    rows = g.op("Concat", ["x_visible", row], "rows", "K visible tokens, then one more.", axis=1)
    source = g.op("Min", ["ids_restore", token_row], "source_row", "Removed: the mask token's.")
    take_rows(g, rows, source, "x", gather, "Every token in its place.")
