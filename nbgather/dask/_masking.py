"""Masking of chunked samples: the bits depend on the samples' ids, not on the chunks."""

from __future__ import annotations

import functools
import logging
import math
import operator
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

import nbgather
from nbgather import _validate, masking
from nbgather.backends import parallel
from nbgather.dask._gather import known, start_of

logger = logging.getLogger(__name__)


def token_noise(seed: int, sample_ids: Any, num_tokens: int, *, epoch: int = 0) -> Any:
    """Noise for chunked sample ids; :func:`nbgather.token_noise`.

    Parameters
    ----------
    seed, num_tokens, epoch
        As in :func:`nbgather.token_noise`.
    sample_ids : dask.array.Array of int64, shape [N]
        The samples' ids, in any chunks.

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
    if not isinstance(sample_ids, da.Array):
        raise TypeError(
            f"sample_ids is of type {type(sample_ids).__name__}: a Dask array is needed"
        )
    _validate.sample_ids(tuple(sample_ids.shape), str(sample_ids.dtype))
    return sample_ids.map_blocks(
        functools.partial(_noise, seed, tokens, at),
        dtype=np.float32, chunks=(sample_ids.chunks[0], (tokens,)), new_axis=1,
        meta=np.empty((0, 0), np.float32),
    )  # fmt: skip


def _noise(seed: int, tokens: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    with parallel.limit_threads(1):
        return np.asarray(nbgather.token_noise(seed, ids, tokens, epoch=epoch))


def random_masking(
    x: Any,
    mask_ratio: float = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: int | None = None,
) -> masking.MaskedTokens:
    """Mask chunked tokens; :func:`nbgather.random_masking`.

    The bits depend on the seed, the epoch and the samples' ids alone, not on chunks, scheduler or
    workers.

    Parameters
    ----------
    x : dask.array.Array, shape [N, L, ...]
        Chunked in any way over N; the other dimensions are brought into one chunk.
    mask_ratio, seed, epoch, num_keep
        As in :func:`nbgather.random_masking`, with one ``num_keep`` for all.
    noise : dask.array.Array, shape [N, L], optional
        Scores to rank by, instead of a seed.
    sample_ids : dask.array.Array or numpy.ndarray of int64, shape [N], optional
        By default the global positions along N.

    Returns
    -------
    MaskedTokens
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
    keep = _kept(x.shape[1], mask_ratio, num_keep)
    shapes = (keep, *x.shape[2:]), int(x.shape[1])
    return _masked(
        nbgather.random_masking, x, shapes, x.dtype, noise, seed, sample_ids, epoch, keep, {}
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
    num_keep: int | None = None,
    scale: float | None = None,
    mean: Any = None,
    std: Any = None,
) -> masking.MaskedTokens:
    """Cut only the kept patches out of chunked images; :func:`nbgather.masked_patchify`.

    Parameters
    ----------
    images : dask.array.Array, shape [N, C, H, W] or [N, C, T, H, W]
        Chunked in any way over N; the other dimensions are brought into one chunk.
    patch_size, mask_ratio, seed, epoch, num_keep, scale, mean, std
        As in :func:`nbgather.masked_patchify`, with one ``num_keep`` for all.
    noise, sample_ids
        As in :func:`random_masking`.

    Returns
    -------
    MaskedTokens
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
    grid = _validate.grid(tuple(images.shape[2:]), sizes)
    tokens, channels = math.prod(grid), int(images.shape[1])
    affine = _validate.affine(scale, mean, std, channels)
    if affine is not None:
        _validate.pixels(str(images.dtype))
    keep = _kept(tokens, mask_ratio, num_keep)
    shapes = (keep, math.prod(sizes) * channels), tokens
    options = {"patch_size": sizes, "scale": scale, "mean": mean, "std": std}
    dtype = images.dtype if affine is None else np.dtype(np.float32)
    return _masked(
        nbgather.masked_patchify,
        images,
        shapes,
        dtype,
        noise,
        seed,
        sample_ids,
        epoch,
        keep,
        options,
    )


def _kept(tokens: int, mask_ratio: float, num_keep: Any) -> int:
    if num_keep is not None and np.ndim(num_keep):
        raise ValueError("num_keep is a sequence: chunked arrays keep one number for all samples")
    return _validate.len_keep(int(tokens), mask_ratio, num_keep)


def _samples(array: Any, what: str, least: int) -> Any:
    """The array with all but its first dimension in one chunk."""
    if not isinstance(array, da.Array):
        raise TypeError(f"{what} is of type {type(array).__name__}: a Dask array is needed")
    if array.ndim < least:
        raise ValueError(f"{what} has shape {array.shape}: {least} dimensions or more are needed")
    for d in range(1, array.ndim):
        if not known(array.shape[d]):
            raise ValueError(
                f"chunk sizes of {what} along dimension {d} are unknown: call compute_chunk_sizes()"
            )
    if any(n != 1 for n in array.numblocks[1:]):
        logger.info("%s is rechunked: a sample's tokens are ranked together", what)
        array = array.rechunk(dict.fromkeys(range(1, array.ndim), -1))
    return array


def _masked(
    function: Any, x: Any, shapes: Any, dtype: Any, noise: Any, seed: Any, sample_ids: Any,
    epoch: int, keep: int, options: dict[str, Any],
) -> masking.MaskedTokens:  # fmt: skip
    """The graph of a masking: a task for each chunk of samples, and one for each of its results."""
    inner, tokens = shapes
    chunks = x.chunks[0]
    sizes_known = all(map(known, chunks))
    if noise is not None and seed is not None:
        raise ValueError("both noise and seed were given: give one of them")
    if sample_ids is not None and seed is None:
        raise ValueError("sample_ids was given without seed: it goes with seed")
    if noise is None and seed is None:
        raise ValueError("neither noise nor seed was given: a chunked masking needs one of them")
    if seed is not None:
        _validate.bits64(seed, "seed")
    extra, name = None, ""
    if noise is not None:
        if not isinstance(noise, da.Array):
            raise TypeError(f"noise is of type {type(noise).__name__}: a Dask array is needed")
        if sizes_known:
            _validate.noise(tuple(noise.shape), (x.shape[0], tokens), tuple(x.shape), "x")
        extra, name = noise.rechunk({1: -1}), "noise"
    elif sample_ids is not None:
        if not isinstance(sample_ids, da.Array):
            sample_ids = da.from_array(np.asarray(sample_ids), chunks=-1)
        if sizes_known:
            _validate.ids_of(tuple(sample_ids.shape), x.shape[0], "x")
        _validate.sample_ids(tuple(sample_ids.shape), str(sample_ids.dtype))
        extra, name = sample_ids, "sample_ids"
    elif not sizes_known:
        raise ValueError(
            "chunk sizes along N are unknown, so the samples have no positions: give sample_ids, or"
            " call compute_chunk_sizes() first"
        )
    if extra is not None:
        if sizes_known and extra.chunks[0] != chunks:
            extra = extra.rechunk({0: chunks})
        elif extra.numblocks[0] != len(chunks):
            raise ValueError(
                f"chunk sizes along N are unknown, and x has {len(chunks)} chunks there where"
                f" {name} has {extra.numblocks[0]}: call compute_chunk_sizes() first"
            )
    given = {**options, "seed": seed, "epoch": _validate.epoch(epoch), "num_keep": keep}
    if seed is None:
        del given["seed"], given["epoch"]
    token = tokenize(function.__name__, x, extra, given)
    whole = f"nbgather-{function.__name__}-{token}"
    rest = (0,) * (x.ndim - 1)
    graph: dict[Any, Any] = {}
    for n in range(len(chunks)):
        start = start_of(chunks, n)
        second = None if extra is None else (extra.name, n, *(0,) * (extra.ndim - 1))
        graph[(whole, n)] = (_mask_block, function, (x.name, n, *rest), second, name, start, given)
    made = []
    kinds = (
        ("x_masked", inner, np.dtype(dtype)),
        ("mask", (tokens,), np.dtype(np.float32)),
        ("ids_restore", (tokens,), np.dtype(np.int64)),
    )
    operands = [x] if extra is None else [x, extra]
    base = HighLevelGraph.from_collections(whole, graph, dependencies=operands)
    for k, (field, shape, kind) in enumerate(kinds):
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
    return masking.MaskedTokens(*made)


def _mask_block(
    function: Any, x: np.ndarray, extra: Any, name: str, start: int | None, given: dict[str, Any]
) -> tuple[np.ndarray, ...]:
    """Mask a chunk of samples on the calling thread."""
    given = dict(given)
    if name:
        given[name] = np.asarray(extra)
    elif start is not None:
        given["sample_ids"] = np.arange(start, start + len(x), dtype=np.int64)
    arguments = [np.asarray(x)]
    if "patch_size" in given:
        arguments.append(given.pop("patch_size"))
    with parallel.limit_threads(1):
        return tuple(function(*arguments, **given))
