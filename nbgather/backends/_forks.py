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
import logging
import os
import threading

_ = (concurrent.futures.thread, logging)

lock = threading.RLock()

#: Seconds after which a fork goes on regardless: a lock order that we do not know must not hang it.
PATIENCE = 60.0

_held: list[bool] = []


def _hold() -> None:
    _held.append(lock.acquire(timeout=PATIENCE))


def _release() -> None:
    if _held.pop():
        lock.release()


if hasattr(os, "register_at_fork"):
    # The forking thread owns the lock on both sides, so each side can release its own.
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release)
