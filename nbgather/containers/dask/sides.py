"""What goes into a chunked call: the array itself, and what comes beside it, chunked or not."""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array

from nbgather.containers import registry, sequences
from nbgather.containers.dask import blocks, rechunking
from nbgather.operations import checks
from nbgather.operations.tokens import ids_of

logger = logging.getLogger("nbgather.dask")


def is_known(size: Any) -> bool:
    return not math.isnan(size)


def starts_of(chunks: tuple[Any, ...]) -> list[int | None]:
    """Where each block begins; None behind one of unknown size."""
    starts: list[int | None] = [0]
    for size in chunks[:-1]:
        last = starts[-1]
        starts.append(None if last is None or not is_known(size) else last + int(size))
    return starts


def chunked(array: Any, what: str) -> Any:
    """A Dask array whose blocks can be served; a TypeError for anything else."""
    if not isinstance(array, da.Array):
        raise TypeError(
            f"{what} is of type {type(array).__name__}: a Dask array is needed; for others there"
            " is nbgather itself"
        )
    plain_block(array._meta, what)
    return array


def plain_block(block: Any, what: str) -> Any:
    """A block of NumPy as a plain array, and of any library that is served as it is.

    One with a mask is refused, whatever its Dask array said; nothing is brought to the host.
    """
    if isinstance(block, np.ma.MaskedArray):
        raise TypeError(
            f"{what} holds masked arrays: their masks would be lost; use dask.array.ma.filled"
        )
    if blocks.is_numpy(block):
        return np.asarray(block)
    registry.find(block, what)
    return block


def meta_of(array: Any, ndim: int, dtype: Any) -> Any:
    """What stands for the blocks of a result: those of the library that an array's are of."""
    return meta_from_array(array._meta, ndim=ndim, dtype=np.dtype(dtype))


def beside(values: Any, what: str, like: Any = None, like_what: str = "x") -> Any:
    """What says where items are: a Dask array, or a NumPy array made of a sequence.

    Beside an array ``like`` in chunks of another library it must be of that library, as in memory;
    what is no array yet, a list or a range, is brought to it.
    """
    elsewhere = like is not None and not blocks.is_numpy(like._meta)
    if isinstance(values, (list, tuple, range)):
        made = sequences.from_sequence(values, what)
        return brought(da.from_array(made, chunks=-1), like) if elsewhere else made
    if not isinstance(values, (da.Array, np.ndarray)):
        raise TypeError(
            f"{what} is of type {type(values).__name__}: a Dask or NumPy array, a list or a range"
            " is needed"
        )
    block = plain_block(getattr(values, "_meta", values), what)
    if like is not None:
        require_same(like, like_what, block, what)
    return values if isinstance(values, da.Array) else block


def require_same(like: Any, like_what: str, block: Any, what: str) -> None:
    """Refuse blocks that are of another library than those of an array."""
    if not (blocks.is_numpy(like._meta) and blocks.is_numpy(block)):
        container = blocks.container_of(like._meta, like_what)
        registry.require_same(container, like._meta, like_what, block, what)


def brought(array: Any, like: Any) -> Any:
    """A Dask array of NumPy's blocks in the library that those of ``like`` are of."""
    if blocks.is_numpy(like._meta):
        return array
    bring = functools.partial(blocks.brought, like._meta)
    return array.map_blocks(bring, dtype=array.dtype, meta=meta_of(like, array.ndim, array.dtype))


def rechunked(array: Any, chunks: Any) -> Any:
    """An array in other chunks, of its own library: of no items, Dask gives NumPy's."""
    other = rechunking.rechunked(array, chunks)
    return other if type(other._meta) is type(array._meta) else brought(other, array)


def index_beside(values: Any, what: str, like: Any, like_what: str) -> Any:
    """An index as a Dask array."""
    index = beside(values, what, like, like_what)
    return index if isinstance(index, da.Array) else da.from_array(index, chunks=-1)


def ids_beside(sample_ids: Any, x: Any, what: str) -> Any:
    """Sample ids `[N]` of the N samples of x as a Dask array of int64; None for 0 to N-1."""
    samples = x.shape[0]
    if isinstance(sample_ids, (int, np.integer)):
        count = checks.count(sample_ids, "sample_ids")
        if is_known(samples):
            ids_of((count,), int(samples), what)
        return None
    ids = int64_ids(beside(sample_ids, "sample_ids", x, what))
    if is_known(samples) and is_known(ids.shape[0]):
        ids_of(tuple(ids.shape), int(samples), what)
    return ids if isinstance(ids, da.Array) else da.from_array(ids, chunks=-1)


def int64_ids(ids: Any) -> Any:
    """Ids of any integer dtype as int64; of the largest uint64 the 64 bits are what counts."""
    if ids.dtype.kind in "iu" and ids.dtype != np.int64:
        ids = ids.astype(np.int64)
    checks.sample_ids(tuple(ids.shape), str(ids.dtype))
    return ids


def whole_samples(array: Any, what: str, logger: Any) -> Any:
    """The array with all but its first dimension in one chunk."""
    for d in range(1, array.ndim):
        if not is_known(array.shape[d]):
            raise ValueError(
                f"chunk sizes of {what} along dimension {d} are unknown: call compute_chunk_sizes()"
            )
    if any(n != 1 for n in array.numblocks[1:]):
        logger.info("%s is rechunked: a sample's tokens are needed together", what)
        array = rechunked(array, dict.fromkeys(range(1, array.ndim), -1))
    return array


def samples(array: Any, what: str, least: int) -> Any:
    """A Dask array of ``least`` dimensions with all but its first in one chunk."""
    array = chunked(array, what)
    if array.ndim < least:
        raise ValueError(f"{what} has shape {array.shape}: {least} dimensions or more are needed")
    return whole_samples(array, what, logger)
