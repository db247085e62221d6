"""Pictures in folders and in tar archives, and their pixels, by Pillow."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

#: How the names of archives end of which a member can be read alone.
ARCHIVE = ".tar"


class Place(NamedTuple):
    """Where a picture lies.

    Attributes
    ----------
    name : str
        Below its folder, or in its archive.
    path : str
        The file, or the archive.
    start, size : int
        Its bytes in an archive; of a file of its own, 0 and -1.
    """

    name: str
    path: str
    start: int = 0
    size: int = -1

    def read(self) -> bytes:
        """Its bytes, which Pillow decodes."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return file.read(self.size)


def _pillow() -> Any:
    """Pillow, loaded when there is something to read."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError('pictures are read by Pillow: pip install "nbgather[cli]"') from None
    return Image


def is_picture(name: str) -> bool:
    """Whether a name is that of what Pillow reads, and of nothing hidden."""
    suffixes = _pillow().registered_extensions()
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") and part not in (".", "..") for part in path.parts)
    return not hidden and path.suffix.lower() in suffixes


def _files_below(folder: Path) -> list[tuple[str, Path]]:
    """All files below a folder by their names there, in the order of these."""
    return sorted((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())


def pictures_below(folder: Path) -> list[tuple[str, Path]]:
    """The pictures below a folder by their names there, in the order of these."""
    return [(name, path) for name, path in _files_below(folder) if is_picture(name)]


def places(source: Path) -> list[Place]:
    """The pictures of a folder, of an archive, or of a folder of archives.

    Those of a folder come in the order of their names, with all that is below it; those of archives
    as they lie in them, the archives in the order of their names.

    Raises
    ------
    FileNotFoundError, ValueError
        No such source; it holds no pictures; an archive that cannot be read, or is compressed.
    """
    if not source.exists():
        raise FileNotFoundError(f"there is no {source}")
    if source.is_file():
        found = list(_members(source))
    else:
        found = [Place(name, os.fspath(path)) for name, path in pictures_below(source)]
        archives = [path for _, path in _files_below(source) if path.suffix == ARCHIVE]
        if found and archives:
            raise ValueError(
                f"{source} holds pictures, as {found[0].name}, and archives, as"
                f" {archives[0].name}: one of both is needed"
            )
        found += [place for path in archives for place in _members(path)]
    if not found:
        raise ValueError(f"{source} holds no pictures")
    return found


def _members(archive: Path) -> Iterator[Place]:
    """The pictures of an archive."""
    try:
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                if member.isfile() and is_picture(member.name):
                    yield Place(member.name, os.fspath(archive), member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"{archive} cannot be read as a tar archive without compression: {error}"
        ) from error


def pixels(data: bytes | BinaryIO, size: int | None, name: str) -> np.ndarray:
    """The pixels of a picture.

    Parameters
    ----------
    data : bytes, or open file
        PNG, JPEG or whatever else Pillow reads; of a video the first frame.
    size : int, optional
        Pixels of each side, to which the middle square is resized; by default as it is.
    name : str
        What an error calls it.

    Returns
    -------
    array of uint8, shape [H, W, 3]

    Raises
    ------
    ValueError
        It is not an image that Pillow reads.
    """
    reader = _pillow()
    from PIL import ImageOps

    try:
        with reader.open(io.BytesIO(data) if isinstance(data, bytes) else data) as opened:
            photo = ImageOps.exif_transpose(opened).convert("RGB")
            if size is not None:
                photo = ImageOps.fit(photo, (size, size), reader.Resampling.BICUBIC)
            return np.asarray(photo)
    except Exception as error:  # a broken file: Pillow's readers raise exceptions of many kinds
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
