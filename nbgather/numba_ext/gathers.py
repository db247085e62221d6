"""The gather family inside compiled code."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_new_ref
from numba.np.arrayobj import make_array, populate_array

from nbgather.kernels.constants import FILL
from nbgather.numba_ext import arguments, emit, outs
from nbgather.numba_ext.arguments import dtype_of, was_given
from nbgather.numba_ext.calls import made_array, size_of
from nbgather.numba_ext.emit import I1, I64
from nbgather.numba_ext.gather_loops import AXES, AXIS_WORDS, COUNT, gatherer, plan_gather
from nbgather.numba_ext.large import LARGE_BYTES
from nbgather.numba_ext.moving import copier
from nbgather.numba_ext.records import ALONG, FUNCTIONS, GATHER, TOKENS, parameters


class _Gather:
    """A gather for numba's types of its arguments; ``order`` says where these are.

    They are x, dim, index, mode, fill_value; out and backend come last.
    """

    def __init__(self, kind: int, order: tuple[int, ...], kinds: tuple[Any, ...]) -> None:
        self.kind, self.order, self.name = kind, order, FUNCTIONS[kind]
        self.x, dim, self.index, mode, _ = (kinds[k] for k in order)
        self.out = kinds[-2] if was_given(kinds[-2]) else None
        self.is_flat = kind == ALONG and isinstance(dim, types.NoneType)
        self.ndim = self.index.ndim if kind != TOKENS else 2 + max(self.x.ndim - 2, 0)
        self.result = self.out or types.Array(self.x.dtype, self.ndim, "C")
        self.is_no_mode = not arguments.is_mode(mode)
        self.is_refused = self.is_no_mode or arguments.is_refused(self.name, kinds[:-2])
        if self.is_flat:
            self.is_refused = self.is_refused or self.index.ndim != 1
        self.item, self.index_size = dtype_of(self.x).itemsize, dtype_of(self.index).itemsize

    def write(self, context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        kinds, values, out = kinds[:-2], values[:-2], values[-2]
        given = [values[k] for k in self.order]
        x, dim = self.x, kinds[self.order[1]]
        if self.is_refused:
            is_whole = isinstance(dim, (types.Integer, types.Omitted)) or self.kind == TOKENS
            if self.out is not None and is_whole and not self.is_no_mode:
                arrays = [(x, given[0]), (self.index, given[2]), (self.out, out)]
                numbers = self._numbers(context, builder, kinds, dim, given)
                emit.refuse_out(context, builder, self.name, *numbers, arrays)
            emit.refuse_call(context, builder, self.name, kinds, values)
            return context.get_constant_null(self.result)
        if self.is_flat:
            dim, x, given[0] = types.Omitted(0), *_flattened(context, builder, x, given[0])
        plan = self._planned(context, builder, (kinds, values), (x, dim), given, out)
        made = cgutils.alloca_once_value(builder, context.get_constant_null(self.result))
        is_made = cgutils.alloca_once_value(builder, I1(0))
        large = builder.icmp_signed(
            ">=", plan.count, I64(LARGE_BYTES // (self.item + self.index_size))
        )
        asks = builder.or_(large, plan.meets)
        with builder.if_then(asks, likely=False), emit.if_python_may_be_asked(builder):
            asked = [(x, given[0]), (types.int64, plan.dim), (self.index, given[2])]
            asked.append((types.int64, plan.how))
            fill_value = kinds[self.order[4]]
            is_filled = was_given(fill_value) or self.out is not None
            if is_filled and not isinstance(fill_value, types.Omitted):
                asked.append((fill_value, given[4]))
            elif is_filled:
                asked.append((types.int64, I64(fill_value.value)))
            if self.out is not None:
                asked.append((self.out, out))
            answered, (array,) = emit.ask(context, builder, self.name, asked, [self.result])
            builder.store(answered, is_made)
            builder.store(array, made)
        with builder.if_then(builder.not_(builder.load(is_made))):
            with emit.unless(builder, builder.not_(plan.meets)):
                self._refuse_out(context, builder, plan, (x, given, out))
            if self.out is None:
                array = emit.new_array(context, builder, self.result, plan.result)
            else:
                context.nrt.incref(builder, self.out, out)
                array = out
            builder.store(array, made)
            with builder.if_then(cgutils.is_not_null(builder, plan.count)):
                self._loop(context, builder, (kinds, values), plan, array)
        if self.is_flat:
            context.nrt.decref(builder, x, given[0])
        return impl_ret_new_ref(context, builder, self.result, builder.load(made))

    def _numbers(self, context, builder, kinds, dim, given) -> tuple[Any, Any]:
        """The dimension and the mode."""
        d = I64(1)
        if self.kind != TOKENS:
            d = arguments.whole(context, builder, dim, given[1])
        return d, arguments.mode(context, builder, kinds[self.order[3]], given[3])

    def _planned(self, context, builder, call, operands, given, out) -> _Plan:
        """The plan of a gather that fits."""
        (kinds, values), (x, dim) = call, operands
        xw = emit.words_of(context, builder, x, given[0])
        iw = emit.words_of(context, builder, self.index, given[2])
        rw = emit.result_words(builder, self.ndim)
        loop = emit.memory(builder, AXES + AXIS_WORDS * self.ndim)
        d, how = self._numbers(context, builder, kinds, dim, given)
        planned = I64(self.kind), d, how, xw, iw, rw, I64(self.ndim), loop
        fits, meets, to = plan_gather.emit(context, builder, *planned), I1(0), rw
        if self.out is not None:
            to = emit.words_of(context, builder, self.out, out)
            rank = emit.word(builder, rw, emit.NDIM)
            builder.store(I64(max(self.ndim, 1)), rank)
            does = self.out.mutable and self.out.dtype == x.dtype and self.out.ndim == self.ndim
            fits = builder.and_(fits, I1(does))
            sizes = I64(self.item), I64(self.index_size)
            said = outs.check_out.emit(context, builder, to, rw, xw, iw, *sizes) if does else I64(0)
            fits = builder.and_(fits, builder.icmp_signed("!=", said, I64(outs.DOES_NOT)))
            meets = builder.icmp_signed("==", said, I64(outs.MEETS))
        plan = _Plan(d, how, xw, iw, to, loop, I64(0), meets)
        with emit.unless(builder, fits):
            if self.out is None:
                emit.refuse_call(context, builder, self.name, kinds, values, how)
            else:
                self._refuse_out(context, builder, plan, (x, given, out))
        return plan._replace(count=builder.load(emit.word(builder, loop, COUNT)))

    def _refuse_out(self, context, builder, plan, operands) -> None:
        x, given, out = operands
        if self.out is None:
            return
        arrays = [(x, given[0]), (self.index, given[2]), (self.out, out)]
        emit.refuse_out(context, builder, self.name, plan.dim, plan.how, arrays)

    def _loop(self, context, builder, call, plan, made) -> None:
        """Write the items of the result."""
        (kinds, values), aux = call, I64(0)
        mode, fill_value = (kinds[k] for k in self.order[3:])
        if was_given(mode):
            value = values[self.order[4]]
            fits, aux = arguments.item(context, builder, self.x.dtype, fill_value, value)
            fails = builder.icmp_signed("!=", plan.how, I64(FILL))
            with emit.unless(builder, builder.or_(fits, fails)):
                emit.refuse_call(context, builder, self.name, kinds, values, plan.how)
        run = gatherer(self.item, self.index.dtype)
        operands = I64(self.kind), plan.x, plan.index, plan.result, plan.loop, aux, I64(0)
        bad = run.emit(context, builder, *operands)
        emit.refuse_result(context, builder, self.result, made, bad)


class _Plan(NamedTuple):
    """What the code of a gather knows, as LLVM's values."""

    dim: Any
    how: Any
    #: The words of the operands, of the result, and of the loop.
    x: Any
    index: Any
    result: Any
    loop: Any
    count: Any
    #: Whether ``out`` is where an operand is.
    meets: Any


def _gather(kind: int, order: tuple[int, ...], kinds: tuple[Any, ...]) -> Any:
    """The result's type and what writes the code, or why there is none."""
    x, _, index, *_ = (kinds[k] for k in order)
    out, backend = kinds[-2:]
    names = parameters(FUNCTIONS[kind])
    arrays = {names[order[0]]: x, names[order[2]]: index}
    if was_given(out):
        arrays["out"] = out
    reason = arguments.why_not(FUNCTIONS[kind], arrays, kinds[:-2], backend)
    if reason is not None:
        return reason
    made = _Gather(kind, order, kinds)
    return made.result, made.write


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


def gather(input, dim, index, mode="raise", fill_value=0, out=None, backend=None):
    return _gather(GATHER, (0, 1, 2, 3, 4), (input, dim, index, mode, fill_value, out, backend))


def take_along_axis(arr, indices, axis=-1, mode="raise", fill_value=0, out=None, backend=None):
    return _gather(ALONG, (0, 2, 1, 3, 4), (arr, indices, axis, mode, fill_value, out, backend))


def gather_tokens(x, ids, mode="raise", fill_value=0, out=None, backend=None):
    return _gather(TOKENS, (0, 1, 1, 2, 3), (x, ids, mode, fill_value, out, backend))
