"""The nodes that draw noise by a seed: Philox4x32-10 in operators of 64-bit integers."""

from __future__ import annotations

import numpy as np

from nbgather.onnx._build import TensorProto
from nbgather.onnx._nodes import Nodes, refuse

__all__ = ["OLDEST_SEEDED_OPSET", "PHILOX_PAPER", "philox", "seeded_bits", "seeded_noise"]

PHILOX_PAPER = "Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011"

#: The first opset with bitwise operators.
OLDEST_SEEDED_OPSET = 18

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def seeded_noise(g: Nodes, length: str) -> str:
    """``token_noise(seed, sample_ids, L, epoch=epoch)``: float32 [N, L]."""
    high = seeded_bits(g, length)
    number = g.op("Cast", [high], "high_float", "Exact in 24 bits.", to=TensorProto.FLOAT)
    scale = g.constant(np.float32(2.0**-24))
    return g.op("Mul", [number, scale], "noise", "In [0, 1), multiples of 2**-24.")


def seeded_bits(g: Nodes, length: str) -> str:
    """The noise as whole numbers below 2**24: int64 [N, L], in the same order."""
    low, high = _halves(g, g.op("Unsqueeze", ["seed", g.int64([0])], "seed_1", "[1]."), "seed")
    key = g.op("Concat", [low, high], "key", "Philox's key, [2].", axis=0)
    ids = g.op("Unsqueeze", ["sample_ids", g.int64([0, 2])], "ids", "Ids as [1, N, 1].")
    id_low, id_high = _halves(g, ids, "ids")
    epoch, excess = _halves(
        g, g.op("Unsqueeze", ["epoch", g.int64([0])], "epoch_1", "[1]."), "epoch"
    )
    wrong = g.op("Greater", [excess, g.int64(0)], "epoch_wrong", "Does it not fit in 32 bits?")
    zero = refuse(g, wrong, "epoch_checked", "Fails if the epoch is not 0 to 2**32 - 1.")
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


def philox(g: Nodes, even: str, odd: str, key: str) -> str:
    """The nodes of Philox4x32-10.

    Words are int64, 0 to 2**32 - 1. A 32 by 32 bit product is put together from 16-bit limbs, so
    that nothing exceeds 2**49: older onnxruntimes have no Mul of uint64.

    Parameters
    ----------
    g : Nodes
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
        prefix = f"round_{r}"
        cross = g.op("Gather", [even, g.int64([1, 0])], f"{prefix}_cross", "Words 2 and 0.", axis=0)
        small = g.op("Mul", [cross, low_factors], f"{prefix}_small", "Times the low 16 bits.")
        large = g.op("Mul", [cross, high_factors], f"{prefix}_large", "Times the high 16 bits.")
        carry = _without_low_limb(g, small, f"{prefix}_carry", "What exceeds 16 bits.")
        upper = g.op("Add", [large, carry], f"{prefix}_upper", "The product without its low limb.")
        high = _without_low_limb(g, upper, f"{prefix}_high", "The product's high 32 bits.")
        second = g.op("BitwiseAnd", [upper, limb], f"{prefix}_second", "Its second limb.")
        second = g.op("Mul", [second, shift], f"{prefix}_second_up", "In its place.")
        first = g.op("BitwiseAnd", [small, limb], f"{prefix}_first", "Its first limb.")
        salt = g.op("BitwiseXor", [odd, round_key], f"{prefix}_salt", "Words 1 and 3 with the key.")
        even = g.op("BitwiseXor", [high, salt], f"{prefix}_even", "The new words 0 and 2.")
        odd = g.op("BitwiseOr", [second, first], f"{prefix}_odd", "The new words 1 and 3.")
    pair = [
        g.op("Unsqueeze", [half, g.int64([3])], f"words_{name}", "[2, N, Q, 1].")
        for name, half in (("even", even), ("odd", odd))
    ]
    words = g.op("Concat", pair, "words_pairs", "[2, N, Q, 2].", axis=3)
    return g.op("Transpose", [words], "words", "[N, Q, 2, 2].", perm=[1, 2, 0, 3])


def _halves(g: Nodes, value: str, name: str) -> tuple[str, str]:
    """The low and high 32 bits of int64, each 0 to 2**32 - 1."""
    mask = g.int64(_MASK32)
    low = g.op("BitwiseAnd", [value, mask], f"{name}_low", "The low 32 bits.")
    rest = g.op("Sub", [value, low], f"{name}_rest", "A multiple of 2**32.")
    signed = g.op("Div", [rest, g.int64(2**32)], f"{name}_signed", "The high half, signed.")
    return low, g.op("BitwiseAnd", [signed, mask], f"{name}_high", "The high 32 bits.")


def _without_low_limb(g: Nodes, value: str, output: str, doc: str) -> str:
    """``value >> 16`` of an int64 that is not negative. Casts and a shift are faster than a Div."""
    unsigned = g.op("Cast", [value], f"{output}_in", "For the shift.", to=TensorProto.UINT64)
    sixteen = g.constant(np.uint64(16))
    doc_shift = "Without the low 16 bits."
    moved = g.op("BitShift", [unsigned, sixteen], f"{output}_out", doc_shift, direction="RIGHT")
    return g.op("Cast", [moved], output, doc, to=TensorProto.INT64)
