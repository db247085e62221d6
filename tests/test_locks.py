"""The locks agree with each other, and with what pyproject.toml says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pins(name: str) -> set[str]:
    """Each pinned package with its condition, by a file's lines."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = (line.split(" --hash=")[0].strip() for line in text.splitlines())
    return {line for line in lines if "==" in line and not line.startswith("#")}


def test_the_hashed_lock_is_the_same_lock() -> None:
    assert pins("constraints-hashed.txt") == pins("constraints.txt")
    text = (ROOT / "constraints-hashed.txt").read_text()
    for entry in re.split(r"\n(?=\S)", text):
        if "==" in entry and not entry.startswith("#"):
            assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the standard library reads no TOML")
def test_the_lowest_lock_has_the_lowest_versions_that_are_named() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [
        *project["dependencies"],
        *(r for e in ("onnx", "torch", "dask", "cli") for r in extras[e]),
    ]
    named += [r for r in extras["dev"] if r.startswith("jax")]
    locked = dict(line.split("==") for line in pins("constraints-lowest.txt"))
    for requirement in named:
        name, least = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement).groups()  # type: ignore[union-attr]
        pinned = [int(n) for n in locked[name.replace("_", "-")].split(".")]
        wanted = [int(n) for n in least.split(".")]
        assert pinned[: len(wanted)] == wanted, requirement
        assert not any(pinned[len(wanted) :]), requirement
