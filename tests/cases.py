"""One table of cases, shared by the tests and the benchmarks.

Every case is small enough for the reference's plain Python loops unless it is in ``LARGE``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

#: Every dtype that the contract names, by item size.
DTYPES: dict[str, Any] = {
    "bool": np.dtype("bool"),
    "int8": np.dtype("int8"),
    "uint8": np.dtype("uint8"),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "int16": np.dtype("int16"),
    "uint16": np.dtype("uint16"),
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int32": np.dtype("int32"),
    "uint32": np.dtype("uint32"),
    "float32": np.dtype("float32"),
    "int64": np.dtype("int64"),
    "uint64": np.dtype("uint64"),
    "float64": np.dtype("float64"),
    "complex64": np.dtype("complex64"),
    "datetime64[ms]": np.dtype("datetime64[ms]"),
    "timedelta64[D]": np.dtype("timedelta64[D]"),
    "complex128": np.dtype("complex128"),
    ">f4": np.dtype(">f4"),
    "S4": np.dtype("S4"),
}
INDEX_DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


class Case(NamedTuple):
    """A gather: ``input``, ``dim``, ``index``."""

    input: np.ndarray
    dim: int
    index: np.ndarray


def rng(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))


def random_bits(generator: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Random bits in any dtype: NaNs with payloads, denormals and all; bools stay bools."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    if dtype == np.bool_:
        return generator.integers(0, 2, shape).astype(bool)
    data = generator.integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    return data.view(dtype).reshape(shape)


def make(
    name: str,
    shape: tuple[int, ...],
    dim: int,
    index_shape: tuple[int, ...],
    dtype: Any = "float32",
    index_dtype: Any = "int64",
) -> Case:
    generator = rng(name)
    size = shape[dim] if shape else 1
    index = generator.integers(0, min(max(size, 1), 127), index_shape).astype(index_dtype)
    return Case(random_bits(generator, shape, dtype), dim, index)


def _strided(view: Callable[[np.ndarray], np.ndarray], which: str) -> Case:
    """A case with a view of the input or the index in it."""
    case = make(f"{which}", (6, 8, 10), 1, (6, 8, 10))
    if which == "input":
        x = view(case.input)
        index = case.index[: x.shape[0], :, : x.shape[2]] % x.shape[1]
        return Case(x, 1, np.ascontiguousarray(index))
    return Case(case.input, 1, view(case.index % 3)[:6])


def _read_only() -> Case:
    case = make("read_only", (3, 4, 5), 2, (3, 4, 6))
    case.input.flags.writeable = False
    case.index.flags.writeable = False
    return case


def _unaligned() -> Case:
    case = make("unaligned", (3, 4), 1, (3, 5))
    record = np.zeros((3, 4), np.dtype([("pad", "u1"), ("v", "f4")]))
    record["v"] = case.input
    return Case(record["v"], 1, case.index)


def _unaligned_index() -> Case:
    case = make("unaligned_index", (3, 4), 1, (3, 5))
    record = np.zeros((3, 5), np.dtype([("pad", "u1"), ("v", "i8")]))
    record["v"] = case.index
    return Case(case.input, 1, record["v"])


def _swapped_index() -> Case:
    case = make("swapped_index", (3, 4), 1, (3, 5))
    return Case(case.input, 1, case.index.astype(">i8"))


def _tokens(expanded: bool) -> Case:
    case = make("tokens", (3, 7, 8), 1, (3, 4))
    index = case.index[:, :, None]
    wide = np.broadcast_to(index, (3, 4, 8)) if expanded else np.repeat(index, 8, 2)
    return Case(case.input, 1, wide)


def _worked() -> Case:
    index = np.array([[[0, 0, 0, 0], [2, 2, 2, 2]]] * 2)
    return Case(np.arange(24).reshape(2, 3, 4), 1, index)


CASES: dict[str, Callable[[], Case]] = {
    "worked": _worked,
    "1d": lambda: make("1d", (7,), 0, (9,)),
    "2d_dim0": lambda: make("2d_dim0", (5, 6), 0, (4, 6)),
    "2d_dim1": lambda: make("2d_dim1", (5, 6), 1, (5, 9)),
    "3d_dim0": lambda: make("3d_dim0", (4, 3, 5), 0, (6, 3, 5)),
    "3d_dim1": lambda: make("3d_dim1", (4, 3, 5), 1, (4, 6, 5)),
    "3d_dim2": lambda: make("3d_dim2", (4, 3, 5), 2, (4, 3, 8)),
    "negative_dim": lambda: make("negative_dim", (4, 3, 5), -2, (4, 2, 5)),
    "smaller_index": lambda: make("smaller_index", (4, 5, 6), 1, (2, 7, 3)),
    "4d_middle": lambda: make("4d_middle", (2, 3, 4, 5), 2, (2, 3, 6, 5)),
    "5d": lambda: make("5d", (2, 3, 2, 3, 2), 3, (2, 2, 2, 4, 2)),
    "index_0d": lambda: make("index_0d", (4,), 0, ()),
    "input_0d": lambda: make("input_0d", (), 0, (3,)),
    "both_0d": lambda: make("both_0d", (), 0, ()),
    "one": lambda: make("one", (1, 1, 1), 1, (1, 1, 1)),
    "empty_index": lambda: make("empty_index", (3, 4), 1, (3, 0)),
    "empty_index_unlike": lambda: make("empty_index_unlike", (3, 4), 1, (0,)),
    "empty_input": lambda: make("empty_input", (0, 4), 1, (0, 3)),
    "transposed": lambda: _strided(lambda a: a.transpose(2, 1, 0), "input"),
    "sliced": lambda: _strided(lambda a: a[::2, :, ::3], "input"),
    "negative_strides": lambda: _strided(lambda a: a[::-1, ::-1, ::-1], "input"),
    "broadcast_input": lambda: _strided(lambda a: np.broadcast_to(a[:1, :, :1], a.shape), "input"),
    "index_sliced": lambda: _strided(lambda a: a[:, ::2, ::2], "index"),
    "index_reversed": lambda: _strided(lambda a: a[:, ::-1, ::-1], "index"),
    "index_broadcast": lambda: _strided(lambda a: np.broadcast_to(a[:1], a.shape), "index"),
    "read_only": _read_only,
    "unaligned": _unaligned,
    "unaligned_index": _unaligned_index,
    "swapped_index": _swapped_index,
    "tokens_repeated": lambda: _tokens(False),
    "tokens_expanded": lambda: _tokens(True),
    **{
        f"dtype_{name}": lambda dtype=dtype: make(f"{dtype}", (3, 4, 5), 1, (3, 6, 5), dtype)
        for name, dtype in DTYPES.items()
    },
    **{
        f"rows_{name}": lambda name=name, dtype=dtype: Case(
            random_bits(rng(name), (2, 5, 32), dtype),
            1,
            np.broadcast_to(rng(name).integers(0, 5, (2, 3, 1)), (2, 3, 32)),
        )
        for name, dtype in DTYPES.items()
    },
    **{
        f"index_{name}": lambda name=name: make(f"i{name}", (3, 4, 5), 2, (3, 4, 7), "u2", name)
        for name in INDEX_DTYPES
    },
}

#: Big enough to be split over threads; compared with torch, not with plain loops.
LARGE: dict[str, Callable[[], Case]] = {
    "rows": lambda: make("L0", (64, 50, 96), 1, (64, 20, 96)),
    "rows_expanded": lambda: Case(
        random_bits(rng("L1"), (64, 50, 256), "float32"),
        1,
        np.broadcast_to(rng("L1").integers(0, 50, (64, 20, 1)), (64, 20, 256)),
    ),
    "last": lambda: make("L2", (300, 500), 1, (300, 700)),
    "dim0": lambda: make("L3", (500, 301), 0, (400, 301)),
    "one_long_row": lambda: make("L4", (1000,), 0, (400_001,), "float64", "int16"),
    "one_wide_row": lambda: Case(
        random_bits(rng("L5"), (1, 3, 400_003), "u1"), 1, np.full((1, 1, 400_003), 2)
    ),
    "transposed": lambda: Case(
        make("L6", (300, 40, 50), 1, (1,)).input.transpose(2, 1, 0),
        1,
        rng("L6").integers(0, 40, (50, 60, 300)),
    ),
    "complex128": lambda: make("L7", (100, 80, 9), 1, (100, 90, 9), "complex128"),
}


def same(got: Any, want: Any) -> None:
    """Assert that two NumPy arrays are equal in dtype, shape and every bit."""
    assert type(got) is np.ndarray, type(got)
    assert got.dtype == want.dtype, (got.dtype, want.dtype)
    assert got.shape == want.shape, (got.shape, want.shape)
    if got.tobytes() != want.tobytes():
        bits = np.dtype(f"V{got.itemsize}")
        a = np.ascontiguousarray(got).reshape(-1).view(bits)
        b = np.ascontiguousarray(want).reshape(-1).view(bits)
        first = next(k for k in range(a.size) if a[k] != b[k])
        where = tuple(int(v) for v in np.unravel_index(first, got.shape))
        raise AssertionError(f"bits differ first at {where}: {a[first]!r} is not {b[first]!r}")
