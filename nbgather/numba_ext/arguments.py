"""What calls are given besides arrays: whole numbers, modes, what is filled with.

Each function here writes the code that makes an int64 of an argument; ``kind`` is numba's type of
it, and `types.Omitted` where it was not given. None says that numba has to refuse it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from nbgather.kernels.constants import FILL, MODES
from nbgather.kernels.cpu.intrinsics import address
from nbgather.numba_ext import emit, fills
from nbgather.numba_ext.emit import I64
from nbgather.numba_ext.gather_loops import mode_of, record, refused_mode
from nbgather.numba_ext.records import NAMES, NO_FILL, NO_MODE, WHOLE
from nbgather.numba_ext.subroutines import of_numbers


@of_numbers(5)
def _refused_number(what, about, kind, first, second):
    memory = record(what, 4)
    memory[1], memory[2], memory[3], memory[4] = about, kind, first, second
    return np.int64(address(memory))


def whole(context: Any, builder: Any, kind: Any, value: Any, what: str) -> Any:
    """A whole number as int64; what is none is refused."""
    plain = types.unliteral(kind)
    if isinstance(plain, types.Omitted):
        return I64(plain.value)
    if isinstance(plain, types.Integer):
        return context.cast(builder, value, kind, types.int64)
    value = context.cast(builder, value, kind, plain)
    words = emit.number_words(context, builder, plain, value)
    about = I64(WHOLE), I64(NAMES.index(what))
    emit.refuse(context, builder, _refused_number.emit(context, builder, *about, *words))
    return I64(0)


def was_given(kind: Any) -> bool:
    """Whether an argument was given, and is not None."""
    return isinstance(kind, types.Type) and not isinstance(kind, (types.Omitted, types.NoneType))


def is_whole(kind: Any) -> bool:
    """Whether `whole` has code for a type."""
    return not isinstance(kind, types.Type) or emit.is_number(types.unliteral(kind))


def mode(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """A mode's number; what is none is refused."""
    plain = types.unliteral(kind)
    if isinstance(plain, types.Omitted):
        return I64(MODES.index(plain.value))
    value = context.cast(builder, value, kind, plain)
    if not isinstance(plain, types.UnicodeType):
        words = emit.number_words(context, builder, plain, value)
        refused = _refused_number.emit(context, builder, I64(NO_MODE), I64(0), *words)
        emit.refuse(context, builder, refused)
        return I64(0)
    text = cgutils.create_struct_proxy(types.unicode_type)(context, builder, value)
    parts = builder.ptrtoint(text.data, I64), text.length, builder.sext(text.kind, I64)
    number = mode_of.emit(context, builder, *parts)
    with builder.if_then(builder.icmp_signed("<", number, I64(0)), likely=False):
        emit.refuse(context, builder, refused_mode.emit(context, builder, *parts))
    return number


def is_mode(kind: Any) -> bool:
    """Whether `mode` has code for a type."""
    return is_whole(kind) or isinstance(types.unliteral(kind), types.UnicodeType)


def fill(context: Any, builder: Any, dtype: Any, how: Any, kind: Any, value: Any) -> Any:
    """The address of what is filled with: a number in the dtype of the items."""
    plain, item = types.unliteral(kind), fills.item_type(dtype)
    if isinstance(plain, types.Omitted):
        plain, value = types.int64, I64(plain.value)
    else:
        value = context.cast(builder, value, kind, plain)
    made = fills.maker(dtype, plain).emit(context, builder, value)
    fits, made = cgutils.unpack_tuple(builder, made)
    is_filled = builder.icmp_signed("==", how, I64(FILL))
    fails = builder.and_(is_filled, builder.not_(cgutils.as_bool_bit(builder, fits)))
    with builder.if_then(fails, likely=False):
        text = int.from_bytes(fills.name_of(dtype).encode()[:8].ljust(8, b"\0"), sys.byteorder)
        words = emit.number_words(context, builder, plain, value)
        refused = _refused_number.emit(context, builder, I64(NO_FILL), I64(text), *words)
        emit.refuse(context, builder, refused)
    return emit.stored(context, builder, item, made)
