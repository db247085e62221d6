"""A range kernel over all cores, safe under threads and forks.

Two ways, with the same bits:

``driver``
    A ``prange`` loop over chunks that calls the kernel by pointer, on numba's threading layer:
    about 2 us a call. Used where that layer is safe: TBB and OpenMP, in a process that is no fork.
``pool``
    The serial driver, without the GIL, on a pool of Python threads: about 50 us a call. Used where
    numba's layer aborts or hangs: ``workqueue`` aborts when two threads call it at once, the user's
    own numba code included; OpenMP kills a child that was forked after its use, or hangs in it
    if torch used it.

Small work runs on the calling thread.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

from nbgather.kernels import forks
from nbgather.kernels.cpu import drivers, openmp
from nbgather.kernels.small import FIXED, Place, Step

#: Bytes of work for each thread below which one more costs more than it saves.
THREAD_MIN_BYTES = 1 << 17
#: Into how many parts the work of one thread is cut.
CHUNKS_PER_THREAD = 8

serial = drivers.serial

_pool: ThreadPoolExecutor | None = None
_layer: str | None = None
_local = threading.local()


def _renew_in_child() -> None:
    global _pool, _layer
    _pool, _layer = None, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)


def num_threads() -> int:
    """How many threads a call may use: ``NBGATHER_NUM_THREADS``, else the CPUs this process has."""
    limit = getattr(_local, "limit", None)
    if limit is not None:
        return int(limit)
    text = os.environ.get("NBGATHER_NUM_THREADS", "")
    if text:
        if not (text.isascii() and text.isdigit()) or int(text) < 1:
            raise ValueError(
                f"NBGATHER_NUM_THREADS is {text!r}: a whole number from 1 up is needed"
            )
        return int(text)
    return _affinity()


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Use at most ``count`` threads for the calls that this thread makes inside the block."""
    before = getattr(_local, "limit", None)
    _local.limit = count
    try:
        yield
    finally:
        _local.limit = before


def splits(work: int) -> bool:
    """Whether a call that moves so many bytes runs on more than one thread."""
    return work >= 2 * THREAD_MIN_BYTES


def threading_layer() -> str:
    """What runs parallel calls in this process: ``tbb``, ``omp`` or ``pool``."""
    global _layer
    if _layer is None:
        with forks.lock:
            if _layer is None:
                _layer = _choose_layer()
    return _layer


def _choose_layer() -> str:
    if forks.forked():
        return "pool"
    try:
        with openmp.settings_kept(), forks.start_method_kept():
            numba.get_num_threads()  # starts numba's layer, which fixes its choice
        layer = numba.threading_layer()
    except (ValueError, ImportError):
        return "pool"  # the user asked numba for a layer that is not installed
    return str(layer) if layer in ("tbb", "omp") else "pool"


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        with forks.lock:
            if _pool is None:
                _pool = ThreadPoolExecutor(max(1, _affinity() - 1), thread_name_prefix="nbgather")
    return _pool


class _Job:
    """A range in parts, which threads take one by one as they become free.

    A call must not return, even by an interrupt, while a thread still writes to its result. So the
    caller closes the job when it has nothing left to take, and waits for the threads that are at
    work on a part; a thread that starts later finds the job closed.
    """

    def __init__(self, run: Callable[[int, int], int], bounds: list[int]) -> None:
        self.run = run
        self.parts = list(itertools.pairwise(bounds))[::-1]
        self.bad = 0
        self.busy = 0
        self.change = threading.Condition()

    def work(self) -> None:
        while True:
            with self.change:
                if not self.parts:
                    return
                lo, hi = self.parts.pop()
                self.busy += 1
            bad = 0
            try:
                bad = self.run(lo, hi)
            finally:
                with self.change:
                    self.bad += int(bad)
                    self.busy -= 1
                    self.change.notify_all()

    def wait(self) -> None:
        """Close the job and wait for the parts at work; an interrupt is raised after that."""
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                with self.change:
                    self.parts.clear()
                    self.change.wait_for(lambda: not self.busy)
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


def _run_on_pool(serial: Any, call: tuple[Any, ...], count: int, chunks: int, threads: int) -> int:
    job = _Job(functools.partial(serial, *call), [count * c // chunks for c in range(chunks + 1)])
    try:
        # The pool of an interpreter that is shutting down refuses work: all is then done here.
        with contextlib.suppress(RuntimeError):
            for _ in range(threads - 1):
                _shared_pool().submit(job.work)
        job.work()
    finally:
        job.wait()
    return job.bad


def run(
    kernel: int,
    out: int,
    src: int,
    idx: int,
    aux: int,
    args: np.ndarray,
    count: int,
    work: int,
    parts: int | None = None,
) -> int:
    """Run a range kernel over ``count`` positions; return the sum of what it returned.

    Parameters
    ----------
    kernel, out, src, idx, aux : int
        Addresses, see :mod:`nbgather.kernels.cpu.compiler`.
    args : ndarray of int64
        The plan's integers; read only.
    count : int
        The kernel's range is ``0 <= p < count``.
    work : int
        Bytes moved by the whole call; they decide how many threads are used.
    parts : int, optional
        Into how many parts the range is cut at most, where each has a cost of its own.
    """
    run_serial = serial()
    if not splits(work):
        return run_serial(kernel, out, src, idx, aux, args, 0, count)
    threads = min(num_threads(), count, work // THREAD_MIN_BYTES)
    if threads <= 1:
        return run_serial(kernel, out, src, idx, aux, args, 0, count)
    chunks = min(threads * CHUNKS_PER_THREAD, count, work // THREAD_MIN_BYTES)
    if parts is not None:
        chunks = min(chunks, parts)
    if threading_layer() == "pool":
        return _run_on_pool(run_serial, (kernel, out, src, idx, aux, args), count, chunks, threads)
    return drivers.parallel()(kernel, out, src, idx, aux, args, count, chunks, threads)


def step(
    kernel: int,
    out: Any,
    src: Any,
    idx: Any,
    aux: Any,
    args: Any,
    count: int,
    work: int,
    parts: int | None = None,
) -> Step | None:
    """What `run` would do, to be repeated; None where it would do it on several threads.

    The pointers are places or addresses that stay the same, and among the integers are places too.
    """
    if splits(work):
        return None
    pointers = tuple(
        p if isinstance(p, Place) else Place(FIXED, int(p)) for p in (out, src, idx, aux)
    )
    patches = tuple((k, v) for k, v in enumerate(args) if isinstance(v, Place))
    numbers = np.array([0 if isinstance(v, Place) else v for v in args], np.int64)
    return Step(kernel, numbers, count, pointers, patches)


def run_tasks(
    kernel: int, out: int, src: int, idx: int, aux: int, args: np.ndarray, count: int, threads: int
) -> int:
    """Run tasks 0 to ``count`` of a range kernel, each a range of one that is taken in its turn."""
    call = kernel, out, src, idx, aux, args
    if threading_layer() == "pool":
        return _run_on_pool(serial(), call, count, count, threads)
    return drivers.parallel()(*call, count, count, threads)
