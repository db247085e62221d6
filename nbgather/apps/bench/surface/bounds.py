"""What a call waits for, by a rough count: the call itself, or bytes and places of its loop."""

from __future__ import annotations

from typing import Any

__all__ = ["bound_of"]

#: Seconds for one of many independent loads, by the bytes that they are spread over.
LOAD_SECONDS = ((2**15, 0.3e-9), (2**20, 0.5e-9), (2**24, 1.2e-9), (2**63, 4e-9))
#: How much faster than memory a core's own cache is copied, and up to how many bytes.
CACHED_BYTES, CACHED_TIMES = 2**19, 3.0


def bound_of(case: dict[str, Any], seconds: float, call: float, copy: float, threads: int) -> str:
    """The largest part of a call's time that is explained, and how much of it that is.

    Parameters
    ----------
    case : dict
        Of :func:`run_surface`.
    seconds : float
        What the call took.
    call : float
        What the shortest call of the same function and container took.
    copy : float
        Bytes per second of a copy by all threads, read and written ones together.
    threads : int
        That long calls are split over.

    Returns
    -------
    str

    Examples
    --------
    >>> from nbgather.apps.bench.surface.bounds import bound_of
    >>> case = {"bytes": {"index": 8, "source": 4, "result": 4}, "loads": 1, "spread": 100}
    >>> bound_of(case, 2e-6, 1.5e-6, 1e10, 2)
    'call 75 %'
    """
    moved = case["bytes"]
    speed = copy if sum(moved.values()) > CACHED_BYTES else CACHED_TIMES * copy / threads
    load = next(cost for size, cost in LOAD_SECONDS if case["spread"] <= size)
    split = threads if case["loads"] > 1 << 15 else 1
    parts = {
        "call": call,
        "index bytes": moved["index"] / speed,
        "loads": max(moved["source"] / speed, case["loads"] * load / split),
        "stores": moved["result"] / speed,
    }
    name = max(parts, key=parts.__getitem__)
    return f"{name} {min(1.0, parts[name] / seconds):.0%}".replace("%", " %")
