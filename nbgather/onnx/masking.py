"""Token masking as a model: scores, the count that stays, the ranks, the visible tokens."""

from __future__ import annotations

import math
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
from nbgather.onnx._counts import kept_nodes, whole_part
from nbgather.onnx._limbs import one_number
from nbgather.onnx._nodes import GATHERS, PAPER, Nodes, check_choice, refuse, take_rows
from nbgather.onnx._noise import (
    OLDEST_SEEDED_OPSET,
    PHILOX_PAPER,
    Source,
    checked_source,
    seeded_bits,
    word_source,
)
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
    seed_words: bool = False,
    optional_epoch: bool = False,
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
    - ``noise`` `[N, L]`, or for ``noise="seed"``: ``seed``, ``sample_ids`` `[N]`, without x
      ``num_tokens``, and ``epoch``, all int64 and 0 to 2**31 - 1. With ``seed_words`` they are
      ``seed_words`` `[2]`, ``sample_id_words`` `[N, 2]`, both with the low word first,
      ``num_tokens`` and ``epoch_word``, words of 32 bits in int32;
    - ``mask_ratio`` float64 `[]`, only with ``ratio_input``.

    ``seed``, ``num_tokens``, ``epoch`` and ``epoch_word`` are scalars or `[1]`.

    Outputs: ``x_masked`` `[N, K, D]` (only ``with_x``), the *visible* tokens in the order of their
    rank; ``mask`` float32 `[N, L]`, 0 keep, 1 remove; ``ids_restore`` int64 `[N, L]`; on request
    ``ids_keep`` int64 `[N, K]`. K is ``int(L * (1 - mask_ratio))`` in float64.

    The order is that of ``torch.argsort(stable=True)``: of equal scores the lower token comes
    first, -0 equals 0, NaN comes last, after +inf. N, L and D are dynamic, 0 included. Sizes of x
    and noise (or sample_ids) that differ, and a seed, id or epoch out of range, fail in the graph.

    Parameters
    ----------
    mask_ratio : float
        The part to remove, 0 to 1. Not used with ``ratio_input``.
    noise : {"input", "seed"}
        Scores as an input, or drawn as :func:`nbgather.token_noise` draws them.
    seed_words : bool
        Take seeds, ids and epochs as words of 32 bits: all of them that there are, on runtimes
        that narrow int64 too. ``numpy.array([seed]).view(numpy.int32)`` are a seed's words.
    optional_epoch : bool
        Give the epoch a default of 0, so that it may be left out. It is for onnxruntime outside of
        JavaScript: onnxruntime-node ignores an input that has a default, onnxruntime-web and
        OpenVINO refuse it, and tools that simplify a model take it away.
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
    No tensor is float64 but those that were asked for (``dtype``, ``noise_dtype``,
    ``ratio_input``), and no integer leaves 32 bits, so that runtimes without 64-bit numbers
    give the same. For that L is limited: to what the metadata call ``longest``, which is at least
    48,000 for any ratio, and 2**31 - 1 over the numerator for a simple fraction. A longer sample
    fails in the graph.

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
    if seed_words and not seeded:
        raise ValueError("seed_words is for noise='seed'")
    if optional_epoch and not seeded:
        raise ValueError("optional_epoch is for noise='seed'")
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
        seed_inputs(g, seed_words, with_x, optional_epoch)
    else:
        g.input("noise", noise_type, ["N", "L"], "Scores: the lowest stay.")
    if ratio_input:
        g.input("mask_ratio", "float64", [], "The part to remove, 0 to 1.")

    mask_nodes(
        g,
        with_x=with_x,
        noise_type=None if seeded else noise_type,
        source=seed_source(g, seed_words) if seeded else None,
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
    if not ratio_input:
        metadata["longest"] = str(whole_part(1 - ratio).limit)
    if seeded:
        metadata["noise"] = f"Philox4x32-10, {PHILOX_PAPER}"
        metadata["seed_bits"] = "64" if seed_words else "31"
    return g.finish(metadata)


def seed_inputs(g: GraphBuilder, words: bool, with_x: bool, optional_epoch: bool) -> None:
    """Declare what noise is drawn by.

    onnxruntime takes `[1]` too where a scalar is declared, and the graph is right for both.
    """
    if words:
        g.input("seed_words", "int32", [2], "The 64 bits of Philox's key, the low word first.")
        g.input("sample_id_words", "int32", ["N", 2], "The samples' ids, the low word first.")
    else:
        g.input("seed", "int64", [], "Philox's key, 0 to 2**31 - 1: a scalar or [1].")
        g.input("sample_ids", "int64", ["N"], "The samples' ids in the dataset, 0 to 2**31 - 1.")
    if not with_x:
        g.input("num_tokens", "int64", [], "L: a scalar or [1].")
    name, dtype, limits = ("epoch_word", "int32", "32 bits") if words else (
        "epoch", "int64", "0 to 2**31 - 1"
    )  # fmt: skip
    default = np.zeros((), dtype) if optional_epoch else None
    g.input(name, dtype, [], f"{limits}: another epoch, another mask. A scalar or [1].", default)


def seed_source(g: GraphBuilder, words: bool) -> Source:
    """The words of what was declared."""
    return word_source(g) if words else checked_source(g)


def mask_nodes(
    g: Nodes,
    *,
    with_x: bool,
    noise_type: str | None,
    source: Source | None,
    ratio: float | None,
    gather: str,
    ids_keep: bool,
) -> None:
    """The nodes of a masking, from ``x``, ``noise`` or what it is drawn by, and the ratio."""
    given = "noise" if source is None else source.ids[0]
    grid, length, differ = _token_grid(g, given, with_x=with_x, seeded=source is not None)
    scores = "noise" if source is None else seeded_bits(g, length, source)
    count, faults = _keep_count(g, length, ratio)
    rank_nodes(
        g,
        scores,
        noise_type,
        grid=grid,
        length=length,
        checked=_checked(g, length, differ, faults),
        count=count,
        ids_keep=with_x or ids_keep,
    )
    if with_x:
        take_rows(g, "x", "ids_keep", "x_masked", gather, "The visible tokens.")


def _token_grid(g: Nodes, given: str, *, with_x: bool, seeded: bool) -> tuple[str, str, str | None]:
    """[N, L], L as [1], and with x whether what was given has other sizes than x."""
    sizes = g.op("Shape", [given], "given", "[N] or [N, L] given.")
    if not with_x:
        grid = sizes
        if seeded:
            tokens = one_number(g, "num_tokens")
            grid = g.op("Concat", [sizes, tokens], "grid", "[N, L].", axis=0)
        length = g.op("Gather", [grid, g.int64([1])], "length", "L as [1].", axis=0)
        return grid, length, None
    shape = g.op("Shape", ["x"], "x_shape", "[N, L, D].")
    grid = g.op("Slice", [shape, g.int64([0]), g.int64([2])], "grid", "[N, L].")
    expected = grid
    if seeded:
        expected = g.op("Gather", [shape, g.int64([0])], "batch", "N of x as [1].", axis=0)
    same = g.op("Equal", [sizes, expected], "sizes_same", "Are the sizes given those of x?")
    differ = g.op("Not", [same], "sizes_differ", "Are they not?")
    length = g.op("Gather", [grid, g.int64([1])], "length", "L as [1].", axis=0)
    return grid, length, differ


def _checked(g: Nodes, length: str, differ: str | None, faults: list[str]) -> str:
    """L as [1] after the checks.

    The ranking depends on it, and so on them: with a noise of other sizes than x some operators
    give something, and others end the process.
    """
    # What the keys of the ranking are below. The two agree unless integers are too narrow for it.
    square = g.op("Mul", [length, length], "square", "L * L.")
    large = g.op("Greater", [square, g.int64([2**31 - 1])], "square_large", "Is it 2**31?")
    root = g.int64([math.isqrt(2**31 - 1)])
    longer = g.op("Greater", [length, root], "length_large", "Should it be?")
    narrow = g.op("Xor", [large, longer], "square_narrowed", "Was it narrowed?")
    wrong = [narrow, *faults] if differ is None else [differ, narrow, *faults]
    every = g.op("Concat", wrong, "faults", "What is wrong.", axis=0)
    doc = "Fails unless the sizes given are those of x, and integers hold L * L and count K."
    zero = refuse(g, every, "sizes_checked", doc)
    return g.op("Add", [length, zero], "length_checked", "L as [1], checked.")


class _Length:
    """L in a graph, with the operations of :func:`kept_tokens`: its product with a fixed part."""

    def __init__(self, g: Nodes, name: str, part: float = 1.0) -> None:
        self.g, self.name, self.part = g, name, part

    def __mul__(self, part: float) -> _Length:
        return _Length(self.g, self.name, part)

    def __trunc__(self) -> tuple[str, list[str]]:
        return kept_nodes(self.g, self.name, whole_part(self.part))


class _Float64:
    """A float64 of a graph, for a ratio that is an input."""

    def __init__(self, g: Nodes, name: str) -> None:
        self.g, self.name = g, name

    def __rsub__(self, number: int) -> _Float64:
        """``1 - mask_ratio``."""
        minuend = self.g.constant(np.float64(number))
        return _Float64(
            self.g, self.g.op("Sub", [minuend, self.name], "keep_part", "1 - mask_ratio.")
        )

    def __mul__(self, part: _Float64) -> _Float64:
        """``L * part``, clipped to 0 and L: the part is not checked."""
        g = self.g
        product = g.op("Mul", [self.name, part.name], "keep_any", "L * (1 - mask_ratio).")
        low = g.op("Max", [product, g.constant(np.float64(0))], "keep_above_0", "Not below 0.")
        return _Float64(g, g.op("Min", [low, self.name], "keep_f64", "Not above L."))

    def __trunc__(self) -> tuple[str, list[str]]:
        """The value truncated to int64."""
        doc = "K: truncated, as int() does."
        return self.g.op("Cast", [self.name], "keep_count", doc, to=TensorProto.INT64), []


def _keep_count(g: Nodes, length: str, ratio: float | None) -> tuple[str, list[str]]:
    """K as [1], by a constant ratio or by the input ``mask_ratio``; and what may be wrong."""
    if ratio is not None:
        kept: tuple[str, list[str]] = kept_tokens(_Length(g, length), ratio)
        return kept
    wide = g.op("Cast", [length], "length_f64", "L in float64.", to=TensorProto.DOUBLE)
    kept = kept_tokens(_Float64(g, wide), _Float64(g, one_number(g, "mask_ratio")))
    return kept
