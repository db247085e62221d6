"""Mask a dataset on disk that is larger than memory, and go on where an interrupted run stopped."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nbgather
from nbgather.containers.numpy import describe
from nbgather.operations import checks
from nbgather.operations import patches as patch_rules
from nbgather.operations.keep import kept_tokens, ratio

try:
    import zarr
except ImportError:
    raise ImportError('nbgather.dask.dataset needs zarr: pip install "nbgather[dask]"') from None

from nbgather.dask import cluster, sources
from nbgather.dask.journal import Journal

__all__ = ["Progress", "mask_dataset"]

ARRAYS = ("x_masked", "mask", "ids_restore")


class Progress(NamedTuple):
    """How far a dataset is.

    Attributes
    ----------
    done, chunks : int
        Chunks that are there, and how many there will be.
    """

    done: int
    chunks: int


def mask_dataset(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    mask_ratio: float = 0.75,
    *,
    seed: int,
    epoch: int = 0,
    patch_size: Any = None,
    chunk: int = 256,
    scale: float | None = None,
    array: str | None = None,
    size: int | None = None,
    client: Any = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Mask every sample of an array on disk into a zarr group of visible tokens.

    Sample n has the id n, so the masks are those of :func:`nbgather.random_masking` on the whole.
    A chunk counts as done when all of it is written; a run that was interrupted, in whatever way,
    is taken up by the same call, which leaves alone what is done. Until all is done the group holds
    a folder ``.nbgather`` that says how far it is; then its attribute ``nbgather`` holds the
    settings.

    Parameters
    ----------
    source : path
        A ``.npy`` file or a zarr array, `[N, L, ...]`, or images `[N, C, H, W]` or
        `[N, C, T, H, W]` with ``patch_size``. Or pictures: a folder of them, which are taken in the
        order of their names, a tar archive without compression (as webdataset has it), or a folder
        of archives.
    target : path
        The zarr group to write: ``x_masked``, ``mask`` and ``ids_restore``.
    mask_ratio, seed, epoch, patch_size, scale
        As in :func:`nbgather.random_masking` and :func:`nbgather.masked_patchify`.
    chunk : int
        Samples in a chunk, of which one is in memory at a time.
    array : str, optional
        The array in ``source`` where that is a zarr group.
    size : int, optional
        Pixels of each side, to which the middle square of each picture is resized; by default all
        must be of one size.
    client : distributed.Client, optional
        A cluster whose workers mask the chunks, each on one thread. They must see ``source`` and
        ``target`` under the same paths. How many there are, and whether some die, changes no byte.
    progress : callable
        Called with a :class:`Progress` at the start and after every chunk.

    Returns
    -------
    path

    Raises
    ------
    FileNotFoundError, ValueError
        No array at ``source``; ``target`` was begun with other settings, or is something else; a
        picture that cannot be read. What was done by then is kept.
    OSError
        The system refuses to write, as on a full disk: it names the target. The same call goes on
        once there is room; no chunk that is written in part counts as done.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import zarr
    >>> from nbgather.dask.dataset import mask_dataset
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     np.save(folder / "x.npy", np.zeros((10, 16, 4), np.float32))
    ...     masked = mask_dataset(folder / "x.npy", folder / "out.zarr", 0.75, seed=0, chunk=4)
    ...     zarr.open_group(masked, mode="r")["x_masked"].shape
    (10, 4, 4)
    """
    x = sources.opened(Path(source), array, size)
    if patch_size is None and isinstance(x, sources.Pictures):
        raise ValueError(f"{source} holds pictures: patch_size is needed, by which they are cut")
    chunk = checks.count(chunk, "chunk")
    if chunk < 1:
        raise ValueError("chunk is 0: it must be at least 1")
    options = {"seed": checks.bits64(seed, "seed"), "epoch": checks.epoch(epoch)}
    plan = _planned(x, mask_ratio, patch_size, scale)
    settings: dict[str, Any] = {
        "source": [list(x.shape), str(x.dtype)], "mask_ratio": float(mask_ratio), "chunk": chunk,
        "patch_size": None if patch_size is None else list(plan.patch), "scale": scale, **options,
    }  # fmt: skip
    if isinstance(x, sources.Pictures):
        settings |= {"size": size, "pictures": x.digest}
    folder = Path(target).absolute()
    journal = Journal(folder, settings, ARRAYS)
    chunks = math.ceil(x.shape[0] / chunk)
    if journal.is_complete():
        journal.clear()  # which a kill may have cut short
        progress(Progress(chunks, chunks))
        return Path(target)
    with _named(str(folder)):
        group = _begun(folder, journal, x.shape[0], plan, chunk)
    done = journal.done()
    progress(Progress(len(done), chunks))
    job = _Job(x, str(folder), group, plan, chunk, scale, options)
    for number in _masked(job, [n for n in range(chunks) if n not in done], client):
        journal.mark(number)  # only now is it done
        done.add(number)
        progress(Progress(len(done), chunks))
    with _named(str(folder)):
        journal.complete(group)
    return Path(target)


@contextlib.contextmanager
def _named(target: str) -> Iterator[None]:
    """Tell of a full disk, and of whatever else the system refuses, by where it was."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        # Built anew of its arguments alone, since those are what comes back from a worker.
        raise OSError(error.errno, error.strerror, target) from error


def _masked(job: _Job, numbers: list[int], client: Any) -> Iterator[int]:
    """Mask these chunks, and tell of each when all of it is written."""
    if client is not None:
        yield from cluster.in_any_order(client, job.mask_on_one_thread, numbers)
        return
    for number in numbers:
        job.mask(number)
        yield number


class _Job(NamedTuple):
    """What masks any chunk, here or in another process."""

    source: Any
    target: str
    group: Any
    plan: _Plan
    chunk: int
    scale: float | None
    options: dict[str, Any]

    def mask(self, number: int) -> None:
        """Read a chunk, mask it, and write it."""
        start = number * self.chunk
        stop = min(start + self.chunk, self.source.shape[0])
        samples = np.ascontiguousarray(self.source[start:stop])
        ids = np.arange(start, stop, dtype=np.int64)
        choice: dict[str, Any] = {
            **self.options, "sample_ids": ids, "num_keep": self.plan.keep
        }  # fmt: skip
        if self.plan.patch:
            results = nbgather.masked_patchify(samples, self.plan.patch, scale=self.scale, **choice)
        else:
            results = nbgather.random_masking(samples, **choice)
        with _named(self.target):
            for name, part in zip(ARRAYS, results, strict=True):
                self.group[name][start:stop] = part

    def mask_on_one_thread(self, number: int) -> None:
        """The same, where other threads do others."""
        with nbgather.limit_threads(1):
            self.mask(number)


class _Plan(NamedTuple):
    keep: int
    tokens: int
    token: tuple[int, ...]
    dtype: Any
    patch: tuple[int, ...]


def _planned(x: Any, mask_ratio: float, patch_size: Any, scale: float | None) -> _Plan:
    shape = tuple(int(n) for n in x.shape)
    what = "x" if patch_size is None else "images"
    checks.itemsize(describe(np.dtype(x.dtype)), what)
    if patch_size is None:
        checks.tokens(shape)
        if scale is not None:
            raise ValueError("scale was given without a patch size: it goes with images")
        keep = kept_tokens(shape[1], ratio(mask_ratio))
        return _Plan(keep, shape[1], shape[2:], x.dtype, ())
    patch = patch_rules.patch_size(patch_size, shape)
    grid = patch_rules.image_grid(shape, patch)
    tokens = math.prod(grid)
    keep = kept_tokens(tokens, ratio(mask_ratio))
    width = math.prod(patch) * shape[1]
    if patch_rules.affine(scale, None, None, shape[1]) is not None:
        patch_rules.pixels(str(x.dtype))
    dtype = x.dtype if scale is None else np.dtype(np.float32)
    return _Plan(keep, tokens, (width,), dtype, patch)


def _begun(folder: Path, journal: Journal, samples: int, plan: _Plan, chunk: int) -> Any:
    """The group to write to: new, or the one that these settings began."""
    if journal.is_begun():
        return zarr.open_group(str(folder), mode="r+")
    if not journal.may_begin():
        raise ValueError(f"{folder} holds something else: choose another target, or remove it")
    journal.reserve()
    group = zarr.open_group(str(folder), mode="a")
    shapes: Iterator[tuple[str, tuple[int, ...], Any]] = iter(
        (
            ("x_masked", (plan.keep, *plan.token), plan.dtype),
            ("mask", (plan.tokens,), np.dtype(np.float32)),
            ("ids_restore", (plan.tokens,), np.dtype(np.int64)),
        )
    )
    # zarr 2 has no other name for it, and zarr 3 will lose that name.
    make = getattr(group, "create_array", None) or group.create_dataset
    for name, inner, dtype in shapes:
        sides = (min(chunk, max(samples, 1)), *(max(n, 1) for n in inner))
        make(name, shape=(samples, *inner), chunks=sides, dtype=dtype, overwrite=True)
    journal.begin()
    return group
