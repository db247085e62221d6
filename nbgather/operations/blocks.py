"""Several blocks in a grid of tokens: what a predictor predicts, and the context it is given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from nbgather.operations import checks
from nbgather.operations.base import INT64, Apply, Operation, Spec, device_of, fresh
from nbgather.operations.keep import Keep
from nbgather.operations.scores import ScoresOfIds, token_grid
from nbgather.operations.tokens import RankTokens, TokenNoise

#: Aspect ratios are whole numbers of these parts, and between these.
ASPECT_PARTS, MAX_ASPECT = 256, 16
#: Numbers that a block is drawn by: area, aspect ratio, row, column.
DRAWS = 4
#: Tokens of a frame, so that 32 bits hold four times an area times an aspect ratio.
MAX_FRAME = 2**16
#: Targets of a sample.
MAX_TARGETS = 256


class Sizes(NamedTuple):
    """The least and largest area of a block, in tokens of a frame, and aspect ratio, in parts."""

    least: int
    most: int
    low: int
    high: int


@dataclass(frozen=True)
class Blocks:
    """How blocks are drawn on a grid of `(H, W)` or `(T, H, W)`; they go through all frames.

    Each target and the context have a size of their own. A context is without the tokens of the
    targets, unless ``overlap``; where fewer than ``min_keep`` would be left, without those of the
    first targets only, as many as leave enough.
    """

    grid: tuple[int, ...]
    targets: int
    target: Sizes
    context: Sizes
    min_keep: int
    overlap: bool

    @property
    def frame(self) -> tuple[int, int]:
        """H and W."""
        return self.grid[-2], self.grid[-1]

    @property
    def frames(self) -> int:
        """T."""
        return math.prod(self.grid[:-2])

    @property
    def numbers(self) -> tuple[int, ...]:
        """All of it as whole numbers: H, W, T, targets, their sizes and a context's, the rest."""
        sizes = *self.frame, self.frames, self.targets, *self.target, *self.context
        return (*sizes, self.min_keep, int(self.overlap))

    def most(self, sizes: Sizes) -> int:
        """How many tokens a block has at the most, or a few more: its sides are rounded."""
        ends = (aspect / ASPECT_PARTS for aspect in (sizes.low, sizes.high))
        around = max(math.sqrt(sizes.most * r) + math.sqrt(sizes.most / r) for r in ends)
        bound = int(sizes.most + around / 2 + 0.25 + 1e-6)
        return self.frames * min(bound, math.prod(self.frame))

    def least(self, sizes: Sizes) -> int:
        """How many tokens a block has at the least."""
        aspects = range(sizes.low, sizes.high + 1)
        return self.frames * min(math.prod(self.sides(sizes.least, aspect)) for aspect in aspects)

    def sides(self, area: int, aspect: int) -> tuple[int, int]:
        """Height and width of a block: of sides with this area and aspect the nearest whole ones.

        They are cut to the frame, and half a token counts as one.
        """
        four = 4 * area * aspect // ASPECT_PARTS, 4 * area * ASPECT_PARTS // aspect
        return tuple(  # type: ignore[return-value]
            max(1, min(side, (int(math.sqrt(n)) + 1) // 2)) for side, n in zip(self.frame, four)
        )

    def place(self, do: Apply, drawn: Any, sizes: Sizes) -> Any:
        """Which tokens of a frame each block covers, by `DRAWS` numbers: bool `[N, B, H, W]`."""
        xp, device = do.xp, device_of(drawn)
        area = sizes.least + below(xp, drawn[..., 0], sizes.most - sizes.least + 1)
        aspect = sizes.low + below(xp, drawn[..., 1], sizes.high - sizes.low + 1)
        # The whole number nearest to a root is that of the odd numbers whose square is not above
        # four times what is under it.
        heights = 4 * area * aspect, ASPECT_PARTS * xp.ones_like(area)
        widths = 4 * ASPECT_PARTS * area, aspect
        spans = []
        for (square, parts), side, number in zip((heights, widths), self.frame, (2, 3)):
            odd = 2 * xp.arange(1, side, dtype=area.dtype, device=device) + 1
            reached = odd * odd * parts[..., None] <= square[..., None]
            length = 1 + xp.sum(xp.astype(reached, area.dtype), axis=-1)
            length = xp.astype(length, area.dtype)
            first = below(xp, drawn[..., number], side - length + 1)[..., None]
            at = xp.arange(side, dtype=area.dtype, device=device)
            spans.append((at >= first) & (at < first + length[..., None]))
        return spans[0][..., :, None] & spans[1][..., None, :]

    def masks(self, do: Apply, noise: Any) -> tuple[Any, Any]:
        """The targets, bool `[N, M, L]`, and the context, bool `[N, L]`, of drawn numbers."""
        xp, samples, tokens = do.xp, noise.shape[0], math.prod(self.frame)
        each = self.targets + 1
        drawn = xp.reshape(noise[:, -each * DRAWS :], (samples, each, DRAWS))
        targets = self.place(do, drawn[:, :-1], self.target)
        targets = xp.reshape(targets, (samples, self.targets, tokens))
        context = xp.reshape(self.place(do, drawn[:, -1:], self.context), (samples, tokens))
        if not self.overlap:
            # Without the first m targets, for every m.
            covered = xp.cumsum(xp.astype(targets, xp.int64), 1) > 0
            left = context[:, None] & ~covered
            enough = xp.sum(xp.astype(left, xp.int64), axis=2) * self.frames >= self.min_keep
            fits = xp.sum(xp.astype(enough, xp.int64), axis=1)[:, None, None]
            order = xp.arange(1, each, dtype=fits.dtype, device=device_of(noise))[None, :, None]
            context = context & ~xp.any((fits == order) & covered, axis=1)
        if self.frames > 1:
            targets = xp.tile(targets, (1, 1, self.frames))
            context = xp.tile(context, (1, self.frames))
        return targets, context


def below(xp: Any, drawn: Any, count: Any) -> Any:
    """A whole number below ``count`` by one in [0, 1): one rounded product, the same anywhere."""
    product = xp.floor(drawn * (count if isinstance(count, int) else xp.astype(count, drawn.dtype)))
    number = xp.astype(product, xp.int64)
    most = count - 1
    return xp.where(number > most, most, number)


def block_sizes(
    what: str, frame: tuple[int, ...], scale: tuple[float, float], aspect: tuple[float, float]
) -> Sizes:
    """The sizes of blocks by the least and largest part of a frame, and aspect ratio."""
    tokens = math.prod(frame)
    least = max(1, int(tokens * scale[0]))
    low, high = (round(a * ASPECT_PARTS) for a in aspect)
    if not low * MAX_ASPECT >= ASPECT_PARTS or not high <= MAX_ASPECT * ASPECT_PARTS:
        raise ValueError(
            f"{what}_aspect is {aspect}: ratios of 1 / {MAX_ASPECT} to {MAX_ASPECT} are possible"
        )
    return Sizes(least, max(least, int(tokens * scale[1])), low, high)


@dataclass(frozen=True)
class MultiBlock(ScoresOfIds, Operation):
    """The context's tokens first, those of the targets last: operand sample_ids `[N]`."""

    blocks: Blocks
    seed: int
    epoch: int

    @property
    def grid(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.blocks.grid

    def lower(self, do: Apply, *operands: Any) -> Any:
        noise = drawn(do, self, *operands)
        targets, context = self.blocks.masks(do, noise)
        own = noise[:, : self.num_tokens]
        # Below 0 and up to 1 every multiple of 2**-24 is exact; from 1 on some are rounded alike,
        # and of these the lower token comes first.
        rest = do.xp.where(do.xp.any(targets, axis=1), own + 1, own)
        return do.xp.where(context, own - 1, rest)


def drawn(do: Apply, operation: Any, ids: Any) -> Any:
    """Noise of the tokens, and behind it the numbers that blocks are drawn by."""
    count = operation.num_tokens + DRAWS * (operation.blocks.targets + 1)
    return do.run(TokenNoise(operation.seed, operation.epoch, count), ids)


@dataclass(frozen=True)
class MultiBlockIds(Operation):
    """The tokens of the context and the targets, in ascending order: operand sample_ids `[N]`.

    Results: ids int64 `[N, K]` and `[N, M, P]`, -1 behind those of a block, and how many there are,
    int64 `[N]` and `[N, M]`. K and P are no less than the largest that there can be.
    """

    blocks: Blocks
    seed: int
    epoch: int

    names: ClassVar[tuple[str, ...]] = ("sample_ids",)
    sides: ClassVar[tuple[int, ...]] = (0,)

    @property
    def num_tokens(self) -> int:
        """L."""
        return math.prod(self.blocks.grid)

    def result(self, ids: Spec) -> tuple[Spec, ...]:
        checks.sample_ids(ids.shape, ids.dtype.name)
        blocks, samples = self.blocks, ids.shape[0]
        shapes: list[tuple[Any, ...]] = [
            (samples, blocks.most(blocks.context)),
            (samples, blocks.targets, blocks.most(blocks.target)),
            (samples,),
            (samples, blocks.targets),
        ]
        return tuple(fresh(shape, INT64, ids) for shape in shapes)

    def lower(self, do: Apply, *operands: Any) -> Any:
        blocks, xp = self.blocks, do.xp
        targets, context = blocks.masks(do, drawn(do, self, *operands))
        samples, tokens = context.shape
        flat = xp.reshape(targets, (samples * blocks.targets, tokens))
        encoder, kept = _listed(do, context, blocks.most(blocks.context))
        predictor, each = _listed(do, flat, blocks.most(blocks.target))
        predictor = xp.reshape(predictor, (samples, blocks.targets, predictor.shape[1]))
        return encoder, predictor, kept, xp.reshape(each, (samples, blocks.targets))


def _listed(do: Apply, held: Any, most: int) -> tuple[Any, Any]:
    """What is held, bool `[N, L]`, as ids `[N, most]` with -1 behind them, and how many."""
    xp = do.xp
    count = xp.sum(xp.astype(held, xp.int64), axis=1)
    ids, _, _ = do.run(RankTokens(Keep(number=most)), xp.astype(~held, xp.float32))
    place = xp.arange(most, dtype=count.dtype, device=device_of(count))
    return xp.where(place < count[:, None], ids, -1), count


def frame_of(grid: Any) -> tuple[int, ...]:
    """The sides of a grid that blocks can be drawn on."""
    sizes = token_grid(grid)
    if len(sizes) not in (2, 3):
        raise ValueError(f"grid is {grid}: (H, W) or (T, H, W) is needed")
    if math.prod(sizes[-2:]) > MAX_FRAME:
        raise ValueError(f"grid is {grid}: a frame of at most {MAX_FRAME} tokens is needed")
    return sizes


def checked_blocks(
    grid: tuple[int, ...], targets: Any, target: Sizes, context: Sizes, min_keep: Any, overlap: Any
) -> Blocks:
    """What arguments of a call say."""
    number, enough = checks.integer(targets, "targets"), checks.count(min_keep, "min_keep")
    if not 1 <= number <= MAX_TARGETS:
        raise ValueError(f"targets is {number}: it must be between 1 and {MAX_TARGETS}")
    blocks = Blocks(grid, number, target, context, enough, checks.flag(overlap, "overlap"))
    least = blocks.least(context)
    if enough > least:
        raise ValueError(f"min_keep is {enough}: the smallest context has {least} tokens")
    return blocks


def bounds(value: Any, what: str, most: float | None = None) -> tuple[float, float]:
    """Two numbers above 0, the first not larger than the second."""
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} is {value!r}: two numbers are needed") from None
    if not 0 < low <= high or (most is not None and high > most) or high > 1e6 or low < 1e-6:
        limit = "" if most is None else f", at most {most:g}"
        raise ValueError(f"{what} is {value!r}: 0 < least <= most{limit} is needed")
    return low, high
