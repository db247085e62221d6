"""scatter, scatter_add and scatter_reduce inside compiled code."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_new_ref

from nbgather.containers.numpy import describe
from nbgather.kernels.constants import ADD, SET
from nbgather.kernels.cpu.folds import identity
from nbgather.numba_ext import arguments, emit, outs
from nbgather.numba_ext.arguments import dtype_of, is_array, was_given
from nbgather.numba_ext.emit import I1, I64
from nbgather.numba_ext.large import LARGE_BYTES
from nbgather.numba_ext.moving import action_of, copier, fits_scatter, scatterer
from nbgather.numba_ext.reducing import filler, mean_maker
from nbgather.operations.reducing import (
    COMPARED,
    REDUCES,
    Reduction,
    check_numbers,
    reduction,
)


class _Scatter:
    """A scatter for numba's types of (input, dim, index, src), and of ``out`` if it was given."""

    #: Which argument ``out`` is.
    out_at = 4

    def __init__(self, name: str, kinds: tuple[Any, ...], out: Any) -> None:
        self.name, self.kinds = name, kinds
        self.out = out if was_given(out) else None
        x = kinds[0]
        self.made = types.Array(x.dtype, x.ndim, "C")
        self.result = self.out or self.made
        self.is_refused = arguments.is_refused(name, kinds)
        self.item = dtype_of(x).itemsize
        self.action: Any = action_of(x.dtype, name == "scatter_add")

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
            asked, given = self.asked(given, values)
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
            self.run(context, builder, array, values, (d, rw, iw, sw, one))
            if self.out is not None:
                # Nothing is written to it before all has gone well.
                copier(self.item).emit(context, builder, ow, rw)
                context.nrt.decref(builder, self.made, array)
                array = values[self.out_at]
                context.nrt.incref(builder, self.out, array)
            builder.store(array, made)
        return impl_ret_new_ref(context, builder, self.result, builder.load(made))

    def asked(self, given: list[Any], values: Any) -> tuple[str, list[Any]]:
        """What Python is asked, and with what."""
        if self.out is None:
            return self.name, given
        return f"{self.name}_into", [*given, (self.out, values[4])]

    def run(self, context: Any, builder: Any, array: Any, values: Any, words: Any) -> None:
        """Scatter into the array that was made, or give it up and raise."""
        run = scatterer(self.item, self.kinds[0].dtype, self.action, self.kinds[2].dtype)
        bad = run.emit(context, builder, *words)
        emit.refuse_result(context, builder, self.made, array, bad)

    def _out_words(self, context, builder, values, words) -> tuple[Any, Any, Any]:
        """The words of ``out``, whether it will do, and whether it meets an operand."""
        if self.out is None:
            return I64(0), I1(1), I1(0)
        x, _, index, src = self.kinds
        xw, iw, sw = words
        ow = emit.words_of(context, builder, self.out, values[self.out_at])
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


class _ScatterReduce(_Scatter):
    """A reduction for the types of (input, dim, index, src, reduce, include_self), and ``out``.

    Without the input all places of the index are first given what the reduction begins with.
    """

    out_at = 6

    def __init__(self, kinds: tuple[Any, ...], out: Any, how: Any) -> None:
        super().__init__("scatter_reduce", kinds[:4], out)
        self.own = kinds[5] if isinstance(kinds[5], types.Type) else types.Omitted(kinds[5])
        self.reduce = kinds[4].literal_value
        self.is_refused = how is None or arguments.is_refused(self.name, kinds)
        if how is not None:
            self.kind = how.kind
            self.action = ("sum" if how.reduce == "mean" else how.reduce, how.kind)
            self.begins = identity(how.reduce, how.kind)

    def asked(self, given: list[Any], values: Any) -> tuple[str, list[Any]]:
        given = [*given, (types.int64, I64(REDUCES.index(self.reduce)))]
        given.append((types.int64, self.counts_own))
        return self.name, given if self.out is None else [*given, (self.out, values[self.out_at])]

    def write(self, context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        self.counts_own = I64(int(getattr(self.own, "value", 0)))
        if isinstance(self.own, types.Boolean):
            self.counts_own = builder.zext(values[5], I64)
        return super().write(context, builder, kinds, values)

    def run(self, context: Any, builder: Any, array: Any, values: Any, words: Any) -> None:
        d, rw, iw, sw, _ = words
        dtype, index = self.kinds[0].dtype, self.kinds[2].dtype
        own = builder.icmp_signed("!=", self.counts_own, I64(0))
        with emit.unless(builder, own):
            first = emit.numbers(builder, self.kind, self.begins)
            begin = scatterer(self.item, dtype, SET, index)
            bad = begin.emit(context, builder, d, rw, iw, I64(0), first)
            emit.refuse_result(context, builder, self.made, array, bad)
        run = scatterer(self.item, dtype, self.action, index)
        bad = run.emit(context, builder, d, rw, iw, sw, I64(0))
        emit.refuse_result(context, builder, self.made, array, bad)
        if self.reduce == "mean":
            cw = emit.result_words(builder, self.made.ndim)
            emit.copy_sizes(builder, self.made.ndim, rw, cw)
            counts = emit.new_array(context, builder, self.made, cw)
            one, none = emit.numbers(builder, self.kind, 1), emit.numbers(builder, self.kind, 0)
            start = builder.select(own, one, none)
            filler(self.item).emit(context, builder, cw, start)
            count = scatterer(self.item, dtype, ADD, index)
            count.emit(context, builder, d, cw, iw, I64(0), one)
            mean_maker(self.kind).emit(context, builder, rw, cw)
            context.nrt.decref(builder, self.made, counts)

    def _refuse(self, context, builder, values) -> None:
        kinds = (*self.kinds, types.unicode_type, self.own)
        if self.out is None or not isinstance(kinds[1], (types.Integer, types.Omitted)):
            emit.refuse_call(context, builder, self.name, kinds, values[:6], reduce=self.reduce)
        else:
            emit.refuse_scatter_out(
                context, builder, self.name, (*kinds, self.out), values[:7], reduce=self.reduce
            )


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


def scatter_reduce(input, dim, index, src, reduce, include_self=True, out=None, backend=None):
    kinds, name = (input, dim, index, src, reduce, include_self), "scatter_reduce"
    arrays = {"input": input, "index": index, "src": src}
    if was_given(out):
        arrays["out"] = out
    reason = arguments.why_not(name, arrays, kinds, backend)
    if reason is not None:
        return reason
    how = kernel_of(name, input, reduce)
    if isinstance(how, str):
        return how
    made = _ScatterReduce(kinds, out, how)
    return made.result, made.write


def kernel_of(name: str, x: Any, reduce: Any) -> Reduction | str | None:
    """How numbers are reduced; None where they never are, a text where it is not compiled.

    ``x`` is numba's type of the array that has them, and ``reduce`` that of the text.
    """
    text = getattr(reduce, "literal_value", None)
    if not isinstance(text, str):
        return f"{name} in compiled code takes reduce= as a constant: {arguments.OUTSIDE}"
    if text not in REDUCES:
        return None
    dtype = describe(dtype_of(x))
    try:
        check_numbers(dtype, text, name)
    except TypeError:
        return None
    how = reduction(dtype, text, True)
    if how is None or how.kind in COMPARED or how.kind.startswith("c"):
        return (
            f"{name} by {text!r} of {dtype.name} cannot be called in compiled code:"
            f" {arguments.OUTSIDE}"
        )
    return how
