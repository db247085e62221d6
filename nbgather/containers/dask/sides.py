"""What goes into a chunked call: the array itself, and what comes beside it, chunked or not."""

from __future__ import annotations

import logging
import math
from typing import Any

import dask.array as da
import numpy as np

from nbgather.containers import sequences
from nbgather.operations import checks
from nbgather.operations.tokens import ids_of

logger = logging.getLogger("nbgather.dask")


def is_known(size: Any) -> bool:
    return not math.isnan(size)


def start_of(chunks: tuple[Any, ...], block: int) -> int | None:
    """Where a block begins; None if that is unknown."""
    before = chunks[:block]
    return int(sum(before)) if all(map(is_known, before)) else None


def chunked(array: Any, what: str) -> Any:
    """A Dask array whose blocks are plain; a TypeError for anything else."""
    if not isinstance(array, da.Array):
        raise TypeError(
            f"{what} is of type {type(array).__name__}: a Dask array is needed; for others there"
            " is nbgather itself"
        )
    _refuse_masked(array._meta, what)
    return array


def plain_block(block: Any, what: str) -> np.ndarray:
    """A block as a NumPy array; one with a mask is refused, whatever its Dask array said."""
    _refuse_masked(block, what)
    return np.asarray(block)


def _refuse_masked(array: Any, what: str) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{what} holds masked arrays: their masks would be lost; use dask.array.ma.filled"
        )


def beside(values: Any, what: str) -> Any:
    """What says where items are: a Dask array, or a NumPy array made of a sequence."""
    if isinstance(values, da.Array):
        return chunked(values, what)
    if isinstance(values, (list, tuple, range)):
        return sequences.from_sequence(values, what)
    if not isinstance(values, np.ndarray):
        raise TypeError(
            f"{what} is of type {type(values).__name__}: a Dask or NumPy array, a list or a range"
            " is needed"
        )
    _refuse_masked(values, what)
    return values


def index_beside(values: Any, what: str) -> Any:
    """An index as a Dask array."""
    index = beside(values, what)
    return index if isinstance(index, da.Array) else da.from_array(index, chunks=-1)


def ids_beside(sample_ids: Any, samples: Any, what: str) -> Any:
    """Sample ids `[N]` of N samples as a Dask array of int64; None for 0 to N-1."""
    if isinstance(sample_ids, (int, np.integer)):
        count = checks.count(sample_ids, "sample_ids")
        if is_known(samples):
            ids_of((count,), int(samples), what)
        return None
    ids = int64_ids(beside(sample_ids, "sample_ids"))
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
        array = array.rechunk(dict.fromkeys(range(1, array.ndim), -1))
    return array


def samples(array: Any, what: str, least: int) -> Any:
    """A Dask array of ``least`` dimensions with all but its first in one chunk."""
    array = chunked(array, what)
    if array.ndim < least:
        raise ValueError(f"{what} has shape {array.shape}: {least} dimensions or more are needed")
    return whole_samples(array, what, logger)
