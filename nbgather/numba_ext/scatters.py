"""scatter and scatter_add inside compiled code."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_new_ref

from nbgather.numba_ext import arguments, emit
from nbgather.numba_ext.arguments import dtype_of, is_array, was_given
from nbgather.numba_ext.emit import I64
from nbgather.numba_ext.large import LARGE_BYTES
from nbgather.numba_ext.moving import action_of, copier, fits_scatter, scatterer
from nbgather.operations import checks


class _Scatter:
    """A scatter for numba's types of (input, dim, index, src)."""

    def __init__(self, name: str, kinds: tuple[Any, ...]) -> None:
        self.name = name
        x = kinds[0]
        self.result = types.Array(x.dtype, x.ndim, "C")
        self.is_refused = arguments.is_refused(name, kinds)
        self.item = dtype_of(x).itemsize
        self.action = action_of(x.dtype, name == "scatter_add")

    def write(self, context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        if self.is_refused:
            emit.refuse_call(context, builder, self.name, kinds, values)
            return context.get_constant_null(self.result)
        x, dim, index, src, *_ = kinds
        xw = emit.words_of(context, builder, x, values[0])
        iw = emit.words_of(context, builder, index, values[2])
        d = arguments.whole(context, builder, dim, values[1])
        sw, one, fits = I64(0), I64(0), ir.IntType(1)(1)
        if is_array(src):
            sw = emit.words_of(context, builder, src, values[3])
        else:
            fits, one = arguments.item(context, builder, x.dtype, src, values[3])
        fits = builder.and_(fits, fits_scatter.emit(context, builder, d, xw, iw, sw))
        with emit.unless(builder, fits):
            emit.refuse_call(context, builder, self.name, kinds, values)

        made = cgutils.alloca_once_value(builder, context.get_constant_null(self.result))
        is_made = cgutils.alloca_once_value(builder, ir.IntType(1)(0))
        count = emit.count_of(builder, x, xw)
        count = builder.add(count, emit.count_of(builder, index, iw))
        large = builder.icmp_signed(">=", count, I64(LARGE_BYTES // self.item))
        with builder.if_then(large, likely=False), emit.if_python_may_be_asked(builder):
            given = [(x, values[0]), (types.int64, d), (index, values[2]), (src, values[3])]
            answered, (array,) = emit.ask(context, builder, self.name, given, [self.result])
            builder.store(answered, is_made)
            builder.store(array, made)
        with builder.if_then(builder.not_(builder.load(is_made))):
            rw = emit.result_words(builder, x.ndim)
            emit.copy_sizes(builder, x.ndim, xw, rw)
            builder.store(emit.new_array(context, builder, self.result, rw), made)
            copier(self.item).emit(context, builder, rw, xw)
            run = scatterer(self.item, x.dtype, self.action, index.dtype)
            bad = run.emit(context, builder, d, rw, iw, sw, one)
            emit.refuse_result(context, builder, self.result, builder.load(made), bad)
        return impl_ret_new_ref(context, builder, self.result, builder.load(made))


def _scatter(name: str, kinds: tuple[Any, ...]) -> Any:
    operands, mode, others = kinds[:4], kinds[4], kinds[5:]
    if was_given(mode) and getattr(mode, "literal_value", None) not in checks.WRITE_MODES:
        return None
    if not (is_array(kinds[0]) and is_array(kinds[2])) or any(map(was_given, others)):
        return None
    if not arguments.are_known(operands):
        return None
    made = _Scatter(name, operands)
    return made.result, made.write


def scatter(input, dim, index, src, mode="raise", out=None, backend=None):
    return _scatter("scatter", (input, dim, index, src, mode, out, backend))


def scatter_add(input, dim, index, src, mode="raise", out=None, backend=None):
    return _scatter("scatter_add", (input, dim, index, src, mode, out, backend))
