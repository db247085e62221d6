"""One lock for what must not be cut in half by a fork: loading a backend, compiling, threads.

A child forked while another thread imports, compiles or starts a thread pool would inherit locks
(Python's, numba's, OpenMP's) that nobody is left to release. All of that is done under `lock`, and
a fork waits for it.
"""

from __future__ import annotations

# These two register locks of their own to be held over a fork, and the hooks run last come, first
# served. Imported later than here, the forking thread would hold theirs while it waits for ours,
# and whoever has ours and logs, as numba does, would wait for theirs.
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

#: Seconds after which a fork goes on regardless: a lock order that we do not know must not hang it.
PATIENCE = 60.0

_held: list[bool] = []
_forked = False

#: Linux: "forked but did not exec", in the flags of /proc/self/stat.
_PF_FORKNOEXEC = 0x40


def forked() -> bool:
    """Whether this process is a fork, made before this module was imported or after.

    Then somebody (the user's own numba code, torch) may have started threads of OpenMP in the
    parent, and whoever enters OpenMP here is killed or waits for ever.
    """
    return _forked or multiprocessing.parent_process() is not None or _forked_on_linux()


@contextlib.contextmanager
def start_method_kept() -> Iterator[None]:
    """Leave it open how multiprocessing starts processes: numba's layer makes it final."""
    before: str | None = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        if before is None:
            set_start_method: Any = multiprocessing.set_start_method
            set_start_method(None, force=True)


def _forked_on_linux() -> bool:
    try:
        # The command's name, in parentheses, may hold anything; the flags are the seventh after it.
        flags = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[6]
        return bool(int(flags) & _PF_FORKNOEXEC)
    except (OSError, IndexError, ValueError):
        return False  # another system


def _hold() -> None:
    _held.append(lock.acquire(timeout=PATIENCE))


def _release() -> None:
    if _held.pop():
        lock.release()


def _release_in_child() -> None:
    global _forked
    _forked = True
    _release()


if hasattr(os, "register_at_fork"):
    # The forking thread owns the lock on both sides, so each side can release its own.
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_in_child)
