"""The commands, by typer and rich: one module for each subject, and here the table of them all.

``demo``, ``masks``, ``gathers`` and ``models`` do the work that nbgather is for, ``machine`` tells
of the machine it does it on, ``bench`` how fast it is, ``page`` serves the page; ``terminal`` is
what they share.
"""

from __future__ import annotations

from typing import Annotated

import typer

import nbgather
from nbgather.apps.commands import bench, demo, gathers, machine, masks, models, page

app = typer.Typer(
    help="Gather along an axis, and token masking for masked autoencoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"nbgather {nbgather.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


#: In the order of ``nbgather --help``.
for command in (
    machine.info,
    demo.demo,
    masks.mask,
    masks.mask_dataset,
    gathers.explain,
    bench.bench,
    machine.warmup,
    machine.selftest,
    models.export,
    models.verify,
    page.web,
):
    app.command()(command)

_cache = typer.Typer(help="The cache of compiled kernels.", no_args_is_help=True)
_cache.command("clear")(machine.clear_cache)
app.add_typer(_cache, name="cache")
