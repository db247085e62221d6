"""The commands ``mask`` and ``mask-dataset``: what a mask leaves of photos, and of a dataset."""

from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nbgather import files
from nbgather.apps.commands.terminal import Debug, progress_bar

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

#: The largest side of a picture that is drawn, in a gigabyte or two of memory.
MAX_SIDE_PIXELS = 4096
#: The most pictures of a contact sheet.
MAX_PREVIEW = 96


class Strategy(str, enum.Enum):
    """The names that --strategy takes."""

    random = "random"
    block = "block"
    grid = "grid"
    tube = "tube"
    time_frequency = "time_frequency"
    multiblock = "multiblock"
    stripes = "stripes"


def mask(
    source: Annotated[
        Path,
        typer.Argument(
            help="A photo, an animated GIF for a video, a folder of such, or a tar archive of a"
            " webdataset."
        ),
    ],
    strategy: Annotated[Strategy, typer.Option(help="Which patches go.")] = Strategy.random,
    ratio: Annotated[float, typer.Option(help="The part of the patches to remove, 0 to 1.")] = 0.75,
    seed: Annotated[int, typer.Option(help="The seed of the mask.")] = 0,
    epoch: Annotated[int, typer.Option(help="The epoch: another one, another mask.")] = 0,
    patch: Annotated[int, typer.Option(help="Pixels of a patch's side.")] = 16,
    size: Annotated[
        int, typer.Option(help="Pixels of the side of the square that is cut from the middle.")
    ] = 224,
    preview: Annotated[
        int, typer.Option(help="Of a folder or an archive, pictures on the contact sheet.")
    ] = 24,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on where a picture cannot be read, and say so.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the mask of every picture, for a program.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path(
        "masked.png"
    ),
    debug: Debug = False,
) -> None:
    """Draw what a masking strategy leaves of a photo or video, or of many on a contact sheet.

    The sample id of a picture is its place in the folder, by name, or in the archive; those that
    are skipped keep theirs. Of a photo, the tube strategy has one frame, whose mask is that of the
    random strategy.
    """
    from nbgather import figures
    from nbgather.apps import albums
    from nbgather.apps.photos import load_frames

    if out.suffix.lower() != ".png" and (out.is_file() or not out.exists()):  # not a pipe
        raise ValueError(f"--out is {out}: a name that ends in .png is needed")
    _check_between("--size", size, MAX_SIDE_PIXELS)
    _check_between("--preview", preview, MAX_PREVIEW)
    options: dict[str, Any] = {
        "strategy": strategy.value, "ratio": ratio, "seed": seed, "epoch": epoch, "patch": patch,
    }  # fmt: skip
    title = f"{strategy.value}, ratio {ratio:g}, seed {seed}" + (
        f", epoch {epoch}" if epoch else ""
    )
    if albums.is_album(source):
        with progress_bar(*_counting()) as bar:
            task = bar.add_task("pictures", total=None)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            album = albums.mask_album(source, size, preview, show, **options)
        for line in album.bad:
            typer.echo(f"{'skipped' if skip_bad else 'error'}: {line}", err=True)
        if album.bad and not skip_bad:
            raise typer.Exit(2)
        title += f": {len(album.shown)} of {len(album.masks)} pictures"
        figure, masks, bad = figures.contact_sheet(album.shown, title=title), album.masks, album.bad
    else:
        masked = albums.mask_picture(load_frames(source, size), 0, **options)
        pixels = masked.frames[:, 0] if len(masked.patch_size) == 2 else masked.frames
        figure = figures.show_masking(pixels, masked.mask, masked.patch_size, title=title)
        masks, bad = [masked.described(0, source.name)], []
    written = files.write(out, figures.png_bytes(figure))
    if as_json:
        head = {"source": str(source), **options, "size": size, "out": str(written)}
        typer.echo(json.dumps({**head, "pictures": masks, "skipped": bad}))
    else:
        typer.echo(f"wrote {written}")


def _check_between(name: str, value: int, most: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}: it must be at least 1")
    if value > most:
        raise ValueError(f"{name} is {value}: it must be at most {most}")


def _counting() -> tuple[ProgressColumn, ...]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    return (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip


def mask_dataset(
    source: Annotated[
        Path,
        typer.Argument(
            help="A .npy file or a zarr array, [N, ...]; a folder or a tar archive of pictures."
        ),
    ],
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
    size: Annotated[
        int | None, typer.Option(help="Pixels of the square that each picture is resized to.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that mask chunks; 0: this one, with all its threads.")
    ] = 0,
    scheduler: Annotated[
        str | None, typer.Option(help="The address of a Dask cluster that masks chunks instead.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Mask a dataset larger than memory; run again, it goes on where it was interrupted.

    By this process, by processes of its own, or by a cluster: the bytes are the same.
    """
    from nbgather.dask.dataset import Progress
    from nbgather.dask.dataset import mask_dataset as run

    with progress_bar(*_counting()) as bar:
        task = bar.add_task("chunks")

        def show(state: Progress) -> None:
            bar.update(task, completed=state.done, total=state.chunks)

        with _client(workers, scheduler) as client:
            written = run(
                source, target, ratio, seed=seed, epoch=epoch, patch_size=patch, scale=scale,
                chunk=chunk, array=array, size=size, client=client, progress=show,
            )  # fmt: skip
    typer.echo(f"wrote {written}")


@contextlib.contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Any]:
    """A client of the cluster that is asked for, or None."""
    if workers < 0 or (workers and scheduler is not None):
        raise ValueError(
            f"--workers is {workers}" + (": it must not be negative" if workers < 0 else
            f" and --scheduler {scheduler}: one of both is needed")
        )  # fmt: skip
    if not workers and scheduler is None:
        yield None
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ImportError(
            "--workers and --scheduler need distributed: pip install distributed"
        ) from None
    if scheduler is not None:
        with Client(scheduler, timeout="10s") as client:
            yield client
        return
    options: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(n_workers=workers, **options) as cluster, Client(cluster) as client:
        yield client
