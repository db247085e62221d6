"""The nodes that rank scores as ``torch.argsort(stable=True)`` does."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbgather.onnx._build import TensorProto
from nbgather.onnx._nodes import Nodes

__all__ = ["rank_nodes"]

#: Half of the largest float32; and of the largest key that TopK gets, which is the number before:
#: on WebGPU onnxruntime fills rows up with the largest, and keys that are no less are lost among
#: them. Halves, since OpenVINO makes constants fit for bfloat16 where the CPU has it.
_HALF_LARGEST = np.finfo(np.float32).max / np.float32(2)
_HALF_KEY = np.nextafter(_HALF_LARGEST, np.float32(0))

#: The end of a Slice that goes to the end.
_END = 2**31 - 1


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

    Not every runtime's TopK puts the lower of two equals first, ONNX does not say where NaN goes,
    and the largest keys are lost on WebGPU. So TopK gets +inf for NaN, and no float32 above
    twice ``_HALF_KEY``; the samples in which it found equal keys are ordered once more, by unique
    integers.

    Before onnxruntime 1.31.1 TopK of an empty batch ends the process: one row is added before it
    and removed after it. That row is always ordered once more.

    Without a ``dtype`` the scores are integers below 2**24, and stay integers. No float goes
    through an operator that quantisation rounds, as it does Pad, Where and Concat.
    """
    last = None
    if dtype is None:
        keys = g.op("Pad", [scores, g.int64([1, 0, 0, 0])], "keys", "One row more.")
    else:
        keys, last = _float_keys(g, scores, dtype)
    values, ids = _topk(g, keys, length, "ids_sorted", "Tokens by score, the added row first.")
    tied, rows = _tied_rows(g, values)
    column = g.op("Unsqueeze", [rows, g.int64([1])], "rows_column", "As [rows, 1].")
    behind = None if last is None else _behind(g, last, rows, column)
    ordered = _in_order(g, tied, ids, behind, rows, length)
    ids = g.op("ScatterND", [ids, column, ordered], "ids_stable", "All rows in order.")
    cut = [ids, g.int64([1]), g.int64([_END]), g.int64([0])]
    return g.op("Slice", cut, "ids_shuffle", "Tokens by rank, without the added row.")


class _Last(NamedTuple):
    """What tells the scores apart whose keys are equal and last.

    Attributes
    ----------
    scores : str, optional
        With +inf for NaN; None if no other score was made less for its key.
    is_nan : str
        Where NaN was.
    """

    scores: str | None
    is_nan: str


def _float_keys(g: Nodes, scores: str, dtype: str) -> tuple[str, _Last]:
    """The keys of the scores below a row of 0; and what they are made of."""
    if dtype in ("float16", "bfloat16"):
        scores = g.op("Cast", [scores], "scores", "Widened: exact.", to=TensorProto.FLOAT)
    wide = dtype == "float64"
    infinity = g.constant((np.float64 if wide else np.float32)(np.inf))
    sizes = g.op("Shape", [scores], "scores_shape", "[N, L] of the scores.")
    sizes = g.op("Add", [sizes, g.int64([1, 0])], "keys_shape", "[N + 1, L].")
    zero = g.constant((np.float64 if wide else np.float32)(0))
    frame = g.op("Expand", [zero, sizes], "keys_frame", "Nothing but 0.")
    stop = g.op("Gather", [sizes, g.int64(0)], "keys_rows", "N + 1.", axis=0)
    places = g.op("Range", [g.int64(1), stop, g.int64(1)], "keys_places", "Rows 1 to N.")
    places = g.op("Unsqueeze", [places, g.int64([1])], "keys_places_column", "As [N, 1].")
    below = g.op("ScatterND", [frame, places, scores], "scores_below", "The scores below a row.")
    # Not by Equal: MNN finds NaN equal to itself, and refuses IsNaN.
    is_nan = g.op("IsNaN", [below], "is_nan", "Where the score is NaN.")
    found = g.op("NonZero", [is_nan], "nan_indices", "Row and token of each.")
    found = g.op("Transpose", [found], "nan_places", "A row for each.", perm=[1, 0])
    sizes = g.op("Shape", [found], "nan_shape", "How many there are, and 2.")
    count = g.op("Gather", [sizes, g.int64([0])], "nan_count", "How many, as [1].", axis=0)
    fill = g.op("Expand", [infinity, count], "nan_fill", "+inf for each.")
    ordered = g.op("ScatterND", [below, found, fill], "scores_or_inf", "NaN made +inf.")
    if wide:
        return ordered, _Last(None, is_nan)
    # Of the added row, since a constant's double is a constant. By Max, whose constants keep their
    # size where a model is converted to float16.
    row = g.op(
        "GatherND", [below, g.constant(np.zeros((1, 1), np.int64))], "added_row", "[1, L] of 0."
    )
    half = g.op("Max", [row, g.constant(_HALF_KEY)], "half_limit", "Half of the largest key.")
    limit = g.op("Div", [half, g.constant(np.float32(0.5))], "limit", "The largest key.")
    keys = g.op("Min", [ordered, limit], "keys", "Less than what WebGPU fills rows up with.")
    return keys, _Last(ordered, is_nan)


def _topk(g: Nodes, keys: str, length: str, output: str, doc: str) -> tuple[str, str]:
    """The sorted keys, and the positions they came from."""
    outputs = [f"{output}_keys", output]
    attributes = {"axis": 1, "largest": 0, "sorted": 1}
    values, order = g.ops("TopK", [keys, length], outputs, doc, name=output, **attributes)
    return values, order


def _tied_rows(g: Nodes, values: str) -> tuple[str, str]:
    """Where a sorted score equals the next one; and the rows with such, the added row first."""
    axis, end = g.int64([1]), g.int64([_END])
    cut = [values, g.int64([0]), g.int64([-1]), axis]
    before = g.op("Slice", cut, "keys_before", "All but the last.")
    cut = [values, g.int64([1]), end, axis]
    after = g.op("Slice", cut, "keys_after", "All but the first.")
    tied = g.op("Equal", [before, after], "tied", "Is a score that of the next token?")
    ones = g.op("Cast", [tied], "tied_bytes", "1 if it is.", to=TensorProto.UINT8)
    ones = g.op("Pad", [ones, g.int64([0, 1, 0, 0])], "tied_padded", "A 0 first: never empty.")
    at = g.op("ArgMax", [ones], "tied_at", "Above 0 if any is 1.", axis=1, keepdims=0)
    found = g.op("NonZero", [at], "tied_indices", "The rows with equal scores, as [1, rows].")
    found = g.op("Squeeze", [found, g.int64([0])], "tied_rows", "As [rows].")
    doc = "The added row, so that there is one, and these."
    return tied, g.op("Concat", [g.int64([0]), found], "rows", doc, axis=0)


def _in_order(g: Nodes, tied: str, ids: str, behind: str | None, rows: str, length: str) -> str:
    """The ids of some rows, of equal scores the lower first, NaN last.

    Sorted once more, by unique integers: equal keys have one number, counted up along the row, and
    what was made less, +inf and NaN the next ones.
    """
    tied = g.op("Gather", [tied, rows], "again_tied", "Of these rows.", axis=0)
    ids = g.op("Gather", [ids, rows], "again_ids", "Of these rows.", axis=0)
    step = g.op("Not", [tied], "again_step", "Does another score begin?")
    step = g.op("Cast", [step], "again_step_ones", "1 where it does.", to=TensorProto.INT64)
    count = g.op("CumSum", [step, g.int64(1)], "again_steps", "Scores before the next token's.")
    # Of the ids, so that there is none where L is 0.
    cut = [ids, g.int64([0]), g.int64([1]), g.int64([1])]
    first = g.op("Slice", cut, "again_first", "The first token.")
    zero = g.op("Sub", [first, first], "again_zero", "No score is before the first token's.")
    group = g.op("Concat", [zero, count], "again_score", "Scores before this one.", axis=1)
    if behind is not None:
        behind = _taken(g, behind, ids, "again_behind_sorted", "By score.")
        group = g.op("Add", [group, behind], "again_group", "NaN behind +inf.")
    scaled = g.op("Mul", [group, length], "again_scaled", "Room for the ids.")
    key = g.op("Add", [scaled, ids], "again_keys", "Unique, below L * L.")
    _, order = _topk(g, key, length, "again_order", "The order of the order.")
    return _taken(g, ids, order, "ids_again", "Tokens by rank.")


def _behind(g: Nodes, last: _Last, rows: str, column: str) -> str:
    """How many kinds of scores of the largest key come before each, in some rows.

    None before the key itself, 1 before the largest float32, 2 before +inf, 3 before NaN.
    """
    nan = g.op("Gather", [last.is_nan, rows], "again_nan", "Of these rows.", axis=0)
    nan = g.op("Cast", [nan], "again_nan_ones", "1 for NaN.", to=TensorProto.INT64)
    if last.scores is None:
        return nan
    scores = g.op("GatherND", [last.scores, column], "again_scores", "Of these rows.")
    half = g.op("Div", [scores, g.constant(np.float32(2))], "again_half", "Half, if large.")
    bounds = g.constant(np.array([_HALF_KEY, _HALF_LARGEST]).reshape(2, 1, 1))
    above = g.op("Greater", [half, bounds], "again_above", "Above the largest key, +inf.")
    above = g.op("Cast", [above], "again_above_ones", "1 if it is.", to=TensorProto.INT64)
    above = g.op("ReduceSum", [above, g.int64([0])], "again_above_sum", "0 to 2.", keepdims=0)
    return g.op("Add", [above, nan], "again_behind", "0 to 3.")


def _taken(g: Nodes, values: str, order: str, output: str, doc: str) -> str:
    """The values of each row by an order.

    By GatherND, since onnx's reference has a GatherElements that fails on rows of more than 64; and
    reshaped, since onnxruntime's shape inference does not know its batch_dims.
    """
    column = g.op("Unsqueeze", [order, g.int64([2])], f"{output}_order", "As [rows, L, 1].")
    taken = g.op("GatherND", [values, column], f"{output}_taken", doc, batch_dims=1)
    shape = g.op("Shape", [order], f"{output}_shape", "[rows, L].")
    return g.op("Reshape", [taken, shape], output, doc)


def _inverse(g: Nodes, ids_shuffle: str, grid: str, length: str) -> str:
    """``ids_restore``: each token's rank, the inverse of the permutation."""
    scalar = g.op("Squeeze", [length, g.int64([0])], "length_scalar", "L as a scalar.")
    ranks = g.op("Range", [g.int64(0), scalar, g.int64(1)], "ranks", "0 to L-1.")
    every = g.op("Expand", [ranks, grid], "ranks_of_all", "0 to L-1 for each sample.")
    doc = "The rank of each token."
    return g.op("ScatterElements", [ids_shuffle, ids_shuffle, every], "ids_restore", doc, axis=1)
