"""What a fork must not interrupt: importing what is loaded late, compiling, starting threads.

A child forked while another thread imports, compiles or starts a thread would inherit locks
(Python's, numba's) that no thread of the child can release. All of that is done under `lock` or in
a block of `held_back`, and a fork waits for it.
"""

from __future__ import annotations

# This module registers a fork hook that acquires a lock of its own, and the hooks run in the
# reverse order of their registration. If it were imported after this one, the forking thread would
# hold its lock while it waits for the one below, and a thread that holds the one below and logs, as
# numba does, would wait for it.
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ = logging

lock = threading.RLock()

#: A fork goes on without the lock after this time, so that an unknown lock order cannot hang it.
LOCK_TIMEOUT_SECONDS = 60.0

_held: list[bool] = []
_no_fork = threading.Condition(threading.Lock())
_holders = 0
_local = threading.local()


@contextmanager
def held_back() -> Iterator[None]:
    """Let no fork begin during the block, which several threads may be in at once."""
    global _holders
    with _no_fork:
        _holders += 1
    _local.depth = getattr(_local, "depth", 0) + 1
    try:
        yield
    finally:
        _local.depth -= 1
        with _no_fork:
            _holders -= 1
            _no_fork.notify_all()


def _hold() -> None:
    _held.append(lock.acquire(timeout=LOCK_TIMEOUT_SECONDS))
    # Kept until the fork is done, so that no other thread enters such a block meanwhile.
    _no_fork.acquire()
    own = getattr(_local, "depth", 0)
    _no_fork.wait_for(lambda: _holders == own, timeout=LOCK_TIMEOUT_SECONDS)


def _release() -> None:
    _no_fork.release()
    if _held.pop():
        lock.release()


def _release_in_child() -> None:
    global _holders, _no_fork
    _holders = getattr(_local, "depth", 0)
    _no_fork = threading.Condition(threading.Lock())
    if _held.pop():
        lock.release()


if hasattr(os, "register_at_fork"):
    # The forking thread owns the lock in both processes, so each can release its own.
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_in_child)
