"""A file of Spatter's: a list of configurations, each a pattern that is gathered or scattered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from nbgather.apps.bench.spatter.patterns import MOST_INDEX, parse_pattern, whole

__all__ = ["KERNELS", "Configuration", "load_spatter", "shipped_files"]

FILES = Path(__file__).parent / "files"
#: Which patterns each kernel takes.
KERNELS = {
    "gather": ("pattern",),
    "scatter": ("pattern",),
    "gs": ("pattern-gather", "pattern-scatter"),
    "multigather": ("pattern", "pattern-gather"),
    "multiscatter": ("pattern", "pattern-scatter"),
}
#: Spatter's defaults.
DELTA, COUNT = 8, 1024
#: Other names of the same things, in files of other versions.
ALIASES = {"kernel-name": "kernel", "length": "count", "sg": "gs"}
MOST_COUNT = 2**31


@dataclass(frozen=True)
class Configuration:
    """What is gathered or scattered, in items of 8 bytes.

    Attributes
    ----------
    name : str
        What the report calls it.
    kernel : str
        A key of ``KERNELS``.
    gathered, scattered : ndarray of int64, or None
        The offsets of one pattern, read and written.
    gather_delta, scatter_delta : int
        How far the next pattern is.
    count : int
        How many patterns there are.
    """

    name: str
    kernel: str
    gathered: np.ndarray | None
    scattered: np.ndarray | None
    gather_delta: int
    scatter_delta: int
    count: int

    @property
    def nbytes(self) -> int:
        """What Spatter counts: 8 bytes for each item that is gathered or scattered."""
        patterns = [p for p in (self.gathered, self.scattered) if p is not None]
        return 8 * self.count * sum(len(pattern) for pattern in patterns)


def shipped_files() -> dict[str, Path]:
    """The files that come with the package, by name.

    Returns
    -------
    dict of str to path

    Examples
    --------
    >>> from nbgather.apps.bench.spatter import shipped_files
    >>> sorted(shipped_files())
    ['mostly-stride-1', 'random', 'uniform']
    """
    return {path.stem: path for path in sorted(FILES.glob("*.json"))}


def load_spatter(path: str | Path) -> list[Configuration]:
    """The configurations of a file.

    Parameters
    ----------
    path : path
        A file, or the name of one that is shipped.

    Returns
    -------
    list of Configuration

    Raises
    ------
    ValueError
        It is no such file: one line says where and why.
    OSError
        It cannot be read.

    Examples
    --------
    >>> from nbgather.apps.bench.spatter import load_spatter
    >>> load_spatter("uniform")[0].kernel
    'gather'
    """
    shipped = shipped_files()
    path = Path(path)
    if not path.exists():
        path = shipped.get(str(path), path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: a list of configurations is needed")
    configurations = []
    for number, entry in enumerate(entries):
        try:
            configurations.append(parse_configuration(entry))
        except ValueError as error:
            raise ValueError(f"{path}, configuration {number}: {error}") from None
    return configurations


def parse_configuration(entry: Any) -> Configuration:
    """One entry of a file.

    Keys that only Spatter's own kernels know, such as the number of threads, say nothing here.
    """
    if not isinstance(entry, dict):
        raise ValueError("an object with a pattern is needed")
    values = {ALIASES.get(str(key), str(key)): value for key, value in entry.items()}
    kernel = values.get("kernel", "gather")
    kernel = kernel.lower() if isinstance(kernel, str) else kernel
    kernel = ALIASES.get(kernel, kernel) if isinstance(kernel, str) else kernel
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r:.60}: it must be one of {', '.join(KERNELS)}")
    patterns, steps = {}, {}
    for key in KERNELS[kernel]:
        if key not in values:
            raise ValueError(f"kernel {kernel} needs {key}")
        try:
            parsed = parse_pattern(values[key])
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
        patterns[key] = _cut(parsed.indices, values)
        steps[key] = DELTA if parsed.delta is None else parsed.delta
    count = _number(values, "count", COUNT)
    if not 1 <= count <= MOST_COUNT:
        raise ValueError(f"count is {count}: it must be between 1 and 2**31")
    gathered, scattered = _operands(kernel, patterns)
    outer = "pattern" if "pattern" in steps else None
    gather_delta = _delta(values, outer or "pattern-gather", steps)
    scatter_delta = _delta(values, outer or "pattern-scatter", steps)
    for pattern, delta in ((gathered, gather_delta), (scattered, scatter_delta)):
        if pattern is not None and int(pattern.max()) + delta * (count - 1) > MOST_INDEX:
            raise ValueError("the last pattern reaches further than 2**40")
    name = " ".join(str(values.get("name") or _name(values, kernel)).split()).replace("|", "/")
    return Configuration(name[:60], kernel, gathered, scattered, gather_delta, scatter_delta, count)


def _cut(indices: np.ndarray, values: dict[str, Any]) -> np.ndarray:
    """The pattern without what ``pattern-size`` leaves out, and within ``boundary``."""
    size = _number(values, "pattern-size", 0)
    if size > len(indices):
        raise ValueError(f"pattern-size is {size}: the pattern has {len(indices)} offsets")
    indices = indices[:size] if size else indices
    boundary = _number(values, "boundary", None)
    if boundary is None:
        return indices
    if boundary < 1:
        raise ValueError("boundary is 0: it must be at least 1")
    return indices % boundary


def _operands(
    kernel: str, patterns: dict[str, np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What is gathered and what is scattered: of a pattern of a pattern, both put together."""
    inner = next((patterns[key] for key in patterns if key != "pattern"), None)
    if kernel == "gs":
        gathered, scattered = patterns["pattern-gather"], patterns["pattern-scatter"]
        if len(gathered) != len(scattered):
            raise ValueError(
                f"pattern-gather has {len(gathered)} offsets and pattern-scatter"
                f" {len(scattered)}: as many are needed"
            )
        return gathered, scattered
    pattern = patterns["pattern"]
    if inner is not None:
        if int(inner.max()) >= len(pattern):
            raise ValueError(
                f"the inner pattern reaches {inner.max()}: the outer one has {len(pattern)} offsets"
            )
        pattern = pattern[inner]
    return (None, pattern) if kernel in ("scatter", "multiscatter") else (pattern, None)


def _delta(values: dict[str, Any], key: str, steps: dict[str, int]) -> int:
    """How far the next pattern is: what the file says, or else what follows from the pattern."""
    return _number(values, key.replace("pattern", "delta"), steps.get(key, DELTA))


@overload
def _number(values: dict[str, Any], key: str, default: int) -> int: ...
@overload
def _number(values: dict[str, Any], key: str, default: None) -> int | None: ...
def _number(values: dict[str, Any], key: str, default: int | None) -> int | None:
    value = values.get(key, -1)
    if type(value) is int and value == -1:  # Spatter's way to say that nothing is said
        return default
    try:
        return whole(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _name(values: dict[str, Any], kernel: str) -> str:
    texts = [values[key] for key in KERNELS[kernel]]
    return " ".join(t if isinstance(t, str) else f"{len(t)} offsets" for t in texts)
