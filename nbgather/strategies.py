"""Masking strategies: each scores the tokens of a grid, and ranking does the rest.

A strategy gives scores `[N, L]` that depend on (seed, epoch, sample id) alone; of these the lowest
stay. So every strategy runs wherever :func:`nbgather.random_masking` takes noise, on every backend
and in the ONNX models, and meets every count exactly::

    scores = nbgather.strategies.block(seed, sample_ids, (14, 14), epoch=epoch)
    x_masked, mask, ids_restore = nbgather.random_masking(x, 0.6, noise=scores)

``grid`` is the number of tokens along each side, as :func:`nbgather.patchify` orders them: `(H, W)`
for images, `(T, H, W)` for video, `(time, frequency)` for spectrograms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import prod
from types import NoneType
from typing import Any

from nbgather import dispatch
from nbgather.blockwise import multiblock, stripes
from nbgather.blockwise import multiblock_ids as multiblock_ids
from nbgather.blockwise import strategy as strategy
from nbgather.masking import token_noise
from nbgather.operations import checks, scores
from nbgather.operations.scores import Order

__all__ = ["block", "grid", "multiblock", "random", "stripes", "time_frequency", "tube"]


def random(
    seed: int,
    sample_ids: Any,
    grid: Sequence[int],
    *,
    epoch: int = 0,
    backend: str | None = None,
) -> Any:
    """Every token alike: the noise of :func:`nbgather.token_noise`.

    Parameters
    ----------
    seed : int
        64 bits, signed or unsigned.
    sample_ids : array of int64, shape [N], or int
        The samples' ids in the dataset; an int N stands for 0 to N-1.
    grid : sequence of int
        Tokens along each side; their product is L.
    epoch : int
        0 to 2**32 - 1.
    backend : str, optional
        A name from :func:`nbgather.backends.available`.

    Returns
    -------
    array of float32, shape [N, L]
        Of the container of ``sample_ids``, NumPy for an int.

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind.

    Examples
    --------
    >>> from nbgather import strategies
    >>> strategies.random(0, 1, (2, 2)).tolist()
    [[0.3990464210510254, 0.8805201649665833, 0.7357127666473389, 0.6054818034172058]]
    """
    tokens = _kept(sample_ids, _num_tokens, grid)
    return token_noise(seed, sample_ids, tokens, epoch=epoch, backend=backend)


def grid(
    seed: int,
    sample_ids: Any,
    grid: Sequence[int],
    *,
    stride: int = 2,
    epoch: int = 0,
    backend: str | None = None,
) -> Any:
    """A regular lattice stays: one token of every ``stride`` along each axis.

    On images and with stride 2 that is one of every 2 x 2, the paper's grid-wise sampling for a
    ratio of 0.75. Where the lattice begins is drawn for each sample, so every token is as likely
    to be on it. Where another count is asked for than the lattice has, tokens are taken from it, or
    added, at random.

    Parameters
    ----------
    seed, sample_ids, grid, epoch, backend
        As in :func:`random`.
    stride : int
        1 or more.

    Returns
    -------
    array of float32, shape [N, L]
        Each token's place in the order, 0 to L-1; the lowest stay.

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind.

    Notes
    -----
    Source: He et al., arXiv 2111.06377, figure 6 and table 1f.

    Examples
    --------
    >>> import nbgather
    >>> scores = nbgather.strategies.grid(0, 1, (4, 6))
    >>> (scores.reshape(4, 6) < 6).astype(int).tolist()
    [[0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1]]
    """
    return _ordered(_kept(sample_ids, _lattice, grid, stride), seed, sample_ids, epoch, backend)


def block(
    seed: int,
    sample_ids: Any,
    grid: Sequence[int],
    *,
    min_area: int | None = None,
    max_area: int | None = None,
    min_aspect: float = 0.3,
    wrap: bool = False,
    epoch: int = 0,
    backend: str | None = None,
) -> Any:
    r"""Whole rectangles go, as in BEiT.

    Rectangles are drawn one after the other: an area, evenly between the bounds, an aspect ratio,
    evenly on a logarithmic scale, and a place inside the grid, evenly, the last row and column
    included. A token goes with the first rectangle that covers it, those of the first rectangle
    before those of the second, until the count is met exactly: of the rectangle that is in the way
    of it a part goes, from one side. (BEiT makes the last rectangles smaller instead, and may miss
    its count.)

    Rectangles inside the grid cover its corners less often than its middle. With ``wrap`` they
    leave on one side and come in on the other, and every token is as likely to go.

    Parameters
    ----------
    seed, sample_ids, grid, epoch, backend
        As in :func:`random`. A grid of one axis has spans for rectangles; one of three or four has
        boxes, whose extent along each leading axis is drawn evenly. For the same rectangle in all
        frames use :func:`tube`.
    min_area, max_area : int, optional
        Tokens, between 1 and those of the last two axes. By default 8 % of them (BEiT's 16 of 196)
        and 40 %.
    min_aspect : float
        Height to width is between this and its inverse; between 0 and 1.
    wrap : bool
        Whether rectangles go on at the other side.

    Returns
    -------
    array of float32, shape [N, L]
        Each token's place in the order, 0 to L-1; the lowest stay.

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind; more than 4 axes, 2**20 tokens, or 65,536
        along an axis.

    Notes
    -----
    Source: Bao et al., BEiT, arXiv 2106.08254, algorithm 1.

    Examples
    --------
    >>> import nbgather
    >>> scores = nbgather.strategies.block(1, 1, (6, 8))
    >>> mask = nbgather.rank_tokens(scores, 30).mask.reshape(6, 8)
    >>> print("\n".join("".join("-#"[int(m)] for m in row) for row in mask))
    --------
    -####---
    -####---
    -######-
    -####---
    --------
    """
    order = _kept(sample_ids, _boxes, grid, min_area, max_area, min_aspect, wrap)
    return _ordered(order, seed, sample_ids, epoch, backend)


def time_frequency(
    seed: int,
    sample_ids: Any,
    grid: Sequence[int],
    *,
    axes: Sequence[int] | None = None,
    epoch: int = 0,
    backend: str | None = None,
) -> Any:
    r"""Whole rows and columns go, as in Audio-MAE.

    The lines across the grid (on a spectrogram: instants and bands) go one by one in a random
    order until the count is met exactly; of the last one a part goes. Every token is as likely to
    go as any other.

    Parameters
    ----------
    seed, sample_ids, grid, epoch, backend
        As in :func:`random`.
    axes : sequence of int, optional
        Whose lines go, all by default: on a grid `(time, frequency)`, ``(0,)`` removes whole
        instants only and ``(1,)`` whole bands only.

    Returns
    -------
    array of float32, shape [N, L]
        Each token's place in the order, 0 to L-1; the lowest stay.

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind.

    Notes
    -----
    Source: Huang et al., Masked Autoencoders that Listen, arXiv 2207.06405, section 3.

    Examples
    --------
    >>> import nbgather
    >>> scores = nbgather.strategies.time_frequency(0, 1, (4, 6))
    >>> mask = nbgather.rank_tokens(scores, 12).mask.reshape(4, 6)
    >>> print("\n".join("".join("-#"[int(m)] for m in row) for row in mask))
    --##--
    ######
    --##--
    --##--
    """
    return _ordered(_kept(sample_ids, _lines, grid, axes), seed, sample_ids, epoch, backend)


def tube(
    seed: int,
    sample_ids: Any,
    grid: Sequence[int],
    *,
    spatial: Callable[..., Any] | None = None,
    epoch: int = 0,
    backend: str | None = None,
) -> Any:
    """One mask over all frames, as in VideoMAE.

    Parameters
    ----------
    seed, sample_ids, epoch, backend
        As in :func:`random`.
    grid : sequence of int
        Tokens along each side, frames first: `(T, H, W)`.
    spatial : callable, optional
        The strategy within a frame, called with the grid without its first side: :func:`random` by
        default; another one, or ``functools.partial(block, wrap=True)``.

    Returns
    -------
    array of float32, shape [N, L]
        The frame's scores, the same in all T frames. The mask is the same in all of them when the
        number of tokens kept is a multiple of T; else one place stays in the first frames only.
        VideoMAE's count is ``num_keep=T * (H * W - int(mask_ratio * H * W))``.

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind.

    Notes
    -----
    Source: Tong et al., VideoMAE, arXiv 2203.12602, section 3.3.

    Examples
    --------
    >>> import nbgather
    >>> scores = nbgather.strategies.tube(0, 1, (3, 2, 2))
    >>> nbgather.rank_tokens(scores, 3).mask.reshape(3, 4).tolist()
    [[0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]]
    """
    sizes = _kept(sample_ids, _frames, grid)
    if spatial is None and backend is None:
        result = dispatch.recall_draw((scores.Tube, sizes), sample_ids, seed, epoch)
        if result is not None:
            return result
    checks.bits64(seed, "seed")
    operation = scores.Tube(spatial, sizes, seed, checks.epoch(epoch), backend)
    return dispatch.execute(operation, dispatch.array_of_ids(sample_ids), backend=backend)


_PLAIN = frozenset((int, float, bool, NoneType))


def _kept(sample_ids: Any, check: Callable[..., Any], grid: Any, *options: Any) -> Any:
    """What a check of a grid and options gives, which is kept for plain ones outside of traces."""
    if (
        (type(grid) is tuple or type(grid) is list)
        and (type(sample_ids) is int or dispatch.may_repeat(sample_ids))
        and _PLAIN.issuperset(map(type, (*grid, *options)))
    ):
        return _checked(check, len(grid), *grid, *options)
    return check(grid, *options)


@functools.lru_cache(maxsize=256, typed=True)
def _checked(check: Callable[..., Any], ndim: int, *values: Any) -> Any:
    return check(values[:ndim], *values[ndim:])


def _num_tokens(grid: Any) -> int:
    return prod(scores.token_grid(grid))


def _lattice(grid: Any, stride: Any) -> Order:
    step = scores.stride(stride)
    return Order("grid", scores.token_grid(grid), (step, 0, 0))


def _boxes(grid: Any, min_area: Any, max_area: Any, min_aspect: Any, wrap: Any) -> Order:
    sizes = scores.block_grid(grid)
    least, most = scores.areas(min_area, max_area, prod(sizes[-2:]))
    aspect = scores.aspect(min_aspect)
    return Order("block", sizes, (least, most, int(bool(wrap))), aspect)


def _lines(grid: Any, axes: Any) -> Order:
    sizes = scores.token_grid(grid)
    chosen = scores.axes(axes, len(sizes))
    return Order("lines", sizes, (sum(1 << d for d in chosen), 0, 0))


def _frames(grid: Any) -> tuple[int, ...]:
    sizes = scores.token_grid(grid)
    if len(sizes) < 2:
        raise ValueError(f"grid is {grid}: frames first and at least one more side are needed")
    return sizes


def _ordered(order: Order, seed: int, sample_ids: Any, epoch: int, backend: str | None) -> Any:
    """The scores of a strategy that the kernels know."""
    if backend is None:
        result = dispatch.recall_draw(order, sample_ids, seed, epoch)
        if result is not None:
            return result
    key = checks.bits64(seed, "seed")
    operation = scores.Score(*order[:3], key, checks.epoch(epoch), order.min_aspect)
    return dispatch.execute(operation, dispatch.array_of_ids(sample_ids), backend=backend)
