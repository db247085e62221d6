"""The command ``demo`` and its two tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nbgather.apps.commands.terminal import Debug

if TYPE_CHECKING:
    from nbgather.apps.demo import Comparison


def demo(
    image: Annotated[
        Path | None,
        typer.Option(help="A photo, PNG or JPEG, of any size; by default one of matplotlib's."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for the model and the picture.")] = Path(
        "nbgather_demo"
    ),
    seed: Annotated[int, typer.Option(help="The seed of the mask.")] = 0,
    ratio: Annotated[float, typer.Option(help="The part of the patches to remove, 0 to 1.")] = 0.75,
    debug: Debug = False,
) -> None:
    """Mask a photo by kernels, ONNX and torch, and compare every byte.

    Exit status 1 if a byte differs.
    """
    from nbgather.apps.demo import MODEL, PEERS, PICTURE, run_demo

    console = Console()
    with console.status("compiling kernels, exporting, comparing"):
        rows = run_demo(image, out, seed=seed, mask_ratio=ratio)
    console.print(_bytes_table(rows, PEERS))
    console.print(_times_table(rows, PEERS))
    for name in (MODEL, PICTURE):
        typer.echo(f"wrote {out / name}")
    different = [row.name for row in rows if not row.same]
    if different:
        typer.echo(f"DIFFERENT: {', '.join(different)}")
        raise typer.Exit(1)
    total = sum(row.nbytes * len(row.equal) for row in rows)
    typer.echo(f"all {total:,} compared bytes are equal")


def _bytes_table(rows: list[Comparison], peers: Sequence[str]) -> Table:
    table = Table(title="bytes that agree", box=SIMPLE_HEAD)
    for name in ("array", "shape", "dtype"):
        table.add_column(name)
    for name in ("bytes", *peers):
        table.add_column(name, justify="right")
    for row in rows:
        agreed = [_agreed(row, peer) for peer in peers]
        table.add_row(
            row.name, "×".join(map(str, row.shape)), row.dtype, f"{row.nbytes:,}", *agreed
        )
    return table


def _agreed(row: Comparison, peer: str) -> str:
    if peer not in row.equal:
        return "-"
    if row.equal[peer] == row.nbytes:
        return f"{row.nbytes:,}"
    text = "other shape" if row.equal[peer] < 0 else f"{row.equal[peer]:,}"
    return f"[bold red]{text}[/]"


def _times_table(rows: list[Comparison], peers: Sequence[str]) -> Table:
    table = Table(title="microseconds, the shortest of warm calls", box=SIMPLE_HEAD)
    table.add_column("call")
    for way in ("nbgather", *peers):
        table.add_column(way, justify="right")
    for row in rows:
        if row.seconds:
            times = [row.seconds.get(way) for way in ("nbgather", *peers)]
            cells = ["-" if t is None else f"{t * 1e6:,.1f}" for t in times]
            table.add_row(row.call, *cells)
    return table
