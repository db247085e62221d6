"""Recompute the table of cases by one backend, and compare digests with those of the package."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbgather.apps.selftest.cases import Case, To
from nbgather.apps.selftest.error_cases import errors
from nbgather.apps.selftest.indexing_cases import (
    bags,
    gathers,
    reductions,
    rows,
    scatters,
    segments,
    takes,
)
from nbgather.apps.selftest.token_cases import (
    maskings,
    noises,
    patches,
    ranks,
    restores,
    strategies,
)
from nbgather.engine import backends

__all__ = ["Report", "run"]

#: The cases by group, in the order in which they are computed.
GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "gather": gathers, "take_along_axis": takes, "gather_tokens": rows, "scatter": scatters,
    "scatter_reduce": reductions, "segment_reduce": segments, "gather_reduce": bags,
    "token_noise": noises, "rank_tokens": ranks, "random_masking": maskings,
    "restore_tokens": restores, "patches": patches, "strategies": strategies, "errors": errors,
}  # fmt: skip
DIGESTS = Path(__file__).with_name("digests.json")
#: Hexadecimal digits of a case's digest that are kept.
DIGITS = 16
#: Of so many cases one is taken where it must be quick.
QUICK_STEP = 8
#: How often a case is computed again that takes less than so long.
REPEATS, QUICK_SECONDS = 2, 0.02
#: What a call raises of bad arguments; anything else is a failure of the case.
ERRORS = (IndexError, TypeError, ValueError)


class Report(NamedTuple):
    """What was compared.

    Attributes
    ----------
    backend : str
        By what the cases were computed.
    equal : dict of str to int
        Cases that are equal, by group.
    refused : dict of str to str
        Cases that the backend does not serve, and why.
    different : dict of str to str
        Cases that are not equal, and what came instead.
    """

    backend: str
    equal: dict[str, int]
    refused: dict[str, str]
    different: dict[str, str]


def digest(result: Any) -> str:
    """The digest of arrays, or of an error's kind and text."""
    hashed = hashlib.sha256()
    if isinstance(result, Exception):
        hashed.update(f"{type(result).__name__}: {result}".encode())
    for array in () if isinstance(result, Exception) else _arrays(result):
        kind = array.dtype.newbyteorder("<") if array.dtype.isnative else array.dtype
        hashed.update(f"{kind.str} {array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).astype(kind, copy=False).tobytes())
    return hashed.hexdigest()[:DIGITS]


def _arrays(result: Any) -> list[np.ndarray]:
    parts = result if isinstance(result, tuple) else (result,)
    return [_to_numpy(part) for part in parts if part is not None]


def _to_numpy(array: Any) -> np.ndarray:
    for name in ("cpu", "get"):  # torch's and CuPy's way to the host
        if hasattr(array, name) and not isinstance(array, np.ndarray):
            array = getattr(array, name)()
    return np.asarray(array)


def outcome(case: Case, to: To, options: dict[str, Any]) -> Any:
    """What a case gives: its result, or the error of a bad argument."""
    try:
        return case.make(to, options)
    except ERRORS as error:
        return error


def expected() -> dict[str, str]:
    """The digests that come with the package, one after the other, by group."""
    table: dict[str, str] = json.loads(DIGESTS.read_text())
    return table


def _to_device() -> To:
    """A function that takes an array to a GPU, by a library that is installed."""
    try:
        import torch

        return lambda array: torch.from_numpy(np.ascontiguousarray(array)).cuda()
    except ImportError:
        pass
    import cupy

    return lambda array: cupy.asarray(array)


def run(
    backend: str = "cpu", quick: bool = False, progress: Callable[[str], None] = lambda name: None
) -> Report:
    """Compute every case and compare its digest.

    Parameters
    ----------
    backend : str
        ``cpu``, ``cuda``, ``reference``, ``torch`` or ``onnxruntime``.
    quick : bool
        One case of eight, and all errors.
    progress : callable
        Called with the group's name before each of its cases.

    Returns
    -------
    Report

    Raises
    ------
    ValueError, ImportError
        A backend that is none, or that cannot run here.

    Examples
    --------
    >>> from nbgather.apps.selftest.run import run
    >>> run("reference", quick=True).different
    {}
    """
    backends.get(backend)
    to: To = _to_device() if backend == "cuda" else lambda array: array
    options = {} if backend in ("cpu", "cuda") else {"backend": backend}
    known = expected()
    report = Report(backend, dict.fromkeys(GROUPS, 0), {}, {})
    for group, number, case in chosen(quick):
        progress(group)
        want = known[group][number * DIGITS : (number + 1) * DIGITS]
        begun = time.perf_counter()
        result = outcome(case, to, options)
        got = digest(result)
        # What is called again and again is repeated in another way, by its third call.
        again = REPEATS if not options and time.perf_counter() - begun < QUICK_SECONDS else 0
        while got == want and again:
            result = outcome(case, to, options)
            got, again = digest(result), again - 1
        if got == want:
            report.equal[group] += 1
        elif _is_refusal(result, backend):
            report.refused[case.text] = str(result)
        else:
            report.different[case.text] = _what(result, got, want)
    return report


def _is_refusal(result: Any, backend: str) -> bool:
    """Whether a backend that is not the CPU's said that it does not do this."""
    return isinstance(result, Exception) and backend != "cpu" and repr(backend) in str(result)


def _what(result: Any, got: str, want: str) -> str:
    if isinstance(result, Exception):
        return f"{type(result).__name__}: {result}"
    return f"digest {got} instead of {want}"


def chosen(quick: bool) -> Iterator[tuple[str, int, Case]]:
    """The cases to compute, with their group and their number in it."""
    for group, cases in GROUPS.items():
        for number, case in enumerate(cases()):
            if not quick or group == "errors" or number % QUICK_STEP == 0:
                yield group, number, case
