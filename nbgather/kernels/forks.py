"""One lock for what a fork must not interrupt: loading a backend, compiling, starting threads.

A child forked while another thread imports, compiles or starts a thread pool would inherit locks
(Python's, numba's, OpenMP's) that no thread of the child can release. All of that is done under
`lock`, and a fork waits for it.
"""

from __future__ import annotations

# These two modules register fork hooks that acquire locks of their own, and the hooks run in the
# reverse order of their registration. If they were imported after this module, the forking thread
# would hold their locks while it waits for the one below, and a thread that holds the one below and
# logs, as numba does, would wait for theirs.
import concurrent.futures.thread
import contextlib
import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ = (concurrent.futures.thread, logging)

lock = threading.RLock()

#: A fork goes on without the lock after this time, so that an unknown lock order cannot hang it.
LOCK_TIMEOUT_SECONDS = 60.0

_held: list[bool] = []
_forked = False

#: Linux: "forked but did not exec", in the flags of /proc/self/stat.
_PF_FORKNOEXEC = 0x40


def forked() -> bool:
    """Whether this process was forked, before this module was imported or after.

    The parent may then have started OpenMP threads, by the user's own numba code or by torch, and a
    child that enters OpenMP is killed or hangs.
    """
    return _forked or multiprocessing.parent_process() is not None or _forked_on_linux()


@contextlib.contextmanager
def start_method_kept() -> Iterator[None]:
    """Keep multiprocessing's start method unset if it was: numba's threading layer sets it."""
    before: str | None = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        if before is None:
            set_start_method: Any = multiprocessing.set_start_method
            set_start_method(None, force=True)


def _forked_on_linux() -> bool:
    try:
        # The command's name, in parentheses, may contain anything; the flags are 7 fields after it.
        flags = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[6]
        return bool(int(flags) & _PF_FORKNOEXEC)
    except (OSError, IndexError, ValueError):
        return False  # another system


def _hold() -> None:
    _held.append(lock.acquire(timeout=LOCK_TIMEOUT_SECONDS))


def _release() -> None:
    if _held.pop():
        lock.release()


def _release_in_child() -> None:
    global _forked
    _forked = True
    _release()


if hasattr(os, "register_at_fork"):
    # The forking thread owns the lock in both processes, so each can release its own.
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_in_child)
