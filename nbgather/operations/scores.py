"""Scores of masking strategies: the order in which a strategy keeps the tokens of a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from nbgather.operations import checks
from nbgather.operations.base import FLOAT32, Apply, Operation, Spec, fresh
from nbgather.operations.keep import Keep
from nbgather.operations.tokens import RankTokens, TokenNoise

#: The scores of an order are its places, which float32 holds exactly up to here.
MAX_TOKENS = 2**24
#: What blocks can be drawn on: axes, tokens, tokens along an axis.
MAX_BLOCK_AXES, MAX_BLOCK_TOKENS, MAX_BLOCK_SIDE = 4, 2**20, 2**16


class ScoresOfIds:
    """What operations share that score the tokens of a grid by sample ids: float32 `[N, L]`."""

    grid: tuple[int, ...]

    names: ClassVar[tuple[str, ...]] = ("sample_ids",)
    sides: ClassVar[tuple[int, ...]] = (0,)

    @property
    def num_tokens(self) -> int:
        """L."""
        return math.prod(self.grid)

    def result(self, ids: Spec) -> tuple[Spec, ...]:
        """A strategy of somebody's own may give another dtype."""
        checks.sample_ids(ids.shape, ids.dtype.name)
        return (fresh((*ids.shape, self.num_tokens), FLOAT32, ids),)


class Order(NamedTuple):
    """How a strategy orders the tokens of a grid, but for who draws.

    ``strategy`` is ``grid``, ``block`` or ``lines``, and ``numbers`` what it takes besides;
    ``min_aspect`` is for blocks.
    """

    strategy: str
    grid: tuple[int, ...]
    numbers: tuple[int, int, int]
    min_aspect: float | None = None


@dataclass(frozen=True)
class Score(ScoresOfIds, Operation):
    """Each token's place in an `Order`: operand sample_ids `[N]`."""

    strategy: str
    grid: tuple[int, ...]
    numbers: tuple[int, int, int]
    seed: int
    epoch: int
    min_aspect: float | None = None

    @property
    def order(self) -> Order:
        return Order(self.strategy, self.grid, self.numbers, self.min_aspect)


@dataclass(frozen=True)
class Tube(ScoresOfIds, Operation):
    """The scores of a frame for all frames: operand sample_ids `[N]`.

    ``spatial`` scores one frame: called as a strategy is, with the grid without its first side.
    Without it a frame is scored by noise.
    """

    spatial: Any
    grid: tuple[int, ...]
    seed: int
    epoch: int
    backend: str | None = None

    def lower(self, do: Apply, *operands: Any) -> Any:
        frame = self.grid[1:]
        tokens = math.prod(frame)
        if self.spatial is None:
            scores = do.run(
                TokenNoise(checks.bits64(self.seed, "seed"), self.epoch, tokens), *operands
            )
        else:
            scores = self.spatial(
                self.seed, *operands, frame, epoch=self.epoch, backend=self.backend
            )
            check_frame(scores, tokens)
        return do.xp.tile(scores, (1, self.grid[0]))


@dataclass(frozen=True)
class Stripes(ScoresOfIds, Operation):
    """Tokens off some lines of each axis first: operand sample_ids `[N]`.

    ``kept`` is how many lines across each axis stay. The words of the lines come behind those of
    the tokens.
    """

    grid: tuple[int, ...]
    kept: tuple[int, ...]
    seed: int
    epoch: int

    def lower(self, do: Apply, *operands: Any) -> Any:
        xp, tokens, ndim = do.xp, self.num_tokens, len(self.grid)
        drawn = do.run(TokenNoise(self.seed, self.epoch, tokens + sum(self.grid)), *operands)
        gone, first = None, tokens
        for d, (side, kept) in enumerate(zip(self.grid, self.kept, strict=True)):
            lines = drawn[:, first : first + side]
            mask = do.run(RankTokens(Keep(number=kept)), lines)[2]
            across = xp.reshape(mask, (-1, *(side if k == d else 1 for k in range(ndim)))) > 0
            gone, first = across if gone is None else gone | across, first + side
        noise = drawn[:, :tokens]
        return xp.where(xp.reshape(gone, (-1, tokens)), noise, noise - 1)


@dataclass(frozen=True)
class OwnScores(ScoresOfIds, Operation):
    """Scores by somebody's own function of noise: operand sample_ids `[N]`.

    ``function(noise, drawn, grid, **options)`` is given the noise of the tokens `[N, L]` and as
    many numbers more `[N, draws]` as it asks for, arrays of the library of the ids.
    """

    function: Any
    draws: int
    grid: tuple[int, ...]
    seed: int
    epoch: int
    options: tuple[tuple[str, Any], ...] = ()

    def lower(self, do: Apply, *operands: Any) -> Any:
        tokens = self.num_tokens
        drawn = do.run(TokenNoise(self.seed, self.epoch, tokens + self.draws), *operands)
        noise, more = drawn[:, :tokens], drawn[:, tokens:]
        scores = self.function(noise, more, self.grid, **dict(self.options))
        check_frame(scores, tokens, f"strategy {self.function.__name__}")
        return do.xp.astype(scores, do.xp.float32)


def check_frame(scores: Any, tokens: int, who: str = "the spatial strategy") -> None:
    """Whether a strategy gave the scores of a frame, or of a whole grid."""
    if not hasattr(type(scores), "shape"):
        kind = f"{type(scores).__module__}.{type(scores).__qualname__}"
        raise TypeError(f"{who}'s result is a {kind}: an array is needed")
    shape = tuple(scores.shape)
    if len(shape) != 2 or shape[1] != tokens:
        raise ValueError(f"{who} gave shape {shape}: [N, {tokens}] is needed")


def token_grid(value: Any) -> tuple[int, ...]:
    sizes = checks.sizes(value, "grid")
    if not sizes:
        raise ValueError(f"grid is {value}: at least one side is needed")
    if math.prod(sizes) > MAX_TOKENS:
        raise ValueError(f"grid is {value}: at most 2**24 tokens can be scored")
    return sizes


def block_grid(value: Any) -> tuple[int, ...]:
    sizes = token_grid(value)
    if (
        len(sizes) > MAX_BLOCK_AXES
        or math.prod(sizes) > MAX_BLOCK_TOKENS
        or max(sizes) > MAX_BLOCK_SIDE
    ):
        raise ValueError(
            f"grid is {value}: block takes at most 4 axes, 2**20 tokens and 65536 along an axis"
        )
    return sizes


def stride(value: Any) -> int:
    number = checks.integer(value, "stride")
    if not 1 <= number < 2**32:
        raise ValueError(f"stride is {number}: it must be at least 1")
    return number


def areas(least: Any, most: Any, tokens: int) -> tuple[int, int]:
    """The bounds of a block's area, in tokens."""
    high = max(1, tokens * 2 // 5) if most is None else checks.integer(most, "max_area")
    low = (
        max(1, min(tokens * 4 // 49, high)) if least is None else checks.integer(least, "min_area")
    )
    if not 1 <= low <= high <= tokens:
        raise ValueError(
            f"min_area is {low} and max_area {high}:"
            f" 1 <= min_area <= max_area <= {tokens} tokens is needed"
        )
    return low, high


def aspect(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"min_aspect is {value!r}: a number is needed") from None
    if not 1e-6 <= number <= 1:
        raise ValueError(f"min_aspect is {number}: it must be above 0 and at most 1")
    return number


def axes(value: Any, ndim: int) -> tuple[int, ...]:
    """Axes of a grid, negative ones counted from the end; None for all."""
    if value is None:
        return tuple(range(ndim))
    many = value if isinstance(value, (tuple, list)) else (value,)
    chosen = tuple(checks.integer(v, "axes") for v in many)
    if not chosen or any(not -ndim <= d < ndim for d in chosen):
        raise ValueError(f"axes is {value}: axes of a grid of {ndim} are needed, at least one")
    return tuple(sorted({d % ndim for d in chosen}))


def checked(score: Score) -> Score:
    """An operation whose parameters no public function has checked."""
    numbers, tokens = score.numbers, token_grid(score.grid)
    if score.strategy not in ("grid", "block", "lines") or len(numbers) != 3:
        raise ValueError(
            f"strategy is {score.strategy!r} with numbers {numbers}: 'grid', 'block' or 'lines' is"
            " needed, and three numbers"
        )
    checks.epoch(score.epoch)
    if score.strategy == "grid":
        stride(numbers[0])
    elif score.strategy == "block":
        areas(*numbers[:2], math.prod(block_grid(score.grid)[-2:]))
        aspect(score.min_aspect)
    elif not 0 < numbers[0] < 2 ** len(tokens):
        raise ValueError(f"axes are the bits of {numbers[0]}: a grid has {len(tokens)}")
    return score
