"""The command ``explain``: a small gather, cell by cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from nbgather import files
from nbgather.apps.commands.terminal import Debug

if TYPE_CHECKING:
    import numpy as np


def explain(
    input: Annotated[str, typer.Option(help="The input, as JSON; an example by default.")] = "",
    dim: Annotated[int, typer.Option(help="The dimension to gather along.")] = 0,
    index: Annotated[str, typer.Option(help="The index, as JSON.")] = "",
    output: Annotated[
        str,
        typer.Option(help="An output, as JSON, instead of dim and index: which gather made it?"),
    ] = "",
    cell: Annotated[
        str, typer.Option(help="The output cell that the formula is filled in for: 1,0,2.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a .svg, .html or .png instead.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Show where each cell of a small gather came from, in colours, with the formula."""
    from nbgather.explain import explain_gather, explain_inverse, worked_example

    if output:
        explanation = explain_inverse(_array("--input", input), _array("--output", output))
    else:
        x, axis, positions = worked_example()
        if input or index:
            x, axis, positions = _array("--input", input), dim, _array("--index", index)
        explanation = explain_gather(x, axis, positions, cell=_cell(cell))
    if out is None:
        console = Console()
        typer.echo(explanation.text(colour=console.is_terminal and not console.no_color))
        return
    from nbgather import plotting

    formats = {
        ".svg": lambda: explanation.svg().encode(),
        ".html": lambda: explanation.html().encode(),
        ".png": lambda: plotting.png_bytes(explanation.figure()),
    }
    if out.suffix not in formats:
        raise ValueError(f"--out is {out}: a name that ends in {', '.join(formats)} is needed")
    typer.echo(f"wrote {files.write(out, formats[out.suffix]())}")


def _array(name: str, text: str) -> np.ndarray:
    import numpy as np

    try:
        array = np.array(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{name} is {text!r}: nested lists of numbers are needed: {error}"
        ) from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {text!r}: nested lists of numbers are needed")
    return array


def _cell(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in text.split(",")) if text else None
    except ValueError:
        raise ValueError(f"--cell is {text!r}: numbers such as 1,0,2 are needed") from None
