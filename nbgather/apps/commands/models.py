"""The commands ``export`` and ``verify``: ONNX models, written and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nbgather.apps.commands.terminal import Debug


def export(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for the models and their README.")
    ] = Path("onnx_models"),
    only: Annotated[
        list[str] | None, typer.Option(help="Write this model alone; may be given again.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit status 1 if a file is stale.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write the published ONNX models, the same bytes every time."""
    from nbgather.onnx import export_all, stale_files

    if check:
        lines = stale_files(out)
        typer.echo("\n".join(lines) if lines else f"{out} is up to date")
        raise typer.Exit(1 if lines else 0)
    for path in export_all(out, only):
        typer.echo(f"wrote {path} ({path.stat().st_size:,} bytes)")


def verify(
    model: Annotated[Path, typer.Argument(help="An ONNX model: masking, restoring or gather.")],
    ratio: Annotated[
        float | None,
        typer.Option(help="The mask ratio; by default what the model tells, or 0.75."),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(help="The gather's dim; by default what the model tells.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="What the model calls a thing, OURS=THEIRS; may be given again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False,
    debug: Debug = False,
) -> None:
    """Compare a model with the reference, byte for byte, over hundreds of shapes.

    Exit status 1 at the first difference.
    """
    from nbgather.onnx import verify as compare

    pairs = [pair.partition("=") for pair in name or []]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise ValueError(f"--name is {', '.join(name or [])}: OURS=THEIRS is needed")
    names = {ours: theirs for ours, _, theirs in pairs}
    with Console(stderr=True).status("running the model and the reference"):
        result = compare(model, mask_ratio=ratio, dim=dim, names=names)
    if as_json:
        typer.echo(json.dumps(result._asdict() | {"same": result.same}))
        raise typer.Exit(0 if result.same else 1)
    if result.difference is not None:
        typer.echo(f"{model}, {result.kind}: DIFFERENT in case {result.cases}, {result.difference}")
        raise typer.Exit(1)
    typer.echo(f"{model}, {result.kind}: {result.cases} cases equal to the reference")
