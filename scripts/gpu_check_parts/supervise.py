"""Runs stages one after the other, each in a process group of its own and under a time limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

#: How long a process is given to end by itself once it was asked to.
GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.02


def command(script: str, arguments: Sequence[str]) -> list[str]:
    """A command line of this interpreter, with the flags it has itself."""
    flags = [f"-{letter}" for letter, on in (("S", sys.flags.no_site), ("I", sys.flags.isolated),
                                              ("s", sys.flags.no_user_site)) if on]  # fmt: skip
    return [sys.executable, *flags, script, *arguments]


def run(work: Sequence[str] | Callable[[], int], seconds: float) -> tuple[str, float]:
    """Run a command, or a function in a copy of this process; how it ended, and after how long.

    It ends with ``done``, ``failed (status 3)``, ``failed (signal 11)``, or, at the limit, ``killed
    after 30 s``. What it started is ended with it.
    """
    begun = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    child = _forked(work) if callable(work) else subprocess.Popen(work, start_new_session=True).pid
    status = _wait(child, begun + seconds)
    outcome = _outcome(status) if status is not None else f"killed after {seconds:.0f} s"
    if status is None:
        _signal(child, signal.SIGTERM)
        if _wait(child, time.monotonic() + GRACE_SECONDS) is None:
            _signal(child, signal.SIGKILL)
            _wait(child, time.monotonic() + GRACE_SECONDS)
    _signal(child, signal.SIGKILL)  # what it may have left behind
    return outcome, time.monotonic() - begun


def _forked(work: Callable[[], int]) -> int:
    child = os.fork()
    if child == 0:
        _in_child(work)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # the child does so too, and either may be late
    return child


def _in_child(work: Callable[[], int]) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        status = work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _wait(child: int, until: float) -> int | None:
    """The status of a child, or None at the limit."""
    while True:
        try:
            ended, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:
            return 0
        if ended:
            return status
        if time.monotonic() >= until:
            return None
        time.sleep(_POLL_SECONDS)


def _outcome(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"failed (signal {os.WTERMSIG(status)})"
    code = os.WEXITSTATUS(status)
    return "done" if code == 0 else f"failed (status {code})"
