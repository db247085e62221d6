"""The cases of gathers and scatters."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

import nbgather
from nbgather.apps.selftest import inputs
from nbgather.apps.selftest.cases import INDEX_DTYPES, Case, Given, To, every
from nbgather.apps.selftest.inputs import LAYOUTS, laid_out

DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "float16", "int32", "uint32", "float32", "int64",
    "uint64", "float64", "complex64", "complex128", "datetime64[ms]", "timedelta64[D]", "S4", ">f4",
)  # fmt: skip
MODES = ("raise", "clip", "wrap", "fill")
SHAPES = (
    ((7,), 0, (11,)), ((5, 9), 1, (5, 13)), ((5, 9), 0, (3, 9)), ((3, 5, 7), 1, (3, 8, 7)),
    ((3, 5, 7), 2, (2, 5, 40)), ((3, 5, 70), 1, (3, 5, 66)), ((2, 3, 4, 5), 1, (2, 6, 4, 3)),
    ((6, 130), 1, (6, 300)), ((40, 33), 0, (17, 33)), ((1, 1), 1, (1, 1)), ((0, 4), 0, (0, 4)),
    ((4, 300), 1, (4, 1)), ((2, 20_000), 1, (2, 500)),
)  # fmt: skip


def _index(
    stream: int, size: int, shape: tuple[int, ...], dtype: str, mode: str, from_end: bool = False
) -> np.ndarray:
    """Indices: within bounds for raise, else some beyond both ends as far as the dtype goes."""
    limits = np.iinfo(dtype)
    low, high = (-size if from_end else 0), size
    if mode != "raise":
        low, high = -2 * size, 3 * size
    low, high = max(low, limits.min), min(high, limits.max)
    return inputs.integers(stream, low, max(high, low + 1), shape, dtype)


def _fill(mode: str) -> dict[str, Any]:
    return {"mode": mode} | ({"fill_value": 1} if mode == "fill" else {})


def _gather(
    number: int,
    dtype: str,
    shape: tuple[int, ...],
    dim: int,
    to_shape: tuple[int, ...],
    mode: str,
    layout: str,
    index_dtype: str,
    options: dict[str, Any],
    to: To,
    given: Given,
) -> Any:
    x = laid_out(inputs.bits(number, shape, dtype), layout)
    index = _index(number, shape[dim], to_shape, index_dtype, mode)
    return nbgather.gather(to(x), dim, to(laid_out(index, layout)), **options, **given)


def gathers() -> Iterator[Case]:
    """Gather, over dtypes, modes, layouts and shapes."""
    for number, (dtype, (shape, dim, to_shape), mode, layout) in every(
        DTYPES, SHAPES, MODES, LAYOUTS, count=400
    ):
        index_dtype = INDEX_DTYPES[number % 2]
        if number % 25 == 0 and mode == "raise":
            index_dtype = INDEX_DTYPES[number // 25 % len(INDEX_DTYPES)]
        if dtype == "complex128":
            mode, index_dtype = "raise", "int64"
        options = _fill(mode)
        if mode == "fill" and np.dtype(dtype).kind in "mMS":
            options["fill_value"] = np.zeros((), dtype)[()]
        text = f"gather {dtype} {shape} {layout}, dim {dim}, {index_dtype} {to_shape}, {mode}"

        yield Case(
            text,
            functools.partial(
                _gather, number, dtype, shape, dim, to_shape, mode, layout, index_dtype, options
            ),
        )


def _take(
    number: int,
    dtype: str,
    shape: tuple[int, ...],
    dim: int,
    to_shape: tuple[int, ...],
    mode: str,
    index_dtype: str,
    to: To,
    given: Given,
) -> Any:
    x = inputs.bits(1000 + number, shape, dtype)
    index = _index(number, shape[dim], to_shape, index_dtype, mode, from_end=True)
    return nbgather.take_along_axis(to(x), to(index), dim, **_fill(mode), **given)


def takes() -> Iterator[Case]:
    """take_along_axis: negative indices, and other dimensions that broadcast."""
    shapes = (
        ((4, 6), 1, (1, 9)), ((4, 6), -1, (4, 3)), ((5, 4, 3), 0, (2, 1, 3)), ((3, 50), 1, (3, 70)),
        ((1, 33), 1, (6, 5)),
    )  # fmt: skip
    for number, (dtype, (shape, dim, to_shape), mode) in every(
        ("uint8", "float16", "float32", "int64"), shapes, MODES, count=80
    ):
        index_dtype = INDEX_DTYPES[number % 2]
        text = f"take_along_axis {dtype} {shape}, axis {dim}, {index_dtype} {to_shape}, {mode}"

        yield Case(
            text, functools.partial(_take, number, dtype, shape, dim, to_shape, mode, index_dtype)
        )


def _gather_rows(
    number: int,
    dtype: str,
    shape: tuple[int, ...],
    count: int,
    mode: str,
    index_dtype: str,
    to: To,
    given: Given,
) -> Any:
    x = inputs.bits(2000 + number, shape, dtype)
    ids = _index(number, shape[1], (shape[0], count), index_dtype, mode)
    return nbgather.gather_tokens(to(x), to(ids), **_fill(mode), **given)


def rows() -> Iterator[Case]:
    """gather_tokens: rows from a byte to kilobytes."""
    shapes = (
        ((3, 9), 4), ((2, 7, 1), 9), ((2, 7, 3), 5), ((4, 20, 16), 11), ((3, 12, 200), 6),
        ((2, 10, 700), 13), ((3, 5, 2, 4), 2), ((0, 4, 3), 2), ((2, 4, 0), 3),
    )  # fmt: skip
    for number, (dtype, (shape, count), mode) in every(
        ("uint8", "int16", "float32", "float64", "complex128"), shapes, MODES, count=120
    ):
        index_dtype = INDEX_DTYPES[number % 2]
        text = f"gather_tokens {dtype} {shape}, {index_dtype} [{shape[0]}, {count}], {mode}"

        yield Case(
            text, functools.partial(_gather_rows, number, dtype, shape, count, mode, index_dtype)
        )


def _scatter(
    number: int,
    dtype: str,
    shape: tuple[int, ...],
    dim: int,
    to_shape: tuple[int, ...],
    name: str,
    to: To,
    given: Given,
) -> Any:
    x, src = (_summand(3000 + number + k, s, dtype) for k, s in enumerate((shape, to_shape)))
    index = _index(number, shape[dim], to_shape, INDEX_DTYPES[number % 2], "raise")
    return getattr(nbgather, name)(to(x), dim, to(index), to(src), **given)


def scatters() -> Iterator[Case]:
    """Scatter and scatter_add, with duplicates: the last one wins, and sums have an order."""
    shapes = (
        ((9,), 0, (40,)), ((4, 6), 1, (4, 30)), ((6, 20), 0, (11, 20)), ((2, 5, 3), 1, (2, 9, 3)),
        ((3, 1), 1, (3, 17)), ((2, 200), 1, (2, 150)), ((3, 4), 0, (2, 3)), ((5, 40), 0, (0, 40)),
    )  # fmt: skip
    usual = ("float16", "int32", "float32", "int64", "float64")
    cases = [case for _, case in every(usual, shapes, (False, True), count=80)]
    # Kernels of other dtypes are compiled here: one shape each.
    cases += [(dtype, shapes[1], True) for dtype in ("bool", "int8", "uint16", "complex64")]
    cases.append(("complex128", shapes[0], False))
    for number, (dtype, (shape, dim, to_shape), adds) in enumerate(cases):
        name = "scatter_add" if adds else "scatter"
        text = f"{name} {dtype} {shape}, dim {dim}, {INDEX_DTYPES[number % 2]} {to_shape}"

        yield Case(text, functools.partial(_scatter, number, dtype, shape, dim, to_shape, name))


def _summand(stream: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Values to add; the sums of floats have other bits in another order."""
    kind = np.dtype(dtype)
    if kind.kind not in "fc":
        return inputs.bits(stream, shape, dtype)
    drawn = inputs.floats(stream, shape, np.float64)
    return (drawn * inputs.integers(stream, -9, 10, shape) / 3).astype(kind)


def _reduce(
    number: int,
    dtype: str,
    shape: tuple[int, ...],
    dim: int,
    to_shape: tuple[int, ...],
    how: tuple[Any, bool],
    to: To,
    given: Given,
) -> Any:
    x, src = (_summand(3500 + number + k, s, dtype) for k, s in enumerate((shape, to_shape)))
    index = _index(number, shape[dim], to_shape, "int64", "raise")
    reduce, include_self = how
    return nbgather.scatter_reduce(
        to(x), dim, to(index), to(src), reduce, include_self=include_self, **given
    )


REDUCES = ("sum", "prod", "mean", "amax", "amin")


def reductions() -> Iterator[Case]:
    """Every reduction, with the input and without."""
    shapes = (((9,), 0, (40,)), ((4, 6), 1, (4, 30)), ((6, 20), 0, (11, 20)), ((3, 1), 1, (3, 17)))
    for number, (dtype, (shape, dim, to_shape), reduce, include_self) in every(
        ("float32", "int32"), shapes[1:3], REDUCES, (True, False), count=20
    ):
        text = f"scatter_reduce {dtype} {shape}, dim {dim}, {to_shape}, {reduce}"
        text += "" if include_self else ", without the input"
        how = reduce, include_self
        yield Case(text, functools.partial(_reduce, number, dtype, shape, dim, to_shape, how))


#: How many rows each segment has, or ids each bag: none, one, many.
COUNTS = (3, 0, 17, 1, 0, 9)


def _segments(
    number: int, dtype: str, columns: tuple[int, ...], reduce: Any, by: str, to: To, given: Given
) -> Any:
    x = _summand(3800 + number, (sum(COUNTS), *columns), dtype)
    ways = {
        "ids": inputs.integers(3850 + number, 0, 5, (len(x),)),
        "offsets": np.cumsum([0, *COUNTS]),
        "counts": np.array(COUNTS),
    }
    where: dict[str, Any] = {by: to(ways[by])}
    if by == "ids":
        where["num_segments"] = 6
    return nbgather.segment_reduce(to(x), reduce, **where, **given)


def segments() -> Iterator[Case]:
    """segment_reduce: every reduction, rows in order and in any."""
    for number, (dtype, columns, reduce, by) in every(
        ("float32", "float16"), ((), (5,), (2, 20)), REDUCES, ("ids", "offsets", "counts"),
        count=30,
    ):  # fmt: skip
        text = f"segment_reduce {dtype} [{sum(COUNTS)}, *{columns}], {reduce} by {by}"
        yield Case(text, functools.partial(_segments, number, dtype, columns, reduce, by))


def _bags(
    number: int,
    dtype: str,
    columns: tuple[int, ...],
    reduce: Any,
    how: tuple[str, bool],
    to: To,
    given: Given,
) -> Any:
    (mode, is_square), rows = how, (7, 60)[number % 2]
    x = _summand(3900 + number, (rows, *columns), dtype)
    shape = (6, 5) if is_square else (sum(COUNTS),)
    # Beside the usual one the modes that change the ids have no kernel of their own.
    index_dtype = "int64" if mode == "raise" else INDEX_DTYPES[number % len(INDEX_DTYPES)]
    ids = _index(3950 + number, rows, shape, index_dtype, mode)
    bags = {} if is_square else {"counts": to(np.array(COUNTS))}
    return nbgather.gather_reduce(to(x), to(ids), reduce, **bags, **_fill(mode), **given)


def bags() -> Iterator[Case]:
    """gather_reduce: every reduction and mode, of more rows than ids and of fewer."""
    for number, (dtype, columns, reduce, mode, is_square) in every(
        ("float32", "float16"), ((), (5,), (130,)), REDUCES, MODES, (True, False), count=40
    ):
        ids = "[6, 5]" if is_square else f"[{sum(COUNTS)}]"
        text = f"gather_reduce {dtype} [{(7, 60)[number % 2]}, *{columns}], {ids}, {reduce}, {mode}"
        how = mode, is_square
        yield Case(text, functools.partial(_bags, number, dtype, columns, reduce, how))
