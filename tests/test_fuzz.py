"""A few rounds of what `scripts/fuzz` does for as long as it is told, and what it notices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]

#: Breaks a kernel, or writes where nobody may, and runs a campaign of one operation.
BROKEN = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/scripts"]
from fuzzing import compare
made = compare.made
{how}
compare.made = spoiled
import fuzz
words = ["--child", {operation!r}, "--seconds", "1", "--cases", "20", "--last", sys.argv[1]]
sys.argv = ["fuzz", *words]
sys.exit(fuzz.main())
"""
WRONG_BIT = """
def spoiled(call, **options):
    result = made(call, **options)
    if not options and getattr(result, "size", 0) and not isinstance(result, Exception):
        result.reshape(-1).view("u1")[-1] ^= 1
    return result
"""
WRITTEN_INPUT = """
import ctypes
def spoiled(call, **options):
    if not options:
        ctypes.memset(call.operands[0].ctypes.data, 0, 1)
    return made(call, **options)
"""


def fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts/fuzz.py", *words],
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_some_cases_of_some_operations() -> None:
    done = fuzz("--cases", "25", "--only", "token_noise", "rank_tokens", "restore_tokens")
    assert done.returncode == 0, done.stdout
    assert "fuzz: 3 passed, 0 failed" in done.stdout
    assert done.stdout.count("25 cases") == 3


@pytest.mark.large
def test_some_cases_of_every_operation() -> None:
    done = fuzz("--cases", "100")
    assert done.returncode == 0, done.stdout


def test_arrays_that_lie() -> None:
    done = fuzz("--minutes", "0.001", "--only", "hostile")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("how, operation", [(WRONG_BIT, "token_noise"), (WRITTEN_INPUT, "gather")])
def test_what_is_wrong_is_noticed(how: str, operation: str, tmp_path: Path) -> None:
    last = tmp_path / "last"
    last.write_bytes(b" " * 4000)
    code = BROKEN.format(root=str(ROOT), how=how, operation=operation)
    done = subprocess.run(
        [sys.executable, "-c", code, str(last)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode != 0
    if how is WRITTEN_INPUT:
        assert done.returncode < 0
    else:
        assert "other bits" in done.stderr
    assert last.read_text().startswith(f"{operation}(")


def test_an_out_that_a_failed_call_wrote_to_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from fuzzing import cases, compare

    error = IndexError("index 9 at (0,)")

    def fails(writes: bool, out: np.ndarray) -> None:
        out[0] += writes
        raise error

    def other(out: np.ndarray) -> np.ndarray:
        return out.copy()

    compare.check_out(cases.Call(fails, (False,), {}), np.zeros(2), error)
    with pytest.raises(AssertionError, match="was written to"):
        compare.check_out(cases.Call(fails, (True,), {}), np.zeros(2), error)
    with pytest.raises(AssertionError):
        compare.check_out(cases.Call(other, (), {}), np.zeros(2), np.zeros(2))
