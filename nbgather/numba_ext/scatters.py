"""scatter and scatter_add inside compiled code."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_new_ref

from nbgather.numba_ext import arguments, emit, outs
from nbgather.numba_ext.arguments import dtype_of, is_array, was_given
from nbgather.numba_ext.emit import I1, I64
from nbgather.numba_ext.large import LARGE_BYTES
from nbgather.numba_ext.moving import action_of, copier, fits_scatter, scatterer


class _Scatter:
    """A scatter for numba's types of (input, dim, index, src), and of ``out`` if it was given."""

    def __init__(self, name: str, kinds: tuple[Any, ...], out: Any) -> None:
        self.name, self.kinds = name, kinds
        self.out = out if was_given(out) else None
        x = kinds[0]
        self.made = types.Array(x.dtype, x.ndim, "C")
        self.result = self.out or self.made
        self.is_refused = arguments.is_refused(name, kinds)
        self.item = dtype_of(x).itemsize
        self.action = action_of(x.dtype, name == "scatter_add")

    def write(self, context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        if self.is_refused:
            self._refuse(context, builder, values)
            return context.get_constant_null(self.result)
        x, dim, index, src = self.kinds
        xw = emit.words_of(context, builder, x, values[0])
        iw = emit.words_of(context, builder, index, values[2])
        d = arguments.whole(context, builder, dim, values[1])
        sw, one, fits = I64(0), I64(0), I1(1)
        if is_array(src):
            sw = emit.words_of(context, builder, src, values[3])
        else:
            fits, one = arguments.item(context, builder, x.dtype, src, values[3])
        fits = builder.and_(fits, fits_scatter.emit(context, builder, d, xw, iw, sw))
        ow, does, meets = self._out_words(context, builder, values, (xw, iw, sw))
        with emit.unless(builder, builder.and_(fits, does)):
            self._refuse(context, builder, values)

        made = cgutils.alloca_once_value(builder, context.get_constant_null(self.result))
        is_made = cgutils.alloca_once_value(builder, I1(0))
        count = emit.count_of(builder, x, xw)
        count = builder.add(count, emit.count_of(builder, index, iw))
        large = builder.icmp_signed(">=", count, I64(LARGE_BYTES // self.item))
        asks = builder.or_(large, meets)
        with builder.if_then(asks, likely=False), emit.if_python_may_be_asked(builder):
            given = [(x, values[0]), (types.int64, d), (index, values[2]), (src, values[3])]
            asked = self.name
            if self.out is not None:
                given, asked = [*given, (self.out, values[4])], f"{self.name}_into"
            answered, (array,) = emit.ask(context, builder, asked, given, [self.result])
            builder.store(answered, is_made)
            builder.store(array, made)
        with builder.if_then(builder.not_(builder.load(is_made))):
            with emit.unless(builder, builder.not_(meets)):
                self._refuse(context, builder, values)
            rw = emit.result_words(builder, x.ndim)
            emit.copy_sizes(builder, x.ndim, xw, rw)
            array = emit.new_array(context, builder, self.made, rw)
            copier(self.item).emit(context, builder, rw, xw)
            run = scatterer(self.item, x.dtype, self.action, index.dtype)
            bad = run.emit(context, builder, d, rw, iw, sw, one)
            emit.refuse_result(context, builder, self.made, array, bad)
            if self.out is not None:
                # Nothing is written to it before all has gone well.
                copier(self.item).emit(context, builder, ow, rw)
                context.nrt.decref(builder, self.made, array)
                array = values[4]
                context.nrt.incref(builder, self.out, array)
            builder.store(array, made)
        return impl_ret_new_ref(context, builder, self.result, builder.load(made))

    def _out_words(self, context, builder, values, words) -> tuple[Any, Any, Any]:
        """The words of ``out``, whether it will do, and whether it meets an operand."""
        if self.out is None:
            return I64(0), I1(1), I1(0)
        x, _, index, src = self.kinds
        xw, iw, sw = words
        ow = emit.words_of(context, builder, self.out, values[4])
        if not self.out.mutable or self.out.dtype != x.dtype or self.out.ndim != x.ndim:
            return ow, I1(0), I1(0)
        pairs = [(iw, dtype_of(index).itemsize)]
        if is_array(src):
            pairs.append((sw, self.item))
        does, meets = I1(1), I1(0)
        for other, size in pairs:
            sizes = I64(self.item), I64(size)
            said = outs.check_out.emit(context, builder, ow, xw, xw, other, *sizes)
            does = builder.and_(does, builder.icmp_signed("!=", said, I64(outs.DOES_NOT)))
            meets = builder.or_(meets, builder.icmp_signed("==", said, I64(outs.MEETS)))
        return ow, does, meets

    def _refuse(self, context, builder, values) -> None:
        dim = self.kinds[1]
        if self.out is None or not isinstance(dim, (types.Integer, types.Omitted)):
            emit.refuse_call(context, builder, self.name, self.kinds, values[:4])
        else:
            kinds = (*self.kinds, self.out)
            emit.refuse_scatter_out(context, builder, self.name, kinds, values[:5])


def _scatter(name: str, kinds: tuple[Any, ...]) -> Any:
    operands, out, backend, mode = kinds[:4], *kinds[4:]
    arrays = {"input": kinds[0], "index": kinds[2]}
    if was_given(out):
        arrays["out"] = out
    reason = arguments.why_not(name, arrays, operands, backend) or arguments.why_no_mode(name, mode)
    if reason is not None:
        return reason
    made = _Scatter(name, operands, out)
    return made.result, made.write


def scatter(input, dim, index, src, out=None, backend=None, mode="raise"):
    return _scatter("scatter", (input, dim, index, src, out, backend, mode))


def scatter_add(input, dim, index, src, out=None, backend=None, mode="raise"):
    return _scatter("scatter_add", (input, dim, index, src, out, backend, mode))
