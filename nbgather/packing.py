"""Images of different sizes in one batch, and batches of a bounded number of tokens (NaViT).

Dehghani et al., Patch n' Pack: NaViT, arXiv 2307.06304.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from nbgather import dispatch
from nbgather.operations import checks
from nbgather.operations.keep import Keep, keep_of
from nbgather.operations.packing import MAX_PACKED, ends
from nbgather.operations.patches import CutPatches, image_grid
from nbgather.operations.patches import patch_size as sizes_of
from nbgather.operations.tokens import RankTokens, one_source, token_noise
from nbgather.results import PackedImages

__all__ = ["PackedImages", "token_batches"]


def token_batches(counts: Iterable[int], budget: int) -> Iterator[list[int]]:
    """Cut a stream of samples into batches whose tokens do not exceed a budget.

    Samples stay in their order; each batch takes as many as fit.

    Parameters
    ----------
    counts : iterable of int
        How many tokens each sample has, or keeps.
    budget : int
        The largest number of tokens of a batch.

    Yields
    ------
    list of int
        The positions in ``counts`` of the samples of a batch.

    Raises
    ------
    TypeError, ValueError
        A number that is not whole or below 0; a sample of more tokens than the budget.

    Examples
    --------
    >>> from nbgather.packing import token_batches
    >>> list(token_batches([49, 20, 30, 64, 10], 100))
    [[0, 1, 2], [3, 4]]
    """
    limit = checks.count(budget, "budget")
    batch: list[int] = []
    held = 0
    for n, value in enumerate(counts):
        count = checks.count(value, f"counts[{n}]")
        if count > limit:
            raise ValueError(
                f"counts[{n}] is {count}: a batch holds at most budget = {limit} tokens"
            )
        if held + count > limit:
            yield batch
            batch, held = [], 0
        batch.append(n)
        held += count
    if batch:
        yield batch


def mask_images(
    images: Sequence[Any],
    patch_size: int | Sequence[int],
    mask_ratio: Any,
    *,
    noise: Any,
    seed: int | None,
    sample_ids: Any,
    epoch: int,
    num_keep: Any,
    numbers: Any,
    backend: str | None,
) -> PackedImages:
    """:func:`nbgather.masked_patchify` of images of different sizes, channels first.

    ``numbers`` gives what pixels are normalised by, for a number of channels.
    """
    samples = len(images)
    if not samples:
        raise ValueError("images is an empty list: at least one image is needed")
    one_source(noise, seed, sample_ids)
    first = dispatch.container_of(images[0], "images[0]")
    if first.name == "Dask":
        raise TypeError("images are Dask arrays: those of different sizes must be in memory")
    shapes = [(1, *dispatch.shape_of(image, f"images[{n}]")) for n, image in enumerate(images)]
    for n in range(1, samples):
        _alike(images, n)
    sizes = [_named(n, sizes_of, patch_size, shape) for n, shape in enumerate(shapes)]
    grids = [
        _named(n, image_grid, shape, size) for n, (shape, size) in enumerate(zip(shapes, sizes))
    ]
    lengths = [prod(grid) for grid in grids]
    counts = _counts(lengths, mask_ratio, num_keep)
    if sum(lengths) > MAX_PACKED:
        raise ValueError(f"the images have {sum(lengths)} patches together: at most {MAX_PACKED}")
    ids = _ids(sample_ids, samples)
    if noise is None and seed is None:
        seed = first.draw_seed()
    if noise is not None and len(noise) != samples:
        raise ValueError(f"noise has {len(noise)} items: one for each of the {samples} images")
    affines = [numbers(shape[1]) for shape in shapes]

    ranked: list[Any] = [None] * samples
    for length in sorted(set(lengths)):
        chosen = [n for n in range(samples) if lengths[n] == length]
        keep = Keep(counts=tuple(counts[n] for n in chosen))
        if noise is None:
            mine = np.array([ids[n] for n in chosen], np.int64)
            scores = dispatch.execute(token_noise(seed, epoch, length), mine)
            scores = first.from_numpy(scores, images[0])
            each = dispatch.execute(RankTokens(keep), scores, backend=backend)
            for k, n in enumerate(chosen):
                ranked[n] = tuple(part[k : k + 1] for part in each)
            continue
        for n in chosen:
            what = f"noise[{n}]"
            scores = dispatch.beside(images[n], f"images[{n}]", noise[n], what)
            if tuple(scores.shape) != (length,):
                raise ValueError(f"{what} has shape {tuple(scores.shape)}: ({length},) is needed")
            one = RankTokens(Keep(number=counts[n]))
            ranked[n] = dispatch.execute(one, scores[None], backend=backend)
    rows = []
    for n, image in enumerate(images):
        kept = ranked[n][0][:, : counts[n]]
        cut = CutPatches(sizes[n], affines[n])
        rows.append(dispatch.execute(cut, image[None], kept, ranked[n][1], backend=backend)[0])
        ranked[n] = (kept, *ranked[n][1:])
    xp = first.namespace(images[0])
    ids_keep, ids_restore, mask = (xp.concat([r[k][0] for r in ranked], axis=0) for k in range(3))
    cu_seqlens, cu_tokens = (
        first.from_numpy(np.array(ends(tuple(n)), np.int32), images[0]) for n in (counts, lengths)
    )
    return PackedImages(
        xp.concat(rows, axis=0), mask, ids_restore, cu_seqlens, max(counts), ids_keep, cu_tokens,
        tuple(grids),
    )  # fmt: skip


def _alike(images: Sequence[Any], n: int) -> None:
    """Whether an image can stand in one array with the first."""
    first, other = images[0], images[n]
    dispatch.require_same(
        dispatch.container_of(first, "images[0]"), first, "images[0]", other, f"images[{n}]"
    )
    if first.dtype != other.dtype:
        raise TypeError(
            f"images[{n}] has dtype {other.dtype} and images[0] {first.dtype}: one is needed"
        )
    if len(other.shape) != len(first.shape) or other.shape[0] != first.shape[0]:
        if len(other.shape) == len(first.shape):
            text = f"has {other.shape[0]} channels and images[0] {first.shape[0]}"
        else:
            text = f"has shape {tuple(other.shape)} and images[0] {tuple(first.shape)}"
        raise ValueError(f"images[{n}] {text}: patches of one width are needed")


def _named(n: int, function: Any, *arguments: Any) -> Any:
    """A function of an image, whose ValueError names it."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"images[{n}]: {error}") from None


def _counts(lengths: list[int], mask_ratio: Any, num_keep: Any) -> list[int]:
    """How many patches of each image stay."""
    samples = len(lengths)
    many = mask_ratio if num_keep is None else dispatch.host_counts(num_keep, "num_keep")
    each = many if np.ndim(many) else [many] * samples
    if len(each) != samples:
        what = "mask_ratio" if num_keep is None else "num_keep"
        raise ValueError(
            f"{what} has shape {np.shape(many)}: a number for each of the {samples} images is"
            " needed, or one for all"
        )
    numbers = [(v, None) if num_keep is None else (None, v) for v in each]
    keeps = [
        _named(n, keep_of, *pair, 1, length)
        for n, (pair, length) in enumerate(zip(numbers, lengths))
    ]
    return [keep.of(length) for keep, length in zip(keeps, lengths)]


def _ids(sample_ids: Any, samples: int) -> Any:
    """Sample ids on the host."""
    if sample_ids is None:
        return range(samples)
    ids = dispatch.ids_beside(sample_ids, samples, "images")
    if ids is None:
        return range(samples)
    values = dispatch.host_counts(ids, "sample_ids")
    values = np.asarray(values)
    checks.sample_ids(values.shape, values.dtype.name)
    if len(values) != samples:
        raise ValueError(
            f"sample_ids has shape {values.shape}: one id for each of the {samples} images is"
            " needed"
        )
    return values.astype(np.int64)
