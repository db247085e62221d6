"""The gather family inside compiled code."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_new_ref
from numba.np.arrayobj import make_array, populate_array

from nbgather.kernels.constants import FILL
from nbgather.numba_ext import arguments, emit
from nbgather.numba_ext.arguments import dtype_of, is_array, was_given
from nbgather.numba_ext.calls import made_array, size_of
from nbgather.numba_ext.emit import I64
from nbgather.numba_ext.gather_loops import AXES, AXIS_WORDS, COUNT, gatherer, plan_gather
from nbgather.numba_ext.large import LARGE_BYTES
from nbgather.numba_ext.moving import copier
from nbgather.numba_ext.records import ALONG, FUNCTIONS, GATHER, TOKENS


class _Gather:
    """A gather for numba's types of its arguments; ``order`` says where these are.

    They are x, dim, index, mode, fill_value.
    """

    def __init__(self, kind: int, order: tuple[int, ...], kinds: tuple[Any, ...]) -> None:
        self.kind, self.order, self.name = kind, order, FUNCTIONS[kind]
        x, dim, index, mode, _ = (kinds[k] for k in order)
        self.is_flat = kind == ALONG and isinstance(dim, types.NoneType)
        self.ndim = index.ndim if kind != TOKENS else 2 + max(x.ndim - 2, 0)
        self.result = types.Array(x.dtype, self.ndim, "C")
        self.is_refused = arguments.is_refused(self.name, kinds) or not arguments.is_mode(mode)
        if self.is_flat:
            self.is_refused = self.is_refused or index.ndim != 1
        self.item = dtype_of(x).itemsize
        self.each = self.item + dtype_of(index).itemsize

    def write(self, context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        if self.is_refused:
            emit.refuse_call(context, builder, self.name, kinds, values)
            return context.get_constant_null(self.result)
        x, dim, index, mode, fill_value = (kinds[k] for k in self.order)
        given = [values[k] for k in self.order]
        if self.is_flat:
            dim, x, given[0] = types.Omitted(0), *_flattened(context, builder, x, given[0])
        xw = emit.words_of(context, builder, x, given[0])
        iw = emit.words_of(context, builder, index, given[2])
        rw = emit.result_words(builder, self.ndim)
        loop = emit.memory(builder, AXES + AXIS_WORDS * self.ndim)
        d = I64(1)
        if self.kind != TOKENS:
            d = arguments.whole(context, builder, dim, given[1])
        how = arguments.mode(context, builder, mode, given[3])
        planned = I64(self.kind), d, how, xw, iw, rw, I64(self.ndim), loop
        with emit.unless(builder, plan_gather.emit(context, builder, *planned)):
            emit.refuse_call(context, builder, self.name, kinds, values, how)

        made = cgutils.alloca_once_value(builder, context.get_constant_null(self.result))
        is_made = cgutils.alloca_once_value(builder, ir.IntType(1)(0))
        count = builder.load(emit.word(builder, loop, COUNT))
        large = builder.icmp_signed(">=", count, I64(LARGE_BYTES // self.each))
        with builder.if_then(large, likely=False), emit.if_python_may_be_asked(builder):
            asked = [(x, given[0]), (types.int64, d), (index, given[2]), (types.int64, how)]
            if was_given(fill_value):
                asked.append((fill_value, given[4]))
            answered, (array,) = emit.ask(context, builder, self.name, asked, [self.result])
            builder.store(answered, is_made)
            builder.store(array, made)
        with builder.if_then(builder.not_(builder.load(is_made))):
            builder.store(emit.new_array(context, builder, self.result, rw), made)
            with builder.if_then(cgutils.is_not_null(builder, count)):
                aux = I64(0)
                if was_given(mode):
                    fits, aux = arguments.item(context, builder, x.dtype, fill_value, given[4])
                    fails = builder.icmp_signed("!=", how, I64(FILL))
                    with emit.unless(builder, builder.or_(fits, fails)):
                        emit.refuse_call(context, builder, self.name, kinds, values, how)
                run = gatherer(self.item, index.dtype)
                operands = I64(self.kind), xw, iw, rw, loop, aux, I64(0)
                bad = run.emit(context, builder, *operands)
                emit.refuse_result(context, builder, self.result, builder.load(made), bad)
        if self.is_flat:
            context.nrt.decref(builder, x, given[0])
        return impl_ret_new_ref(context, builder, self.result, builder.load(made))


def _flattened(context: Any, builder: Any, kind: Any, array: Any) -> tuple[Any, Any]:
    """A copy of an array with one dimension: its type and itself."""
    words = emit.words_of(context, builder, kind, array)
    whole = types.Array(kind.dtype, kind.ndim, "C")
    sizes = [size_of(builder, words, d) for d in range(kind.ndim)]
    made, copied = made_array(context, builder, whole, *sizes)
    copier(dtype_of(kind).itemsize).emit(context, builder, copied, words)
    flat = types.Array(kind.dtype, 1, "C")
    old = make_array(whole)(context, builder, made)
    new = make_array(flat)(context, builder)
    populate_array(
        new,
        data=old.data,
        shape=[old.nitems],
        strides=[old.itemsize],
        itemsize=old.itemsize,
        meminfo=old.meminfo,
    )
    return flat, new._getvalue()


def _gather(kind: int, order: tuple[int, ...], kinds: tuple[Any, ...]) -> Any:
    """The result's type and what writes the code; None where numba has to refuse the types."""
    operands, others = kinds[:-2], kinds[-2:]
    x, _, index, *_ = (operands[k] for k in order)
    if not (is_array(x) and is_array(index)) or any(map(was_given, others)):
        return None
    if not arguments.are_known(operands):
        return None
    made = _Gather(kind, order, operands)
    return made.result, made.write


def gather(input, dim, index, mode="raise", fill_value=0, out=None, backend=None):
    return _gather(GATHER, (0, 1, 2, 3, 4), (input, dim, index, mode, fill_value, out, backend))


def take_along_axis(arr, indices, axis=-1, mode="raise", fill_value=0, out=None, backend=None):
    return _gather(ALONG, (0, 2, 1, 3, 4), (arr, indices, axis, mode, fill_value, out, backend))


def gather_tokens(x, ids, mode="raise", fill_value=0, out=None, backend=None):
    return _gather(TOKENS, (0, 1, 1, 2, 3), (x, ids, mode, fill_value, out, backend))
