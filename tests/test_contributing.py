"""CONTRIBUTING.md: its diffs apply to a copy of the repository, and do what the page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 150
LIBRARY, STRATEGY = "Add an array library", "Add a strategy"

#: The library that the page makes up.
TINYARRAYS = """
class Array:
    def __init__(self, held):
        self._held = held

    shape = property(lambda self: self._held.shape)


def from_numpy(array):
    return Array(array)


def to_numpy(array):
    return array._held


def reshape(array, shape):
    return Array(array._held.reshape(shape))


def permute_dims(array, axes):
    return Array(array._held.transpose(axes))
"""
#: What the page says of arrays of such a library.
LIBRARY_PROMISES = """
import sys
import numpy as np
import nbgather
import nbgather.strategies

generator = np.random.default_rng(0)
x, index = generator.random((3, 8, 4), np.float32), generator.integers(0, 8, (3, 2, 4))
images, ids = generator.random((2, 3, 8, 8)), np.arange(3)
nbgather.gather(x, 1, index)
assert "nbgather.containers.tinyarrays" not in sys.modules

import tinyarrays
assert "nbgather.containers.tinyarrays" not in sys.modules
tiny = tinyarrays.from_numpy


def same(results, expected):
    if isinstance(expected, np.ndarray):
        results, expected = (results,), (expected,)
    assert len(results) == len(expected)
    for array, other in zip(results, expected):
        assert type(array) is tinyarrays.Array
        array = tinyarrays.to_numpy(array)
        assert (array.shape, array.dtype) == (other.shape, other.dtype)
        assert array.tobytes() == other.tobytes()


def refused(error, call, *words):
    try:
        call()
    except error as raised:
        assert all(word in str(raised) for word in words), raised
    else:
        raise AssertionError("not refused")


for where in (tiny(index), index, index.tolist()):
    same(nbgather.gather(tiny(x), 1, where), nbgather.gather(x, 1, index))
same(nbgather.scatter(tiny(x), 1, index, 0.5), nbgather.scatter(x, 1, index, 0.5))
for options in ({"seed": 3}, {"seed": 3, "sample_ids": [5, 6, 7]}, {"noise": x[:, :, 0]}):
    same(nbgather.random_masking(tiny(x), **options), nbgather.random_masking(x, **options))
same(nbgather.patchify(tiny(images), 4), nbgather.patchify(images, 4))
same(
    nbgather.masked_patchify(tiny(images), 4, seed=1), nbgather.masked_patchify(images, 4, seed=1)
)
same(nbgather.strategies.block(1, tiny(ids), (4, 4)), nbgather.strategies.block(1, ids, (4, 4)))
refused(IndexError, lambda: nbgather.gather(tiny(x), 1, index + 8), "is out of bounds")
refused(
    TypeError, lambda: nbgather.scatter_add(tiny(x), 1, index, x[:, :2]), "NumPy", "tinyarrays"
)
out = tiny(np.empty(index.shape, np.float32))
refused(ValueError, lambda: nbgather.gather(tiny(x), 1, index, out=out), "out=", "tinyarrays")
"""


def section(title: str) -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    match = re.search(rf"^## {title}\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
    assert match is not None, title
    return match[1]


def diffs(title: str) -> list[str]:
    return re.findall(r"^```diff\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)


def apply(title: str, folder: Path) -> None:
    for diff in diffs(title):
        result = subprocess.run(
            ["git", "apply", "--verbose", "-"], input=diff, cwd=folder, capture_output=True,
            text=True, encoding="utf-8",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr


def python(folder: Path, *arguments: str) -> str:
    """Run Python on the copy's package, not on the installed one."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = settings | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A copy of what git tracks; itself no repository, so that it takes a diff as it stands."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "nbgather", "tests", "pyproject.toml"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    folder = tmp_path / "copy"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("title", [LIBRARY, STRATEGY])
def test_an_addition_is_short(title: str) -> None:
    lines = [line for diff in diffs(title) for line in diff.splitlines()]
    assert lines
    assert len(lines) < MOST_LINES
    assert max(map(len, lines)) <= 101  # a line of code, and what a diff puts before it


def test_an_array_library_is_one_file_and_one_line(scratch: Path) -> None:
    (scratch / "tinyarrays.py").write_text(TINYARRAYS, encoding="utf-8")
    before = {path: path.read_bytes() for path in scratch.rglob("*.py")}
    apply(LIBRARY, scratch)
    changed = [path for path in before if path.read_bytes() != before[path]]
    new = [path for path in scratch.rglob("*.py") if path not in before]
    containers = scratch / "nbgather" / "containers"
    assert (changed, new) == ([containers / "registry.py"], [containers / "tinyarrays.py"])
    python(scratch, "-c", LIBRARY_PROMISES)


def test_a_strategy_added_by_the_page_passes_the_tests_of_all(scratch: Path) -> None:
    apply(STRATEGY, scratch)
    tests = python(
        scratch, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_strategies.py",
        "-k", "checkerboard",
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", tests)
    assert passed is not None
    assert int(passed[1]) >= 20
    code = """
    import doctest
    import dask.array as da, numpy as np
    from nbgather import strategies
    from nbgather.apps.commands.masks import Strategy

    assert doctest.testmod(strategies).failed == 0
    assert "checkerboard" in {s.value for s in Strategy}
    expected = strategies.checkerboard(3, 7, (4, 5))
    chunked = strategies.checkerboard(3, da.arange(7, chunks=3), (4, 5))
    assert chunked.numblocks == (3, 1) and (chunked.compute() == expected).all()
    """
    python(scratch, "-c", textwrap.dedent(code))


def test_a_diff_that_is_out_of_date_is_noticed(scratch: Path) -> None:
    registry = scratch / "nbgather" / "containers" / "registry.py"
    text = registry.read_text(encoding="utf-8")
    registry.write_text(text.replace('"array_api_strict"', '"another"'), encoding="utf-8")
    with pytest.raises(AssertionError, match="registry"):
        apply(LIBRARY, scratch)
