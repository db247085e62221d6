"""The command ``bench``: rows of the table, random calls, and patterns of Spatter's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from nbgather import files
from nbgather.apps.commands.terminal import Debug, progress_bar
from nbgather.kernels.cpu.limits import num_threads


def bench(
    rows: Annotated[
        str | None, typer.Option(help="Only rows whose name or group matches this pattern.")
    ] = None,
    surface: Annotated[
        bool, typer.Option("--surface", help="Random calls of every function instead of rows.")
    ] = False,
    count: Annotated[
        int | None, typer.Option(help="With --surface: calls of each function; 40 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="With --surface: another seed, other calls.")] = 0,
    only: Annotated[
        str | None, typer.Option(help="With --surface: these functions, commas between them.")
    ] = None,
    spatter: Annotated[
        Path | None,
        typer.Option(
            help="The patterns of this JSON file of the Spatter benchmark instead of rows;"
            " uniform, mostly-stride-1 and random are there."
        ),
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
    for option, value in (("--rounds", rounds), ("--threads", threads), ("--count", count)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}: it must be at least 1")
    if seed < 0:
        raise ValueError(f"--seed is {seed}: it must not be negative")
    if surface and spatter is not None:
        raise ValueError("--surface and --spatter are two benchmarks: one at a time")
    if spatter is not None and png is not None:
        raise ValueError("--png draws ratios, and --spatter has none")
    if not surface and (only is not None or count is not None):
        raise ValueError("--only and --count are for --surface")
    turns, workers = 1 if quick else rounds, threads or num_threads()
    if surface:
        _surface(count, seed, only, workers, json_out, png)
    elif spatter is not None:
        _spatter(spatter, turns, workers, json_out)
    else:
        _rows(rows, turns, workers, json_out, png)


@contextmanager
def _counter(total: int) -> Iterator[Callable[[str], None]]:
    """What is called with a name before each step."""
    with progress_bar() as bar:
        task = bar.add_task("", total=total + 1)
        yield lambda name: bar.update(task, advance=1, description=name)


def _rows(
    pattern: str | None, turns: int, threads: int, json_out: Path | None, png: Path | None
) -> None:
    from nbgather.apps.bench import markdown, picture, run_all
    from nbgather.apps.bench.rows import select_rows

    selected = select_rows(pattern)
    if not selected:
        raise ValueError(f"no row matches {pattern!r}: their names are in the README's table")
    with _counter(len(selected)) as progress:
        results = run_all(selected, turns, threads, progress)
    if json_out is not None:
        files.write(json_out, (json.dumps(results, indent=1) + "\n").encode())
    if png is not None:
        files.write(png, picture({results["facts"]["CPU"]: results}))
    typer.echo(markdown(results))


def _surface(
    count: int | None,
    seed: int,
    only: str | None,
    threads: int,
    json_out: Path | None,
    png: Path | None,
) -> None:
    from nbgather.apps.bench import surface

    functions = surface.select_functions(only)
    number = surface.DEFAULT_COUNT if count is None else count
    with _counter(number * len(functions)) as progress:
        results = surface.run_surface(number, seed, functions, threads=threads, progress=progress)
    if json_out is not None:
        files.write(json_out, surface.surface_json(results))
    if png is not None:
        files.write(png, surface.surface_map(results))
    typer.echo(surface.surface_text(results))


def _spatter(path: Path, turns: int, threads: int, json_out: Path | None) -> None:
    from nbgather.apps.bench import spatter

    configurations = spatter.load_spatter(path)
    with _counter(len(configurations)) as progress:
        results = spatter.run_spatter(configurations, turns, threads, progress)
    if json_out is not None:
        files.write(json_out, (json.dumps(results, indent=1) + "\n").encode())
    typer.echo(spatter.spatter_markdown(results))
