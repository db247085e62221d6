"""Masking of chunked samples: the bits depend on the samples' ids, not on the chunks."""

from __future__ import annotations

import functools
import logging
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

import nbgather
from nbgather import _validate, masking
from nbgather.dask import _sides
from nbgather.dask._sides import known, start_of
from nbgather.kernels.cpu import threads

logger = logging.getLogger(__name__)


def token_noise(seed: int, sample_ids: Any, num_tokens: int, *, epoch: int = 0) -> Any:
    """Noise for chunked sample ids; :func:`nbgather.token_noise`.

    Parameters
    ----------
    seed, num_tokens, epoch
        As in :func:`nbgather.token_noise`.
    sample_ids : dask.array.Array, numpy.ndarray or sequence of integers, shape [N], or int
        The samples' ids, in any chunks; an int N stands for 0 to N-1. What is not chunked is cut so
        that a chunk of the result is of Dask's usual size.

    Returns
    -------
    dask.array.Array of float32, shape [N, num_tokens]

    Raises
    ------
    TypeError, ValueError
        As :func:`nbgather.token_noise`.

    Examples
    --------
    >>> import dask.array as da
    >>> from nbgather.dask import token_noise
    >>> token_noise(0, da.arange(1, chunks=1), 4).compute().tolist()
    [[0.3990464210510254, 0.8805201649665833, 0.7357127666473389, 0.6054818034172058]]
    """
    _validate.bits64(seed, "seed")
    tokens, at = _validate.count(num_tokens, "num_tokens"), _validate.epoch(epoch)
    ids = _chunked_ids(sample_ids, tokens)
    return _by_id(functools.partial(_noise, seed, tokens, at), ids, tokens, np.dtype(np.float32))


def strategy_scores(
    order: Callable[[np.ndarray], Any], sample_ids: Any, tokens: int, dtype: np.dtype[Any]
) -> Any:
    """Scores of a strategy, whose call ``order`` is but for the ids, chunk by chunk."""
    ids = _chunked_ids(sample_ids, tokens)
    return _by_id(functools.partial(_strategy_block, order), ids, tokens, dtype)


def _chunked_ids(sample_ids: Any, tokens: int) -> Any:
    if isinstance(sample_ids, (int, np.integer)):
        sample_ids = range(_validate.count(sample_ids, "sample_ids"))
    ids = _sides.int64_ids(_sides.beside(sample_ids, "sample_ids"))
    if isinstance(ids, da.Array):
        return ids
    shape = len(ids), tokens
    chunks = da.core.normalize_chunks(("auto", -1), shape, dtype=np.dtype(np.float32))
    return da.from_array(ids, chunks=(chunks[0],))


def _by_id(function: Any, ids: Any, tokens: int, dtype: np.dtype[Any]) -> Any:
    return ids.map_blocks(
        function, dtype=dtype, chunks=(ids.chunks[0], (tokens,)), new_axis=1,
        meta=np.empty((0, 0), dtype),
    )  # fmt: skip


def _noise(seed: int, tokens: int, epoch: int, ids: Any) -> np.ndarray:
    ids = _sides.plain_block(ids, "sample_ids")
    with threads.limit_threads(1):
        return np.asarray(nbgather.token_noise(seed, ids, tokens, epoch=epoch))


def _strategy_block(order: Callable[[np.ndarray], Any], ids: Any) -> np.ndarray:
    ids = _sides.plain_block(ids, "sample_ids")
    with threads.limit_threads(1):
        return np.asarray(order(ids))


def random_masking(
    x: Any,
    mask_ratio: float = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any = None,
) -> masking.MaskedTokens | masking.PaddedTokens:
    """Mask chunked tokens; :func:`nbgather.random_masking`.

    The bits depend on the seed, the epoch and the samples' ids alone, not on chunks, scheduler or
    workers.

    Parameters
    ----------
    x : dask.array.Array, shape [N, L, ...]
        Chunked in any way over N; the other dimensions are brought into one chunk.
    mask_ratio, seed, epoch, num_keep
        As in :func:`nbgather.random_masking`; a ``num_keep`` for each sample is a NumPy array or a
        sequence.
    noise : dask.array.Array, numpy.ndarray or sequence, shape [N, L], optional
        Scores to rank by, instead of a seed.
    sample_ids : dask.array.Array, numpy.ndarray or sequence of integers, shape [N], optional
        By default the global positions along N.

    Returns
    -------
    MaskedTokens, or PaddedTokens where ``num_keep`` has a number for each sample
        Of Dask arrays, chunked over N as ``x`` is.

    Raises
    ------
    TypeError, ValueError
        As :func:`nbgather.random_masking`; unknown chunk sizes where they must be known.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from nbgather.dask import random_masking
    >>> x = da.from_array(np.arange(64.0).reshape(4, 8, 2), chunks=(2, 3, 1))
    >>> made = random_masking(x, 0.75, seed=1)
    >>> made.x_masked.shape, made.mask.compute()[0].tolist()
    ((4, 2, 2), [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    """
    x = _samples(x, "x", 2)
    tokens = int(x.shape[1])
    kept = _kept(x.shape[0], tokens, mask_ratio, num_keep)
    shapes = (kept.most, *map(int, x.shape[2:])), tokens
    return _masked(
        nbgather.random_masking, x, shapes, x.dtype, noise, seed, sample_ids, epoch, kept, {}
    )


def masked_patchify(
    images: Any,
    patch_size: Any,
    mask_ratio: float = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any = None,
    scale: float | None = None,
    mean: Any = None,
    std: Any = None,
) -> masking.MaskedTokens | masking.PaddedTokens:
    """Cut only the kept patches out of chunked images; :func:`nbgather.masked_patchify`.

    Parameters
    ----------
    images : dask.array.Array, shape [N, C, H, W] or [N, C, T, H, W]
        Chunked in any way over N; the other dimensions are brought into one chunk.
    patch_size, mask_ratio, seed, epoch, num_keep, scale, mean, std
        As in :func:`nbgather.masked_patchify`.
    noise, sample_ids
        As in :func:`random_masking`.

    Returns
    -------
    MaskedTokens, or PaddedTokens where ``num_keep`` has a number for each sample
        Of Dask arrays, chunked over N as ``images`` is.

    Raises
    ------
    TypeError, ValueError
        As :func:`nbgather.masked_patchify` and :func:`random_masking`.

    Examples
    --------
    >>> import dask.array as da
    >>> from nbgather.dask import masked_patchify
    >>> images = da.zeros((4, 3, 32, 32), chunks=(2, 1, 16, 16), dtype="uint8")
    >>> made = masked_patchify(images, 8, 0.75, seed=0, scale=1 / 255)
    >>> made.x_masked.shape, made.x_masked.chunks[0], made.x_masked.dtype
    ((4, 4, 192), (2, 2), dtype('float32'))
    """
    images = _samples(images, "images", 4)
    sizes = _validate.patch_size(patch_size, tuple(images.shape))
    grid = _validate.image_grid(tuple(images.shape), sizes)
    tokens, channels = math.prod(grid), int(images.shape[1])
    affine = _validate.affine(scale, mean, std, channels)
    if affine is not None:
        _validate.pixels(str(images.dtype))
    kept = _kept(images.shape[0], tokens, mask_ratio, num_keep)
    shapes = (kept.most, math.prod(sizes) * channels), tokens
    options = {"patch_size": sizes, "scale": scale, "mean": mean, "std": std}
    dtype = images.dtype if affine is None else np.dtype(np.float32)
    return _masked(
        nbgather.masked_patchify, images, shapes, dtype, noise, seed, sample_ids, epoch, kept,
        options,
    )  # fmt: skip


class _Kept(NamedTuple):
    """How many tokens stay: of each sample alike, or of each its own count."""

    most: int
    counts: np.ndarray | None


def _kept(samples: Any, tokens: int, mask_ratio: float, num_keep: Any) -> _Kept:
    if isinstance(num_keep, da.Array):
        raise TypeError(
            "num_keep is a Dask array: the largest count is a size of the result, so a NumPy array"
            " or a sequence is needed"
        )
    if not known(samples):
        if num_keep is not None and np.ndim(num_keep):
            raise ValueError(
                "chunk sizes along N are unknown, so the samples have no positions: give one"
                " num_keep for all, or call compute_chunk_sizes() first"
            )
        samples = 0  # which nothing depends on where one number is for all
    counts = _validate.keep_counts(num_keep, int(samples), tokens)
    if counts is None:
        return _Kept(_validate.len_keep(tokens, mask_ratio, num_keep), None)
    return _Kept(max(counts, default=0), np.array(counts, np.int64))


def _samples(array: Any, what: str, least: int) -> Any:
    """The array with all but its first dimension in one chunk."""
    array = _sides.chunked(array, what)
    if array.ndim < least:
        raise ValueError(f"{what} has shape {array.shape}: {least} dimensions or more are needed")
    return _sides.whole_samples(array, what, logger)


class _Side(NamedTuple):
    """Scores or ids that go with each chunk of samples, and the argument that they are."""

    array: Any
    name: str


def _side(x: Any, what: str, tokens: int, noise: Any, seed: Any, sample_ids: Any) -> _Side | None:
    """What goes with the chunks of ``x``, in the same chunks; None for global positions."""
    if noise is not None and seed is not None:
        raise ValueError("both noise and seed were given: give one of them")
    if noise is not None and sample_ids is not None:
        raise ValueError("sample_ids was given with noise: it goes with seed")
    if sample_ids is not None and seed is None:
        raise ValueError("sample_ids was given without seed: it goes with seed")
    if noise is None and seed is None:
        raise ValueError("neither noise nor seed was given: a chunked masking needs one of them")
    samples = x.shape[0]
    found = None
    if noise is not None:
        found = _Side(_scores_beside(noise, x, what, tokens), "noise")
    elif sample_ids is not None:
        ids = _sides.ids_beside(sample_ids, samples, what)
        found = None if ids is None else _Side(ids, "sample_ids")
    if found is None:
        if not known(samples):
            raise ValueError(
                "chunk sizes along N are unknown, so the samples have no positions: give"
                " sample_ids, or call compute_chunk_sizes() first"
            )
        return None
    array, name = found
    if known(samples) and known(array.shape[0]):
        if array.chunks[0] != x.chunks[0]:
            array = array.rechunk({0: x.chunks[0]})
    elif array.numblocks[0] != x.numblocks[0]:
        raise ValueError(
            f"chunk sizes along N are unknown, and {what} has {x.numblocks[0]} chunks there where"
            f" {name} has {array.numblocks[0]}: call compute_chunk_sizes() first"
        )
    return _Side(array, name)


def _scores_beside(noise: Any, x: Any, what: str, tokens: int) -> Any:
    noise = _sides.beside(noise, "noise")
    shape = tuple(noise.shape)
    if len(shape) != 2 or (known(shape[0]) and known(x.shape[0])):
        _validate.noise(shape, (x.shape[0], tokens), tuple(x.shape), what)
    else:
        _validate.noise((x.shape[0], *shape[1:]), (x.shape[0], tokens), tuple(x.shape), what)
    _validate.scores(shape, str(noise.dtype), "noise")
    if not isinstance(noise, da.Array):
        return da.from_array(noise, chunks=-1)
    return noise.rechunk({1: -1})


def _masked(
    function: Any, x: Any, shapes: Any, dtype: Any, noise: Any, seed: Any, sample_ids: Any,
    epoch: int, kept: _Kept, options: dict[str, Any],
) -> masking.MaskedTokens | masking.PaddedTokens:  # fmt: skip
    """The graph of a masking: a task for each chunk of samples, and one for each of its results."""
    inner, tokens = shapes
    chunks = x.chunks[0]
    what = "images" if "patch_size" in options else "x"
    side = _side(x, what, tokens, noise, seed, sample_ids)
    extra, name = (None, "") if side is None else side
    given = {**options, "num_keep": kept.most}
    if seed is not None:
        given |= {"seed": _validate.bits64(seed, "seed"), "epoch": _validate.epoch(epoch)}
    token = tokenize(function.__name__, x, extra, given, kept.counts)
    whole = f"nbgather-{function.__name__}-{token}"
    rest = (0,) * (x.ndim - 1)
    graph: dict[Any, Any] = {}
    for n in range(len(chunks)):
        start = start_of(chunks, n)
        second = None if extra is None else (extra.name, n, *(0,) * (extra.ndim - 1))
        counts = None
        if kept.counts is not None and start is not None:
            counts = kept.counts[start : start + int(chunks[n])]
        graph[(whole, n)] = (
            _mask_block, function, (x.name, n, *rest), second, name, start, given, counts
        )  # fmt: skip
    fields = [
        ("x_masked", inner, np.dtype(dtype)),
        ("mask", (tokens,), np.dtype(np.float32)),
        ("ids_restore", (tokens,), np.dtype(np.int64)),
    ]
    if kept.counts is not None:
        fields.append(("valid", (kept.most,), np.dtype(np.bool_)))
    operands = [x] if extra is None else [x, extra]
    base = HighLevelGraph.from_collections(whole, graph, dependencies=operands)
    made = []
    for k, (field, shape, kind) in enumerate(fields):
        part = f"getitem-{field}-{token}"
        layer = {
            (part, n, *(0,) * len(shape)): (operator.getitem, (whole, n), k)
            for n in range(len(chunks))
        }
        joined = HighLevelGraph({**base.layers, part: layer}, {**base.dependencies, part: {whole}})
        made.append(
            da.Array(
                joined,
                part,
                chunks=(chunks, *((int(s),) for s in shape)),
                dtype=kind,
                meta=np.empty((0,) * (1 + len(shape)), kind),
            )
        )
    return masking.MaskedTokens(*made) if kept.counts is None else masking.PaddedTokens(*made)


def _mask_block(
    function: Any, x: Any, extra: Any, name: str, start: int | None, given: dict[str, Any],
    counts: np.ndarray | None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Mask a chunk of samples on the calling thread."""
    x = _sides.plain_block(x, "a chunk")
    given = dict(given)
    most = given["num_keep"]
    if name:
        given[name] = _sides.plain_block(extra, name)
    elif start is not None:
        given["sample_ids"] = np.arange(start, start + len(x), dtype=np.int64)
    if counts is not None:
        given["num_keep"] = counts
    arguments = [x]
    if "patch_size" in given:
        arguments.append(given.pop("patch_size"))
    with threads.limit_threads(1):
        made = function(*arguments, **given)
    if counts is None:
        return tuple(made)
    # The chunk's largest count may be below that of all samples.
    x_masked, mask, ids_restore, valid = made
    return _widened(x_masked, most), mask, ids_restore, _widened(valid, most)


def _widened(array: np.ndarray, size: int) -> np.ndarray:
    """The array with zeros at the end of dimension 1, up to ``size``."""
    if array.shape[1] == size:
        return array
    wide = np.zeros((array.shape[0], size, *array.shape[2:]), array.dtype)
    wide[:, : array.shape[1]] = array
    return wide
