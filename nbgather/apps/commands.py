"""The commands, by typer and rich."""

from __future__ import annotations

import contextlib
import enum
import json
import os
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import nbgather
from nbgather import figures, files, strategies
from nbgather.apps.demo import MODEL, PEERS, PICTURE, Comparison, load_frames, run_demo
from nbgather.apps.info import facts
from nbgather.masking import random_masking
from nbgather.patches import patchify

app = typer.Typer(
    help="Gather along an axis, and token masking for masked autoencoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: Pixels of the side of a picture that is drawn, in a gigabyte or two of memory.
LARGEST_SIDE = 4096

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nbgather {nbgather.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False,
    debug: Debug = False,
) -> None:
    """Show versions, the backends and why one is not available, threads and caches."""
    found = facts()
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    console = Console(soft_wrap=True, highlight=False)
    for name, version in found["versions"].items():
        console.print(f"{name:16} {version}")
    for name, state in found["backends"].items():
        if state["available"]:
            console.print(f"{'backend ' + name:16} [green]available[/]")
        else:
            console.print(f"{'backend ' + name:16} [yellow]not available[/]: ", end="")
            console.print(state["reason"], markup=False)
    for name in ("threads", "threading layer", "recycled bytes", "kernel cache", "platform"):
        console.print(f"{name:16} {found[name]}", markup=False)


@app.command()
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
    console = Console()
    with console.status("compiling kernels, exporting, comparing"):
        rows = run_demo(image, out, seed=seed, mask_ratio=ratio)
    console.print(_bytes_table(rows))
    console.print(_times_table(rows))
    for name in (MODEL, PICTURE):
        typer.echo(f"wrote {out / name}")
    different = [row.name for row in rows if not row.same]
    if different:
        typer.echo(f"DIFFERENT: {', '.join(different)}")
        raise typer.Exit(1)
    total = sum(row.nbytes * len(row.equal) for row in rows)
    typer.echo(f"all {total:,} compared bytes are equal")


class Strategy(str, enum.Enum):
    """The names that --strategy takes."""

    random = "random"
    block = "block"
    grid = "grid"
    tube = "tube"
    time_frequency = "time_frequency"


@app.command()
def mask(
    image: Annotated[Path, typer.Argument(help="A photo, or an animated GIF for a video.")],
    strategy: Annotated[Strategy, typer.Option(help="Which patches go.")] = Strategy.random,
    ratio: Annotated[float, typer.Option(help="The part of the patches to remove, 0 to 1.")] = 0.75,
    seed: Annotated[int, typer.Option(help="The seed of the mask.")] = 0,
    epoch: Annotated[int, typer.Option(help="The epoch: another one, another mask.")] = 0,
    patch: Annotated[int, typer.Option(help="Pixels of a patch's side.")] = 16,
    size: Annotated[
        int, typer.Option(help="Pixels of the side of the square that is cut from the middle.")
    ] = 224,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path(
        "masked.png"
    ),
    debug: Debug = False,
) -> None:
    """Draw what a masking strategy leaves of a photo or video.

    Of a photo, the tube strategy has one frame, whose mask is that of the random strategy.
    """
    if size < 1:
        raise ValueError(f"--size is {size}: it must be at least 1")
    if size > LARGEST_SIDE:
        raise ValueError(f"--size is {size}: it must be at most {LARGEST_SIDE}")
    video = load_frames(image, size)
    photo = video.shape[2] == 1
    pixels, sizes = (video[:, :, 0], (patch, patch)) if photo else (video, (1, patch, patch))
    tokens = patchify(pixels, sizes).shape[1]
    grid: tuple[int, ...] = (size // patch, size // patch)
    if not photo or strategy == Strategy.tube:
        grid = (video.shape[2], *grid)
    scores = getattr(strategies, strategy.value)(seed, 1, grid, epoch=epoch)
    made = random_masking(np.empty((1, tokens, 0), np.uint8), ratio, noise=scores)
    title = f"{strategy.value}, ratio {ratio:g}, seed {seed}" + (
        f", epoch {epoch}" if epoch else ""
    )
    figure = figures.show_masking(pixels[0], made.mask[0], sizes, title=title)
    typer.echo(f"wrote {files.write(out, figures.png_bytes(figure))}")


@app.command()
def mask_dataset(
    source: Annotated[Path, typer.Argument(help="A .npy file or a zarr array, [N, ...].")],
    target: Annotated[Path, typer.Argument(help="The zarr group to write.")],
    seed: Annotated[int, typer.Option(help="The seed of the masks.")],
    ratio: Annotated[float, typer.Option(help="The part of the tokens to remove, 0 to 1.")] = 0.75,
    epoch: Annotated[int, typer.Option(help="The epoch: another one, other masks.")] = 0,
    patch: Annotated[
        int | None, typer.Option(help="Pixels of a patch's side, where the samples are images.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="What pixels are multiplied by, to float32.")
    ] = None,
    chunk: Annotated[int, typer.Option(help="Samples in a chunk.")] = 256,
    array: Annotated[str | None, typer.Option(help="The array in a zarr group.")] = None,
    debug: Debug = False,
) -> None:
    """Mask a dataset larger than memory; run again, it goes on where it was interrupted."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from nbgather.dask.dataset import Progress
    from nbgather.dask.dataset import mask_dataset as run

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("chunks")

        def show(state: Progress) -> None:
            bar.update(task, completed=state.done, total=state.chunks)

        made = run(
            source, target, ratio, seed=seed, epoch=epoch, patch_size=patch, scale=scale,
            chunk=chunk, array=array, progress=show,
        )  # fmt: skip
    typer.echo(f"wrote {made}")


@app.command()
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
    from nbgather import explain as explaining

    if output:
        made = explaining.explain_inverse(_array("--input", input), _array("--output", output))
    else:
        x, axis, places = explaining.worked_example()
        if input or index:
            x, axis, places = _array("--input", input), dim, _array("--index", index)
        made = explaining.explain_gather(x, axis, places, cell=_cell(cell))
    if out is None:
        console = Console()
        typer.echo(made.text(colour=console.is_terminal and not console.no_color))
        return
    kinds = {
        ".svg": lambda: made.svg().encode(),
        ".html": lambda: made.html().encode(),
        ".png": lambda: figures.png_bytes(made.figure()),
    }
    if out.suffix not in kinds:
        raise ValueError(f"--out is {out}: a name that ends in {', '.join(kinds)} is needed")
    typer.echo(f"wrote {files.write(out, kinds[out.suffix]())}")


def _array(name: str, text: str) -> np.ndarray:
    try:
        made = np.array(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{name} is {text!r}: nested lists of numbers are needed: {error}"
        ) from None
    if made.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {text!r}: nested lists of numbers are needed")
    return made


def _cell(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in text.split(",")) if text else None
    except ValueError:
        raise ValueError(f"--cell is {text!r}: numbers such as 1,0,2 are needed") from None


@app.command()
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
    from rich.progress import Progress as Bar

    from nbgather.apps.bench import markdown, picture, run_all
    from nbgather.apps.bench.rows import chosen
    from nbgather.kernels.cpu import threads as cpu_threads

    for option, value in (("--rounds", rounds), ("--threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}: it must be at least 1")
    wanted = chosen(rows)
    if not wanted:
        raise ValueError(f"no row matches {rows!r}: their names are in the README's table")
    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(wanted) + 1)

        def show(name: str) -> None:
            bar.update(task, advance=1, description=name)

        turns = 1 if quick else rounds
        made = run_all(wanted, turns, threads or cpu_threads.num_threads(), show)
    if json_out is not None:
        files.write(json_out, (json.dumps(made, indent=1) + "\n").encode())
    if png is not None:
        files.write(png, picture(made))
    typer.echo(markdown(made))


@app.command()
def warmup(debug: Debug = False) -> None:
    """Compile the common kernels into numba's cache, so that no first call waits for them."""
    from rich.progress import Progress as Bar

    from nbgather.apps.warmup import steps

    planned = steps()
    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(planned))
        for name, step in planned:
            bar.update(task, description=name)
            step()
            bar.advance(task)
    typer.echo(f"{len(planned)} groups of kernels are compiled in {facts()['kernel cache']}")


@app.command()
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


@app.command()
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
        found = compare(model, mask_ratio=ratio, dim=dim, names=names)
    if as_json:
        typer.echo(json.dumps(found._asdict() | {"same": found.same}))
        raise typer.Exit(0 if found.same else 1)
    if found.difference is not None:
        typer.echo(f"{model}, {found.kind}: DIFFERENT in case {found.cases}, {found.difference}")
        raise typer.Exit(1)
    typer.echo(f"{model}, {found.kind}: {found.cases} cases equal to the reference")


@app.command()
def web(
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1; 0 for any free one.")] = 8000,
    ort: Annotated[
        Path | None,
        typer.Option(help="The dist folder of onnxruntime-web; by default npm fetches it once."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    debug: Debug = False,
) -> None:
    """Serve a page that masks photos in the browser; nothing comes from elsewhere."""
    from nbgather.apps.web import find_ort, make_server

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nbgather"
    with make_server(find_ort(ort, cache), port) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        print(f"serving {address} (Ctrl-C ends it)", flush=True)
        if open_page:
            typer.launch(address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _bytes_table(rows: list[Comparison]) -> Table:
    table = Table(title="bytes that agree", box=SIMPLE_HEAD)
    for name in ("array", "shape", "dtype"):
        table.add_column(name)
    for name in ("bytes", *PEERS):
        table.add_column(name, justify="right")
    for row in rows:
        agreed = [_agreed(row, peer) for peer in PEERS]
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


def _times_table(rows: list[Comparison]) -> Table:
    table = Table(title="microseconds, the shortest of warm calls", box=SIMPLE_HEAD)
    table.add_column("call")
    for way in ("nbgather", *PEERS):
        table.add_column(way, justify="right")
    for row in rows:
        if row.seconds:
            times = [row.seconds.get(way) for way in ("nbgather", *PEERS)]
            cells = ["-" if t is None else f"{t * 1e6:,.1f}" for t in times]
            table.add_row(row.call, *cells)
    return table
