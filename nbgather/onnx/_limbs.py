"""Words of 32 bits as pairs of 16-bit limbs in int32, for runtimes whose integers have 32 bits.

OpenVINO, WebGPU and others narrow int64 to 32 bits, and OpenVINO divides integers in float32. So no
value here is ever 2**31 or more in size, and what is divided is a multiple of its divisor, a power
of two: the quotient is exact in float32 too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbgather.onnx._build import TensorProto
from nbgather.onnx._nodes import Nodes, refuse

__all__ = ["BASE", "Word", "divided", "limbs", "limbs_of_31_bits", "one_number"]

#: What a limb is below.
BASE = 2**16


class Word(NamedTuple):
    """32 bits: the names of two values of int32, of which the lower 16 bits count."""

    low: str
    high: str


def divided(g: Nodes, value: str, output: str, doc: str, *, wide: bool = False) -> tuple[str, str]:
    """A value without its lowest limb, and the same over 2**16; int32, or int64 if ``wide``."""
    number = np.int64 if wide else np.int32
    kept = [value, g.constant(number(-BASE))]
    whole = g.op("BitwiseAnd", kept, f"{output}_whole", "A multiple of 2**16.")
    return whole, g.op("Div", [whole, g.constant(number(BASE))], output, doc)


def limbs(g: Nodes, value: str, count: int, name: str, *, wide: bool) -> list[str]:
    """The lowest ``count`` limbs, lowest first, each int32 and 0 to 65535."""
    found = []
    for k in range(count):
        mask = g.constant((np.int64 if wide else np.int32)(BASE - 1))
        limb = g.op("BitwiseAnd", [value, mask], f"{name}_limb_{k}", f"Bits {16 * k} and up.")
        if wide:
            limb = g.op("Cast", [limb], f"{name}_limb_{k}_i32", "In 4 bytes.", to=TensorProto.INT32)
        found.append(limb)
        if k + 1 < count:
            _, value = divided(g, value, f"{name}_from_{k + 1}", "The bits above.", wide=wide)
    return found


def one_number(g: Nodes, name: str) -> str:
    """A scalar or `[1]` as [1]; anything else fails."""
    return g.op("Reshape", [name, g.int64([1])], f"{name}_1", "A number, as [1].")


def limbs_of_31_bits(g: Nodes, values: str, name: str) -> Word:
    """The limbs of an int64 vector; the graph fails unless all of it is 0 to 2**31 - 1.

    Whatever is larger would be narrowed by some runtimes, and some ids would be others' there.
    """
    negative = g.op("Less", [values, g.int64(0)], f"{name}_negative", "Is it below 0?")
    above = g.op("Greater", [values, g.int64(2**31 - 1)], f"{name}_above", "Is it 2**31 or more?")
    wrong = g.op("Or", [negative, above], f"{name}_wrong", "Does it not fit in 31 bits?")
    zero = refuse(g, wrong, f"{name}_checked", "Fails unless all are 0 to 2**31 - 1.")
    fine = g.op("Add", [values, zero], f"{name}_31", "Checked.")
    narrow = g.op("Cast", [fine], f"{name}_i32", "In 4 bytes.", to=TensorProto.INT32)
    whole, high = divided(g, narrow, f"{name}_high", "The upper 15 bits.")
    return Word(g.op("Sub", [narrow, whole], f"{name}_low", "The lower 16 bits."), high)
