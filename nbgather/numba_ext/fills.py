"""What ``mode="fill"`` fills with: a number in the dtype of the items, as the engine has it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from nbgather.numba_ext.subroutines import subroutine


def _bounds(kind: Any) -> tuple[float, float]:
    """What a float must be at least, and less than, to be held in an integer type."""
    bits = kind.bitwidth
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1)) if kind.signed else (0.0, 2.0**bits)


def maker(dtype: Any, value: Any) -> Any:
    """``make(value)``: whether a number can be held, and the item; for numba's types of both."""
    key = str(dtype), str(value)
    whole = isinstance(value, (types.Integer, types.Boolean))
    real = isinstance(value, types.Float)
    if isinstance(dtype, types.Integer) and whole:

        def make(number):
            item = dtype(number)
            return item == number and (item < 0) == (number < 0), item

    elif isinstance(dtype, types.Integer) and real:
        low, high = _bounds(dtype)

        def make(number):
            fits = number >= low and number < high and number == np.floor(number)
            return fits, dtype(number) if fits else dtype(0)

    elif isinstance(dtype, types.Boolean) and (whole or real):

        def make(number):
            return number == 0 or number == 1, number == 1

    elif isinstance(dtype, types.Float) and dtype.bitwidth > 16 and (whole or real):

        def make(number):
            wide = np.float64(number)
            item = dtype(wide)
            return np.isinf(item) == np.isinf(wide), item

    elif isinstance(dtype, types.Complex) and (whole or real or isinstance(value, types.Complex)):
        part = dtype.underlying_float

        def make(number):
            wide = complex(number)
            item = dtype(complex(part(wide.real), part(wide.imag)))
            return np.isinf(item) == np.isinf(wide), item

    elif isinstance(dtype, (types.NPDatetime, types.NPTimedelta)) and whole:

        def make(number):
            return True, np.int64(number)

    else:

        def make(number):
            return False, np.int64(0)

    return subroutine(types.Tuple((types.boolean, item_type(dtype)))(value), key)(make)


def item_type(dtype: Any) -> Any:
    """numba's type of what is filled with: of the items, or of their bits."""
    plain = types.Integer, types.Boolean, types.Float, types.Complex
    return dtype if isinstance(dtype, plain) and dtype != types.float16 else types.int64
