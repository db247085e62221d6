"""A second process that computes the cases from the last one on, for the kernels that it compiles.

The whole self-test compiles what does not come with the package, which takes most of its time. What
the second process has compiled lies in the cache when the first gets there; it compares nothing.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from nbgather.apps.selftest.run import chosen, outcome

__all__ = ["second_process"]


@contextlib.contextmanager
def second_process() -> Iterator[subprocess.Popen[bytes] | None]:
    """A process that computes every case, from the last one on; it is ended behind the block.

    Yields
    ------
    subprocess.Popen or None
        None where no process can be had, which costs time alone.

    Examples
    --------
    >>> from nbgather.apps.selftest.ahead import second_process
    >>> with second_process() as process:
    ...     process is None or process.poll() is None
    True
    """
    nowhere = subprocess.DEVNULL
    # By its path, not by -m: that would look for modules in the folder where the user is.
    command = [sys.executable or "", __file__]
    try:
        process = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    except OSError:
        yield None
        return
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Compute every case on the CPU, from the last one on."""
    for _, _, case in reversed(list(chosen(quick=False))):
        outcome(case, lambda array: array, {})


if __name__ == "__main__":
    main()
