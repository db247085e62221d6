"""What functions inside compiled code have in common: checks, then Python or the loops here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from numba.core import cgutils
from numba.core.imputils import impl_ret_new_ref

from nbgather.numba_ext import arguments, emit
from nbgather.numba_ext.emit import I1, I64
from nbgather.numba_ext.large import LARGE_BYTES


def size_of(builder: Any, words: Any, d: int) -> Any:
    return builder.load(emit.word(builder, words, emit.SIZES + d))


def address_of(builder: Any, words: Any) -> Any:
    return builder.load(emit.word(builder, words, emit.ADDRESS))


def made_array(context: Any, builder: Any, kind: Any, *sizes: Any) -> tuple[Any, Any]:
    """A new array and its words."""
    words = emit.result_words(builder, kind.ndim)
    for d, size in enumerate(sizes):
        builder.store(size, emit.word(builder, words, emit.SIZES + d))
    return emit.new_array(context, builder, kind, words), words


def all_of(builder: Any, *conditions: Any) -> Any:
    result = I1(1)
    for condition in conditions:
        result = builder.and_(result, condition)
    return result


class Call:
    """A function for numba's types of its arguments: what all here have in common."""

    name: str
    #: What it is called in :mod:`nbgather.numba_ext.large`, where that is not its name.
    asked_name: str | None = None
    #: Whether it refuses the arguments for their types alone.
    is_refused: bool
    #: Arguments that are constant texts.
    texts: Mapping[str, str] = MappingProxyType({})
    result: Any
    #: The types of the result's arrays.
    arrays: tuple[Any, ...]

    def write(self, context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        fits = None if self.is_refused else self.check(context, builder, kinds, values)
        if fits is None:
            self.refuse(context, builder, kinds, values)
            return context.get_constant_null(self.result)
        with emit.unless(builder, fits):
            self.refuse(context, builder, kinds, values)
        slots = [
            cgutils.alloca_once_value(builder, context.get_constant_null(kind))
            for kind in self.arrays
        ]
        is_made = cgutils.alloca_once_value(builder, I1(0))
        large = builder.icmp_signed(">=", self.work(builder), I64(LARGE_BYTES))
        with builder.if_then(large, likely=False), emit.if_python_may_be_asked(builder):
            asked = self.asked(kinds, values)
            name = self.asked_name or self.name
            answered, arrays = emit.ask(context, builder, name, asked, [*self.arrays])
            builder.store(answered, is_made)
            for slot, array in zip(slots, arrays, strict=True):
                builder.store(array, slot)
        with builder.if_then(builder.not_(builder.load(is_made))):
            for slot, array in zip(slots, self.run(context, builder, kinds, values), strict=True):
                builder.store(array, slot)
        made = [builder.load(slot) for slot in slots]
        whole = made[0]
        if self.result is not self.arrays[0]:
            whole = context.make_tuple(builder, self.result, made)
        return impl_ret_new_ref(context, builder, self.result, whole)

    def refuse(self, context: Any, builder: Any, kinds: Any, values: Any) -> None:
        """Raise what is said of arguments that do not fit."""
        emit.refuse_call(context, builder, self.name, kinds, values, **self.texts)

    def check(self, context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        """Whether the arguments fit; None where they never do."""
        raise NotImplementedError

    def work(self, builder: Any) -> Any:
        """How many bytes are moved, or would take as long to move."""
        raise NotImplementedError

    def asked(self, kinds: Any, values: Any) -> list[tuple[Any, Any]]:
        """What Python is asked with: types and values."""
        raise NotImplementedError

    def run(self, context: Any, builder: Any, kinds: Any, values: Any) -> list[Any]:
        """The arrays of the result."""
        raise NotImplementedError


def compiled(made: Any, kinds: tuple[Any, ...], backend: Any, **arrays: Any) -> Any:
    """The result of a call and what writes it, for these types, or why there is none."""
    reason = arguments.why_not(made.name, arrays, kinds, backend)
    if reason is not None:
        return reason
    call = made(kinds)
    return call.result, call.write
