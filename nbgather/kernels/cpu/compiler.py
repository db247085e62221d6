"""Where kernels are compiled: one signature, one set of flags, one cache policy.

A *range kernel* does its work for the positions ``lo <= p < hi`` of a flat range and returns how
many bad values it met. Every range kernel is compiled to a C function of one shape::

    int64 kernel(out*, src*, idx*, aux*, int64* args, int64 lo, int64 hi)

so that one driver (:mod:`nbgather.kernels.cpu.threads`) can run any of them through a pointer. What
the four pointers point to is the kernel's own affair: the same Python source is compiled once per
combination of pointer types, which is how "bits by itemsize" costs no second source.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc

from nbgather.kernels import forks
from nbgather.kernels.cpu.cache import CheckedCache

#: Unsigned integers that carry the bits of an item of so many bytes.
BITS = {
    1: types.uint8,
    2: types.uint16,
    4: types.uint32,
    8: types.uint64,
    16: types.UniTuple(types.uint64, 2),
}

_table: dict[Hashable, Any] = {}


@functools.cache
def _digest() -> str:
    """A digest of every source a kernel is made of.

    numba's cache looks only at the file that holds the kernel. A kernel also contains the helpers
    it calls, so their text goes into the name that the cache files it under.
    """
    here = Path(__file__).parent
    names = ("chunks", "gather", "intrinsics", "masking", "patches", "scatter", "strategies")
    sources = [here.parent / "scalar.py", here / "threads.py", *(here / f"{n}.py" for n in names)]
    text = b"".join(path.read_bytes() for path in sources)
    return hashlib.blake2s(text, digest_size=6).hexdigest()


def _compile(compile_: Callable[[Any], Any], function: Callable[..., Any]) -> Any:
    """Compile with a file cache, or without it where that fails for whatever reason."""
    if not function.__qualname__.endswith(_digest()):
        function.__qualname__ = f"{function.__qualname__}-{_digest()}"
    try:
        return compile_(CheckedCache(function))
    except Exception:
        # No folder can be written, or the disk is full.
        return compile_(None)


def once(key: Hashable, build: Callable[[], Any]) -> Any:
    """Return ``build()``, made at most once per key in this process, whatever thread asks."""
    made = _table.get(key)
    if made is None:
        with forks.lock:
            made = _table.get(key)
            if made is None:
                made = _table[key] = build()
    return made


def range_kernel(
    function: Callable[..., Any], out: Any, src: Any, idx: Any, aux: Any
) -> tuple[int, Any]:
    """Compile a range kernel for these four pointee types: its address, and what keeps it alive."""
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

    def compile_(cache: Any) -> Any:
        compiled: Any = CFunc(
            function, (signature.args, signature.return_type), {}, {"nopython": True}
        )
        compiled._cache = NullCache() if cache is None else cache
        compiled.compile()
        return compiled

    compiled = _compile(compile_, function)
    return compiled.address, compiled


def driver(function: Callable[..., Any], *argtypes: Any, parallel: bool, nogil: bool = True) -> Any:
    """Compile a driver for one signature, by default without the GIL."""

    def compile_(cache: Any) -> Any:
        dispatcher = njit(nogil=nogil, parallel=parallel)(function)
        dispatcher._cache = NullCache() if cache is None else cache
        dispatcher.compile(types.int64(*argtypes))
        dispatcher.disable_compile()
        return dispatcher

    return _compile(compile_, function)
