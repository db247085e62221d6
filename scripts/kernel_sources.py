"""What kernels are made from: their modules, and what these import of the package's kernels."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from pathlib import Path

from nbgather.kernels.archive import KERNELS


def imported_sources(first: Iterable[Path], counts: Callable[[Path], bool]) -> tuple[str, ...]:
    """The paths of some modules and of all they import that counts, from the folder of kernels."""
    found: set[Path] = set()
    pending = list(first)
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "nbgather.kernels"
            ):
                place = KERNELS.parent.joinpath(*str(node.module).split(".")[1:])
                names = (place.with_suffix(".py"), *(place / f"{a.name}.py" for a in node.names))
                pending += [p for p in names if counts(p)]
                # What is loaded lazily is imported from where it is put off to.
                aliases = [KERNELS / f"{a.name}.py" for a in node.names if a.name == "scalar"]
                pending += [p for p in aliases if counts(p)]
    return tuple(sorted(str(p.relative_to(KERNELS)) for p in found))
