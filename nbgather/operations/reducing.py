"""Scatter with a reduction: what several values for one place become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from nbgather.operations.base import Apply, DType, Spec, Tuple, device_of, known
from nbgather.operations.indexing import ADDED, WIDENED, Gather, Scatter, ScatterAdd

#: What several values for one place may become.
REDUCES = ("sum", "prod", "mean", "amax", "amin")
_EXTREMES = ("amax", "amin")
#: What reductions of bools are, which are 0 and 1.
_OF_BOOLS = {"sum": "amax", "prod": "amin", "amax": "amax", "amin": "amin"}
_UNSIGNED = {f"uint{8 * n}": f"u{n}" for n in (1, 2, 4, 8)}
_SIGNED = {f"int{8 * n}": f"i{n}" for n in (1, 2, 4, 8)}
#: Floats of 16 bits, by the names of kinds whose bits kernels take as integers.
_HALVES = {"float16": "half", "bfloat16": "brain"}
COMPARED = frozenset(_HALVES.values())


class Reduction(NamedTuple):
    """How a kernel reduces: the way, the kind of its numbers, and whether the input counts."""

    reduce: str
    kind: str
    include_self: bool


def checked_reduce(value: Any) -> Any:
    """The name of a reduction."""
    if not isinstance(value, str) or value not in REDUCES:
        raise ValueError(f"reduce is {value!r}: it must be one of {', '.join(map(repr, REDUCES))}")
    return REDUCES[REDUCES.index(value)]


def neutral(reduce: str, dtype: Any) -> Any:
    """The number that a sum, a product or an extreme begins with, which changes none."""
    if reduce in ("sum", "prod"):
        return int(reduce == "prod")
    name, smallest = str(dtype), reduce == "amin"
    if "bool" in name:
        return smallest
    if "float" in name:
        return float("inf") if smallest else float("-inf")
    limits = np.iinfo(name.rpartition(".")[2])
    return int(limits.max if smallest else limits.min)


def check_numbers(
    dtype: DType, reduce: str, name: str = "scatter_reduce", what: str = "input"
) -> None:
    """Whether numbers of a dtype can be reduced so; ``what`` is the operand that has them."""
    plain = dtype.plain
    fits = dtype.native and (plain in ADDED or plain in WIDENED)
    if reduce in _EXTREMES:
        kinds = "bool, integers, float16, bfloat16, float32 and float64"
        fits = fits and not plain.startswith("complex")
    else:
        kinds = "integers, float16, bfloat16, float32, float64 and complex numbers"
        if reduce == "mean":
            fits = fits and plain != "bool"
        else:
            kinds = f"bool, {kinds}"
    if not fits:
        raise TypeError(
            f"{what} has dtype {dtype.name}: {name} by {reduce!r} takes {kinds}, in this machine's"
            " byte order"
        )


def reduction(dtype: DType, reduce: str, include_self: bool) -> Reduction | None:
    """How kernels reduce a dtype; None where it is made of other operations."""
    plain = dtype.plain
    if plain == "bool":
        return Reduction(_OF_BOOLS[reduce], "u1", include_self)
    if plain in _HALVES:
        if reduce in (*_EXTREMES, "mean"):
            return Reduction(reduce, _HALVES[plain], include_self)
        return None
    if plain in _SIGNED:
        # Sums and products have the same bits whether there are signs or not.
        kind = _SIGNED[plain]
        is_signed = reduce in (*_EXTREMES, "mean")
        return Reduction(reduce, kind if is_signed else f"u{kind[1:]}", include_self)
    if plain in _UNSIGNED:
        return Reduction(reduce, _UNSIGNED[plain], include_self)
    if plain.startswith("complex") and reduce == "mean":
        return None
    return Reduction(reduce, ADDED[plain], include_self)


@dataclass(frozen=True)
class ScatterReduce(Scatter):
    """torch.scatter_reduce: the values of one place in row-major order of the index."""

    reduce: str = "sum"
    include_self: bool = True

    may_be_numbers: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        checked_reduce(self.reduce)

    @property
    def needs_values(self) -> tuple[int, ...]:  # type: ignore[override]
        return () if self.reduce in ("sum", "mean") else (0, 2)

    def result(self, x: Spec, index: Spec, src: Spec | None) -> tuple[Spec, ...]:
        results = super().result(x, index, src)
        check_numbers(x.dtype, self.reduce)
        return results

    def lower(self, do: Apply, *operands: Any) -> Any:
        x, index, src = operands
        xp = do.xp
        if self.reduce == "mean":
            # As torch has it: the sum and the number of values, both rounded to the dtype.
            total = do.run(replace(self, reduce="sum"), x, index, src)
            number = self._count(do, x, index)
            if "int" in str(x.dtype):  # numpy.isdtype knows no bfloat16
                return xp.floor_divide(total, number)
            return total / number
        if self.reduce == "sum":
            if not self.include_self:
                x = do.run(Scatter(self.dim), x, index, 0)
            return do.run(ScatterAdd(self.dim), x, index, src)
        is_half = str(x.dtype).rpartition(".")[2] in WIDENED
        if not self.include_self and (self.reduce in _EXTREMES or not is_half):
            # Into what the kernels begin with, too, at the places that have values.
            x = do.run(Scatter(self.dim), x, index, neutral(self.reduce, x.dtype))
            return do.run(replace(self, include_self=True), x, index, src)
        if is_half:
            wide = do.run(self, xp.astype(x, xp.float32), index, xp.astype(src, xp.float32))
            return xp.astype(wide, x.dtype)
        raise NotImplementedError(
            f"scatter_reduce by {self.reduce!r} of dtype {x.dtype} has no kernel of the backend"
            " asked for: without backend= there is one"
        )

    # How the result depends on what is reduced: it is (mx * x + scatter_add(ms * src)) / n, with
    # factors that are those of the result's derivative.

    def _count(self, do: Apply, x: Any, index: Any) -> Any:
        """How many values each place has, 1 where it has none."""
        xp, device = do.xp, device_of(x)
        is_half = str(x.dtype).rpartition(".")[2] in WIDENED
        dtype = xp.float32 if is_half else x.dtype  # as what they are counted in
        start = xp.full(tuple(x.shape), int(self.include_self), dtype=dtype, device=device)
        ones = xp.full(tuple(index.shape), 1, dtype=dtype, device=device)
        number = do.run(ScatterAdd(self.dim), start, index, ones)
        if not self.include_self:
            number = xp.where(number == 0, 1, number)
        return xp.astype(number, x.dtype) if is_half else number

    def _factors(self, do: Apply, x: Any, index: Any, src: Any) -> tuple[Any, Any, Any]:
        """``mx``, ``ms`` at the shape of the index, and ``n``; None stands for ones."""
        xp, gather = do.xp, Gather(self.dim)
        if self.reduce in _EXTREMES:
            result = do.run(self, x, index, src)
            mx = self._kept(do, xp.astype(x == result, x.dtype), index)
            ms = xp.astype(src == do.run(gather, result, index), x.dtype)
            return mx, ms, do.run(ScatterAdd(self.dim), mx, index, ms)
        # Of products: what is multiplied with each factor. A zero counts as 1 in its own.
        some = xp.where(x == 0, 1, x)
        mx = self._kept(do, do.run(self, some, index, src) / some, index)
        is_zero = src == 0
        zeros = do.run(ScatterAdd(self.dim), xp.zeros_like(x), index, xp.astype(is_zero, x.dtype))
        met = do.run(gather, zeros, index)
        alone = is_zero & (met == 1)
        # 0 where two zeros meet, but no number in its own derivative, which is not known here.
        unknown = xp.sqrt(xp.where(is_zero & (met > 1), src, 1))
        others = do.run(self, x, index, xp.where(alone, 1, src))
        result = do.run(self, x, index, src)
        quotient = do.run(gather, result, index) / xp.where(is_zero, 1, src)
        return mx, xp.where(alone, do.run(gather, others, index), quotient) * unknown, None

    def _kept(self, do: Apply, factor: Any, index: Any) -> Any:
        """A factor of the input, which has no part where something came instead."""
        return factor if self.include_self else do.run(Scatter(self.dim), factor, index, 0)

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        x, index, src = operands
        mx = ms = number = None
        if self.needs_values:
            mx, ms, number = self._factors(do, x, index, _cut(src, index))
        elif self.reduce == "mean":
            number = self._count(do, cotangent, index)
        if number is not None:
            cotangent = cotangent / number
        to_x = to_src = None
        if needed[0]:
            to_x = self._kept(do, cotangent, index) if mx is None else mx * cotangent
        if needed[1]:
            to_src = do.run(Gather(self.dim), cotangent, index)
            to_src = self._padded(do, to_src if ms is None else ms * to_src, specs[2])
        return to_x, to_src

    def tangent(self, do: Apply, tangents: Tuple, specs: Tuple, operands: Tuple) -> Any:
        if not self.needs_values:
            return super().tangent(do, tangents, specs, operands)
        x, index, src = operands
        to_x, _, to_src = tangents
        src = _cut(src, index)
        mx, ms, number = self._factors(do, x, index, src)
        moved = do.xp.zeros_like(x) if to_x is None else mx * to_x
        if to_src is not None:
            moved = do.run(ScatterAdd(self.dim), moved, index, ms * _cut(to_src, index))
        return moved if number is None else moved / number


def _cut(src: Any, index: Any) -> Any:
    """The part of src that is read."""
    if all(known(n) and n == m for n, m in zip(index.shape, src.shape, strict=True)):
        return src
    return src[tuple(slice(0, n) for n in index.shape)]
