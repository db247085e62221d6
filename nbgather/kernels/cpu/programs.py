"""The programs of this process, where the function that XLA calls finds them.

Memory that compiled code may read is never freed: an executable that names a program may live as
long as the process.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from nbgather.kernels import program as layout
from nbgather.kernels.constants import MAX_THREADS
from nbgather.kernels.cpu import compiler, floats, limits, loader, threads
from nbgather.kernels.memory import memory_address
from nbgather.kernels.program import (
    ENTRY_WORDS,
    FAILED_PRECONDITION,
    KEY_BYTES,
    TABLE,
    Fault,
    Program,
    words_of,
)

#: The function that XLA calls.
HANDLER = compiler.Function("ffi", "handler", None, ("i8",))
_STRAY = np.frombuffer(b"a call came from XLA that is none of nbgather's\0", np.uint8)
_FIRST_ENTRIES = 256

_kept: list[Any] = []
_known: dict[bytes, int] = {}
_lock = threading.RLock()
_table = np.zeros(len(TABLE), np.int64)
_threads = np.ones(1, np.int64)
_block = np.zeros(0, np.int64)


def _renew_in_child() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)


def _new_block(entries: int) -> None:
    """A block of so many entries, with all programs that there are."""
    global _block
    _block = np.zeros(1 + ENTRY_WORDS * entries, np.int64)
    _block[0] = entries - 1
    _kept.append(_block)
    for key, address in _known.items():
        _enter(key, address)
    _table[TABLE.index("block")] = memory_address(_block)


def _enter(key: bytes, address: int) -> None:
    first, second = np.frombuffer(key, np.int64).tolist()
    mask = int(_block[0])
    k = first & mask
    while _block[3 + ENTRY_WORDS * k]:
        k = (k + 1) & mask
    at = 1 + ENTRY_WORDS * k
    _block[at], _block[at + 1] = first, second
    _block[at + 2] = address  # last: an entry without it is none


def publish(key: bytes, program: Program) -> bool:
    """Let a program be found by ``key``; whether it is within what compiled code can run.

    Parameters
    ----------
    key : bytes
        `KEY_BYTES` of them, which no other program has.
    """
    assert len(key) == KEY_BYTES
    if key in _known:
        return True
    written = words_of(program)
    if written is None:
        return False
    words, owner = written
    refresh_threads()
    if any(threads.splits(step.work) for step in program.steps):
        threads.prepare(int(_threads[0]))
    with _lock:
        if key not in _known:
            _kept.append((words, owner))
            _known[key] = memory_address(words)
            if 2 * len(_known) > int(_block[0]):
                _new_block(2 * (int(_block[0]) + 1))
            else:
                _enter(key, _known[key])
    return True


def refresh_threads() -> None:
    """Note how many threads a call may use, for compiled code that cannot ask."""
    _threads[0] = min(limits.num_threads_of_process(), MAX_THREADS)


def failing(message: str) -> Program:
    """A program that does nothing but fail."""
    return Program(None, 0, (), Fault(other=message, status=FAILED_PRECONDITION))


def tell_version(major: int, minor: int) -> None:
    """The version of its interface that is told to XLA when the function is registered."""
    _table[TABLE.index("version")] = major | minor << 32


class _Span(ctypes.Structure):
    """XLA_FFI_ByteSpan."""

    _fields_ = (("at", ctypes.c_void_p), ("length", ctypes.c_size_t))


@functools.cache
def handler(resolve: Callable[[str], Program]) -> int:
    """The address of the function for XLA, compiled if it is not yet.

    Parameters
    ----------
    resolve : callable
        ``resolve(text)``: the program of a call that this process did not make.
    """

    def asked(at: int) -> int:
        # Threads that are started here compute with floats as this one does.
        with floats.default_environment():
            return found(at)

    def found(at: int) -> int:
        span = _Span.from_address(at)
        text = ctypes.string_at(span.at, span.length)
        key = text[:KEY_BYTES]
        try:
            program = resolve(text[KEY_BYTES:].decode())
        except Exception as error:
            program = failing(f"{type(error).__name__}: {error}"[: layout.MAX_TEXT // 4])
        if not publish(key, program):
            publish(key, failing("the operation is beyond what compiled code can run"))
        return _known[key]

    asked_by_c = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(asked)
    _kept.append(asked_by_c)
    for name, value in (
        ("team", memory_address(threads.team_address)),
        ("threads", memory_address(_threads)),
        ("resolve", loader.function_pointer(asked_by_c)),
        ("stray", memory_address(_STRAY)),
        *floats.environment()._asdict().items(),
    ):
        _table[TABLE.index(name)] = value
    limits.listeners.append(refresh_threads)
    with _lock:
        _new_block(_FIRST_ENTRIES)
    address = compiler.address(HANDLER)
    told = np.array([0, memory_address(_table)], np.int64)
    ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(memory_address(told))
    return address
