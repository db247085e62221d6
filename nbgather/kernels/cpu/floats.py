"""How a thread computes with floats: XLA's flush numbers below the normal ones to zero.

Sums and products then have other bits than everywhere else, so that they are computed in the
default environment of C, and the thread gets back what it had. What only moves items is not
concerned.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from nbgather.kernels.cpu.loader import function_pointer

#: Bytes that hold the environment of any system: 32 on x86-64, 16 at most elsewhere.
ENVIRONMENT_BYTES = 128


class Environment(NamedTuple):
    """``fegetenv``, ``fesetenv`` and ``FE_DFL_ENV`` as addresses; 0 where there are none."""

    get: int
    set: int
    default: int


@functools.cache
def _library() -> Any:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return ctypes.CDLL("libm.so.6")
    return ctypes.CDLL(None)


@functools.cache
def environment() -> Environment:
    """What compiled code needs to leave a thread's environment and to come back to it."""
    with contextlib.suppress(AttributeError, OSError, TypeError, ValueError):
        default = -1  # in the C libraries of Linux
        if sys.platform == "darwin":
            default = ctypes.addressof(ctypes.c_char.in_dll(_library(), "_FE_DFL_ENV"))
        elif sys.platform != "linux":
            return Environment(0, 0, 0)
        get, put = map(function_pointer, _functions())
        return Environment(get, put, default)
    return Environment(0, 0, 0)


def _functions() -> tuple[Any, Any]:
    return _library().fegetenv, _library().fesetenv


@contextlib.contextmanager
def default_environment() -> Iterator[None]:
    """The default environment in this thread, during the block."""
    known = environment()
    if not known.get:
        yield
        return
    get, put = _functions()
    get.argtypes = put.argtypes = [ctypes.c_void_p]
    before = ctypes.create_string_buffer(ENVIRONMENT_BYTES)
    get(before)
    put(known.default)
    try:
        yield
    finally:
        put(ctypes.addressof(before))
