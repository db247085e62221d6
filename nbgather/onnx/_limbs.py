"""Words of 32 bits in int32, for runtimes whose integers have 32 bits.

OpenVINO, WebGPU and others narrow int64 to 32 bits, and OpenVINO divides integers in float32. So no
value here leaves the range of int32. A quotient is exact in float32 too, since what is divided is a
multiple of its divisor, a power of two; or one quotient is as good as the next.

A word is held with its highest bit *turned*: as the number that is 2**31 less than the word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nbgather.onnx._build import TensorProto
from nbgather.onnx._nodes import Nodes, refuse

__all__ = [
    "BASE",
    "TURN",
    "carried",
    "joined",
    "one_number",
    "turned",
    "turned_if_31_bits",
    "wide_limbs",
]

#: What a limb, half of a word, is below.
BASE = 2**16

#: The highest bit of a word, alone.
TURN = -(2**31)


def carried(g: Nodes, value: str, prefix: str, *, wide: bool = False) -> tuple[str, str]:
    """The multiple of 2**16 that is not above a value, and the same over 2**16."""
    number = np.int64 if wide else np.int32
    kept = [value, g.constant(number(-BASE))]
    whole = g.op("BitwiseAnd", kept, f"{prefix}_whole", "A multiple of 2**16.")
    return whole, g.op("Div", [whole, g.constant(number(BASE))], f"{prefix}_carry", "Over 2**16.")


def turned(g: Nodes, words: str, output: str) -> str:
    """Words of int32, turned."""
    return g.op("BitwiseXor", [words, g.constant(np.int32(TURN))], output, "Less 2**31.")


def joined(g: Nodes, limbs: Sequence[str], output: str) -> str:
    """A turned word of its two limbs, the low one first, 0 to 65535 each."""
    low, high = limbs
    lower = g.op("Sub", [high, g.constant(np.int32(BASE // 2))], f"{output}_high", "Less 2**15.")
    scaled = g.op("Mul", [lower, g.constant(np.int32(BASE))], f"{output}_scaled", "In its place.")
    return g.op("Add", [scaled, low], output, "A word less 2**31.")


def wide_limbs(g: Nodes, value: str, name: str) -> list[str]:
    """The four limbs of int64, lowest first, each int32 and 0 to 65535."""
    found = []
    for k in range(4):
        mask = g.constant(np.int64(BASE - 1))
        limb = g.op("BitwiseAnd", [value, mask], f"{name}_limb_{k}", f"Bits {16 * k} and up.")
        found.append(
            g.op("Cast", [limb], f"{name}_limb_{k}_i32", "In 4 bytes.", to=TensorProto.INT32)
        )
        if k < 3:
            _, value = carried(g, value, f"{name}_from_{k + 1}", wide=True)
    return found


def one_number(g: Nodes, name: str) -> str:
    """A scalar or `[1]` as [1]; anything else fails."""
    return g.op("Reshape", [name, g.int64([1])], f"{name}_1", "A number, as [1].")


def turned_if_31_bits(g: Nodes, values: str, name: str) -> str:
    """An int64 vector as turned words; the graph fails unless all of it is 0 to 2**31 - 1.

    Whatever is larger would be narrowed by some runtimes, and some ids would be others' there.
    """
    negative = g.op("Less", [values, g.int64(0)], f"{name}_negative", "Is it below 0?")
    above = g.op("Greater", [values, g.int64(2**31 - 1)], f"{name}_above", "Is it 2**31 or more?")
    wrong = g.op("Or", [negative, above], f"{name}_wrong", "Does it not fit in 31 bits?")
    zero = refuse(g, wrong, f"{name}_checked", "Fails unless all are 0 to 2**31 - 1.")
    fine = g.op("Add", [values, zero], f"{name}_31", "Checked.")
    narrow = g.op("Cast", [fine], f"{name}_i32", "In 4 bytes.", to=TensorProto.INT32)
    return turned(g, narrow, f"{name}_words")
