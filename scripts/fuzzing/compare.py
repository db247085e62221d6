"""A call by kernels and by the reference: the same bits, or the same words."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from fuzzing.cases import Call
from fuzzing.guarded import Arena

import nbgather

ERRORS = (IndexError, TypeError, ValueError)


def made(call: Call, **options: Any) -> Any:
    try:
        return call.function(*call.operands, **call.options, **options)
    except ERRORS as error:
        return error


def flat(result: Any) -> list[Any]:
    """A result as a list of arrays and plain values."""
    if isinstance(result, list | tuple):
        return [part for item in result for part in flat(item)]
    return [result]


def check_same(got: Any, want: Any) -> None:
    if isinstance(got, Exception) or isinstance(want, Exception):
        assert (type(got), str(got)) == (type(want), str(want)), f"{got!r} instead of {want!r}"
        return
    ours, theirs = flat(got), flat(want)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(other, np.ndarray):
            assert (one.dtype, one.shape) == (other.dtype, other.shape), (one.dtype, one.shape)
            assert one.tobytes() == other.tobytes(), "other bits"
        else:
            assert one == other


def inferred(call: Call, got: Any) -> None:
    """Nothing else infers: each solution is checked by a gather."""
    x, output = call.operands
    for solution in () if isinstance(got, Exception) or not output.size else got:
        whole = slice(None)
        lanes = [whole if d == solution.dim else slice(n) for d, n in enumerate(output.shape)]
        again = np.take_along_axis(x[tuple(lanes)], solution.index, solution.dim)
        assert again.tobytes() == output.tobytes()


def check_out(call: Call, out: np.ndarray, want: Any) -> None:
    """The result in ``out``; which stays as it was where the call fails."""
    before = out.tobytes()
    got = made(call, out=out)
    check_same(got, want)
    if isinstance(want, Exception):
        assert out.tobytes() == before, "an out of a call that failed was written to"
    else:
        assert got is out


def check(call: Call, arena: Arena) -> None:
    """Again and again by kernels, since small calls are repeated in another way.

    The operands cannot be written meanwhile.
    """
    parameters = inspect.signature(call.function).parameters
    want = call.wanted
    if "backend" in parameters:
        want = made(call, backend="reference")
    with arena.read_only():
        for _ in range(3):
            got = made(call)
            if want is not None:
                check_same(got, want)
            elif call.function is nbgather.infer_gather:
                inferred(call, got)
    if isinstance(want, np.ndarray) and "out" in parameters:
        out = arena.array(max(want.nbytes, 1), True)[: want.nbytes].view(want.dtype)
        check_out(call, out.reshape(want.shape), want)
    if call.out is not None and want is not None:
        check_out(call, call.out, want)
