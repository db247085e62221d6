"""The nodes that draw noise by a seed: Philox4x32-10 in integers of 32 bits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbgather.onnx._build import TensorProto
from nbgather.onnx._limbs import (
    BASE,
    TURN,
    carried,
    joined,
    one_number,
    turned,
    turned_if_31_bits,
    wide_limbs,
)
from nbgather.onnx._nodes import Nodes, refuse

__all__ = [
    "OLDEST_SEEDED_OPSET",
    "PHILOX_PAPER",
    "Source",
    "checked_source",
    "philox",
    "seeded_bits",
    "seeded_noise",
    "wide_source",
    "word_source",
]

PHILOX_PAPER = "Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011"

#: The first opset with bitwise operators.
OLDEST_SEEDED_OPSET = 18

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
#: The rounds in which a word does not depend on block and sample both.
_ROUNDS_BY_WORD = 3


class Source(NamedTuple):
    """What noise is drawn by, in turned words: the key and the epoch `[1]`, ids `[N]`.

    The high word of ids is None where all of them are 0.
    """

    key: tuple[str, str]
    ids: tuple[str, str | None]
    epoch: str


def checked_source(g: Nodes) -> Source:
    """Of ``seed``, ``sample_ids`` and ``epoch`` in int64, which must be 0 to 2**31 - 1."""
    numbers = [one_number(g, "seed"), one_number(g, "epoch"), "sample_ids"]
    every = g.op("Concat", numbers, "seed_epoch_ids", "Seed, epoch, and the ids.", axis=0)
    words = turned_if_31_bits(g, every, "seed_epoch_ids")
    seed, epoch = (
        g.op("Gather", [words, g.int64([at])], f"{name}_word", "A word, as [1].", axis=0)
        for at, name in enumerate(("seed", "epoch"))
    )
    ids = g.op("Slice", [words, g.int64([2]), g.int64([2**31 - 1])], "id_words", "Of each id.")
    return Source((seed, g.constant(np.full(1, TURN, np.int32))), (ids, None), epoch)


def wide_source(g: Nodes) -> Source:
    """Of ``seed``, ``sample_ids`` and ``epoch`` in int64, all 64 bits; the epoch has 32."""
    *epoch, third, fourth = wide_limbs(g, one_number(g, "epoch"), "epoch")
    excess = g.op("Add", [third, fourth], "epoch_excess", "What does not fit in 32 bits.")
    wrong = g.op("Greater", [excess, g.constant(np.int32(0))], "epoch_wrong", "Is there any?")
    zero = refuse(g, wrong, "epoch_checked", "Fails unless the epoch is 0 to 2**32 - 1.")
    ids = g.op("Add", ["sample_ids", zero], "ids", "The ids.")
    key, of_ids = (
        (joined(g, found[:2], f"{name}_low"), joined(g, found[2:], f"{name}_high"))
        for name, found in (
            ("seed", wide_limbs(g, one_number(g, "seed"), "seed")),
            ("id", wide_limbs(g, ids, "ids")),
        )
    )
    return Source(key, of_ids, joined(g, epoch, "epoch_word"))


def word_source(g: Nodes) -> Source:
    """Of ``seed_words``, ``sample_id_words`` and ``epoch_word`` in int32: all 64 (32) bits."""
    words: dict[str, str] = {}
    for name, short, axis in (("seed_words", "key", 0), ("sample_id_words", "id", 1)):
        both = turned(g, name, f"{short}_words")
        for k, part in enumerate(("low", "high")):
            at = g.int64(k) if axis else g.int64([k])
            doc = f"The {part} 32 bits."
            words[f"{short}_{part}"] = g.op("Gather", [both, at], f"{short}_{part}", doc, axis=axis)
    epoch = turned(g, one_number(g, "epoch_word"), "epoch")
    return Source((words["key_low"], words["key_high"]), (words["id_low"], words["id_high"]), epoch)


def seeded_noise(g: Nodes, length: str, source: Source) -> str:
    """``token_noise(seed, sample_ids, L, epoch=epoch)``: float32 [N, L]."""
    bits = seeded_bits(g, length, source)
    number = g.op("Cast", [bits], "bits_float", "Exact in 24 bits.", to=TensorProto.FLOAT)
    scale = g.constant(np.float32(2.0**-24))
    return g.op("Mul", [number, scale], "noise", "In [0, 1), multiples of 2**-24.")


def seeded_bits(g: Nodes, length: str, source: Source) -> str:
    """The noise as whole numbers below 2**24: int32 [N, L], in the same order."""
    rounded = g.op("Add", [length, g.int64(3)], "length_rounded", "L + 3.")
    blocks = g.op("Div", [rounded, g.int64([4])], "blocks", "Q, blocks of four tokens, as [1].")
    stop = g.op("Squeeze", [blocks, g.int64([0])], "blocks_scalar", "Q as a scalar.")
    block = g.op("Range", [g.int64(0), stop, g.int64(1)], "block_i64", "0 to Q-1.")
    block = g.op("Cast", [block], "block", "In 4 bytes.", to=TensorProto.INT32)
    block = turned(g, block, "block_word")
    id_low, id_high = source.ids
    planes = _plane(g, id_low), None if id_high is None else _plane(g, id_high)
    samples = g.op("Shape", [id_low], "samples", "N as [1].")
    plane = g.op("Concat", [g.int64([1]), samples, blocks], "plane", "[1, N, Q].", axis=0)
    words = philox(g, (block, *planes, source.epoch), source.key, plane)
    four = g.op("Mul", [blocks, g.int64([4])], "words_count", "4Q as [1].")
    flat = g.op("Concat", [samples, four], "words_shape", "[N, 4Q].", axis=0)
    bits = g.op("Reshape", [words, flat], "token_words", "Word w of block q: token 4q + w.")
    cut = [bits, g.int64([0]), length, g.int64([1])]
    return g.op("Slice", cut, "token_bits", "One for each of the L tokens.")


def _plane(g: Nodes, word: str) -> str:
    return g.op("Unsqueeze", [word, g.int64([0, 2])], f"{word}_plane", "[1, N, 1].")


class _Multiplier(NamedTuple):
    """``2**32 + 2**16 * high + low``, int32: of a word, or of a stack of them."""

    high: np.ndarray
    low: np.ndarray

    @classmethod
    def of(cls, *multipliers: int) -> _Multiplier:
        low = [(m + 2**15) % BASE - 2**15 for m in multipliers]
        high = [(m - part) // BASE - BASE for m, part in zip(multipliers, low, strict=True)]
        shape = (-1, 1, 1)
        return cls(np.array(high, np.int32).reshape(shape), np.array(low, np.int32).reshape(shape))

    @property
    def half(self) -> np.ndarray:
        """Half of what it has beside 2**32, rounded down."""
        return (self.high * np.int32(BASE) + self.low) // np.int32(2)


def philox(
    g: Nodes, counter: tuple[str, str, str | None, str], key: tuple[str, str], plane: str
) -> str:
    """The upper 24 bits of the words of Philox4x32-10: int32 `[N, Q, 4]`.

    The first rounds are made word by word, of what depends on the block or on the sample alone.

    Parameters
    ----------
    g : Nodes
        At opset 18 or later.
    counter : four turned words
        The block `[Q]`, the low and the high word of the id `[1, N, 1]`, the epoch `[1]`. The high
        word is None where it is 0.
    key : two turned words
        `[1]`.
    plane : str
        The shape `[1, N, Q]`.
    """
    singles, pairs = _round_keys(g, key, counter[2] is None)
    c0, c1, c2, c3 = _rounds_by_word(g, counter, singles)
    # Of these, word 3 alone depends on the block only, where ids have no high word.
    wide = g.op("Expand", [c3, plane], f"{c3}_wide", "[1, N, Q].")
    even = g.op("Concat", [c0, c2], "even", "Words 0 and 2, [2, N, Q].", axis=0)
    odd = g.op("Concat", [c1, wide], "odd", "Words 1 and 3, [2, N, Q].", axis=0)
    # Crosswise: word 2's product goes into words 0 and 1, word 0's into 2 and 3.
    multiplier = _Multiplier.of(*_MULTIPLIERS[::-1])
    for r, round_key in enumerate(pairs, _ROUNDS_BY_WORD):
        prefix = f"round_{r}"
        swapped = [even, g.int64([1, 0])]
        crosswise = g.op("Gather", swapped, f"{prefix}_cross", "Words 2 and 0.", axis=0)
        high, low = _product(g, crosswise, multiplier, prefix)
        even = _mixed(g, high, odd, round_key, f"{prefix}_even")
        odd = low
    return _upper_bits(g, even, odd)


def _rounds_by_word(
    g: Nodes, counter: tuple[str, str, str | None, str], keys: list[str]
) -> tuple[str, str, str, str]:
    """The counter after the first rounds."""
    c0, c1, c2, c3 = counter
    odd: tuple[str | None, str] = (c1, c3)
    even = c0, c2
    for r in range(_ROUNDS_BY_WORD):
        of_0, of_2 = map(_Multiplier.of, _MULTIPLIERS)
        high_0, low_0 = _product(g, even[0], of_0, f"round_{r}_p0")
        high_2, low_2 = None, None
        if even[1] is not None:
            high_2, low_2 = _product(g, even[1], of_2, f"round_{r}_p2")
        even = (
            _mixed(g, high_2, odd[0], keys[2 * r], f"round_{r}_c0"),
            _mixed(g, high_0, odd[1], keys[2 * r + 1], f"round_{r}_c2"),
        )
        odd = low_2, low_0
    assert even[1] is not None
    assert odd[0] is not None
    return even[0], odd[0], even[1], odd[1]


def _product(g: Nodes, word: str, multiplier: _Multiplier, prefix: str) -> tuple[str, str]:
    """The high and the low word of the 64-bit product of a word, all of them turned.

    The word is w + 2**31 with w = 2**16 h + l, the multiplier 2**32 + m with m = 2**16 a + b, odd.
    So the product is, in units of 2**32, the word and what w m and 2**31 m have above: their
    columns of 16 bits are ``l b``, ``l a + h b + 2**15``, and ``h a`` with half of m.

    All are within int32, since a is -2**14 to 0 and b -2**15 to 2**15; h and l may be of any
    quotient that is near, however a runtime rounds it.
    """
    a, b, base = g.constant(multiplier.high), g.constant(multiplier.low), g.constant(np.int32(BASE))
    h = g.op("Div", [word, base], f"{prefix}_h", "About the upper 16 bits.")
    upper = g.op("Mul", [h, base], f"{prefix}_upper", "In their place.")
    low = g.op("Sub", [word, upper], f"{prefix}_l", "What is left.")
    first = g.op("Mul", [low, b], f"{prefix}_1", "Column 0.")
    whole, carry = carried(g, first, f"{prefix}_1")
    first = g.op("Sub", [first, whole], f"{prefix}_limb", "The lowest limb.")
    second = g.op("Mul", [low, a], f"{prefix}_la", "Of column 1.")
    across = g.op("Mul", [h, b], f"{prefix}_hb", "Of column 1.")
    second = g.op("Add", [second, across], f"{prefix}_sum", "Of column 1.")
    second = g.op("Add", [second, carry], f"{prefix}_2", "Column 1, less 2**15.")
    half = g.constant(np.int32(BASE // 2))
    full = g.op("Add", [second, half], f"{prefix}_2_full", "Column 1.")
    whole, carry = carried(g, full, f"{prefix}_2")
    second = g.op("Sub", [second, whole], f"{prefix}_signed", "A limb less 2**15.")
    second = g.op("Mul", [second, base], f"{prefix}_scaled", "In its place.")
    result = g.op("Add", [second, first], f"{prefix}_low", "The low word.")
    third = g.op("Mul", [h, a], f"{prefix}_ha", "Of column 2.")
    third = g.op("Add", [third, carry], f"{prefix}_3", "With the carry.")
    third = g.op("Add", [third, g.constant(multiplier.half)], f"{prefix}_3_full", "Column 2.")
    return g.op("Add", [third, word], f"{prefix}_high", "The high word."), result


def _mixed(g: Nodes, high: str | None, odd: str | None, key: str, prefix: str) -> str:
    """A product's high word, mixed with an odd word and the key; None is a word of 0."""
    value = key
    if odd is not None:
        value = g.op("BitwiseXor", [odd, value], f"{prefix}_salt", "With the key.")
    if high is not None:
        value = g.op("BitwiseXor", [high, value], prefix, "The new word.")
    return value


def _round_keys(g: Nodes, key: tuple[str, str], fewer: bool) -> tuple[list[str], list[str]]:
    """The keys: of the rounds made by word, `[1, 1, 1]` for each; of the others, `[2, 1, 1]`.

    They are turned, as what they are mixed with is, which comes to one turn less of three; but not
    the first two of word 0 if these are mixed with one word only.
    """
    weyl = np.arange(_ROUNDS, dtype=np.int64)[:, None] * np.array(_WEYL) % 2**32
    low_step, high_step = (weyl % BASE).astype(np.int32), (weyl // BASE).astype(np.int32)
    word = g.op("Concat", list(key), "keys_first", "Both words, [2].", axis=0)
    whole, high = carried(g, word, "keys_first")
    low = g.op("Sub", [word, whole], "keys_first_low", "The lower limbs.")
    low = g.op("Add", [low, g.constant(low_step)], "keys_low_sum", "Of each round, [10, 2].")
    whole, carry = carried(g, low, "keys_low")
    low = g.op("Sub", [low, whole], "keys_low", "[10, 2].")
    step = high_step + np.int32(BASE // 2)
    high = g.op("Add", [high, g.constant(step)], "keys_high_sum", "[10, 2], of limbs less 2**15.")
    high = g.op("Add", [high, carry], "keys_high_carried", "With the carry.")
    mask = g.constant(np.int32(BASE - 1))
    high = g.op("BitwiseAnd", [high, mask], "keys_limb", "[10, 2].")
    words = joined(g, [low, high], "keys_of_rounds")
    if fewer:
        turn = np.zeros((_ROUNDS, 2), np.int32)
        turn[:2, 0] = TURN
        words = g.op("BitwiseXor", [words, g.constant(turn)], "keys_of_words", "Not all turned.")
    column = g.op("Reshape", [words, g.int64([-1, 1, 1])], "keys_column", "[20, 1, 1].")
    return _split_keys(g, column)


def _split_keys(g: Nodes, column: str) -> tuple[list[str], list[str]]:
    """The keys: for each word of the first rounds, then for each round.

    In two steps, since WebGPU promises no more than 8 tensors for a shader.
    """
    words, rounds = 2 * _ROUNDS_BY_WORD, _ROUNDS - _ROUNDS_BY_WORD
    halves = ["keys_by_word", "keys_by_round"]
    sizes = g.int64([words, 2 * rounds])
    doc = "Those of the first rounds, those of the others."
    g.ops("Split", [column, sizes], halves, doc, name="keys_halves", axis=0)
    by_word, by_round = (
        g.ops(
            "Split",
            [half, g.int64([size] * count)],
            [f"{half}_{k}" for k in range(count)],
            "One by one.",
            name=f"{half}_parts",
            axis=0,
        )
        for half, count, size in zip(halves, (words, rounds), (1, 2), strict=True)
    )
    return by_word, by_round


def _upper_bits(g: Nodes, even: str, odd: str) -> str:
    """The upper 24 bits of words 0 to 3: int32 `[N, Q, 4]`."""
    words = g.op("Concat", [even, odd], "words", "Words 0, 2, 1, 3 as [4, N, Q].", axis=0)
    kept = [words, g.constant(np.int32(-256))]
    upper = g.op("BitwiseAnd", kept, "words_upper", "The upper 24 bits, less 2**31.")
    upper = g.op("Div", [upper, g.constant(np.int32(256))], "words_bits_turned", "Less 2**23.")
    bits = g.op("Add", [upper, g.constant(np.int32(2**23))], "words_bits", "24 bits.")
    bits = g.op("Gather", [bits, g.int64([0, 2, 1, 3])], "words_sorted", "Words 0 to 3.", axis=0)
    return g.op("Transpose", [bits], "words_by_block", "[N, Q, 4].", perm=[1, 2, 0])
