"""Tables that stand in a document between marks, and are made, never typed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nbgather import files

__all__ = ["check_tables", "update_tables"]


def _with_tables(document: str, tables: Mapping[str, str]) -> str:
    for name, table in tables.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin not in document or end not in document:
            raise ValueError(f"no place for the table: {begin} and {end} are needed")
        before, _, rest = document.partition(begin)
        _, _, after = rest.partition(end)
        document = f"{before}{begin}\n{table}\n{end}{after}"
    return document


def update_tables(path: str | os.PathLike[str], tables: Mapping[str, str]) -> None:
    """Put tables between their marks in a document.

    Parameters
    ----------
    path : path
        The document.
    tables : mapping of str to str
        What is to stand between ``<!-- name:begin -->`` and ``<!-- name:end -->``, by name.

    Raises
    ------
    ValueError
        The marks are missing.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from nbgather.apps.bench import check_tables, update_tables
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "README.md"
    ...     _ = path.write_text("<!-- bench:begin --><!-- bench:end -->")
    ...     update_tables(path, {"bench": "a table"})
    ...     check_tables(path, {"bench": "a table"})
    True
    """
    target = Path(path)
    text = _with_tables(target.read_text(encoding="utf-8"), tables)
    files.write(target, text.encode())


def check_tables(path: str | os.PathLike[str], tables: Mapping[str, str]) -> bool:
    """Whether a document has these tables.

    Parameters
    ----------
    path : path
        The document.
    tables : mapping of str to str
        By name.

    Returns
    -------
    bool

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from nbgather.apps.bench import check_tables
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "README.md"
    ...     _ = path.write_text("<!-- bench:begin -->old<!-- bench:end -->")
    ...     check_tables(path, {"bench": "new"})
    False
    """
    text = Path(path).read_text(encoding="utf-8")
    return _with_tables(text, tables) == text
