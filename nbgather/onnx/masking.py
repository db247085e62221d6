"""Token masking as a model: scores, the count that stays, the ranks, the visible tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.onnx._build import (
    NOISE_TYPES,
    GraphBuilder,
    ModelProto,
    TensorProto,
    check_versions,
    dtype_name,
)
from nbgather.onnx._nodes import GATHERS, PAPER, Nodes, check_choice, refuse, take_rows
from nbgather.onnx._noise import OLDEST_SEEDED_OPSET, PHILOX_PAPER, seeded_bits
from nbgather.onnx._ranking import rank_nodes
from nbgather.operations import keep
from nbgather.operations.base import FLOAT32, Spec
from nbgather.operations.indexing import GatherTokens
from nbgather.operations.keep import Keep, kept_tokens
from nbgather.operations.tokens import ranks

__all__ = ["masking_model"]

_NOISES = ("input", "seed")


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
    >>> result = run(masking_model(0.5), x=x, noise=noise)
    >>> result["x_masked"].tolist(), result["mask"].tolist(), result["ids_restore"].tolist()
    ([[[2.0, 3.0], [6.0, 7.0]]], [[1.0, 0.0, 1.0, 0.0]], [[2, 0, 3, 1]])
    """
    ratio = keep.ratio(mask_ratio)
    check_choice(noise, "noise", _NOISES)
    check_choice(gather, "gather", GATHERS)
    x_type = dtype_name(dtype, "dtype")
    noise_type = dtype_name(noise_dtype, "noise_dtype", NOISE_TYPES)
    seeded = noise == "seed"
    if opset is None:
        opset = OLDEST_SEEDED_OPSET if seeded else 17
    check_versions(opset, ir_version, *([OLDEST_SEEDED_OPSET] if seeded else []))
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
    # The operations' own rules, on the names of sizes.
    kept, restore, mask = ranks(Keep(number="K"), "N", "L", Spec(("N", "L"), (), FLOAT32))
    if with_x:
        shape = list(GatherTokens().shape(("N", "L", "D"), kept.shape))
        g.output("x_masked", x_type, shape, "The visible tokens, lowest score first.")
    g.output("mask", mask.dtype.name, list(mask.shape), "0 keep, 1 remove.")
    g.output("ids_restore", restore.dtype.name, list(restore.shape), "The rank of each token.")
    if ids_keep:
        text = "The kept tokens, lowest score first."
        g.output("ids_keep", kept.dtype.name, list(kept.shape), text)
    metadata = {"mask_ratio": "input" if ratio_input else repr(ratio), "source": PAPER}
    return g.finish(metadata | ({"noise": f"Philox4x32-10, {PHILOX_PAPER}"} if seeded else {}))


def mask_nodes(
    g: Nodes,
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
    rank_nodes(
        g,
        scores,
        noise_type,
        grid=grid,
        length=length,
        checked=checked,
        count=count,
        ids_keep=with_x or ids_keep,
    )
    if with_x:
        take_rows(g, "x", "ids_keep", "x_masked", gather, "The visible tokens.")


def _token_grid(g: Nodes, with_x: bool, seeded: bool) -> tuple[str, str, str]:
    """[N, L], L as [1], and with x the same L after the check that all inputs have x's sizes.

    The ranking depends on the checked L, and so on the check: without it some operators take a
    noise of other sizes, and others end the process.
    """
    sizes = g.op("Shape", ["sample_ids" if seeded else "noise"], "given", "[N] or [N, L] given.")
    if not with_x:
        grid = sizes
        if seeded:
            tokens = g.op("Unsqueeze", ["num_tokens", g.int64([0])], "tokens", "L as [1].")
            grid = g.op("Concat", [sizes, tokens], "grid", "[N, L].", axis=0)
        length = g.op("Gather", [grid, g.int64([1])], "length", "L as [1].", axis=0)
        return grid, length, length
    shape = g.op("Shape", ["x"], "x_shape", "[N, L, D].")
    grid = g.op("Slice", [shape, g.int64([0]), g.int64([2])], "grid", "[N, L].")
    expected = grid
    if seeded:
        expected = g.op("Gather", [shape, g.int64([0])], "batch", "N of x as [1].", axis=0)
    same = g.op("Equal", [sizes, expected], "sizes_same", "Are the sizes given those of x?")
    differ = g.op("Not", [same], "sizes_differ", "Are they not?")
    zero = refuse(g, differ, "sizes_checked", "Fails unless the sizes given are those of x.")
    length = g.op("Gather", [grid, g.int64([1])], "length", "L as [1].", axis=0)
    return grid, length, g.op("Add", [length, zero], "length_checked", "L as [1], checked.")


class _Float64:
    """A float64 of a graph, with the three operations of :func:`kept_tokens` as nodes."""

    def __init__(self, g: Nodes, name: str) -> None:
        self.g, self.name = g, name

    def __rsub__(self, number: int) -> _Float64:
        """``1 - mask_ratio``, of a ratio that is an input."""
        g = self.g
        minuend = g.constant(np.float64(number))
        return _Float64(g, g.op("Sub", [minuend, self.name], "keep_part", "1 - mask_ratio."))

    def __mul__(self, part: float | _Float64) -> _Float64:
        """``L * part``.

        A part that is a value of the graph is not checked: its product is clipped to 0 and L.
        """
        g, doc = self.g, "L * (1 - mask_ratio)."
        if not isinstance(part, _Float64):
            factor = g.constant(np.float64(part))
            return _Float64(g, g.op("Mul", [self.name, factor], "keep_f64", doc))
        product = g.op("Mul", [self.name, part.name], "keep_any", doc)
        zero = g.constant(np.float64(0))
        low = g.op("Max", [product, zero], "keep_above_0", "Not below 0.")
        return _Float64(g, g.op("Min", [low, self.name], "keep_f64", "Not above L."))

    def __trunc__(self) -> str:
        """The name of the value truncated to int64."""
        doc = "K: truncated, as int() does."
        return self.g.op("Cast", [self.name], "keep_count", doc, to=TensorProto.INT64)


def _keep_count(g: Nodes, length: str, ratio: float | None) -> str:
    """K as [1], by a constant ratio or by the input ``mask_ratio``."""
    wide = g.op("Cast", [length], "length_f64", "L in float64.", to=TensorProto.DOUBLE)
    removed = _Float64(g, "mask_ratio") if ratio is None else ratio
    count: str = kept_tokens(_Float64(g, wide), removed)
    return count
