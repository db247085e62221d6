"""The nodes that draw noise by a seed: Philox4x32-10 in integers below 2**31."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbgather.onnx._build import TensorProto
from nbgather.onnx._limbs import BASE, Word, divided, limbs, limbs_of_31_bits, one_number
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
    """What noise is drawn by, each limb int32: the key and the epoch `[1]`, ids `[N]`.

    The high word of ids is None where all of them are 0.
    """

    key: tuple[Word, Word]
    ids: tuple[Word, Word | None]
    epoch: Word


def checked_source(g: Nodes) -> Source:
    """Of ``seed``, ``sample_ids`` and ``epoch`` in int64, which must be 0 to 2**31 - 1."""
    numbers = [one_number(g, "seed"), one_number(g, "epoch"), "sample_ids"]
    every = g.op("Concat", numbers, "seed_epoch_ids", "Seed, epoch, and the ids.", axis=0)
    low, high = limbs_of_31_bits(g, every, "seed_epoch_ids")
    seed, epoch = (
        Word(*(
            g.op("Gather", [limbs, g.int64([at])], f"{name}_{part}", "A limb, as [1].", axis=0)
            for limbs, part in ((low, "low"), (high, "high"))
        ))
        for at, name in enumerate(("seed", "epoch"))
    )  # fmt: skip
    start, end = g.int64([2]), g.int64([2**31 - 1])
    ids = Word(*(
        g.op("Slice", [limbs, start, end], f"ids_{part}", "A limb of each id.")
        for limbs, part in ((low, "low"), (high, "high"))
    ))  # fmt: skip
    zero = g.constant(np.zeros(1, np.int32))
    return Source((seed, Word(zero, zero)), (ids, None), epoch)


def wide_source(g: Nodes) -> Source:
    """Of ``seed``, ``sample_ids`` and ``epoch`` in int64, all 64 bits; the epoch has 32."""
    *epoch, third, fourth = limbs(g, one_number(g, "epoch"), 4, "epoch", wide=True)
    excess = g.op("Add", [third, fourth], "epoch_excess", "What does not fit in 32 bits.")
    wrong = g.op("Greater", [excess, g.constant(np.int32(0))], "epoch_wrong", "Is there any?")
    zero = refuse(g, wrong, "epoch_checked", "Fails unless the epoch is 0 to 2**32 - 1.")
    ids = g.op("Add", ["sample_ids", zero], "ids", "The ids.")
    key, of_ids = (
        (Word(*found[:2]), Word(*found[2:]))
        for found in (
            limbs(g, one_number(g, "seed"), 4, "seed", wide=True),
            limbs(g, ids, 4, "ids", wide=True),
        )
    )
    return Source(key, of_ids, Word(*epoch))


def word_source(g: Nodes) -> Source:
    """Of ``seed_words``, ``sample_id_words`` and ``epoch_word`` in int32: all 64 (32) bits."""
    words: dict[str, Word] = {}
    for name, short, axis in (("seed_words", "key", 0), ("sample_id_words", "id", 1)):
        for k, part in enumerate(("low", "high")):
            at = g.int64(k) if axis else g.int64([k])
            doc = f"The {part} 32 bits."
            word = g.op("Gather", [name, at], f"{short}_{part}", doc, axis=axis)
            words[word] = Word(*limbs(g, word, 2, word, wide=False))
    epoch = limbs(g, one_number(g, "epoch_word"), 2, "epoch", wide=False)
    return Source(
        (words["key_low"], words["key_high"]), (words["id_low"], words["id_high"]), Word(*epoch)
    )


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
    id_low, id_high = source.ids
    planes = _planes(g, id_low), None if id_high is None else _planes(g, id_high)
    low, high = limbs(g, block, 2, "block", wide=False)
    samples = g.op("Shape", [source.ids[0].low], "samples", "N as [1].")
    plane = g.op("Concat", [g.int64([1]), samples, blocks], "plane", "[1, N, Q].", axis=0)
    counter = (Word(low, high), *planes, source.epoch)
    words = philox(g, counter, source.key, plane)
    four = g.op("Mul", [blocks, g.int64([4])], "words_count", "4Q as [1].")
    flat = g.op("Concat", [samples, four], "words_shape", "[N, 4Q].", axis=0)
    bits = g.op("Reshape", [words, flat], "token_words", "Word w of block q: token 4q + w.")
    cut = [bits, g.int64([0]), length, g.int64([1])]
    return g.op("Slice", cut, "token_bits", "One for each of the L tokens.")


def _planes(g: Nodes, word: Word) -> Word:
    low, high = (
        g.op("Unsqueeze", [limb, g.int64([0, 2])], f"{limb}_plane", "[1, N, 1].") for limb in word
    )
    return Word(low, high)


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


def philox(
    g: Nodes, counter: tuple[Word, Word, Word | None, Word], key: tuple[Word, Word], plane: str
) -> str:
    """The upper 24 bits of the words of Philox4x32-10: int32 `[N, Q, 4]`.

    A word that goes into a product is held as a *factor*: the limbs ``low - 2**16`` and
    ``-1 - high``, for which the columns of the product stay within int32. The bits above the limbs
    are ones then, which the key brings along.

    The first rounds are made word by word, of what depends on the block or on the sample alone.

    Parameters
    ----------
    g : Nodes
        At opset 18 or later.
    counter : four Words
        The block `[Q]`, the low and the high word of the id `[1, N, 1]`, the epoch `[1]`. The high
        word is None where it is 0.
    key : two Words
        `[1]`.
    plane : str
        The shape `[1, N, Q]`.
    """
    singles, pairs = _round_keys(g, key)
    c0, c1, c2, c3 = _rounds_by_word(g, counter, singles)
    # Of these, word 3 alone depends on the block only, where ids have no high word.
    wide = (g.op("Expand", [limb, plane], f"{limb}_wide", "[1, N, Q].") for limb in c3)
    even = _stacked(g, (c0, c2), "even", "Words 0 and 2, [2, N, Q].")
    odd = _stacked(g, (c1, Word(*wide)), "odd", "Words 1 and 3, [2, N, Q].")
    # Crosswise: word 2's product goes into words 0 and 1, word 0's into 2 and 3.
    multiplier = _Multiplier.of(*_MULTIPLIERS[::-1])
    for r, round_key in enumerate(pairs, _ROUNDS_BY_WORD):
        prefix = f"round_{r}"
        crosswise = Word(*(
            g.op("Gather", [limb, g.int64([1, 0])], f"{prefix}_cross_{name}", "Words 2 and 0.",
                 axis=0)
            for limb, name in zip(even, ("low", "high"), strict=True)
        ))  # fmt: skip
        high, low = _product(g, crosswise, multiplier, prefix)
        even = _mixed(g, high, odd, round_key, f"{prefix}_even")
        odd = low
    return _upper_bits(g, even, odd)


def _rounds_by_word(
    g: Nodes, counter: tuple[Word, Word, Word | None, Word], keys: list[Word]
) -> tuple[Word, Word, Word, Word]:
    """The counter after the first rounds; words 0 and 2 are factors."""
    c0, c1, c2, c3 = counter
    odd: tuple[Word | None, Word] = (c1, c3)
    even = _as_factor(g, c0, "block_factor"), c2 and _as_factor(g, c2, "id_factor")
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


def _product(g: Nodes, factor: Word, multiplier: _Multiplier, prefix: str) -> tuple[Word, Word]:
    """The high and the low word of the 64-bit product of a factor.

    With limbs c, d of the factor, which is ``c - 2**16 d``, and a, b of the multiplier, its columns
    of 16 bits are ``c b``, ``c a - d b``, ``c - d a``, ``-d`` and the carries between them. All are
    within int32, since c and d are -2**16 to -1, a is -2**14 to 0 and b -2**15 to 2**15. The last
    column is what is left of a product below 2**64: 0 to 65535.
    """
    (c, d), (a, b) = factor, multiplier
    first = g.op("Mul", [c, g.constant(b)], f"{prefix}_1", "Column 0.")
    carry, first = _carried(g, first, f"{prefix}_1")
    second = g.op("Mul", [c, g.constant(a)], f"{prefix}_ca", "Of column 1.")
    across = g.op("Mul", [d, g.constant(-b)], f"{prefix}_db", "Of column 1.")
    second = g.op("Add", [second, across], f"{prefix}_sum_2", "Column 1.")
    second = g.op("Add", [second, carry], f"{prefix}_2", "With the carry.")
    carry, second = _carried(g, second, f"{prefix}_2")
    third = g.op("Mul", [d, g.constant(-a)], f"{prefix}_da", "Of column 2.")
    third = g.op("Add", [third, c], f"{prefix}_sum_3", "Column 2.")
    third = g.op("Add", [third, carry], f"{prefix}_3", "With the carry.")
    carry, third = _carried(g, third, f"{prefix}_3")
    fourth = g.op("Sub", [carry, d], f"{prefix}_4", "Column 3.")
    return Word(third, fourth), Word(first, second)


def _carried(g: Nodes, column: str, prefix: str) -> tuple[str, str]:
    """What goes on to the next column, and what is left, 0 to 65535."""
    whole, carry = divided(g, column, f"{prefix}_carry", "Into the next column.")
    return carry, g.op("Sub", [column, whole], f"{prefix}_limb", "The limb.")


def _mixed(g: Nodes, high: Word | None, odd: Word | None, key: Word, prefix: str) -> Word:
    """A product's high word, mixed with an odd word and the key; None is a word of 0."""
    mixed = []
    for k, name in enumerate(("low", "high")):
        value = key[k]
        if odd is not None:
            output = f"{prefix}_salt_{name}"
            value = g.op("BitwiseXor", [odd[k], value], output, "With the key.")
        if high is not None:
            value = g.op("BitwiseXor", [high[k], value], f"{prefix}_{name}", "The new word.")
        mixed.append(value)
    return Word(*mixed)


def _as_factor(g: Nodes, word: Word, name: str) -> Word:
    low, high = (
        g.op("BitwiseXor", [limb, g.constant(np.int32(ones))], f"{name}_{part}", "For a product.")
        for limb, ones, part in zip(word, (-BASE, -1), ("low", "high"), strict=True)
    )
    return Word(low, high)


def _stacked(g: Nodes, words: tuple[Word, ...], name: str, doc: str) -> Word:
    low, high = (
        g.op("Concat", list(limb), f"{name}_{part}", doc, axis=0)
        for limb, part in zip(zip(*words, strict=True), ("low", "high"), strict=True)
    )
    return Word(low, high)


def _round_keys(g: Nodes, key: tuple[Word, Word]) -> tuple[list[Word], list[Word]]:
    """The keys: of the rounds made by word, `[1, 1, 1]` for each; of the others, `[2, 1, 1]`.

    Except in the last round they turn what they are mixed with into factors.
    """
    weyl = np.arange(_ROUNDS, dtype=np.int64)[:, None] * np.array(_WEYL) % 2**32
    low_step, high_step = (weyl % BASE).astype(np.int32), (weyl // BASE).astype(np.int32)
    word = _stacked(g, key, "keys_first", "A limb of both words, [2].")
    low = g.op("Add", [word.low, g.constant(low_step)], "keys_low_sum", "Of each round, [10, 2].")
    whole, carry = divided(g, low, "keys_carry", "Into the high limb.")
    low = g.op("Sub", [low, whole], "keys_low", "[10, 2].")
    high = g.op("Add", [word.high, g.constant(high_step)], "keys_high_sum", "[10, 2].")
    high = g.op("Add", [high, carry], "keys_high_carried", "With the carry.")
    mask = g.constant(np.int32(BASE - 1))
    high = g.op("BitwiseAnd", [high, mask], "keys_high", "[10, 2].")
    inner = np.arange(_ROUNDS)[:, None] < _ROUNDS - 1
    parts = []
    for name, value, ones in (("low", low, -BASE), ("high", high, -1)):
        turn = g.constant((inner * ones).astype(np.int32))
        value = g.op("BitwiseXor", [value, turn], f"keys_{name}_turned", "Makes factors.")
        column = g.op("Reshape", [value, g.int64([-1, 1, 1])], f"keys_{name}_column", "[20, 1, 1].")
        parts.append(_split_keys(g, column, name))
    keys = [Word(*pair) for pair in zip(*parts, strict=True)]
    return keys[: 2 * _ROUNDS_BY_WORD], keys[2 * _ROUNDS_BY_WORD :]


def _split_keys(g: Nodes, column: str, limb: str) -> list[str]:
    """A limb of the keys: for each word of the first rounds, then for each round.

    In two steps, since WebGPU promises no more than 8 tensors for a shader.
    """
    words, rounds = 2 * _ROUNDS_BY_WORD, _ROUNDS - _ROUNDS_BY_WORD
    halves = [f"key_{limb}_by_word", f"key_{limb}_by_round"]
    sizes = g.int64([words, 2 * rounds])
    doc = "Those of the first rounds, those of the others."
    g.ops("Split", [column, sizes], halves, doc, name=f"keys_{limb}_halves", axis=0)
    parts = []
    for half, count, size in zip(halves, (words, rounds), (1, 2), strict=True):
        names = [f"{half}_{k}" for k in range(count)]
        cut = [half, g.int64([size] * count)]
        parts += g.ops("Split", cut, names, "One by one.", name=f"{half}_parts", axis=0)
    return parts


def _upper_bits(g: Nodes, even: Word, odd: Word) -> str:
    """The upper 24 bits of words 0 to 3: int32 `[N, Q, 4]`."""
    low, high = _stacked(g, (even, odd), "words", "Words 0, 2, 1, 3 as [4, N, Q].")
    high = g.op("Mul", [high, g.constant(np.int32(256))], "words_top", "The upper 16 bits.")
    low = g.op("Div", [low, g.constant(np.int32(256))], "words_next", "The next 8.")
    bits = g.op("Add", [high, low], "words_bits", "24 bits.")
    bits = g.op("Gather", [bits, g.int64([0, 2, 1, 3])], "words_sorted", "Words 0 to 3.", axis=0)
    return g.op("Transpose", [bits], "words_by_block", "[N, Q, 4].", perm=[1, 2, 0])
