"""Programs: operations on dense arrays, planned once, as numbers for compiled code that XLA calls.

A program is a few steps (:mod:`nbgather.kernels.small`), how many operands and results they take,
and what is said where a kernel met a bad value. The constants are the layout that the compiled
function (:mod:`nbgather.kernels.cpu.ffi`) and what hands it programs agree on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nbgather.kernels import small
from nbgather.kernels.small import Step

#: The words of a program before the sizes of its index, its strides in bytes, and the numbers of
#: the steps.
HEADER = (
    "operands", "results",  # how many; -1 operands: nothing is looked at, since it must fail
    "mask",  # the bits that are 0 in the addresses of all buffers
    "floats",  # whether it computes with floats, which not every thread does alike
    "scalars",  # a bit for each operand that is a whole number: its value counts, not its address
    "bad",  # not 0 where every index is out of bounds, so that nothing is run
    "index", "code", "size", "from_end", "ndim",  # the operand that is looked through, or -1
    "dense",  # whether it has no gaps and is broadcast nowhere
    "text", "text_bytes",  # what is said of a bad index, with VALUE and PLACE in it
    "other", "status",  # what is said where a step failed otherwise, and XLA's code for that
    "numbers",  # where the numbers of the steps begin, in words
)  # fmt: skip
#: What stands in a text for the value of a bad index, and for its place.
VALUE, PLACE = 1, 2
#: The index's dtype as a number: its bytes, and this bit where it is signed.
SIGNED = 16
#: The longest text, and the most dimensions that a place is told for.
MAX_TEXT, MAX_DIMS = 1024, 64

#: The table of a process, in words: the address of the word with the address of the team; that of
#: the number of threads; the block that programs are found in; what is asked for one that is not;
#: what is said of a call that fits no program; the version of XLA's interface that is told to it;
#: what :class:`nbgather.kernels.cpu.floats.Environment` holds.
TABLE = (
    "team", "threads", "block", "resolve", "stray", "version", "get", "set", "default",
)  # fmt: skip
#: A block is a mask and then entries: two words that a program is found by, and its address.
ENTRY_WORDS = 3
#: Bytes of a call's text that a program is found by.
KEY_BYTES = 16
#: Codes of XLA's errors.
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, OUT_OF_RANGE, INTERNAL = 8, 9, 11, 13
#: The versions of XLA's interface whose frames are as :mod:`nbgather.kernels.cpu.ffi` reads them,
#: the oldest first.
API_VERSIONS = ((0, 1), (0, 2), (0, 3), (0, 4), (0, 5))


class Fault(NamedTuple):
    """What is said where a step gives a number that is not 0.

    Attributes
    ----------
    operand : int
        The operand that is looked through for the first value out of bounds, or -1.
    dtype, shape, strides : str, tuple of int, tuple of int
        Its dtype as ``i8``, ``u1``, ..., its shape, and its strides in bytes.
    size, from_end : int, bool
        Values from 0 to ``size`` - 1 are in bounds, and with ``from_end`` from -``size`` up.
    text : str
        The message, with the characters :data:`VALUE` and :data:`PLACE`.
    other, status : str, int
        What is said of anything else, such as memory that there is not, and XLA's code for it.
    always : bool
        Whether every index is out of bounds.
    """

    operand: int = -1
    dtype: str = "i8"
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    size: int = 0
    from_end: bool = False
    text: str = ""
    other: str = ""
    status: int = RESOURCE_EXHAUSTED
    always: bool = False


class Program(NamedTuple):
    """An operation on dense arrays.

    ``uses`` are the operands that the steps are told of, by their numbers among all; None where the
    call must fail. ``scalars`` has a bit for each of these whose value counts, ``mask`` those of
    addresses that must be 0, ``floats`` says whether floats are computed with. ``owner`` holds what
    the steps refer to.
    """

    uses: tuple[int, ...] | None
    results: int
    steps: Sequence[Step]
    fault: Fault = Fault()
    mask: int = 0
    scalars: int = 0
    floats: bool = False
    owner: Any = None


def _is_dense(fault: Fault) -> bool:
    step = int(fault.dtype[1:])
    for n, stride in zip(reversed(fault.shape), reversed(fault.strides), strict=True):
        if n != 1 and stride != step:
            return False
        step *= n
    return True


def words_of(program: Program) -> tuple[np.ndarray, Any] | None:
    """A program as int64 words, and what holds the memory they refer to; None beyond limits."""
    fault = program.fault
    text, other = fault.text.encode(), fault.other.encode()
    numbers = small.numbers_of((), program.results, program.results, -1, program.steps)
    if (
        numbers is None
        or len(program.uses or ()) > small.MAX_OPERANDS
        or len(fault.shape) > MAX_DIMS
        or max(len(text), len(other)) > MAX_TEXT
    ):
        return None
    texts = [np.frombuffer(t + b"\0", np.uint8) for t in (text, other)]
    code = int(fault.dtype[1:]) | (SIGNED if fault.dtype[0] == "i" else 0)
    words = [
        -1 if program.uses is None else len(program.uses), program.results, program.mask,
        int(program.floats), program.scalars, int(fault.always or program.uses is None),
        fault.operand, code, fault.size, int(fault.from_end), len(fault.shape),
        int(_is_dense(fault)),
        texts[0].ctypes.data, len(text), texts[1].ctypes.data, fault.status,
        len(HEADER) + 2 * len(fault.shape), *fault.shape, *fault.strides,
    ]  # fmt: skip
    return np.concatenate([np.array(words, np.int64), numbers]), (texts, program.owner)
