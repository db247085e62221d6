"""The machine code of a function: of this process, of the package, of the cache, or compiled.

A *range kernel* does its work for the positions ``lo <= p < hi`` of a flat range and returns how
many bad values it met. Every range kernel is compiled to a C function of one shape::

    int64 kernel(out*, src*, idx*, aux*, int64* args, int64 lo, int64 hi)

so that one driver (:mod:`nbgather.kernels.cpu.team`) can run any of them through a pointer. Each
kernel defines what its four pointers point to: the same Python source is compiled once for each
combination of pointer types, so that one source serves items of every size.

numba is imported when something has to be compiled, and not before.
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

from nbgather.kernels import forks
from nbgather.kernels.cpu import cache, loader, shipped

#: The type that carries the bits of an item of so many bytes; 16 are two words.
BITS = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "u8x2"}


class Function(NamedTuple):
    """A C function that gives an int64, by its source.

    Attributes
    ----------
    module : str
        Of this package.
    name : str
        What makes the function, or with ``traits`` None the function itself.
    traits : tuple of (bool, int, str) or None
        What the maker is given.
    types : tuple of str
        Of its arguments, as NumPy writes dtypes; with a star, a pointer to such.
    """

    module: str
    name: str
    traits: tuple[bool | int | str, ...] | None
    types: tuple[str, ...]


_addresses: dict[Function, int] = {}
_building = threading.RLock()


def _renew_in_child() -> None:
    global _building
    _building = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)


def range_kernel(
    module: str,
    name: str,
    traits: tuple[bool | int | str, ...] | None,
    pointees: tuple[str, str, str, str],
) -> int:
    """The address of a range kernel; ``pointees`` are the types of out, src, idx and aux."""
    types = (*(f"*{kind}" for kind in pointees), "*i8", "i8", "i8")
    return address(Function(module, name, traits, types))


def address(function: Function) -> int:
    """The address of a function, compiled at most once on this machine if that can be kept."""
    known = _addresses.get(function)
    return _find(function) if known is None else known


def _find(function: Function) -> int:
    # A fork waits until this is through; other threads that need other functions do not.
    with forks.held_back():
        code = shipped.read(function)
        if code is not None:
            return _load(function, shipped.symbol(function), code)
        entry = cache.entry(function.module, function.name, function[2:])
        code = entry.read()
        if code is not None:
            return _load(function, entry.symbol, code)
        with _building:
            known = _addresses.get(function)  # another thread was first
            if known is not None:
                return known
            return _load(function, entry.symbol, _build(function, entry))


def _load(function: Function, symbol: str, code: bytes) -> int:
    return _addresses.setdefault(function, loader.load(code, symbol))


def _build(function: Function, entry: cache.Entry) -> bytes:
    from nbgather.kernels.cpu import build

    code, can_be_kept = build.object_code(function, entry.symbol)
    if can_be_kept:
        entry.write(code)
    return code
