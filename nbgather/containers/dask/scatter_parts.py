"""What the tasks of a scatter do whose index is in chunks along the dimension.

The largest, the smallest, and sums and products of integers and bools are the same in any order:
each chunk is reduced by itself, and the results are put together as a tree. Sums, products and
means of floats are not: they go from chunk to chunk, so that the values of a place are added in
row-major order of the whole index, as one call adds them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nbgather.containers.dask import blocks
from nbgather.containers.dask.block_shapes import Call
from nbgather.containers.dask.gather_blocks import refuse_bad
from nbgather.containers.dask.sides import plain_block
from nbgather.containers.numpy import describe
from nbgather.operations.base import Operation
from nbgather.operations.indexing import WIDENED, Scatter, ScatterAdd
from nbgather.operations.reducing import ScatterReduce


class Partial(NamedTuple):
    """Values, and where that matters how many there are of each place, and whether any came."""

    values: np.ndarray
    counts: np.ndarray | None
    hits: np.ndarray | None


class Reducing(NamedTuple):
    """A scatter of any kind, as the tasks need it."""

    dim: int
    reduce: str | None
    own: bool

    @property
    def name(self) -> str:
        """What is done to the values."""
        return "sum" if self.reduce == "mean" else str(self.reduce)


def reducing(operation: Scatter, dim: int) -> Reducing:
    if isinstance(operation, ScatterReduce):
        return Reducing(dim, operation.reduce, operation.include_self)
    return Reducing(dim, "sum" if isinstance(operation, ScatterAdd) else None, True)


def has_any_order(how: Reducing, dtype: Any) -> bool:
    """Whether the results of chunks can be put together in any order."""
    if how.reduce in ("amax", "amin"):
        return True
    return how.reduce is not None and (dtype.kind in "iub")


def count(how: Reducing, dtype: Any, chunks: int) -> int:
    """How many tasks a block has whose index is in so many chunks."""
    if chunks == 1:
        return 1
    # A tree of parts and the input; or the input, chunk after chunk, and what they give.
    return 2 * chunks if has_any_order(how, dtype) else chunks + 2


def part(how: Reducing, like: Any, index: Any, src: Any, starts: tuple[int | None, ...]) -> Partial:
    """One chunk of the index by itself; ``like`` has the input's block's shape and dtype."""
    shape, dtype = like
    values = np.full(shape, _identity(how.name, dtype), dtype)
    counts = np.zeros(shape, dtype) if how.reduce == "mean" else None
    hits = None if how.own else np.zeros(shape, bool)
    return step(how, Partial(values, counts, hits), index, src, starts, False)


def step(
    how: Reducing,
    before: Partial,
    index: Any,
    src: Any,
    starts: tuple[int | None, ...],
    begins: bool = True,
) -> Partial:
    """One chunk more: where no value came before, and the input does not count, it begins."""
    index, src = plain_block(index, "a chunk of index"), plain_block(src, "a chunk of src")
    values, counts, hits = before

    def run(operation: Operation, *operands: Any) -> Any:
        try:
            return blocks.execute(operation, *operands)
        except IndexError:
            refuse_bad(index, values.shape[how.dim], Call(how.dim, False, "raise", None), starts)
            raise

    if how.reduce is None:
        return Partial(run(Scatter(how.dim), values, index, src), None, None)
    if hits is not None:
        now = run(Scatter(how.dim), hits, index, True)
        if begins:
            first = np.array(_identity(how.name, values.dtype), values.dtype)
            values = np.where(now & ~hits, first, values)
        hits = now
    if counts is not None:
        ones = np.broadcast_to(np.ones((), counts.dtype), index.shape)
        counts = run(ScatterAdd(how.dim), counts, index, ones)
    operation = ScatterAdd(how.dim) if how.name == "sum" else ScatterReduce(how.dim, how.name)
    return Partial(run(operation, values, index, src.astype(values.dtype)), counts, hits)


def merge(how: Reducing, one: Partial, other: Partial) -> Partial:
    """Of two parts, of which ``one`` comes first."""
    counts = None if one.counts is None or other.counts is None else one.counts + other.counts
    hits = None if one.hits is None or other.hits is None else one.hits | other.hits
    return Partial(_folded(how.name, one.values, other.values), counts, hits)


def begin(how: Reducing, x: Any) -> Partial:
    """The input, from which what has an order goes on."""
    x = plain_block(x, "a chunk of input")
    wide = np.dtype(np.float32) if describe(x.dtype).plain in WIDENED and how.reduce else x.dtype
    counts = np.full(x.shape, how.own, wide) if how.reduce == "mean" else None
    hits = None if how.own else np.zeros(x.shape, bool)
    return Partial(x.astype(wide), counts, hits)


def join(how: Reducing, x: Any, whole: Partial) -> np.ndarray:
    """The input with what all parts are, where they have any order."""
    x = plain_block(x, "a chunk of input")
    values, counts, hits = whole
    if how.own:
        values = _folded(how.name, x, values)
        counts = None if counts is None else counts + np.ones((), counts.dtype)
    result = end(x.dtype, Partial(values, counts, None))
    return result if hits is None else np.where(hits, result, x)


def end(dtype: Any, whole: Partial) -> np.ndarray:
    """The values, divided and rounded once."""
    values = whole.values.astype(dtype, copy=False)
    if whole.counts is None:
        return values
    counts = whole.counts.astype(dtype, copy=False)
    with np.errstate(all="ignore"):
        divisors = np.where(counts == 0, np.ones((), dtype), counts)
        return values // divisors if dtype.kind in "iu" else values / divisors


def _folded(name: str, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What two become: a NaN takes the place of another number, an equal one does not."""
    if name in ("amax", "amin"):
        wins = other > one if name == "amax" else other < one
        return np.where(wins | (other != other), other, one)
    with np.errstate(all="ignore"):
        return np.multiply(one, other) if name == "prod" else np.add(one, other)


def _identity(name: str, dtype: Any) -> Any:
    """What a reduction begins with."""
    if name not in ("amax", "amin"):
        return int(name == "prod")
    largest, plain = name == "amin", describe(dtype).plain
    if plain == "bool":
        return largest
    if "float" in plain:
        return np.inf if largest else -np.inf
    limits = np.iinfo(dtype)
    return limits.max if largest else limits.min
