"""The models: gather, masking with given or seeded noise, and restoring.

All are flat graphs of standard operators with every size dynamic. What the operators do not check
by themselves is built so that they fail on it: a graph has no other way to refuse its input.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.onnx._build import (
    INDEX_TYPES,
    NOISE_TYPES,
    GraphBuilder,
    ModelProto,
    TensorProto,
    check_versions,
    dtype_name,
)
from nbgather.operations import checks, keep

__all__ = ["gather_model", "masking_model", "restore_model"]

PAPER = "He et al., Masked Autoencoders Are Scalable Vision Learners, arXiv 2111.06377"
PHILOX = "Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011"

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

_GATHERS = ("elements", "nd")
_NOISES = ("input", "seed")

#: Bitwise operators came with this opset.
_SEEDED_OPSET = 18


def gather_model(
    dim: int,
    rank: int = 3,
    *,
    dtype: Any = "float32",
    index_dtype: Any = "int64",
    opset: int = 17,
    ir_version: int = 8,
) -> ModelProto:
    """``torch.gather`` as one GatherElements node.

    Inputs and output bear ONNX's names: ``data`` and ``indices`` of ``rank`` dimensions, and
    ``output`` with the shape of ``indices`` and the dtype of ``data``. Every size is dynamic.
    Unlike torch, the operator counts a negative index from the end; an index out of bounds fails.

    Parameters
    ----------
    dim : int
        The dimension to gather along, ``-rank`` to ``rank - 1``.
    rank : int
        The number of dimensions, at least 1.
    dtype : dtype
        Of the data: float16, bfloat16, float32, float64, any integer, bool.
    index_dtype : dtype
        int64 or int32.
    opset, ir_version : int
        Versions to write.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    IndexError
        ``dim`` is out of range.
    TypeError
        A dtype that cannot be gathered; a number that is not whole.
    ValueError
        A rank below 1; a version out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.onnx import gather_model, run
    >>> data = np.array([[1, 2], [3, 4]], np.float32)
    >>> run(gather_model(1, 2), data=data, indices=np.array([[0, 0], [1, 0]]))["output"].tolist()
    [[1.0, 1.0], [4.0, 3.0]]
    """
    ndim = checks.integer(rank, "rank")
    if ndim < 1:
        raise ValueError(f"rank is {ndim}: it must be at least 1")
    axis = checks.dim(checks.integer(dim, "dim"), ndim)
    data_type = dtype_name(dtype, "dtype")
    index_type = dtype_name(index_dtype, "index_dtype", INDEX_TYPES)
    check_versions(opset, ir_version)
    g = GraphBuilder(
        f"gather_dim{axis}", f"torch.gather along dim {axis}.", opset=opset, ir_version=ir_version
    )
    g.input("data", data_type, [f"d{k}" for k in range(ndim)], "What is gathered from.")
    shape = [f"i{k}" for k in range(ndim)]
    g.input("indices", index_type, shape, f"Positions along dim {axis}.")
    g.op("GatherElements", ["data", "indices"], "output", "The chosen elements.", axis=axis)
    g.output("output", data_type, shape, "The chosen elements.")
    return g.finish({"dim": str(axis)})


def masking_model(
    mask_ratio: float = 0.75,
    *,
    noise: str = "input",
    gather: str = "elements",
    with_x: bool = True,
    ratio_input: bool = False,
    ids_keep: bool = False,
    dtype: Any = "float32",
    noise_dtype: Any = "float32",
    opset: int | None = None,
    ir_version: int = 8,
) -> ModelProto:
    """Token masking for masked autoencoders, the same as :func:`nbgather.random_masking`.

    Inputs, in this order:

    - ``x`` `[N, L, D]`, only ``with_x``;
    - ``noise`` `[N, L]`, or for ``noise="seed"``: ``seed`` int64 `[]`, ``sample_ids`` int64 `[N]`,
      without x ``num_tokens`` int64 `[]`, and ``epoch`` int64 `[]`, 0 to 2**32 - 1;
    - ``mask_ratio`` float64 `[]`, only with ``ratio_input``.

    Outputs: ``x_masked`` `[N, K, D]` (only ``with_x``), the *visible* tokens in the order of their
    rank; ``mask`` float32 `[N, L]`, 0 keep, 1 remove; ``ids_restore`` int64 `[N, L]`; on request
    ``ids_keep`` int64 `[N, K]`. K is ``int(L * (1 - mask_ratio))`` in float64.

    The order is that of ``torch.argsort(stable=True)``: of equal scores the lower token comes
    first, -0 equals 0, NaN comes last, after +inf. N, L and D are dynamic, 0 included. Sizes of x
    and noise (or sample_ids) that differ, and an epoch out of range, fail in the graph.

    Parameters
    ----------
    mask_ratio : float
        The part to remove, 0 to 1. Not used with ``ratio_input``.
    noise : {"input", "seed"}
        Scores as an input, or drawn as :func:`nbgather.token_noise` draws them.
    gather : {"elements", "nd"}
        The operator that takes the tokens: GatherElements, or GatherND, which copies whole rows
        and is several times faster.
    with_x : bool
        False for the mask alone.
    ratio_input : bool
        Take the ratio as an input. The graph clips K to 0 and L instead of refusing a ratio.
    ids_keep : bool
        Give ``ids_keep`` too.
    dtype : dtype
        Of x: float16, bfloat16, float32, float64, any integer, bool.
    noise_dtype : dtype
        Of the noise input: float16, bfloat16, float32 or float64.
    opset : int, optional
        17, or 18 with a seed, by default.
    ir_version : int
        Version to write.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    TypeError
        A ratio that is no number; a dtype that is not supported.
    ValueError
        A ratio outside [0, 1] or NaN; an unknown choice; a version out of range.

    Notes
    -----
    With ``gather="elements"`` L is below 2**31: the kept ids go through int32.

    Source: He et al., arXiv 2111.06377; for the seeded noise Salmon et al., SC 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.onnx import masking_model, run
    >>> x = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    >>> noise = np.array([[0.3, 0.1, 0.4, 0.2]], np.float32)
    >>> made = run(masking_model(0.5), x=x, noise=noise)
    >>> made["x_masked"].tolist(), made["mask"].tolist(), made["ids_restore"].tolist()
    ([[[2.0, 3.0], [6.0, 7.0]]], [[1.0, 0.0, 1.0, 0.0]], [[2, 0, 3, 1]])
    """
    ratio = keep.ratio(mask_ratio)
    _choice(noise, "noise", _NOISES)
    _choice(gather, "gather", _GATHERS)
    x_type = dtype_name(dtype, "dtype")
    noise_type = dtype_name(noise_dtype, "noise_dtype", NOISE_TYPES)
    seeded = noise == "seed"
    if opset is None:
        opset = _SEEDED_OPSET if seeded else 17
    check_versions(opset, ir_version, *([_SEEDED_OPSET] if seeded else []))
    g = GraphBuilder(
        "mae_seeded_masking" if seeded else "mae_masking",
        "Token masking of a masked autoencoder. In the mask 0 is keep, 1 is remove.",
        opset=opset,
        ir_version=ir_version,
    )
    if with_x:
        g.input("x", x_type, ["N", "L", "D"], "Tokens.")
    if seeded:
        g.input("seed", "int64", [], "The 64 bits of Philox's key.")
        g.input("sample_ids", "int64", ["N"], "The samples' ids in the dataset.")
        if not with_x:
            g.input("num_tokens", "int64", [], "L.")
        g.input("epoch", "int64", [], "0 to 2**32 - 1: another epoch, another mask.")
    else:
        g.input("noise", noise_type, ["N", "L"], "Scores: the lowest stay.")
    if ratio_input:
        g.input("mask_ratio", "float64", [], "The part to remove, 0 to 1.")

    mask_nodes(
        g,
        with_x=with_x,
        noise_type=None if seeded else noise_type,
        ratio=None if ratio_input else ratio,
        gather=gather,
        ids_keep=ids_keep,
    )
    if with_x:
        g.output("x_masked", x_type, ["N", "K", "D"], "The visible tokens, lowest score first.")
    g.output("mask", "float32", ["N", "L"], "0 keep, 1 remove.")
    g.output("ids_restore", "int64", ["N", "L"], "The rank of each token.")
    if ids_keep:
        g.output("ids_keep", "int64", ["N", "K"], "The kept tokens, lowest score first.")
    metadata = {"mask_ratio": "input" if ratio_input else repr(ratio), "source": PAPER}
    return g.finish(metadata | ({"noise": f"Philox4x32-10, {PHILOX}"} if seeded else {}))


def mask_nodes(
    g: GraphBuilder,
    *,
    with_x: bool,
    noise_type: str | None,
    ratio: float | None,
    gather: str,
    ids_keep: bool,
) -> None:
    """The nodes of a masking, from ``x``, ``noise`` (or a seed where it has no type) and ratio."""
    seeded = noise_type is None
    grid, length, checked = _token_grid(g, with_x, seeded)
    scores = seeded_bits(g, length) if seeded else "noise"
    count = _keep_count(g, length, ratio)
    rank_nodes(g, scores, noise_type, grid, length, checked, count, with_x or ids_keep)
    if with_x:
        take_rows(g, "x", "ids_keep", "x_masked", gather, "The visible tokens.")


def rank_nodes(
    g: GraphBuilder,
    scores: str,
    noise_type: str | None,
    grid: str,
    length: str,
    checked: str,
    count: str,
    ids_keep: bool,
) -> None:
    """``ids_restore``, ``mask`` and ``ids_keep`` of scores; ``count`` is K as [1].

    ``checked`` is ``length`` where all sizes agree, and fails where they do not. Only the ranking
    waits for it, so that whoever infers shapes can follow ``length`` from x everywhere else.
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
    >>> made = run(restore_model(), x_visible=visible, ids_restore=ids, mask_token=token)
    >>> made["x"].tolist()
    [[[0.0], [5.0], [0.0], [7.0]]]
    """
    _choice(gather, "gather", _GATHERS)
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
    g.output("x", x_type, ["N", "L", "D"], "Every token in its place.")
    return g.finish({"source": PAPER})


def restore_nodes(g: GraphBuilder, gather: str) -> None:
    """The nodes of a restoring, from ``x_visible``, ``ids_restore`` and ``mask_token`` to ``x``."""
    grid = g.op("Shape", ["ids_restore"], "grid", "[N, L].")
    x_shape = g.op("Shape", ["x_visible"], "x_shape", "[N, K, D].")
    batch = g.op("Gather", [grid, g.int64([0])], "batch", "N as [1].", axis=0)
    length = g.op("Gather", [grid, g.int64([1])], "length", "L as [1].", axis=0)
    width = g.op("Shape", ["mask_token"], "width", "D of the mask token as [1].")
    visible = g.op("Gather", [x_shape, g.int64([1])], "visible", "K as [1].", axis=0)

    # Concat alone would let differing sizes pass where one of its inputs is empty.
    sizes = g.op("Gather", [x_shape, g.int64([0, 2])], "sizes", "[N, D] of the tokens.", axis=0)
    wanted = g.op("Concat", [batch, width], "sizes_wanted", "[N, D] of the rest.", axis=0)
    same = g.op("Equal", [sizes, wanted], "sizes_same", "Are N and D the same?")
    differ = g.op("Not", [same], "sizes_differ", "Are they not?")
    too_many = g.op("Greater", [visible, length], "too_many", "Is K above L?")
    faults = g.op("Concat", [differ, too_many], "faults", "What is wrong.", axis=0)
    zero = _refuse(g, faults, "sizes_checked", "Fails if N or D differ or K is above L.")

    # Row K of each sample is the mask token.
    mask_at = g.op("Add", [visible, zero], "mask_at", "The mask token's row, K, as [1].")
    token = g.op("Unsqueeze", ["mask_token", g.int64([0, 1])], "token", "As [1, 1, D].")
    zeros = g.op("Expand", [g.int64(0), batch], "zeros", "0 for each sample.")
    # Gather, since onnxruntime has no Expand of bfloat16.
    row = g.op("Gather", [token, zeros], "mask_row", "The mask token, once a sample.", axis=0)
    rows = g.op("Concat", ["x_visible", row], "rows", "K visible tokens, then one more.", axis=1)
    negative = g.op("Less", ["ids_restore", g.int64(0)], "negative", "Is the rank below 0?")
    beyond = g.op("GreaterOrEqual", ["ids_restore", length], "beyond", "Is the rank not below L?")
    wrong = g.op("Or", [negative, beyond], "wrong", "Is it no rank at all?")
    outside = g.op("Add", [mask_at, g.int64(1)], "outside", "A row that does not exist.")
    nearest = g.op("Min", ["ids_restore", mask_at], "nearest", "Removed ranks to the mask token.")
    source = g.op("Where", [wrong, outside, nearest], "source_row", "The gather fails on outside.")
    take_rows(g, rows, source, "x", gather, "Every token in its place.")


def _choice(value: Any, what: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}: it must be one of {', '.join(map(repr, allowed))}")


def _refuse(g: GraphBuilder, faults: str, output: str, doc: str) -> str:
    """0 as [1], or a failure where any of ``faults`` holds: a vector of one 0 has no more."""
    ones = g.op("Cast", [faults], f"{output}_ones", "1 for a fault.", to=TensorProto.INT64)
    count = g.op("ReduceSum", [ones], f"{output}_count", "How many faults, as [1].", keepdims=1)
    return g.op("Gather", [g.int64([0]), count], output, doc, axis=0)


def _token_grid(g: GraphBuilder, with_x: bool, seeded: bool) -> tuple[str, str, str]:
    """[N, L], L as [1], and with x the same L after the check that everything has x's sizes.

    All ranking waits for L, and so for the check: without it a noise of other sizes passes in some
    operators, and ends the process in others.
    """
    given = g.op("Shape", ["sample_ids" if seeded else "noise"], "given", "[N] or [N, L] given.")
    if not with_x:
        grid = given
        if seeded:
            tokens = g.op("Unsqueeze", ["num_tokens", g.int64([0])], "tokens", "L as [1].")
            grid = g.op("Concat", [given, tokens], "grid", "[N, L].", axis=0)
        length = g.op("Gather", [grid, g.int64([1])], "length", "L as [1].", axis=0)
        return grid, length, length
    shape = g.op("Shape", ["x"], "x_shape", "[N, L, D].")
    grid = g.op("Slice", [shape, g.int64([0]), g.int64([2])], "grid", "[N, L].")
    wanted = grid
    if seeded:
        wanted = g.op("Gather", [shape, g.int64([0])], "batch", "N of x as [1].", axis=0)
    same = g.op("Equal", [given, wanted], "sizes_same", "Are the sizes given those of x?")
    differ = g.op("Not", [same], "sizes_differ", "Are they not?")
    zero = _refuse(g, differ, "sizes_checked", "Fails unless the sizes given are those of x.")
    length = g.op("Gather", [grid, g.int64([1])], "length", "L as [1].", axis=0)
    return grid, length, g.op("Add", [length, zero], "length_checked", "L as [1], checked.")


def _argsort(g: GraphBuilder, scores: str, dtype: str | None, length: str) -> str:
    """``ids_shuffle``: the stable ascending argsort of the scores, with NaN after +inf.

    Only some onnxruntimes put NaN last in TopK, so it never sees one. NaN becomes +inf, and +inf
    before that a number above every finite score. Narrow floats have one in float64; float64 has
    nothing wider, and there a second stable sort moves the NaN behind. Without a ``dtype`` the
    scores are integers below 2**24, which float32 holds exactly. They stay integers up to the TopK,
    since tools that quantise a model round every product and padding of floats to 8 bits.

    Before 1.31.1 TopK of an empty batch ends the process, so it never sees that either: one row
    more goes in, and comes off afterwards.
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


def _topk(g: GraphBuilder, scores: str, length: str, output: str, doc: str) -> str:
    """A stable ascending argsort: TopK puts the lower position first among equals."""
    outputs = [f"{output}_sorted", output]
    return g.ops("TopK", [scores, length], outputs, doc, name=output, axis=1, largest=0, sorted=1)[
        1
    ]


def _inverse(g: GraphBuilder, ids_shuffle: str, grid: str, length: str) -> str:
    """``ids_restore``: each token's rank, the inverse of the permutation."""
    scalar = g.op("Squeeze", [length, g.int64([0])], "length_scalar", "L as a scalar.")
    ranks = g.op("Range", [g.int64(0), scalar, g.int64(1)], "ranks", "0 to L-1.")
    every = g.op("Expand", [ranks, grid], "ranks_of_all", "0 to L-1 for each sample.")
    doc = "The rank of each token."
    return g.op("ScatterElements", [ids_shuffle, ids_shuffle, every], "ids_restore", doc, axis=1)


def _keep_count(g: GraphBuilder, length: str, ratio: float | None) -> str:
    """K as [1]: int(L * (1 - mask_ratio)). In float32 some L and ratios would give another K."""
    wide = g.op("Cast", [length], "length_f64", "L in float64.", to=TensorProto.DOUBLE)
    if ratio is None:
        one = g.constant(np.float64(1))
        part = g.op("Sub", [one, "mask_ratio"], "keep_part", "1 - mask_ratio.")
        share = g.op("Mul", [wide, part], "keep_any", "L * (1 - mask_ratio).")
        low = g.op("Max", [share, g.constant(np.float64(0))], "keep_above_0", "Not below 0.")
        keep = g.op("Min", [low, wide], "keep_f64", "Not above L.")
    else:
        part = g.constant(np.float64(1 - ratio))
        keep = g.op("Mul", [wide, part], "keep_f64", "L * (1 - mask_ratio).")
    return g.op("Cast", [keep], "keep_count", "K: truncated, as int() does.", to=TensorProto.INT64)


def take_rows(g: GraphBuilder, rows: str, ids: str, output: str, gather: str, doc: str) -> None:
    """``output[n, k] = rows[n, ids[n, k]]``; the ids are below 2**31."""
    if gather == "nd":
        column = g.op("Unsqueeze", [ids, g.int64([2])], f"{output}_ids", "ids as [N, K, 1].")
        g.op("GatherND", [rows, column], output, doc, batch_dims=1)
        return
    # An index for each item is most of what GatherElements reads: half of it will do.
    narrow = g.op("Cast", [ids], f"{output}_ids32", "ids in 4 bytes.", to=TensorProto.INT32)
    column = g.op("Unsqueeze", [narrow, g.int64([2])], f"{output}_ids", "ids as [N, K, 1].")
    shape = g.op("Shape", [rows], f"{output}_from", "The shape of what is gathered from.")
    width = g.op("Gather", [shape, g.int64([2])], f"{output}_width", "D as [1].", axis=0)
    one = g.int64([1])
    spread = g.op("Concat", [one, one, width], f"{output}_spread", "[1, 1, D].", axis=0)
    indices = g.op("Expand", [column, spread], f"{output}_indices", "Each id D times.")
    g.op("GatherElements", [rows, indices], output, doc, axis=1)


def seeded_noise(g: GraphBuilder, length: str) -> str:
    """``token_noise(seed, sample_ids, L, epoch=epoch)``: float32 [N, L]."""
    high = seeded_bits(g, length)
    number = g.op("Cast", [high], "high_float", "Exact in 24 bits.", to=TensorProto.FLOAT)
    scale = g.constant(np.float32(2.0**-24))
    return g.op("Mul", [number, scale], "noise", "In [0, 1), multiples of 2**-24.")


def seeded_bits(g: GraphBuilder, length: str) -> str:
    """The noise as whole numbers below 2**24: int64 [N, L], in the same order."""
    low, high = _halves(g, g.op("Unsqueeze", ["seed", g.int64([0])], "seed_1", "[1]."), "seed")
    key = g.op("Concat", [low, high], "key", "Philox's key, [2].", axis=0)
    ids = g.op("Unsqueeze", ["sample_ids", g.int64([0, 2])], "ids", "Ids as [1, N, 1].")
    id_low, id_high = _halves(g, ids, "ids")
    epoch, excess = _halves(
        g, g.op("Unsqueeze", ["epoch", g.int64([0])], "epoch_1", "[1]."), "epoch"
    )
    wrong = g.op("Greater", [excess, g.int64(0)], "epoch_wrong", "Does it not fit in 32 bits?")
    zero = _refuse(g, wrong, "epoch_checked", "Fails if the epoch is not 0 to 2**32 - 1.")
    epoch = g.op("Add", [epoch, zero], "epoch_word", "The epoch.")

    rounded = g.op("Add", [length, g.int64(3)], "length_rounded", "L + 3.")
    blocks = g.op("Div", [rounded, g.int64(4)], "blocks", "Q, blocks of four tokens, as [1].")
    stop = g.op("Squeeze", [blocks, g.int64([0])], "blocks_scalar", "Q as a scalar.")
    block = g.op("Range", [g.int64(0), stop, g.int64(1)], "block", "0 to Q-1.")
    samples = g.op("Shape", ["sample_ids"], "samples", "N as [1].")
    plane = g.op("Concat", [g.int64([1]), samples, blocks], "plane", "[1, N, Q].", axis=0)
    even = [
        g.op("Expand", [block, plane], "counter_0", "The block."),
        g.op("Expand", [id_high, plane], "counter_2", "The high half of the id."),
    ]
    column = g.op("Shape", [ids], "column", "[1, N, 1].")
    odd = [id_low, g.op("Expand", [epoch, column], "counter_3", "The epoch.")]
    words = philox(
        g,
        g.op("Concat", even, "counter_even", "Words 0 and 2 of each counter.", axis=0),
        g.op("Concat", odd, "counter_odd", "Words 1 and 3 of each counter.", axis=0),
        key,
    )
    four = g.op("Mul", [blocks, g.int64([4])], "words_count", "4Q as [1].")
    flat = g.op("Concat", [samples, four], "words_shape", "[N, 4Q].", axis=0)
    words = g.op("Reshape", [words, flat], "token_words", "Word w of block q: token 4q + w.")
    cut = [words, g.int64([0]), length, g.int64([1])]
    words = g.op("Slice", cut, "token_bits", "One word for each of the L tokens.")
    return g.op("Div", [words, g.int64(256)], "high_bits", "The upper 24 of 32 bits.")


def _halves(g: GraphBuilder, value: str, name: str) -> tuple[str, str]:
    """The low and high 32 bits of int64, each 0 to 2**32 - 1."""
    mask = g.int64(_MASK32)
    low = g.op("BitwiseAnd", [value, mask], f"{name}_low", "The low 32 bits.")
    rest = g.op("Sub", [value, low], f"{name}_rest", "A multiple of 2**32.")
    signed = g.op("Div", [rest, g.int64(2**32)], f"{name}_signed", "The high half, signed.")
    return low, g.op("BitwiseAnd", [signed, mask], f"{name}_high", "The high 32 bits.")


def _without_low_limb(g: GraphBuilder, value: str, output: str, doc: str) -> str:
    """``value >> 16`` of an int64 that is not negative. Casts and a shift beat a division."""
    unsigned = g.op("Cast", [value], f"{output}_in", "For the shift.", to=TensorProto.UINT64)
    sixteen = g.constant(np.uint64(16))
    doc_shift = "Without the low 16 bits."
    moved = g.op("BitShift", [unsigned, sixteen], f"{output}_out", doc_shift, direction="RIGHT")
    return g.op("Cast", [moved], output, doc, to=TensorProto.INT64)


def philox(g: GraphBuilder, even: str, odd: str, key: str) -> str:
    """Emit Philox4x32-10.

    Words are int64, 0 to 2**32 - 1. A 32 by 32 bit product is put together from 16-bit limbs, so
    that nothing exceeds 2**49: unsigned 64-bit products are missing from older onnxruntimes.

    Parameters
    ----------
    g : GraphBuilder
        At opset 18 or later.
    even, odd : str
        Words 0 and 2, and words 1 and 3, of each counter, `[2, N, Q]`. ``odd`` may have size 1
        in the last dimension.
    key : str
        `[2]`.

    Returns
    -------
    str
        The four words of each block, `[N, Q, 2, 2]`: in row-major order words 0, 1, 2, 3.
    """
    weyl = np.arange(_ROUNDS)[:, None] * np.array(_WEYL, np.int64)
    # Crosswise: word 2's product goes into words 0 and 1, word 0's into 2 and 3.
    factors = np.array(_MULTIPLIERS[::-1], np.int64).reshape(2, 1, 1)
    low_factors, high_factors = g.constant(factors & 0xFFFF), g.constant(factors >> 16)
    shift, limb = g.int64(2**16), g.int64(0xFFFF)

    sums = g.op("Add", [key, g.constant(weyl)], "key_sums", "The key of each round, [10, 2].")
    sums = g.op("BitwiseAnd", [sums, g.int64(_MASK32)], "key_words", "In 32 bits.")
    sums = g.op("Reshape", [sums, g.int64([2 * _ROUNDS, 1, 1])], "key_column", "[20, 1, 1].")
    keys = g.ops(
        "Split",
        [sums, g.int64([2] * _ROUNDS)],
        [f"key_{r}" for r in range(_ROUNDS)],
        "One key for each round, [2, 1, 1].",
        name="round_keys",
        axis=0,
    )
    for r, round_key in enumerate(keys):
        at = f"round_{r}"
        cross = g.op("Gather", [even, g.int64([1, 0])], f"{at}_cross", "Words 2 and 0.", axis=0)
        small = g.op("Mul", [cross, low_factors], f"{at}_small", "Times the low 16 bits.")
        large = g.op("Mul", [cross, high_factors], f"{at}_large", "Times the high 16 bits.")
        carry = _without_low_limb(g, small, f"{at}_carry", "What exceeds 16 bits.")
        upper = g.op("Add", [large, carry], f"{at}_upper", "The product without its low limb.")
        high = _without_low_limb(g, upper, f"{at}_high", "The product's high 32 bits.")
        second = g.op("BitwiseAnd", [upper, limb], f"{at}_second", "Its second limb.")
        second = g.op("Mul", [second, shift], f"{at}_second_up", "In its place.")
        first = g.op("BitwiseAnd", [small, limb], f"{at}_first", "Its first limb.")
        salt = g.op("BitwiseXor", [odd, round_key], f"{at}_salt", "Words 1 and 3 with the key.")
        even = g.op("BitwiseXor", [high, salt], f"{at}_even", "The new words 0 and 2.")
        odd = g.op("BitwiseOr", [second, first], f"{at}_odd", "The new words 1 and 3.")
    pair = [
        g.op("Unsqueeze", [half, g.int64([3])], f"words_{name}", "[2, N, Q, 1].")
        for name, half in (("even", even), ("odd", odd))
    ]
    words = g.op("Concat", pair, "words_pairs", "[2, N, Q, 2].", axis=3)
    return g.op("Transpose", [words], "words", "[N, Q, 2, 2].", perm=[1, 2, 0, 3])
