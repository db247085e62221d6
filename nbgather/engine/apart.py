"""Work that cannot be cut, on a thread of its own, while the calling thread minds its signals.

A kernel sees no signal before the end of its part, nor does NumPy within a sort. Where a part would
take long, the main thread, the only one that Python handles signals on, waits for another that does
it. If a handler raises meanwhile, the call ends at once; the thread ends what it has begun, on
memory that only it knows any more, and what it made is thrown away.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from nbgather.engine.pieces import PIECE_BYTES
from nbgather.kernels.cpu import limits

#: How long a wait lasts at most before signals are looked for, where a system's wait sees none.
WAIT_SECONDS = 0.05

_local = threading.local()


class Left(Exception):
    """Nobody waits for the work any more."""


class _Work:
    """A call that a thread makes, and what came of it."""

    def __init__(self, call: Callable[[], Any], owners: Any) -> None:
        self.call, self.owners, self.count = call, owners, limits.num_threads()
        self.result: Any = None
        self.error: BaseException | None = None
        self.left = False
        self.done = threading.Event()

    def run(self) -> None:
        """What the thread does; its caller's limit of threads holds for it."""
        _local.work = self
        try:
            with limits.limit_threads(self.count):
                self.result = self.call()
        except BaseException as error:
            self.error = error
        finally:
            del self.call, self.owners
            if self.left:
                self.result = self.error = None
            self.done.set()


def is_long(work: int) -> bool:
    """Whether a part of a call of so much work, as a plan counts it, is worth a thread."""
    return work > PIECE_BYTES and threading.current_thread() is threading.main_thread()


def run(
    work: int, owners: Any, function: Callable[..., Any], *operands: Any, **options: Any
) -> Any:
    """Call a function of which one part has so much work.

    ``owners`` keep in memory what it reads and writes by address; it may write to nothing that the
    caller knows.
    """
    if not is_long(work):
        return function(*operands, **options)
    begun = _Work(lambda: function(*operands, **options), owners)
    try:
        # Not waited for at the end of the process.
        threading.Thread(target=begun.run, name="nbgather", daemon=True).start()
        while not begun.done.wait(WAIT_SECONDS):
            pass
    except BaseException:
        begun.left = True
        raise
    if begun.error is None:
        return begun.result
    try:
        raise begun.error
    finally:
        begun.error = None  # which refers to this frame


def copy(container: Any, array: Any) -> Any:
    """A plain copy of an array, to be read and not to be given to the caller."""
    if container.home != "cpu":
        return container.copy(array)
    spec = container.spec(array)
    work = 2 * math.prod(spec.shape) * spec.dtype.itemsize
    return run(work, array, container.copy, array)


def check() -> None:
    """Between the steps of a function that is run so: end it where nobody waits any more."""
    work = getattr(_local, "work", None)
    if work is not None and work.left:
        raise Left
