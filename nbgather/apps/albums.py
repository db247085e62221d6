"""The pictures of a folder or of a tar archive, and what masks leave of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nbgather
from nbgather.apps.photos import load_frames
from nbgather.pictures import is_picture, pictures_below

__all__ = [
    "MaskedAlbum",
    "MaskedPicture",
    "count_pictures",
    "is_album",
    "mask_album",
    "mask_picture",
    "pictures",
]

#: What archives are called.
ARCHIVES = (".tar", ".tar.gz", ".tgz")


class MaskedPicture(NamedTuple):
    """A picture and its mask.

    Attributes
    ----------
    frames : array of float32, shape [3, T, H, W]
        Values 0 to 1.
    mask : array of float32, shape [L]
        0 keep, 1 remove.
    ids_keep : array of int64, shape [K]
        The visible patches, lowest score first.
    patch_size, grid : tuple of int
        Of a video with the frames in front.
    """

    frames: np.ndarray
    mask: np.ndarray
    ids_keep: np.ndarray
    patch_size: tuple[int, ...]
    grid: tuple[int, ...]

    def described(self, number: int, name: str) -> dict[str, Any]:
        """The mask of sample ``number`` for a program to read."""
        return {
            "id": number, "name": name, "grid": list(self.grid), "patches": len(self.mask),
            "removed": int(self.mask.sum()), "ids_keep": self.ids_keep.tolist(),
        }  # fmt: skip


class MaskedAlbum(NamedTuple):
    """The pictures of a folder or an archive and their masks.

    Attributes
    ----------
    masks : list of dict
        Of each picture what :meth:`MaskedPicture.described` gives.
    shown : list of (str, MaskedPicture)
        The first pictures with their names.
    bad : list of str
        What is wrong with each picture that cannot be read.
    """

    masks: list[dict[str, Any]]
    shown: list[tuple[str, MaskedPicture]]
    bad: list[str]


def mask_picture(
    frames: np.ndarray,
    number: int,
    *,
    strategy: str,
    ratio: float,
    seed: int = 0,
    epoch: int = 0,
    patch: int = 16,
) -> MaskedPicture:
    """Mask one picture by a strategy.

    Parameters
    ----------
    frames : array of float32, shape [1, 3, T, size, size]
        As :func:`nbgather.apps.photos.load_frames` gives it.
    number : int
        The sample id.
    strategy : str
        A name from :mod:`nbgather.strategies`.
    ratio, seed, epoch, patch
        The mask ratio, what the mask is drawn by, and pixels of a patch's side.

    Returns
    -------
    MaskedPicture

    Raises
    ------
    TypeError, ValueError
        An argument out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.apps.albums import mask_picture
    >>> frames = np.zeros((1, 3, 1, 32, 32), np.float32)
    >>> mask_picture(frames, 0, strategy="random", ratio=0.75, patch=8).mask.sum()
    np.float32(12.0)
    """
    photo, side = frames.shape[2] == 1, frames.shape[-1]
    sizes = (patch, patch) if photo else (1, patch, patch)
    tokens = nbgather.patchify(frames[:, :, 0] if photo else frames, sizes).shape[1]
    grid: tuple[int, ...] = (side // patch, side // patch)
    if not photo or strategy == "tube":
        grid = (frames.shape[2], *grid)
    score = getattr(nbgather.strategies, strategy)
    scores = score(seed, np.array([number]), grid, epoch=epoch)
    # Only the mask is asked for: the tokens have no width.
    masked = nbgather.random_masking(np.empty((1, tokens, 0), np.uint8), ratio, noise=scores)
    ids_keep = np.argsort(masked.ids_restore[0])[: masked.x_masked.shape[1]]
    return MaskedPicture(frames[0], masked.mask[0], ids_keep, sizes, grid)


def mask_album(
    source: Path,
    size: int,
    preview: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> MaskedAlbum:
    """Mask the pictures of a folder or an archive; the sample id of each is its place in it.

    Parameters
    ----------
    source, size
        As in :func:`pictures`.
    preview : int
        How many pictures are kept to be shown.
    progress : callable
        Called with the number of pictures that are done, and of all.
    **options
        As in :func:`mask_picture`.

    Returns
    -------
    MaskedAlbum

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        No such source, no picture in it that can be read, or an argument out of range.

    Examples
    --------
    >>> from nbgather.apps.albums import mask_album
    >>> from nbgather.apps.photos import sample_photo
    >>> folder = sample_photo().parent
    >>> album = mask_album(folder, 32, 4, strategy="block", ratio=0.5)
    >>> album.masks[0]["removed"], album.bad
    (2, [])
    """
    mask_picture(np.zeros((1, 3, 1, size, size), np.float32), 0, **options)  # are they right?
    total = count_pictures(source)
    album = MaskedAlbum([], [], [])
    for number, (name, read) in enumerate(pictures(source, size)):
        try:
            frames = read()
        except (ValueError, OSError) as error:
            album.bad.append(" ".join(str(error).split()))
        else:
            masked = mask_picture(frames, number, **options)
            album.masks.append(masked.described(number, name))
            if len(album.shown) < preview:
                album.shown.append((name, masked))
        progress(number + 1, total)
    if not album.masks:
        raise ValueError(f"{source} holds no picture that can be read: {album.bad[0]}")
    return album


def is_album(source: Path) -> bool:
    """Whether a path is a folder, or an archive by its name.

    Parameters
    ----------
    source : path

    Returns
    -------
    bool

    Examples
    --------
    >>> from pathlib import Path
    >>> from nbgather.apps.albums import is_album
    >>> is_album(Path("shard-000.tar")), is_album(Path("photo.jpg"))
    (True, False)
    """
    return source.is_dir() or source.name.endswith(ARCHIVES)


def count_pictures(source: Path) -> int:
    """How many pictures a folder or an archive has; they are not read.

    Parameters
    ----------
    source : path
        A folder, with all that is below it, or a tar archive.

    Returns
    -------
    int

    Raises
    ------
    FileNotFoundError, ValueError
        No such source, or it holds no pictures.

    Examples
    --------
    >>> from nbgather.apps.albums import count_pictures
    >>> from nbgather.apps.photos import sample_photo
    >>> count_pictures(sample_photo().parent) > 0
    True
    """
    if source.is_dir():
        count = len(pictures_below(source))
    else:
        with _archive(source) as archive:
            count = len(list(_members(archive, source)))
    if not count:
        raise ValueError(f"{source} holds no pictures")
    return count


def pictures(source: Path, size: int) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """The name of each picture, and what reads it.

    Parameters
    ----------
    source : path
        As in :func:`count_pictures`. Of a folder they come in the order of their names, of an
        archive as they lie in it.
    size : int
        As in :func:`nbgather.apps.photos.load_frames`.

    Yields
    ------
    str, callable
        Call it before the next one is asked for.

    Raises
    ------
    FileNotFoundError, ValueError
        No such source; an archive that breaks off.

    Examples
    --------
    >>> from nbgather.apps.albums import pictures
    >>> from nbgather.apps.photos import sample_photo
    >>> names = [name for name, read in pictures(sample_photo().parent, 32)]
    >>> "grace_hopper.jpg" in names and names == sorted(names)
    True
    """
    if source.is_dir():
        for name, path in pictures_below(source):
            yield name, partial(load_frames, path, size)
        return
    with _archive(source) as archive:
        for member in _members(archive, source):
            name = f"{source}: {member.name}"
            yield member.name, partial(_of_archive, archive, member, size, name)


def _of_archive(
    archive: tarfile.TarFile, member: tarfile.TarInfo, size: int, name: str
) -> np.ndarray:
    try:
        file = archive.extractfile(member)
        data = b"" if file is None else file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    return load_frames(io.BytesIO(data), size, name=name)


def _archive(source: Path) -> tarfile.TarFile:
    if not source.exists():
        raise FileNotFoundError(f"there is no file {source}")
    try:
        return tarfile.open(source)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{source} cannot be read as a tar archive: {error}") from error


def _members(archive: tarfile.TarFile, source: Path) -> Iterator[tarfile.TarInfo]:
    """The pictures of an archive, in its order."""
    try:
        for member in archive:
            if member.isfile() and is_picture(member.name):
                yield member
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{source} breaks off: {error}") from error
