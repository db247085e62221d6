"""The gather family inside compiled code."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_new_ref
from numba.np import numpy_support

from nbgather.containers.numpy import describe
from nbgather.numba_ext import arguments, emit
from nbgather.numba_ext.emit import I64
from nbgather.numba_ext.gather_loops import AXES, AXIS_WORDS, COUNT, gatherer, plan_gather
from nbgather.numba_ext.large import LARGE_BYTES
from nbgather.numba_ext.records import ALONG, GATHER, TOKENS
from nbgather.operations.base import Spec
from nbgather.operations.indexing import Gather, GatherTokens, TakeAlongAxis

_OPERATIONS = {GATHER: Gather, ALONG: TakeAlongAxis, TOKENS: GatherTokens}
_ASKED = {GATHER: "gather", ALONG: "take_along_axis", TOKENS: "gather_tokens"}


def dtype_of(array: Any) -> Any:
    """What the operations know of the dtype of an array of numba's."""
    return describe(numpy_support.as_dtype(array.dtype))


def _refused_kind(kind: int, x: Any, index: Any) -> Exception | None:
    """What the operation says of dtypes that it does not take."""
    try:
        _OPERATIONS[kind](1).check_dtypes(Spec((), (), dtype_of(x)), Spec((), (), dtype_of(index)))
    except (TypeError, IndexError) as error:
        return error
    return None


def _write_gather(
    context: Any, builder: Any, kind: int, result: Any, kinds: Any, values: Any
) -> Any:
    """The code of a gather; kinds and values are those of (x, dim, index, mode, fill_value)."""
    (x, dim, index, mode, fill_value), ndim = kinds, result.ndim
    xw = emit.words_of(context, builder, x, values[0])
    iw = emit.words_of(context, builder, index, values[2])
    rw = emit.result_words(builder, ndim)
    loop = emit.memory(builder, AXES + AXIS_WORDS * ndim)
    d = I64(1)
    if kind != TOKENS:
        what = "axis" if kind == ALONG else "dim"
        d = arguments.whole(context, builder, dim, values[1], what)
    how = arguments.mode(context, builder, mode, values[3])
    planned = I64(kind), d, how, xw, iw, rw, I64(ndim), loop
    emit.refuse(context, builder, plan_gather.emit(context, builder, *planned))

    made = cgutils.alloca_once_value(builder, context.get_constant_null(result))
    is_made = cgutils.alloca_once_value(builder, ir.IntType(1)(0))
    count = builder.load(emit.word(builder, loop, COUNT))
    item = dtype_of(x).itemsize
    large = I64(LARGE_BYTES // (item + dtype_of(index).itemsize))
    with builder.if_then(builder.icmp_signed(">=", count, large), likely=False):
        with emit.if_python_may_be_asked(builder):
            given = [(x, values[0]), (types.int64, d), (index, values[2]), (types.int64, how)]
            if not isinstance(mode, types.Omitted):
                given.append((fill_value, values[4]))
            answered, (array,) = emit.ask(context, builder, _ASKED[kind], given, [result])
            builder.store(answered, is_made)
            builder.store(array, made)
    with builder.if_then(builder.not_(builder.load(is_made))):
        builder.store(emit.new_array(context, builder, result, rw), made)
        with builder.if_then(cgutils.is_not_null(builder, count)):
            aux = I64(0)
            if not isinstance(mode, types.Omitted):
                aux = arguments.fill(context, builder, x.dtype, how, fill_value, values[4])
            run = gatherer(item, index.dtype)
            bad = run.emit(context, builder, I64(kind), xw, iw, rw, loop, aux, I64(0))
            emit.refuse(context, builder, bad)
    return builder.load(made)


def _gather(kind: int, order: tuple[int, ...], kinds: tuple[Any, ...]) -> Any:
    """The result's type, and what writes the code; ``order`` is where the arguments are.

    These are x, dim, index, mode and fill_value.
    """
    x, dim, index, mode, _ = (kinds[k] for k in order)
    if arguments.was_given(kinds[-1]) or arguments.was_given(kinds[-2]):
        return None
    if not (isinstance(x, types.Array) and isinstance(index, types.Array)):
        return None
    if not (arguments.is_whole(dim) and arguments.is_mode(mode)):
        return None
    ndim = index.ndim if kind != TOKENS else 2 + max(x.ndim - 2, 0)
    result = types.Array(x.dtype, ndim, "C")
    error = _refused_kind(kind, x, index)

    def write(context, builder, kinds, values):
        if error is not None:
            return emit.failing(context, builder, error, result)
        chosen, given = [kinds[k] for k in order], [values[k] for k in order]
        made = _write_gather(context, builder, kind, result, chosen, given)
        return impl_ret_new_ref(context, builder, result, made)

    return result, write


def gather(input, dim, index, mode="raise", fill_value=0, out=None, backend=None):
    kinds = input, dim, index, mode, fill_value, out, backend
    return _gather(GATHER, (0, 1, 2, 3, 4), kinds)


def take_along_axis(arr, indices, axis=-1, mode="raise", fill_value=0, out=None, backend=None):
    kinds = arr, indices, axis, mode, fill_value, out, backend
    return _gather(ALONG, (0, 2, 1, 3, 4), kinds)


def gather_tokens(x, ids, mode="raise", fill_value=0, out=None, backend=None):
    kinds = x, ids, mode, fill_value, out, backend
    return _gather(TOKENS, (0, 5, 1, 2, 3), kinds)
