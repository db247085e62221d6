"""Where kernels are compiled: one signature, one set of options, one cache.

A *range kernel* does its work for the positions ``lo <= p < hi`` of a flat range and returns how
many bad values it met. Every range kernel is compiled to a C function of one shape::

    int64 kernel(out*, src*, idx*, aux*, int64* args, int64 lo, int64 hi)

so that one driver (:mod:`nbgather.kernels.cpu.drivers`) can run any of them through a pointer. Each
kernel defines what its four pointers point to: the same Python source is compiled once for each
combination of pointer types, so that one source serves items of every size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any

from numba import njit, types
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc

from nbgather.kernels import forks
from nbgather.kernels.cpu import cache

#: The type that carries the bits of an item of so many bytes.
BITS = {
    1: types.uint8,
    2: types.uint16,
    4: types.uint32,
    8: types.uint64,
    16: types.UniTuple(types.uint64, 2),
}

_table: dict[Hashable, Any] = {}


def once(key: Hashable, build: Callable[[], Any]) -> Any:
    """Return ``build()``, called at most once per key in this process, whatever thread asks."""
    value = _table.get(key)
    if value is None:
        with forks.lock:
            value = _table.get(key)
            if value is None:
                value = _table[key] = build()
    return value


def _compile(
    compile_: Callable[[Any, Any], Any], function: FunctionType, options: dict[str, Any]
) -> Any:
    """Compile with a file cache, or without it where that fails for any reason."""
    try:
        stored = cache.KernelCache(function, options)
        return compile_(_renamed(function, stored.variant), stored)
    except Exception:
        return compile_(function, NullCache())


def _renamed(function: FunctionType, suffix: str) -> FunctionType:
    """The same function under a unique name, from which numba makes the symbol to link.

    numba numbers the variants of a function within one process. Two that were compiled by different
    processes can have the same number, and a third process loads both from the cache.
    """
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__qualname__ = f"{function.__qualname__}-{suffix}"
    return copy


def range_kernel(function: Any, out: Any, src: Any, idx: Any, aux: Any) -> tuple[int, Any]:
    """Compile a range kernel for four pointee types: its address, and what keeps it in memory."""
    pointer = types.CPointer
    signature = types.int64(
        pointer(out),
        pointer(src),
        pointer(idx),
        pointer(aux),
        pointer(types.int64),
        types.int64,
        types.int64,
    )
    return c_function(function, signature)


def c_function(function: Any, signature: Any) -> tuple[int, Any]:
    """Compile a C function: its address, and what keeps it in memory."""
    options = {"nopython": True}

    def compile_(function: Any, stored: Any) -> Any:
        compiled: Any = CFunc(function, (signature.args, signature.return_type), {}, options)
        compiled._cache = stored
        compiled.compile()
        return compiled

    compiled = _compile(compile_, function, options)
    return compiled.address, compiled


def driver(function: Any, *argtypes: Any, parallel: bool, nogil: bool = True) -> Any:
    """Compile a driver for one signature, by default without the GIL."""
    options = {"nogil": nogil, "parallel": parallel}

    def compile_(function: Any, stored: Any) -> Any:
        dispatcher = njit(**options)(function)
        dispatcher._cache = stored
        dispatcher.compile(types.int64(*argtypes))
        dispatcher.disable_compile()
        return dispatcher

    return _compile(compile_, function, options)
