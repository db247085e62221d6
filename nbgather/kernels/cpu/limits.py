"""How many threads a call may use, by whoever has a say in it.

The first of these that says something: a block of :func:`limit_threads`, :func:`set_num_threads`,
``NBGATHER_NUM_THREADS``; for tensors ``torch.get_num_threads()``, which is 1 in the workers of a
DataLoader; ``OMP_NUM_THREADS``, which launchers of several processes set; ``NUMBA_NUM_THREADS``.
Without any: the CPUs that the process may run on, and what the quota of its control group allows.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from nbgather.kernels.environment import Variable

_local = threading.local()
_set: int | None = None
#: What is called when `set_num_threads` was: compiled code that runs without Python cannot ask.
listeners: list[Callable[[], None]] = []

VARIABLE = Variable("NBGATHER_NUM_THREADS")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def get_num_threads() -> int:
    """How many threads a call on arrays may use at present.

    Returns
    -------
    int
        From 1 up; for tensors :func:`torch.get_num_threads` counts where nobody has chosen.

    Examples
    --------
    >>> import nbgather
    >>> nbgather.get_num_threads() >= 1
    True
    """
    return num_threads()


def num_threads() -> int:
    """How many threads a call on arrays may use."""
    chosen = _chosen()
    if chosen is None:
        chosen = getattr(_local, "default", None)
    return default() if chosen is None else chosen


def num_threads_of_process() -> int:
    """How many threads a call may use in a thread that nobody has limited."""
    chosen = _set if _set is not None else _named()
    return default() if chosen is None else chosen


def num_threads_of_torch() -> int:
    """How many threads a call on tensors may use."""
    chosen = _chosen()
    return sys.modules["torch"].get_num_threads() if chosen is None else chosen


def _chosen() -> int | None:
    limit = getattr(_local, "limit", None)
    if limit is not None:
        return int(limit)
    return _set if _set is not None else _named()


def _named() -> int | None:
    text = VARIABLE.text()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ValueError(f"{VARIABLE.name} is {text!r}: a whole number from 1 up is needed")
    return int(text)


def set_num_threads(count: int | None) -> None:
    """Use at most so many threads in all calls from now on; None for the default again.

    Parameters
    ----------
    count : int or None
        From 1 up. More than there are CPUs is allowed, and gains nothing.

    Raises
    ------
    TypeError
        ``count`` is no whole number.
    ValueError
        It is less than 1.

    Examples
    --------
    >>> import nbgather
    >>> nbgather.set_num_threads(1)
    >>> nbgather.get_num_threads()
    1
    >>> nbgather.set_num_threads(None)
    """
    global _set
    _set = None if count is None else _checked(count)
    for told in listeners:
        told()


def _checked(count: int) -> int:
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise TypeError(f"num_threads is {count!r}: it must be a whole number")
    if int(count) < 1:
        raise ValueError(f"num_threads is {count!r}: it must be 1 or more")
    return int(count)


@contextlib.contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Use at most ``count`` threads for the calls that this thread makes inside the block.

    Parameters
    ----------
    count : int
        From 1 up.

    Examples
    --------
    >>> import nbgather
    >>> with nbgather.limit_threads(1):
    ...     nbgather.get_num_threads()
    1
    """
    before = getattr(_local, "limit", None)
    _local.limit = _checked(count)
    try:
        yield
    finally:
        _local.limit = before


@contextlib.contextmanager
def default_of_library(count: int) -> Iterator[None]:
    """Where nobody has chosen, as many threads as a library uses, in the calls of this thread."""
    before = getattr(_local, "default", None)
    _local.default = count
    try:
        yield
    finally:
        _local.default = before


@functools.cache
def default() -> int:
    """How many threads a call may use where nobody has chosen."""
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        # OpenMP takes a list, one number for each level of nesting.
        first = os.environ.get(name, "").partition(",")[0].strip()
        if first.isascii() and first.isdigit() and int(first) >= 1:
            return int(first)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cpus or 1, quota(_CONTROL_GROUPS, _OWN_GROUPS)))


def quota(groups: Path, own: Path) -> int:
    """How many CPUs a control group may use, rounded up: of version 2, or 1; else a large number.

    A group's limit holds for the groups inside it, so the least on the way up counts.
    """
    limits = [sys.maxsize]
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            roots = [groups] if not controllers else [groups / controllers, groups / "cpu"]
            if controllers and "cpu" not in controllers.split(","):
                continue
            for root in roots:
                inside = root / path.lstrip("/")
                limits += [
                    _quota_of(folder)
                    for folder in (inside, *inside.parents)
                    if folder == root or root in folder.parents
                ]
    return min(limits)


def _quota_of(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        whole = re.fullmatch(r"(\d+) (\d+)\s*", (folder / "cpu.max").read_text())
        if whole:
            return max(1, math.ceil(int(whole[1]) / int(whole[2])))
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        allowed = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        if allowed > 0:
            return max(1, math.ceil(allowed / period))
    return sys.maxsize
