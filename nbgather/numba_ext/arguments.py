"""What calls are given besides arrays: whole numbers, modes, what is filled with.

``kind`` is numba's type of an argument, `types.Omitted` where it was not given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.np import numpy_support

import nbgather
from nbgather.kernels.constants import MODES
from nbgather.numba_ext import emit, fills
from nbgather.numba_ext.emit import I64
from nbgather.numba_ext.gather_loops import mode_of, refused_mode
from nbgather.numba_ext.records import parameters
from nbgather.operations import checks


def was_given(kind: Any) -> bool:
    """Whether an argument was given, and is not None."""
    return isinstance(kind, types.Type) and not isinstance(kind, (types.Omitted, types.NoneType))


def is_array(kind: Any) -> bool:
    return isinstance(kind, types.Array)


def is_mode(kind: Any) -> bool:
    """Whether an argument may be a mode."""
    plain = types.unliteral(kind) if isinstance(kind, types.Type) else kind
    return isinstance(plain, (str, types.UnicodeType))


def whole(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """A whole number as int64; 0 for what is none."""
    if isinstance(kind, types.Omitted):
        return I64(kind.value)
    if isinstance(kind, types.Integer):
        return context.cast(builder, value, kind, types.int64)
    return I64(0)


def mode(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """A mode's number; text that is none is refused."""
    if isinstance(kind, types.Omitted):
        return I64(MODES.index(kind.value))
    if not isinstance(kind, types.UnicodeType):
        return I64(0)
    text = cgutils.create_struct_proxy(types.unicode_type)(context, builder, value)
    parts = builder.ptrtoint(text.data, I64), text.length, builder.sext(text.kind, I64)
    number = mode_of.emit(context, builder, *parts)
    with builder.if_then(builder.icmp_signed("<", number, I64(0)), likely=False):
        emit.refuse(context, builder, refused_mode.emit(context, builder, *parts))
    return number


def item(context: Any, builder: Any, dtype: Any, kind: Any, value: Any) -> tuple[Any, Any]:
    """A number in the dtype of items: whether it can be held, and the item's address."""
    if isinstance(kind, types.Omitted):
        kind, value = types.int64, I64(kind.value)
    if not emit.is_number(kind):
        return emit.I1(0), I64(0)
    made = fills.maker(dtype, kind).emit(context, builder, value)
    fits, made = cgutils.unpack_tuple(builder, made)
    address = emit.stored(context, builder, fills.item_type(dtype), made)
    return cgutils.as_bool_bit(builder, fits), address


_NUMBERS = {types.Boolean: True, types.Integer: 0, types.Float: 0.0, types.Complex: 0j}


def _stand_in(kind: Any, size: int) -> Any:
    """A value that an argument of a type may have; an array has ``size`` items each way."""
    if not isinstance(kind, types.Type):
        return kind
    if isinstance(kind, types.StringLiteral):
        return kind.literal_value
    kind = types.unliteral(kind)
    if isinstance(kind, types.Omitted):
        return kind.value
    if isinstance(kind, types.Array):
        return np.zeros((size,) * kind.ndim, numpy_support.as_dtype(kind.dtype))
    if isinstance(kind, types.UnicodeType):
        return MODES[0]
    if isinstance(kind, types.BaseTuple):
        return tuple(_stand_in(one, size) for one in kind)
    return next((value for one, value in _NUMBERS.items() if isinstance(kind, one)), None)


def is_refused(name: str, kinds: tuple[Any, ...]) -> bool:
    """Whether a function refuses arguments for their types alone.

    It is asked with arrays that are empty, where all of them can be.
    """
    size = int(any(is_array(kind) and kind.ndim == 0 for kind in kinds))
    named = {key: _stand_in(kind, size) for key, kind in zip(parameters(name), kinds)}
    try:
        getattr(nbgather, name)(**named)
    except (TypeError, IndexError):
        return True
    except ValueError:
        return False  # which other shapes may mend
    return False


def dtype_of(kind: Any) -> Any:
    """NumPy's dtype of an array type of numba's."""
    return numpy_support.as_dtype(kind.dtype)


#: What can be done with a call that compiled code has no way to make.
OUTSIDE = "call it outside, or in a block `with numba.objmode(...)`"


def _is_known(kind: Any) -> bool:
    """Whether an argument is what compiled code can look at, to have something to raise."""
    return (
        not was_given(kind)
        or isinstance(kind, (types.Array, types.Omitted))
        or emit.is_number(types.unliteral(kind))
        or isinstance(types.unliteral(kind), types.UnicodeType)
        or (isinstance(kind, types.BaseTuple) and all(map(emit.is_number, kind)))
    )


def why_not(
    name: str, arrays: dict[str, Any], others: tuple[Any, ...] = (), backend: Any = None
) -> str | None:
    """Why a call cannot be compiled for these types; None if it can.

    ``arrays`` are the arguments that must be arrays, by their names.
    """
    if was_given(backend):
        return f"{name} in compiled code has no backend=: leave it out, or {OUTSIDE}"
    for what, kind in arrays.items():
        if not is_array(kind):
            return f"{name}: {what} is a {kind} of numba's: an array is needed, or {OUTSIDE}"
    for kind in (*arrays.values(), *others):
        if not _is_known(kind):
            return (
                f"{name} takes numbers, text, tuples of numbers and arrays in compiled code, and a"
                f" {kind} came: {OUTSIDE}"
            )
    return None


def why_no_mode(name: str, mode: Any) -> str | None:
    """Why the mode of what writes or restores cannot be compiled; None if it can.

    Nothing has to wait here: ``defer`` raises at once, as ``raise`` does.
    """
    if was_given(mode) and getattr(mode, "literal_value", None) not in checks.WRITE_MODES:
        modes = " or ".join(map(repr, checks.WRITE_MODES))
        return f"{name} in compiled code takes mode={modes} as a constant: {OUTSIDE}"
    return None
