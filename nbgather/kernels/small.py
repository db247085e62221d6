"""Calls as numbers: all of a call that does not change when it is made again.

A call is a few *steps*, each one kernel over a range of positions. Where a kernel finds what it
works on is a *place*: an operand's or a result's memory, a whole number that is an operand, or a
number that is always the same. :func:`numbers_of` writes a call down for the compiled function that
repeats it (:mod:`nbgather.kernels.cpu.repeat`); the constants are the layout that both agree on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: Limits of a call that can be repeated.
MAX_OPERANDS, MAX_RESULTS, MAX_ARGS, MAX_NDIM = 6, 5, 64, 8

#: What an operand is: None, a NumPy array, a tensor of torch, a whole number.
ABSENT, ARRAY, TENSOR, INTEGER = range(4)
#: What a place holds: a number that is always the same; the address of an operand or of a result;
#: an operand that is a whole number: its lower 32 bits, its upper ones.
FIXED, OPERAND, RESULT, LOW32, HIGH32 = range(5)

#: The words of a call before its operands, and those of an operand before shape and strides.
HEADER = ("operands", "results", "shown", "steps", "out", "first_step")
OPERAND_HEADER = (
    "kind", "dtype", "mask", "low", "high", "itemsize", "flags", "ndim",
)  # fmt: skip
OPERAND_WORDS = len(OPERAND_HEADER) + 2 * MAX_NDIM
#: The words of a step before its args: places are pairs of words, patches are (position, place).
STEP_HEADER = (
    "kernel", "count", "args", "patches", "out", "_", "src", "_", "idx", "_", "aux", "_", "work",
    "most",
)  # fmt: skip
PATCH_WORDS = 3

#: What NumPy's flags say of an array that can be written to.
WRITEABLE = 0x0400

#: What the compiled function must know of this process: a table of int64.
TABLE = (
    "none", "array", "integer", "tensor", "parameter",  # None and types, as addresses
    "handle",  # bytes from a tensor's object to what is its handle for C
    "keys",  # bytes from a tensor's implementation to its set of dispatch keys
    "plain_keys", "inference_keys",  # the sets of tensors whose memory is their value
    "data", "storage_size", "storage_offset", "dtype", "ndim", "sizes", "strides",  # functions
    "requires_grad", "grad_enabled", "true",  # an attribute's name, a function, its answer
    "dispatch_modes", "function_modes", "zero", "transform", "trace",  # functions, and an answer
    "team",  # where the address of the team of threads is
    "threads", "threads_of_torch",  # functions: how many threads a call may use, and whose
    "limit", "limit_of_torch",  # functions: how many a short call may use
)  # fmt: skip


class Place(NamedTuple):
    """Where a kernel finds something; the kind is one of those above."""

    kind: int
    value: int


def operand(k: int) -> Place:
    """The address of an operand."""
    return Place(OPERAND, k)


def result(k: int) -> Place:
    """The address of a result."""
    return Place(RESULT, k)


class Step(NamedTuple):
    """One kernel over a range of positions, with its integers and its pointers: out, src, idx, aux.

    ``patches`` are the positions in ``args`` of what differs from call to call. ``work`` are the
    bytes that are moved, and ``most`` the parts that the range may be cut into.
    """

    kernel: int
    args: np.ndarray
    positions: int
    pointers: tuple[Place, ...]
    patches: tuple[tuple[int, Place], ...] = ()
    work: int = 0
    most: int = 1


class Layout(NamedTuple):
    """What an operand must be like: for None and whole numbers only the kind counts.

    Strides as the library has them: bytes in NumPy, items in torch. ``low`` and ``high`` are what
    the array reaches, in bytes from its address; ``mask`` is of the address's bits that must be 0.
    """

    kind: int
    dtype: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    itemsize: int = 0
    low: int = 0
    high: int = 0
    mask: int = 0
    flags: int = 0


def numbers_of(
    operands: Sequence[Layout], results: int, shown: int, out: int, steps: Sequence[Step]
) -> np.ndarray | None:
    """A call as int64 numbers; None if it is beyond the limits.

    The first ``shown`` of the results are given to the caller, the others are for the steps alone.
    ``out`` is the operand that is the one result, or -1.
    """
    if len(operands) > MAX_OPERANDS or results > MAX_RESULTS:
        return None
    words = [len(operands), results, shown, len(steps), out]
    words.append(len(HEADER) + OPERAND_WORDS * len(operands))
    for o in operands:
        ndim = len(o.shape)
        if ndim > MAX_NDIM:
            return None
        words += [o.kind, o.dtype, o.mask, o.low, o.high, o.itemsize, o.flags, ndim]
        words += [*o.shape, *(0,) * (MAX_NDIM - ndim), *o.strides, *(0,) * (MAX_NDIM - ndim)]
    for step in steps:
        if len(step.args) > MAX_ARGS:
            return None
        words += [step.kernel, step.positions, len(step.args), len(step.patches)]
        for place in step.pointers:
            words += place
        words += [step.work, step.most, *step.args.tolist()]
        for position, place in step.patches:
            words += [position, *place]
    return np.array(words, np.int64)
