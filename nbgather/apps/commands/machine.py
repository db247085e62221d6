"""The commands ``info``, ``bench`` and ``warmup``: the machine, its times and its kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nbgather import files
from nbgather.apps.commands.terminal import Debug, progress_bar
from nbgather.apps.info import facts


def info(
    as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False,
    debug: Debug = False,
) -> None:
    """Show versions, the backends and why one is not available, threads and caches."""
    known = facts()
    if as_json:
        typer.echo(json.dumps(known, indent=1))
        return
    console = Console(soft_wrap=True, highlight=False)
    for name, version in known["versions"].items():
        console.print(f"{name:16} {version}")
    for name, state in known["backends"].items():
        if state["available"]:
            console.print(f"{'backend ' + name:16} [green]available[/]")
        else:
            console.print(f"{'backend ' + name:16} [yellow]not available[/]: ", end="")
            console.print(state["reason"], markup=False)
    for name in ("threads", "threading layer", "recycled bytes", "kernel cache", "platform"):
        console.print(f"{name:16} {known[name]}", markup=False)


def bench(
    rows: Annotated[
        str | None, typer.Option(help="Only rows whose name or group matches this pattern.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each contestant.")] = 11,
    quick: Annotated[
        bool, typer.Option("--quick", help="One turn of each: under a minute.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="For nbgather and torch.")] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write the results here, for a program.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the ratios here.")] = None,
    debug: Debug = False,
) -> None:
    """Time nbgather and the peers that are installed, in turns on the same arrays."""
    from nbgather.apps.bench import markdown, picture, run_all
    from nbgather.apps.bench.rows import select_rows
    from nbgather.kernels.cpu import threads as cpu_threads

    for option, value in (("--rounds", rounds), ("--threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}: it must be at least 1")
    selected = select_rows(rows)
    if not selected:
        raise ValueError(f"no row matches {rows!r}: their names are in the README's table")
    with progress_bar() as bar:
        task = bar.add_task("", total=len(selected) + 1)

        def show(name: str) -> None:
            bar.update(task, advance=1, description=name)

        turns = 1 if quick else rounds
        results = run_all(selected, turns, threads or cpu_threads.num_threads(), show)
    if json_out is not None:
        files.write(json_out, (json.dumps(results, indent=1) + "\n").encode())
    if png is not None:
        files.write(png, picture(results))
    typer.echo(markdown(results))


def warmup(debug: Debug = False) -> None:
    """Compile the common kernels into numba's cache, so that no first call waits for them."""
    from nbgather.apps.warmup import steps

    planned = steps()
    with progress_bar() as bar:
        task = bar.add_task("", total=len(planned))
        for name, step in planned:
            bar.update(task, description=name)
            step()
            bar.advance(task)
    typer.echo(f"{len(planned)} groups of kernels are compiled in {facts()['kernel cache']}")
