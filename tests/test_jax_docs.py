"""The page on JAX: its code runs, and its tables say what was tried."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from script_modules import script_module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return script_module("jax_table")


def test_the_code_runs(script: ModuleType) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", script.PAGE.read_text(), re.DOTALL)
    exec(block, {})


def test_a_row_of_each_table_is_as_it_was_tried(script: ModuleType) -> None:
    page = script.PAGE.read_text()
    for name in ("gather", "random_masking, neither"):
        cells = [script._cell(way, *script.CALLS[name]) for way in script.WAYS.values()]
        assert script._row([f"`{name}`", *cells]) in page
    for name in ("uint16", "float8_e5m2", "int4"):
        assert script._row([f"`{name}`", *script._dtype_cells(name)]) in page


def test_a_stale_page_is_noticed(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "jax.md"
    page.write_text(script.PAGE.read_text())
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "CALLS", {"gather": script.CALLS["gather"]})
    monkeypatch.setattr(script, "DTYPES", ("float32",))
    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0


@pytest.mark.large
def test_the_tables_are_as_they_were_tried(script: ModuleType) -> None:
    assert script.main(["--check"]) == 0, "scripts/jax_table.py"
