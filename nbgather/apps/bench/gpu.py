"""What ``scripts/gpu_check.py`` measured on GPUs, as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbgather import files

__all__ = ["gpu_markdown", "keep_gpu", "load_gpus"]

#: What stands for a table where no GPU has been measured.
NOT_MEASURED = "not measured"
#: The device of a dry run, which has no speed.
SIMULATED = "simulated"
_OURS, _DETERMINISTIC = "nbgather", "torch deterministic"
_HEAD = ("", "µs", "GB/s", "of the copy", "torch", "torch deterministic", "best of the others")


def keep_gpu(path: Path, folder: Path) -> Path:
    """Keep the results of a run, one file for each kind of GPU.

    Parameters
    ----------
    path : Path
        The ``gpu_check.json`` of a run.
    folder : Path
        Where results are kept.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ValueError
        The results are of a dry run, or have no rows.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from nbgather.apps.bench.gpu import keep_gpu
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "gpu_check.json"
    ...     _ = path.write_text('{"facts": {"device": "NVIDIA X1"}, "rows": [{}]}')
    ...     keep_gpu(path, pathlib.Path(folder) / "gpu").name
    'nvidia-x1.json'
    """
    text = path.read_text(encoding="utf-8")
    results = json.loads(text)
    device = str(results["facts"].get("device", SIMULATED))
    if device == SIMULATED or not results["rows"]:
        raise ValueError(f"{path} has no times of a GPU: its device is {device!r}")
    name = "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split())
    return files.write(folder / f"{name}.json", text.encode())


def load_gpus(folder: Path) -> list[dict[str, Any]]:
    """The results that are kept, in the order of their files' names.

    Parameters
    ----------
    folder : Path
        Where results are kept; it need not exist.

    Returns
    -------
    list of dict

    Examples
    --------
    >>> import pathlib
    >>> from nbgather.apps.bench.gpu import load_gpus
    >>> load_gpus(pathlib.Path("no such folder"))
    []
    """
    return [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))]


def gpu_markdown(gpus: Sequence[Mapping[str, Any]]) -> str:
    """The rows of every GPU that was measured: our time, and the others' by ours.

    Parameters
    ----------
    gpus : sequence of dict
        Of :func:`load_gpus`.

    Returns
    -------
    str
        ``not measured`` where there are none.

    Examples
    --------
    >>> from nbgather.apps.bench.gpu import gpu_markdown
    >>> gpu_markdown([])
    'not measured'
    """
    return "\n\n".join(map(_table, gpus)) or NOT_MEASURED


def _table(results: Mapping[str, Any]) -> str:
    facts = results["facts"]
    copies = [v for name, v in facts.items() if name.startswith("copy GB/s") and v]
    of_copy = f"; its own copy moves {max(copies):,.0f} GB/s" if copies else ""
    title = (
        f"{facts['device']}, torch {facts.get('torch')}{of_copy}. Median times; the others' are"
        " given as multiples of ours."
    )
    lines = [title, "", f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in results["rows"]]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    ours = row["microseconds"].get(_OURS, {}).get("median")
    if ours is None:
        return [row["name"], "failed", *[""] * (len(_HEAD) - 2)]
    ratios = dict(row["ratios"])
    copy = ratios.pop("copy", None)
    known = [ratios.pop(name, None) for name in ("torch", _DETERMINISTIC)]
    others = {name: r for name, r in ratios.items() if not name.startswith(_OURS)}
    best = min(others, key=lambda name: others[name], default=None)
    return [
        row["name"],
        f"{ours:,.1f}",
        f"{row['GB/s']:,.0f}",
        "" if copy is None else f"{100 * copy:.0f} %",
        *("" if ratio is None else f"{ratio:.2f}" for ratio in known),
        "" if best is None else f"{best} {others[best]:.2f}",
    ]
