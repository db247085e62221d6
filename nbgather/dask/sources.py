"""What a dataset is read from, by slices of samples: arrays on disk, and pictures."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import nbgather
from nbgather import pictures
from nbgather.operations import checks

#: A side of pictures, each of which takes a fifth of a gigabyte then.
MAX_SIDE_PIXELS = 8192


def opened(path: Path, array: str | None, size: int | None) -> Any:
    """What is read from: it has a shape and a dtype, is sliced by samples, and can be pickled.

    Raises
    ------
    FileNotFoundError, ValueError
        There is nothing that can be read; an option that does not go with it.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if size is not None and not 1 <= checks.count(size, "size") <= MAX_SIDE_PIXELS:
        raise ValueError(f"size is {size}: it must be between 1 and {MAX_SIDE_PIXELS}")
    source = _opened(path, array, size)
    if isinstance(source, Pictures):
        if array is not None:
            raise ValueError(f"{path} holds pictures: array={array!r} goes with a zarr group")
    elif size is not None:
        raise ValueError(f"{path} is an array: size={size} goes with pictures")
    return source


def _opened(path: Path, name: str | None, size: int | None) -> Any:
    if path.is_file():
        if path.suffix == pictures.ARCHIVE:
            return Pictures(path, size)
        try:
            return Rows(np.load(path, mmap_mode="r", allow_pickle=False))
        except ValueError as error:
            raise ValueError(f"{path} is no array of numbers in a .npy file: {error}") from None
    if not any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup")):
        try:
            return Pictures(path, size)
        except ValueError as error:
            raise ValueError(
                f"{path} is no zarr array, nor a folder of pictures: {error}"
            ) from None
    try:
        source = zarr.open(str(path), mode="r")
    except Exception as error:  # zarr's readers raise what they please
        raise ValueError(f"{path} is no zarr array: {error}") from None
    if name is not None and isinstance(source, zarr.Group):
        if name not in source:
            raise ValueError(
                f"{path} has no array {name!r}: there is {sorted(source.array_keys())}"
            )
        source = source[name]
    if isinstance(source, zarr.Group):
        raise ValueError(
            f"{path} is a zarr group: name one of its arrays, {sorted(source.array_keys())}"
        )
    return source


class Rows:
    """A mapped file whose rows are read and let go: what was mapped does not stay in memory."""

    def __init__(self, mapped: np.ndarray) -> None:
        self.shape, self.dtype = mapped.shape, mapped.dtype
        if not mapped.flags.c_contiguous:
            raise ValueError("the array is in Fortran order: save it in C order")
        # Another process may have another folder.
        self.path = os.path.abspath(str(mapped.filename))  # type: ignore[attr-defined]
        self.offset = int(mapped.offset)  # type: ignore[attr-defined]

    def __getitem__(self, rows: slice) -> np.ndarray:
        count = math.prod(self.shape[1:])
        shape = (rows.stop - rows.start, *self.shape[1:])
        with open(self.path, "rb") as file:
            file.seek(self.offset + rows.start * count * self.dtype.itemsize)
            data = np.fromfile(file, self.dtype, math.prod(shape))
        return data.reshape(shape)


class Pictures:
    """Pictures as samples of uint8, `[N, 3, H, W]`.

    Parameters
    ----------
    path : path
        As in :func:`nbgather.pictures.places`.
    size : int, optional
        Pixels of each side; by default all must be as large as the first.
    digest : str, optional
        Of the names that are expected.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, size: int | None, digest: str | None = None) -> None:
        self.path, self.size = path.absolute(), size
        self.places, self.digest = _listed(self.path, digest)
        first = self.places[0]
        # The first sets the size of all: it is read here, whoever reads the others.
        self.sides = pictures.pixels(first.read(), size, first.name).shape[:2]
        self.shape = (len(self.places), 3, *self.sides)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the names, of which there may be millions: who needs them lists them once.
        return _reopened, (self.path, self.size, self.digest)

    def __getitem__(self, rows: slice) -> np.ndarray:
        samples = np.empty((rows.stop - rows.start, *self.shape[1:]), np.uint8)
        threads = min(nbgather.get_num_threads(), len(samples))
        if threads > 1:  # while Pillow decodes, other threads run
            with concurrent.futures.ThreadPoolExecutor(threads) as pool:
                list(pool.map(self._read, samples, self.places[rows]))
        else:
            list(map(self._read, samples, self.places[rows]))
        return samples

    def _read(self, sample: np.ndarray, place: pictures.Place) -> None:
        image = pictures.pixels(place.read(), self.size, place.name)
        if image.shape[:2] != self.sides:
            raise ValueError(
                f"{place.name} has {image.shape[0]} x {image.shape[1]} pixels, and"
                f" {self.places[0].name} {self.sides[0]} x {self.sides[1]}: give a size"
            )
        sample[...] = image.transpose(2, 0, 1)


@functools.lru_cache(maxsize=8)
def _reopened(path: Path, size: int | None, digest: str) -> Pictures:
    return Pictures(path, size, digest)


def _listed(path: Path, digest: str | None) -> tuple[list[pictures.Place], str]:
    places = pictures.places(path)
    names = json.dumps([(place.name, place.size) for place in places])
    found = hashlib.sha256(names.encode()).hexdigest()
    if digest not in (None, found):
        raise ValueError(f"{path} holds other pictures here than where the work was begun")
    return places, found
