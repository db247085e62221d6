"""Checks that many operations share: what came, what is allowed, and where."""

from __future__ import annotations

import operator
import re
from typing import Any

import numpy as np

from nbgather.operations.base import DType, Spec
from nbgather.operations.on_device import OnDevice

#: What to do with an index that is out of bounds.
MODES = ("raise", "clip", "wrap", "fill", "defer")
#: Those of calls that write to the places an index names.
WRITE_MODES = ("raise", "defer")
#: Bytes of an item that the kernels move.
ITEMSIZES = (1, 2, 4, 8, 16)
#: Dtypes that tokens are ranked by.
SCORE_DTYPES = ("float16", "bfloat16", "float32", "float64")


def integer(value: Any, what: str) -> int:
    """``value`` as an int; bool and float are a TypeError."""
    if type(value) is int or is_open(value):
        return value  # also one of torch.compile's, which operator.index would fix
    if isinstance(value, bool) or type(value).__name__ == "bool":
        raise TypeError(f"{what} is {value!r}: a whole number is needed, not a bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{what} is {value!r} of type {type(value).__name__}: a whole number is needed"
        ) from None


def flag(value: Any, what: str) -> bool:
    """A bool, of Python or NumPy."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{what} is {value!r} of type {type(value).__name__}: a bool is needed")
    return bool(value)


def is_open(value: Any) -> bool:
    """Whether it is a number that torch leaves open in a graph."""
    return type(value).__name__ == "SymInt"


def mode(value: Any, modes: tuple[str, ...] = MODES) -> str:
    if not isinstance(value, str) or value not in modes:
        raise ValueError(f"mode is {value!r}: it must be one of {', '.join(map(repr, modes))}")
    return modes[modes.index(value)]


def axis(value: int, ndim: int) -> int:
    """An axis counted from the front; NumPy's own IndexError if there is none."""
    if not -ndim <= value < ndim:
        allowed = f"{-ndim} to {ndim - 1}" if ndim else "there is none"
        raise np.exceptions.AxisError(
            f"axis {value} is out of range for {ndim} dimensions: {allowed}"
        )
    return value + ndim if value < 0 else value


def dim(value: int, ndim: int, what: str = "dim") -> int:
    """A dimension counted from the front; 0-d counts as 1-d."""
    n = max(ndim, 1)
    if not -n <= value < n:
        raise IndexError(f"{what} {value} is out of range for {ndim} dimensions: {-n} to {n - 1}")
    return value + n if value < 0 else value


def itemsize(dtype: DType, what: str) -> None:
    if dtype.itemsize not in ITEMSIZES:
        raise TypeError(
            f"{what} has dtype {dtype.name} of {dtype.itemsize} bytes: items of"
            f" {', '.join(map(str, ITEMSIZES))} bytes are supported"
        )


def index_dtype(dtype: DType, what: str, error: type[Exception] = TypeError) -> str:
    if dtype.integer is None:
        raise error(f"{what} has dtype {dtype.name}: an integer dtype is needed")
    return dtype.integer


def bits64(value: Any, what: str) -> Any:
    """A 64-bit integer, signed or unsigned, as the unsigned number of the same bits.

    One that only a device knows stays what it is.
    """
    if type(value) is OnDevice:
        return value
    number = operator.index(integer(value, what))
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"{what} is {number}: it must fit in 64 bits")
    return number & (2**64 - 1)


def signed64(key: int) -> int:
    """The signed integer of the same 64 bits."""
    return key - 2**64 if key >= 2**63 else key


def epoch(value: Any) -> Any:
    """A 32-bit number; one that only a device knows stays what it is."""
    if type(value) is OnDevice:
        return value
    number = integer(value, "epoch")
    if not 0 <= number < 2**32:
        raise ValueError(f"epoch is {number}: it must be between 0 and 2**32 - 1")
    return number


def count(value: Any, what: str) -> int:
    number = integer(value, what)
    if number < 0:
        raise ValueError(f"{what} is {number}: it must be at least 0")
    return number


def sizes(value: Any, what: str) -> tuple[int, ...]:
    """One or more sizes of at least 1."""
    many = value if isinstance(value, (tuple, list)) else (value,)
    numbers = tuple(integer(v, what) for v in many)
    if any(n < 1 for n in numbers):
        raise ValueError(f"{what} is {value}: every size must be at least 1")
    return numbers


def sample_ids(shape: tuple[Any, ...], dtype: str) -> None:
    if re.fullmatch(r"[<>=|]?(u?int(8|16|32|64)|[iu][1248])", dtype) is None:
        raise TypeError(f"sample_ids has dtype {dtype}: an integer dtype is needed")
    if len(shape) != 1:
        raise ValueError(f"sample_ids has shape {shape}: [N] is needed")


def scores(spec: Spec, what: str = "scores") -> None:
    plain = {"f2": "float16", "f4": "float32", "f8": "float64"}.get(
        spec.dtype.plain, spec.dtype.plain
    )
    if plain not in SCORE_DTYPES:
        raise TypeError(
            f"{what} has dtype {spec.dtype.name}: one of {', '.join(SCORE_DTYPES)} is needed"
        )
    if len(spec.shape) != 2:
        raise ValueError(f"{what} has shape {spec.shape}: [N, L] is needed")


def tokens(shape: tuple[Any, ...], what: str = "x") -> None:
    if len(shape) < 2:
        raise ValueError(f"{what} has shape {shape}: [N, L, ...] is needed")
