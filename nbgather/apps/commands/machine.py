"""The commands ``info``, ``selftest``, ``warmup``, ``cache clear``: the machine, its kernels."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Annotated

import typer
from rich.console import Console

from nbgather.apps.commands.terminal import Debug, progress_bar


def info(
    as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False,
    debug: Debug = False,
) -> None:
    """Show versions, the backends and why one is not available, threads and caches."""
    from nbgather.apps.info import facts

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
    for name in (
        "threads",
        "threads of torch",
        "recycled bytes",
        "shipped kernels",
        "shipped CUDA kernels",
        "kernel cache",
        "kernels kept",
        "platform",
    ):
        if known[name] is not None:
            console.print(f"{name:16} {known[name]}", markup=False)
    caches = ", ".join(f"L{level} {n >> 10} KiB" for level, n in known["caches"].items())
    console.print(f"{'processor':16} {known['processor']}; {caches or 'caches not known'}")
    for item, variant in known["gather variants"].items():
        times = ", ".join(f"{name} {1e6 * t:.0f}" for name, t in variant["seconds"].items())
        console.print(f"{f'gather {item} B':16} {variant['chosen']} (µs: {times})", markup=False)
    if not known["gather variants"]:
        console.print(f"{'gather variants':16} not measured yet: nbgather warmup does it")


def clear_cache(debug: Debug = False) -> None:
    """Remove all compiled kernels from their cache; the next calls compile theirs again."""
    from nbgather.kernels.cpu import cache

    typer.echo(f"{cache.clear()} bytes were removed from {cache.folder()}")


def warmup(debug: Debug = False) -> None:
    """Compile the common kernels into their cache, so that no first call waits for them."""
    from nbgather.apps.warmup import steps
    from nbgather.kernels.cpu import cache

    planned = steps()
    with progress_bar() as bar:
        task = bar.add_task("", total=len(planned))
        for name, step in planned:
            bar.update(task, description=name)
            step()
            bar.advance(task)
    typer.echo(f"{len(planned)} groups of kernels are compiled in {cache.folder()}")


def selftest(
    backend: Annotated[
        str, typer.Option(help="What to test: cpu, cuda, onnxruntime, torch or reference.")
    ] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="One case of eight; seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False,
    debug: Debug = False,
) -> None:
    """Recompute a table of cases here, and compare every bit with digests that come with nbgather.

    Exit status 1 if a case is not equal; the first is named with its inputs.
    """
    from nbgather.apps.selftest.ahead import second_process
    from nbgather.apps.selftest.run import run

    is_long = backend == "cpu" and not quick and (os.cpu_count() or 1) > 1
    beside = second_process() if is_long else contextlib.nullcontext()
    with progress_bar() as bar, beside:
        task = bar.add_task("", total=None)
        report = run(backend, quick, lambda group: bar.update(task, description=group, advance=1))
    if as_json:
        typer.echo(json.dumps(report._asdict(), indent=1))
        raise typer.Exit(1 if report.different else 0)
    for group, count in report.equal.items():
        typer.echo(f"{group:16} {count} equal")
    if report.refused:
        text, reason = next(iter(report.refused.items()))
        typer.echo(f"{len(report.refused)} not served, the first: {text}: {reason}")
    total = sum(report.equal.values())
    if report.different:
        text, came = next(iter(report.different.items()))
        typer.echo(f"{len(report.different)} NOT EQUAL, the first: {text}: {came}")
        raise typer.Exit(1)
    typer.echo(f"{backend}: all {total} cases are equal, every bit")
