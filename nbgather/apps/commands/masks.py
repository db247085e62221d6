"""The commands ``mask`` and ``mask-dataset``: what a mask leaves of a photo, and of a dataset."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import nbgather
from nbgather import files
from nbgather.apps.commands.terminal import Debug, progress_bar

#: The largest side of a picture that is drawn, in a gigabyte or two of memory.
MAX_SIDE_PIXELS = 4096


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
    import numpy as np

    from nbgather import figures
    from nbgather.apps.photos import load_frames

    if size < 1:
        raise ValueError(f"--size is {size}: it must be at least 1")
    if size > MAX_SIDE_PIXELS:
        raise ValueError(f"--size is {size}: it must be at most {MAX_SIDE_PIXELS}")
    video = load_frames(image, size)
    photo = video.shape[2] == 1
    pixels, sizes = (video[:, :, 0], (patch, patch)) if photo else (video, (1, patch, patch))
    tokens = nbgather.patchify(pixels, sizes).shape[1]
    grid: tuple[int, ...] = (size // patch, size // patch)
    if not photo or strategy == Strategy.tube:
        grid = (video.shape[2], *grid)
    scores = getattr(nbgather.strategies, strategy.value)(seed, 1, grid, epoch=epoch)
    # Only the mask is drawn: the tokens have no width.
    masked = nbgather.random_masking(np.empty((1, tokens, 0), np.uint8), ratio, noise=scores)
    title = f"{strategy.value}, ratio {ratio:g}, seed {seed}" + (
        f", epoch {epoch}" if epoch else ""
    )
    figure = figures.show_masking(pixels[0], masked.mask[0], sizes, title=title)
    typer.echo(f"wrote {files.write(out, figures.png_bytes(figure))}")


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
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from nbgather.dask.dataset import Progress
    from nbgather.dask.dataset import mask_dataset as run

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with progress_bar(*columns) as bar:
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
