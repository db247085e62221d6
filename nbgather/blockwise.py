"""Strategies made of what is there: several blocks, stripes, and a function of your own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from nbgather import dispatch
from nbgather.operations import blocks, checks, keep, scores
from nbgather.results import BlockIds, PackedBlockIds

__all__ = ["BlockIds", "PackedBlockIds", "multiblock", "multiblock_ids", "strategy", "stripes"]


def multiblock(
    seed: int,
    sample_ids: Any,
    grid: Sequence[int],
    *,
    targets: int = 4,
    target_scale: tuple[float, float] = (0.15, 0.2),
    target_aspect: tuple[float, float] = (0.75, 1.5),
    context_scale: tuple[float, float] = (0.85, 1.0),
    context_aspect: tuple[float, float] = (1.0, 1.0),
    min_keep: int = 4,
    overlap: bool = False,
    epoch: int = 0,
    backend: str | None = None,
) -> Any:
    r"""A large block stays but for some smaller ones in it, as in I-JEPA.

    The targets may overlap; the context is a block of its own without the tokens of the targets.
    Every block of every sample has a size and a place of its own, where the published code draws
    one size for all blocks of a batch, and crops the batch to the least.

    Parameters
    ----------
    seed, sample_ids, epoch, backend
        As in :func:`nbgather.strategies.random`.
    grid : sequence of int
        `(H, W)`, or `(T, H, W)`, where blocks go through all frames.
    targets : int
        M, 1 to 256.
    target_scale, context_scale : pair of float
        The least and largest part of the frame that a block covers.
    target_aspect, context_aspect : pair of float
        The least and largest of its height to its width.
    min_keep : int
        Tokens that a context has at the least: where fewer would be left, the last targets are not
        taken out of it, as few as need be.
    overlap : bool
        Whether a context may have the targets' tokens.

    Returns
    -------
    array of float32, shape [N, L]
        Below 0 in the context, from 1 on in targets outside of it, the noise elsewhere.

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind.

    See Also
    --------
    multiblock_ids : the same blocks as lists of ids, for a predictor and an encoder.

    Notes
    -----
    Source: Assran et al., I-JEPA, arXiv 2301.08243, section 3. A block covers whole tokens: its
    area is drawn, evenly, in tokens, its aspect ratio evenly in parts of 256, and of these two its
    sides are the nearest whole ones, as in the published code.

    Examples
    --------
    >>> import nbgather
    >>> scores = nbgather.strategies.multiblock(1, 1, (6, 8), targets=2)
    >>> gone = (scores >= 0).reshape(6, 8)
    >>> print("\n".join("".join("-#"[int(g)] for g in row) for row in gone))
    ##-----#
    ##-----#
    ##-----#
    -###---#
    -###---#
    -------#
    """
    ids = dispatch.array_of_ids(sample_ids)
    made = _blocks(
        grid, targets, (target_scale, target_aspect), (context_scale, context_aspect),
        min_keep, overlap,
    )  # fmt: skip
    operation = blocks.MultiBlock(made, checks.bits64(seed, "seed"), checks.epoch(epoch))
    return dispatch.execute(operation, ids, backend=backend)


def multiblock_ids(
    seed: int,
    sample_ids: Any,
    grid: Sequence[int],
    *,
    targets: int = 4,
    target_scale: tuple[float, float] = (0.15, 0.2),
    target_aspect: tuple[float, float] = (0.75, 1.5),
    context_scale: tuple[float, float] = (0.85, 1.0),
    context_aspect: tuple[float, float] = (1.0, 1.0),
    min_keep: int = 4,
    overlap: bool = False,
    packed: bool = False,
    epoch: int = 0,
    backend: str | None = None,
) -> BlockIds | PackedBlockIds:
    """The blocks of :func:`multiblock` as ids of tokens: what encoder and predictor take.

    Parameters
    ----------
    seed, sample_ids, grid, targets, target_scale, target_aspect, context_scale, context_aspect
        As in :func:`multiblock`.
    min_keep, overlap, epoch, backend
        As in :func:`multiblock`.
    packed : bool
        Give the ids one after the other instead of padded ones. How many there are depends on
        values, so no library can trace it.

    Returns
    -------
    BlockIds or PackedBlockIds
        Of the container of ``sample_ids``, NumPy for an int.

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind.

    Examples
    --------
    >>> from nbgather import strategies
    >>> ids = strategies.multiblock_ids(1, 2, (6, 8), targets=2)
    >>> ids.encoder.shape, ids.predictor.shape, ids.predictor_counts.tolist()
    ((2, 48), (2, 2, 12), [[6, 6], [6, 9]])
    >>> packed = strategies.multiblock_ids(1, 2, (6, 8), targets=2, packed=True)
    >>> packed.predictor.shape, packed.predictor_cu_seqlens.tolist()
    ((27,), [0, 6, 12, 18, 27])
    """
    ids = dispatch.array_of_ids(sample_ids)
    made = _blocks(
        grid, targets, (target_scale, target_aspect), (context_scale, context_aspect),
        min_keep, overlap,
    )  # fmt: skip
    operation = blocks.MultiBlockIds(made, checks.bits64(seed, "seed"), checks.epoch(epoch))
    checks.flag(packed, "packed")
    found = BlockIds(*dispatch.execute(operation, ids, backend=backend))
    if not packed:
        return found
    encoder, encoder_ends = dispatch.packed_rows(found.encoder, found.encoder_counts)
    predictor, ends = dispatch.packed_rows(found.predictor, found.predictor_counts)
    return PackedBlockIds(encoder, predictor, encoder_ends, ends)


def _blocks(
    grid: Any, targets: Any, target: Any, context: Any, min_keep: Any, overlap: Any
) -> blocks.Blocks:
    sizes, found = blocks.frame_of(grid), []
    for what, (scale, aspect) in (("target", target), ("context", context)):
        parts = blocks.bounds(scale, f"{what}_scale", 1.0)
        ratios = blocks.bounds(aspect, f"{what}_aspect")
        found.append(blocks.block_sizes(what, sizes[-2:], parts, ratios))
    return blocks.checked_blocks(sizes, targets, found[0], found[1], min_keep, overlap)


def stripes(
    seed: int,
    sample_ids: Any,
    grid: Sequence[int],
    *,
    ratios: Sequence[float] = (0.7, 0.3),
    epoch: int = 0,
    backend: str | None = None,
) -> Any:
    r"""A part of the lines across each axis goes, as in Audio-MAE's fine-tuning.

    On a grid `(time, frequency)` and with ``ratios=(0.7, 0.3)`` 70 % of the instants go and 30 % of
    the bands. What is on no such line stays: ``prod(int(n * (1 - r)))`` tokens over sides n and
    ratios r, which is the ``num_keep`` that removes the stripes and nothing else. For stripes until
    a count is met see :func:`nbgather.strategies.time_frequency`.

    Parameters
    ----------
    seed, sample_ids, grid, epoch, backend
        As in :func:`nbgather.strategies.random`.
    ratios : sequence of float
        For each axis the part of its lines that goes, 0 to 1.

    Returns
    -------
    array of float32, shape [N, L]
        Below 0 off the lines that go, their noise less 1; the noise on them.

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind.

    Notes
    -----
    Source: Huang et al., Masked Autoencoders that Listen, arXiv 2207.06405, section 3 and its code.

    Examples
    --------
    >>> import nbgather
    >>> scores = nbgather.strategies.stripes(0, 1, (4, 6), ratios=(0.5, 0.5))
    >>> mask = nbgather.rank_tokens(scores, 2 * 3).mask.reshape(4, 6)
    >>> print("\n".join("".join("-#"[int(m)] for m in row) for row in mask))
    #-#--#
    ######
    ######
    #-#--#
    """
    sizes = scores.token_grid(grid)
    try:
        parts = tuple(keep.ratio(r, f"ratios[{d}]") for d, r in enumerate(ratios))
    except TypeError as error:
        if "ratios[" in str(error):
            raise
        raise TypeError(f"ratios is {ratios!r}: a number for each axis is needed") from None
    if len(parts) != len(sizes):
        raise ValueError(f"ratios is {ratios!r}: one for each of the {len(sizes)} axes is needed")
    kept = tuple(keep.kept_tokens(n, r) for n, r in zip(sizes, parts, strict=True))
    key = checks.bits64(seed, "seed")
    operation = scores.Stripes(sizes, kept, key, checks.epoch(epoch))
    return dispatch.execute(operation, dispatch.array_of_ids(sample_ids), backend=backend)


def strategy(function: Callable[..., Any] | None = None, *, draws: int = 0) -> Callable[..., Any]:
    """Make a strategy of a function of noise: a decorator.

    Parameters
    ----------
    function : callable
        Called as ``function(noise, drawn, grid, **options)`` with the noise of the tokens `[N, L]`
        and more numbers in [0, 1), `[N, draws]`, both of the library of the sample ids, and new: it
        may write to them. (Of arrays on a GPU that cannot compute, such as numba's, they are
        NumPy's, and the scores are copied to the GPU.) It gives scores `[N, L]`, of which the
        lowest stay. What it does to a sample must depend on that sample's numbers alone.
    draws : int
        How many numbers more it is given for each sample.

    Returns
    -------
    callable
        Called as :func:`nbgather.strategies.random` is, and with the function's own options. It is
        taken wherever a strategy is.

    Raises
    ------
    TypeError, ValueError
        A function that is none, ``draws`` out of range; and when it is called scores of another
        shape.

    Examples
    --------
    >>> import nbgather
    >>> from nbgather.strategies import strategy
    >>> @strategy(draws=1)
    ... def halves(noise, drawn, grid):
    ...     half, left = noise.shape[1] // 2, drawn[:, 0] < 0.5
    ...     noise[left, :half] -= 1
    ...     noise[~left, half:] -= 1
    ...     return noise
    >>> (halves(2, 3, (2, 4)) < 0).astype(int).tolist()
    [[0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]
    """
    number = checks.count(draws, "draws")
    if function is None:
        return functools.partial(strategy, draws=number)
    if not callable(function):
        raise TypeError(f"a {type(function).__name__} came for a strategy: a function is needed")
    chosen = function

    @functools.wraps(chosen)
    def own(
        seed: int,
        sample_ids: Any,
        grid: Sequence[int],
        *,
        epoch: int = 0,
        backend: str | None = None,
        **options: Any,
    ) -> Any:
        sizes, key = scores.token_grid(grid), checks.bits64(seed, "seed")
        operation = scores.OwnScores(
            chosen, number, sizes, key, checks.epoch(epoch), tuple(sorted(options.items()))
        )
        return dispatch.execute(operation, dispatch.array_of_ids(sample_ids), backend=backend)

    own.__wrapped__ = chosen
    return own
