"""The results of a surface as a file: a line for each case, and no digits that mean nothing."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["surface_json"]


def surface_json(results: dict[str, Any]) -> bytes:
    """What is kept of a run.

    Parameters
    ----------
    results : dict
        Of :func:`run_surface`.

    Returns
    -------
    bytes

    Examples
    --------
    >>> from nbgather.apps.bench.surface.store import surface_json
    >>> print(surface_json({"count": 1, "cases": [{"seconds": {"numpy": 1.23456e-6}}]}).decode())
    {
    "count": 1,
    "cases": [
    {"seconds": {"numpy": 1.235e-06}}
    ]
    }
    <BLANKLINE>
    """
    heads = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in results.items() if k != "cases"]
    cases = []
    for case in results["cases"]:
        seconds = {name: float(f"{t:.4g}") for name, t in case["seconds"].items()}
        cases.append(json.dumps({**case, "seconds": seconds}, ensure_ascii=False))
    body = ",\n".join([*heads, '"cases": [\n' + ",\n".join(cases) + "\n]"])
    return ("{\n" + body + "\n}\n").encode()
