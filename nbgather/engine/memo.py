"""The one memo of small calls: a tiny call costs more on its way to the kernel than in it.

A call that went well for the second time is kept under its *head*, which is the operation with its
parameters, by the exact types, shapes, strides and dtypes of its operands. :mod:`nbgather.dispatch`
asks once: of the calls kept under a head, one compiled function finds the one of this layout and
runs its kernels. Whatever is not certain goes the whole way: another type or state, memory that is
gone, unaligned or shared with ``out=``, a bad index.

The engine keeps a call by :func:`keep`, with the steps that its kernels' module gives.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nbgather.engine.pieces import PIECE_BYTES
from nbgather.kernels import small
from nbgather.kernels.small import ABSENT, INTEGER, Layout, Step
from nbgather.operations.base import is_array
from nbgather.operations.indexing import Gather, GatherTokens, Scatter, ScatterAdd, TakeAlongAxis
from nbgather.operations.reducing import ScatterReduce
from nbgather.operations.segments import GatherReduce
from nbgather.operations.tokens import KeepTokens, RestoreTokens

#: Calls that are kept or seen once; then all are forgotten. Those of one head.
MAX_CALLS, MAX_LAYOUTS = 4096, 64

#: Head → its chain: the table, then calls; and what was seen → whether its call was kept.
entries: dict[Any, Any] = {}

#: What the compiled function must know of this process; torch's container completes it.
table = np.zeros(len(small.TABLE), np.int64)
for _name, _object in (
    ("none", None), ("array", np.ndarray), ("integer", int), ("true", True), ("zero", 0),
):  # fmt: skip
    table[small.TABLE.index(_name)] = id(_object)


#: The compiled function of a chain and the operands of a call, once a call is kept. It gives the
#: result, None, or what the container's `small_gradient` gave where a gradient is wanted.
repeat: Any = None


class Result(NamedTuple):
    """What is made anew for each call: shape, and dtype as the container of the operands has it."""

    shape: tuple[int, ...]
    dtype: Any


def head(kind: type, *parameters: Any) -> Hashable:
    """What calls of an operation are kept under: its parameters count with their types and bits.

    None where a parameter is neither None nor a plain int, float or str.
    """
    words: list[Any] = [kind]
    for value in parameters:
        its = type(value)
        if its is float or its is int:
            words += (its, value or repr(value))  # 0.0 equals -0.0
        elif value is None or its is str:
            words.append(value)
        else:
            return None
    return tuple(words)


def gather_head(kind: type, dim: int, mode: Any, fill_value: Any) -> Hashable:
    """The head of a gather, in which the value counts that it fills with."""
    if type(mode) is not str:
        return None
    if mode == "defer":  # where calls are kept nothing is put off
        return (kind, dim, "raise") if type(fill_value) is int and not fill_value else None
    return head(kind, dim, mode, fill_value) if mode == "fill" else (kind, dim, mode)


#: The operations whose last operand may be a number, which then belongs to the head.
_WITH_NUMBERS = frozenset((RestoreTokens, Scatter, ScatterAdd))
_GATHERS = frozenset((Gather, GatherTokens, TakeAlongAxis))


def call_of(operation: Any, operands: tuple[Any, ...]) -> tuple[Hashable, tuple[Any, ...]]:
    """The head and the operands that a call of the gather family is kept under.

    The head is None for an operation that is not kept, or not under these operands alone.
    """
    kind = type(operation)
    if kind is KeepTokens:
        kind, operation, operands = GatherTokens, operation.gather, operands[:2]
    if kind in _GATHERS:
        return gather_head(kind, operation.dim, operation.mode, operation.fill_value), operands
    if kind is ScatterReduce:
        return (kind, operation.dim, operation.reduce, operation.include_self), operands
    if kind is GatherReduce:
        is_kept = operation.by == "offsets" and operation.mode == "raise"
        kept = kind, operation.reduce, operation.by, operation.mode
        return kept if is_kept else None, operands
    if kind not in _WITH_NUMBERS:
        return None, operands
    dims = () if kind is RestoreTokens else (operation.dim,)
    if is_array(operands[2]):
        return (kind, *dims), operands
    return head(kind, *dims, operands[2]), operands[:2]


def again(container: Any, head: Any, *specs: Any) -> bool:
    """Whether a call comes for the second time, which is when it is worth keeping."""
    seen = container, head, specs
    kept = entries.get(seen)
    if kept is None:
        if len(entries) >= MAX_CALLS:
            entries.clear()
        entries[seen] = False
        return False
    entries[seen] = True
    return not kept


def keep(
    container: Any,
    backend: Any,
    head: Any,
    operands: Sequence[Any],
    results: Sequence[Result],
    steps: Sequence[Step | None],
    *,
    out: int = -1,
    hidden: Sequence[Result] = (),
    owner: Any = None,
    masks: Mapping[int, int] = MappingProxyType({}),
) -> None:
    """Keep a call that went well the whole way.

    Parameters
    ----------
    head : hashable
        As the public function asks for it.
    operands : sequence
        What it is asked for with: arrays, None, and ints whose values are free.
    results, hidden : sequence of Result
        What the caller gets, and what one step leaves for the next, numbered in this order.
    steps : sequence of Step or None
        None for what cannot be repeated: then nothing is kept. Nor is it where a part of a step
        would take long, in which no interrupt is met.
    out : int
        The operand that is the one result, instead of ``results``.
    owner : object
        What holds memory whose address is fixed in the steps.
    masks : mapping of int to int
        For some operands, the bits that must be 0 in their addresses, beside those of their items.
    """
    global repeat
    if any(step is not None and _has_long_parts(step) for step in steps):
        return
    function = backend.repeating(table)
    layouts = [_layout(container, o, k == out, masks.get(k, 0)) for k, o in enumerate(operands)]
    if function is None or None in layouts or None in steps:
        return
    made = [*results, *hidden]
    numbers = small.numbers_of(layouts, len(made), len(results), out, steps)  # type: ignore[arg-type]
    if numbers is None:
        return
    makers: list[Any] = []
    for k, result in enumerate(made):
        *maker, wrap = container.small_result(result.shape, result.dtype)
        makers += [*maker, wrap if k < len(results) else None]
    dtypes = [o.dtype for o in operands if hasattr(o, "dtype")]
    call = numbers, tuple(makers), container.small_gradient(head, operands), (owner, dtypes)
    repeat = function
    chain = entries.get(head, (table,))
    if len(chain) > MAX_LAYOUTS:
        chain = (table, *chain[MAX_LAYOUTS // 2 :])
        # One step copies it: while pairs are made, memory may be collected and threads may change.
        for seen, value in entries.copy().items():
            if value is True:
                entries[seen] = False
    entries[head] = (*chain, call)


def _has_long_parts(step: Step) -> bool:
    return step.work > PIECE_BYTES * max(min(step.positions, step.most), 1)


def _layout(container: Any, operand: Any, is_out: bool, mask: int) -> Layout | None:
    if operand is None:
        return Layout(ABSENT)
    if type(operand) is int:
        return Layout(INTEGER)
    if type(operand) not in container.exact_types:
        return None
    spec = container.spec(operand)
    size = spec.dtype.itemsize
    reach = [s * (n - 1) for n, s in zip(spec.shape, spec.strides, strict=True)]
    if 0 in spec.shape:
        return None
    told = container.small_operand(operand)
    if told is None:
        return None
    kind, dtype, strides = told
    return Layout(
        kind, dtype, spec.shape, strides, size, sum(min(r, 0) for r in reach),
        sum(max(r, 0) for r in reach) + size, (min(size, 8) - 1) | mask,
        small.WRITEABLE if is_out and kind == small.ARRAY else 0,
    )  # fmt: skip
