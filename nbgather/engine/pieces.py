"""A scatter of long lanes as scatters of parts of its index, one after the other.

A thread that walks a lane sees no signal before the lane's end, and values of one place must come
in their order, so lanes are not cut for threads. But what is combined with the result in place is
the same bits if the index is walked in pieces: each of them is a call, and an interrupt is met
between them.
"""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

from nbgather.kernels.plans import ScatterPlan

#: The most work of a lane in one piece, as a plan counts it: some 0.02 to 0.1 s.
PIECE_BYTES = 1 << 27
#: Where a plan's integers say how long the index is along the dimension, and whether the kernel
#: copies the input: those of narrow forms, of the wide one, and of any strides.
_NARROW, _WIDE, _STRIDED = (1, 3), (1, 7), (2, None)


class Piece(NamedTuple):
    """A part of the index along the dimension: its plan, and where it begins, in bytes."""

    plan: ScatterPlan
    index_offset: int
    src_offset: int


def may_cut(how: Any) -> bool:
    """Whether what is combined so is whole after each value.

    A mean is not, and where the input does not count all places are found before the first value.
    """
    return not isinstance(how, tuple) or (how[0] != "mean" and bool(how[2]))


def work_of_lane(plan: ScatterPlan) -> int:
    """The work that no threads can share."""
    if not plan.count:
        return 0
    return plan.work // max(plan.count if plan.walk is None else plan.walk_count, 1)


@functools.lru_cache(maxsize=64)
def pieces(plan: ScatterPlan) -> tuple[Piece, ...]:
    """The pieces in their order; the first alone copies the input."""
    length = plan.index_shape[plan.dim]
    count = min(-(-work_of_lane(plan) // PIECE_BYTES), length)
    if count <= 1:
        return (Piece(plan, 0, 0),)
    where = _NARROW if plan.form != "wide" else _WIDE
    ends = [length * (k + 1) // count for k in range(count)]
    result = []
    for first, end in zip([0, *ends], ends, strict=False):
        piece = copy.copy(plan)
        piece.work = plan.work // count
        piece.args = _with_length(plan.args, _STRIDED, end - first, first == 0)
        if plan.walk is not None:
            piece.walk = _with_length(plan.walk, where, end - first, first == 0)
        offsets = (first * s[plan.dim] for s in (plan.index_strides, plan.src_strides))
        result.append(Piece(piece, *offsets))
    return tuple(result)


def _with_length(args: Any, where: tuple[int, int | None], length: int, is_first: bool) -> Any:
    at, copies = where
    args = args.copy()
    args[at] = length
    if copies is not None and not is_first:
        args[copies] = 0
    args.flags.writeable = False
    return args


def scatter(
    backend: Any, plan: ScatterPlan, out: int, index: int, src: int, how: Any, x: int
) -> int:
    """A backend's scatter by addresses, in pieces; not 0 if an index was bad."""
    for piece, index_offset, src_offset in pieces(plan):
        bad = backend.scatter(piece, out, index + index_offset, src + src_offset, how, x)
        if bad:
            return int(bad)
    return 0
