"""How many tokens stay, in whole numbers: what truncating a product in float64 gives.

Some runtimes have no float64, and some divide integers in float32. So the product of a length and
a fixed part is a quotient of integers below 2**31 here, found when the graph is written; wherever
float64 rounds the product to another side of a whole number, the quotient follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from nbgather.onnx._build import TensorProto
from nbgather.onnx._nodes import Nodes

__all__ = ["LARGEST", "WholePart", "kept_nodes", "whole_part"]

#: The largest number that 32 bits hold with a sign.
LARGEST = 2**31 - 1
#: Of a product that float64 rounds, relative to the product.
_HALF_ULP = Fraction(1, 2**53)


class WholePart(NamedTuple):
    """``int(length * part)`` as ``(numerator * length - below) // denominator``.

    Attributes
    ----------
    numerator, denominator : int
        The part's nearest fraction, or the part itself.
    below : tuple of (int, int)
        Where ``numerator * length`` is above the first number of a pair, and not above the second,
        ``below`` is 1: there the product in float64 is less than the fraction's. Else it is 0.
    limit : int
        The largest length for which this is so, and nothing reaches 2**31.
    """

    numerator: int
    denominator: int
    below: tuple[tuple[int, int], ...]
    limit: int

    def of(self, length: int) -> int:
        """The whole part for a length up to the limit."""
        scaled = self.numerator * length
        below = any(low < scaled <= high for low, high in self.below)
        return (scaled - below) // self.denominator


def whole_part(part: float) -> WholePart:
    """The quotient that equals ``int(length * part)`` for a part of 0 to 1, exactly.

    Examples
    --------
    >>> whole_part(1 - 0.75)
    WholePart(numerator=1, denominator=4, below=(), limit=2147483647)
    >>> rule = whole_part(1 - 0.9)  # a little less than a tenth
    >>> rule.of(10), int(10 * (1 - 0.9))
    (0, 0)
    """
    exact = Fraction(part)
    fraction = max(_convergents(exact), key=lambda c: (_limit(c, exact), -c.denominator))
    limit = _limit(fraction, exact)
    return WholePart(*fraction.as_integer_ratio(), tuple(_below(fraction, exact)), limit)


def _convergents(value: Fraction) -> Iterator[Fraction]:
    """The best fractions for a value, each nearer to it and with a larger denominator."""
    before, last = (0, 1), (1, 0)
    rest = value
    while True:
        whole = math.floor(rest)
        before, last = last, (whole * last[0] + before[0], whole * last[1] + before[1])
        yield Fraction(*last)
        if last[1] > LARGEST or rest == whole:
            return
        rest = 1 / (rest - whole)


def _limit(fraction: Fraction, exact: Fraction) -> int:
    """Up to which length products with both have their whole numbers at the same places.

    A product with ``fraction`` that is no whole number is at least 1 / denominator away from one.
    """
    numerator, denominator = fraction.as_integer_ratio()
    apart = abs(exact - fraction) + _HALF_ULP
    same = math.ceil(1 / (denominator * apart)) - 1
    return max(0, min(same, LARGEST // max(numerator, 1)))


def _below(fraction: Fraction, exact: Fraction) -> Iterator[tuple[int, int]]:
    """Where a whole product with ``fraction`` is rounded to less, as pairs in units of it.

    A product n with the fraction is in truth less by a part of n. Between 2**k and 2**(k + 1)
    float64 rounds it up to n if that is at most 2**(k - 53).
    """
    if exact >= fraction:
        return
    threshold = _HALF_ULP * fraction / (fraction - exact)
    denominator = fraction.denominator
    if threshold <= 1:
        yield 0, LARGEST
        return
    for k in range(-1, 31):
        low = denominator * math.floor(threshold * Fraction(2) ** k)
        high = denominator * 2 ** (k + 1)
        if low < min(high, LARGEST):
            yield low, min(high, LARGEST)


def kept_nodes(g: Nodes, length: str, rule: WholePart) -> tuple[str, list[str]]:
    """K as [1], and what would be wrong: too long a sample, a division that was not exact."""
    faults = []
    if rule.limit < LARGEST:
        limit = g.int64([rule.limit])
        faults.append(g.op("Greater", [length, limit], "too_long", "Would it reach 2**31?"))
    scaled = length
    if rule.numerator != 1:
        scaled = g.op("Mul", [length, g.int64([rule.numerator])], "scaled", "Times the numerator.")
    if rule.below == ((0, LARGEST),):
        lower = g.op("Sub", [scaled, g.int64([1])], "scaled_lower", "Whole products round down.")
        scaled = g.op("Max", [lower, g.int64([0])], "scaled_below", "But 0 stays.")
    elif rule.below:
        lows, highs = (g.int64(list(bounds)) for bounds in zip(*rule.below, strict=True))
        above = g.op("Greater", [scaled, lows], "above_lows", "Of each interval.")
        within = g.op("LessOrEqual", [scaled, highs], "within_highs", "Of each interval.")
        inside = g.op("And", [above, within], "inside", "Where whole products round down.")
        ones = g.op("Cast", [inside], "inside_ones", "1 for the interval.", to=TensorProto.INT64)
        one = g.op("ReduceMax", [ones], "rounded_down", "1 in any, as [1].", keepdims=1)
        scaled = g.op("Sub", [scaled, one], "scaled_below", "Just below a whole product.")
    divisor = g.int64([rule.denominator])
    count = g.op("Div", [scaled, divisor], "keep_count", "K, as int() gives it.")
    if rule.denominator != 1:
        # A runtime that divides in float32 does so exactly below 2**24.
        product = g.op("Mul", [count, divisor], "count_product", "To see that it was exact.")
        rest = g.op("Sub", [scaled, product], "count_rest", "The remainder.")
        faults.append(g.op("Less", [rest, g.int64([0])], "rest_negative", "Is K too large?"))
        faults.append(g.op("GreaterOrEqual", [rest, divisor], "rest_large", "Is it too small?"))
    return count, faults
