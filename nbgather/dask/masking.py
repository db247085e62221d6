"""Masking of chunked samples: the bits depend on the samples' ids, not on the chunks."""

from __future__ import annotations

import math
from typing import Any

from nbgather.containers.dask import masking_graph, sides
from nbgather.operations import checks
from nbgather.operations.patches import MaskedPatchify, affine, image_grid
from nbgather.operations.patches import patch_size as sizes_of
from nbgather.operations.tokens import RandomMasking
from nbgather.operations.tokens import token_noise as token_noise_operation
from nbgather.results import MaskedTokens, PaddedTokens


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
    return masking_graph.by_id(token_noise_operation(seed, epoch, num_tokens), sample_ids)


def random_masking(
    x: Any,
    mask_ratio: float = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any = None,
) -> MaskedTokens | PaddedTokens:
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
    >>> masked = random_masking(x, 0.75, seed=1)
    >>> masked.x_masked.shape, masked.mask.compute()[0].tolist()
    ((4, 2, 2), [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    """
    x = sides.samples(x, "x", 2)
    operation = RandomMasking(
        masking_graph.keep(x.shape[0], int(x.shape[1]), mask_ratio, num_keep),
        None if seed is None else checks.bits64(seed, "seed"),
        checks.epoch(epoch),
    )
    return _named(operation, masking_graph.build(operation, x, noise, sample_ids))


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
) -> MaskedTokens | PaddedTokens:
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
    >>> masked = masked_patchify(images, 8, 0.75, seed=0, scale=1 / 255)
    >>> masked.x_masked.shape, masked.x_masked.chunks[0], masked.x_masked.dtype
    ((4, 4, 192), (2, 2), dtype('float32'))
    """
    images = sides.samples(images, "images", 4)
    sizes = sizes_of(patch_size, tuple(images.shape))
    length = math.prod(image_grid(tuple(images.shape), sizes))
    operation = MaskedPatchify(
        masking_graph.keep(images.shape[0], length, mask_ratio, num_keep),
        None if seed is None else checks.bits64(seed, "seed"),
        checks.epoch(epoch),
        sizes,
        affine(scale, mean, std, int(images.shape[1])),
    )
    return _named(operation, masking_graph.build(operation, images, noise, sample_ids))


def _named(operation: RandomMasking, results: Any) -> MaskedTokens | PaddedTokens:
    """The results of a masking by name."""
    kind = MaskedTokens if operation.keep.counts is None else PaddedTokens
    return kind(*results)
