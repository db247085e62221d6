"""Noise, ranks and masks of tokens, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nbgather.operations import checks
from nbgather.operations.base import (
    BOOL,
    FLOAT32,
    INT64,
    Apply,
    Operation,
    Spec,
    Tuple,
    batch_of_samples,
    device_of,
    fresh,
    is_array,
    known,
    merge_samples,
    split_samples,
    to_front,
)
from nbgather.operations.indexing import GatherTokens, ScatterAdd, beside_tokens, sum_to
from nbgather.operations.keep import Keep
from nbgather.operations.positions import resolve_positions
from nbgather.operations.shapes import Shape


@dataclass(frozen=True)
class TokenNoise(Operation):
    """Philox noise of samples: operand sample_ids `[N]`. ``seed`` is 64 bits, unsigned."""

    seed: int
    epoch: int
    num_tokens: Any

    names: ClassVar[tuple[str, ...]] = ("sample_ids",)
    sides: ClassVar[tuple[int, ...]] = (0,)

    def result(self, ids: Spec) -> tuple[Spec, ...]:
        checks.sample_ids(ids.shape, ids.dtype.name)
        return (fresh((*ids.shape, self.num_tokens), FLOAT32, ids),)


def token_noise(seed: Any, epoch: Any, num_tokens: Any) -> TokenNoise:
    """The operation of a call's arguments."""
    key, tokens = checks.bits64(seed, "seed"), checks.count(num_tokens, "num_tokens")
    return TokenNoise(key, checks.epoch(epoch), tokens)


@dataclass(frozen=True)
class SeededNoise(Operation):
    """The same where seed and epoch are not known yet: operands (sample_ids `[N]`, seed, epoch).

    Both are whole numbers of which 64 and the lower 32 bits count.
    """

    num_tokens: int

    names: ClassVar[tuple[str, ...]] = ("sample_ids", "seed", "epoch")
    sides: ClassVar[tuple[int, ...]] = (0, 1, 2)

    def result(self, ids: Spec, seed: Spec, epoch: Spec) -> tuple[Spec, ...]:
        for spec, name in ((seed, "seed"), (epoch, "epoch")):
            if spec.dtype.integer is None or spec.shape != ():
                raise TypeError(
                    f"{name} has dtype {spec.dtype.name} and shape {spec.shape}: one whole number"
                    " is needed"
                )
        return TokenNoise(0, 0, self.num_tokens).result(ids)

    def batch(self, do: Apply, size: int, operands: Tuple, axes: Tuple) -> Any:
        ids, seed, epoch = operands
        if axes[1] is None and axes[2] is None:
            front = to_front(do, ids, axes[0], size)
            return split_samples(do, do.run(self, merge_samples(do, front), seed, epoch), front)
        each = [to_front(do, a, axis, size) for a, axis in zip(operands, axes, strict=True)]
        return do.xp.stack([do.run(self, *(a[b] for a in each)) for b in range(size)])

    def lower(self, do: Apply, *operands: Any) -> Any:
        """Where the values are there."""
        ids, seed, epoch = operands
        noise = TokenNoise(int(seed) & (2**64 - 1), int(epoch) & (2**32 - 1), self.num_tokens)
        return do.run(noise, ids)


@dataclass(frozen=True)
class RankTokens(Operation):
    """Ranks of scores `[N, L]`: (ids_keep, ids_restore, mask)."""

    keep: Keep

    names: ClassVar[tuple[str, ...]] = ("scores",)

    def result(self, scores: Spec) -> tuple[Spec, ...]:
        checks.scores(scores, self.names[0])
        samples, length = scores.shape
        return ranks(self.keep.check(samples, length), samples, length, scores)

    def batch(self, do: Apply, size: int, operands: Tuple, axes: Tuple) -> Any:
        merged = RankTokens(self.keep.repeated(size))
        return batch_of_samples(merged, do, size, operands, axes)


@dataclass(frozen=True)
class ChooseTokens(Operation):
    """Ranks of the noise of samples: operands (x `[N, ...]`, sample_ids); results as RankTokens.

    The samples are those of ``x``, which is not looked at but for where it lies; without ids theirs
    are 0 to N-1.
    """

    keep: Keep
    seed: int
    epoch: int
    num_tokens: Any

    names: ClassVar[tuple[str, ...]] = ("x", "sample_ids")
    sides: ClassVar[tuple[int, ...]] = (1,)
    optional: ClassVar[tuple[int, ...]] = (1,)

    def result(self, x: Spec, ids: Spec | None) -> tuple[Spec, ...]:
        samples = x.shape[0]
        if ids is not None:
            checks.sample_ids(ids.shape, ids.dtype.name)
        return ranks(self.keep.check(samples, self.num_tokens), samples, self.num_tokens, x)

    def lower(self, do: Apply, *operands: Any) -> Any:
        x, ids = operands
        if ids is None:
            ids = do.xp.arange(x.shape[0], dtype=do.xp.int64, device=device_of(x))
        noise = do.run(TokenNoise(self.seed, self.epoch, self.num_tokens), ids)
        return do.run(RankTokens(self.keep), noise)


def ranks(keep: Keep, samples: Any, length: Any, like: Spec) -> tuple[Spec, ...]:
    """The specifications of (ids_keep, ids_restore, mask)."""
    return (
        fresh((samples, keep.of(length)), INT64, like),
        fresh((samples, length), INT64, like),
        fresh((samples, length), FLOAT32, like),
    )


@dataclass(frozen=True)
class RandomMasking(Operation):
    """Keep a part of each sample's tokens: operands (x `[N, L, ...]`, noise, sample_ids).

    Either noise `[N, L]` is an operand, or a seed is given, with sample ids `[N]` or None for
    0 to N-1. With neither a seed is to be drawn by who executes it.
    """

    keep: Keep
    seed: int | None = None
    epoch: int = 0

    names: ClassVar[tuple[str, ...]] = ("x", "noise", "sample_ids")
    sides: ClassVar[tuple[int, ...]] = (1, 2)
    optional: ClassVar[tuple[int, ...]] = (1, 2)
    differentiable_parts: ClassVar[bool] = True
    may_pad: ClassVar[bool] = True

    def result(self, x: Spec, noise: Spec | None, ids: Spec | None) -> tuple[Spec, ...]:
        """Of (x_masked, mask, ids_restore), and valid where samples keep different numbers."""
        self.check(x, noise, ids)
        ids_keep, ids_restore, mask = ranks(self.keep, x.shape[0], x.shape[1], x)
        x_masked = fresh((*ids_keep.shape, *x.shape[2:]), x.dtype, x)
        if self.keep.counts is None:
            return x_masked, mask, ids_restore
        return x_masked, mask, ids_restore, fresh(ids_keep.shape, BOOL, x)

    def check(self, x: Spec, noise: Spec | None, ids: Spec | None) -> None:
        checks.tokens(x.shape)
        checks.itemsize(x.dtype, "x")
        self.check_source(x.shape, (x.shape[0], x.shape[1]), noise, ids)

    def check_source(self, x: Shape, pair: Shape, noise: Spec | None, ids: Spec | None) -> None:
        """Whether noise and ids fit `[N, L]` tokens of an operand of the shape ``x``."""
        self.keep.check(*pair)
        if noise is not None:
            noise_shape(noise.shape, pair, x, self.names[0])
            checks.scores(noise, "noise")
        if ids is not None:
            checks.sample_ids(ids.shape, ids.dtype.name)
            ids_of(ids.shape, pair[0], self.names[0])

    def choose(self, do: Apply, x: Any, length: Any, noise: Any, ids: Any) -> Any:
        """Which tokens stay: (ids_keep, ids_restore, mask)."""
        if noise is not None:
            return do.run(RankTokens(self.keep), noise)
        assert self.seed is not None  # drawn by who executes it, where it was not given
        return do.run(ChooseTokens(self.keep, self.seed, self.epoch, length), x, ids)

    def lower(self, do: Apply, *operands: Any) -> Any:
        x, noise, ids = operands
        ids_keep, ids_restore, mask = self.choose(do, x, x.shape[1], noise, ids)
        pick = KeepTokens(self.keep.counts is not None)
        return do.run(pick, x, ids_keep, ids_restore), mask, ids_restore


#: The gathers of kept tokens, by whether ids are padded. The ids come from a ranking, so nothing
#: waits for a device to say that they are in bounds.
_PICKS = {True: GatherTokens(mode="fill"), False: GatherTokens(mode="defer")}


@dataclass(frozen=True)
class KeepTokens(Operation):
    """The tokens that a ranking keeps: operands (x `[N, L, ...]`, ids_keep, ids_restore).

    A gather whose gradient is no sum: a ranking names each token once, and ``ids_restore`` says
    where it went. So the cotangent is restored, and nothing is added.
    """

    #: Whether ids_keep may be -1, which stands behind those of a sample that keeps fewer.
    padded: bool = False

    names: ClassVar[tuple[str, ...]] = ("x", "ids_keep", "ids_restore")
    sides: ClassVar[tuple[int, ...]] = (1, 2)
    differentiable: ClassVar[tuple[int, ...]] = (0,)

    @property
    def gather(self) -> GatherTokens:
        """The gather that it is."""
        return _PICKS[self.padded]

    def result(self, x: Spec, ids: Spec, ranks: Spec | None = None) -> tuple[Spec, ...]:
        return self.gather.result(x, ids)

    def lower(self, do: Apply, *operands: Any) -> Any:
        return do.run(self.gather, *operands[:2])

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        _, ids_keep, ids_restore = operands
        if self.padded:  # the slots behind a sample's tokens are no tokens of it
            held = beside_tokens(do, ids_keep, tuple(cotangent.shape)) >= 0
            cotangent = do.xp.where(held, cotangent, 0)
        return (do.run(RestoreTokens(errors="defer"), cotangent, ids_restore, 0),)

    def tangent(self, do: Apply, tangents: Tuple, specs: Tuple, operands: Tuple) -> Any:
        return do.run(self, tangents[0], *operands[1:])


@dataclass(frozen=True)
class RestoreTokens(GatherTokens):
    """The decoder's unshuffle: operands (x_visible, ids_restore, mask_token).

    The token is a number, or an array of the shape of one token.
    """

    mode: str = "fill"
    #: How an id beyond all tokens is told of, for which no mask token stands.
    errors: str = "raise"

    names: ClassVar[tuple[str, ...]] = ("x_visible", "ids_restore", "mask_token")
    sides: ClassVar[tuple[int, ...]] = (1,)
    values: ClassVar[tuple[int, ...]] = (2,)
    may_be_numbers: ClassVar[tuple[int, ...]] = (2,)
    differentiable: ClassVar[tuple[int, ...]] = (0, 2)

    def __post_init__(self) -> None:
        checks.mode(self.errors, checks.WRITE_MODES)

    def shape(self, x: Shape, index: Shape) -> Shape:
        result = super().shape(x, index)
        if known(x[1]) and known(index[1]) and x[1] > index[1]:
            raise ValueError(
                f"x_visible has {x[1]} tokens (shape {x}) and ids_restore only"
                f" {index[1]} (shape {index}): no more can be visible than there are"
            )
        return result

    def result(self, x: Spec, index: Spec, token: Spec | None = None) -> tuple[Spec, ...]:
        """``token`` is None where it is a number."""
        if token is not None:
            one_token(token.shape, x.shape[2:])
        return super().result(x, index)

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        x, _, token = specs
        needs_token = needed[1] and token is not None
        if not (needed[0] or needs_token):
            return None, None
        # A row for each visible token, or one for all of them, and one for the others behind it:
        # the cotangent is read once, and nothing of its size is made.
        shape = tuple(cotangent.shape)
        ids, inside = resolve_positions(do.xp, operands[1], x.shape[1], self.mode, False)
        visible = x.shape[1] if needed[0] else 1
        index = do.xp.where(inside, ids if needed[0] else 0, visible)
        rows = do.zeros((shape[0], visible + 1, *shape[2:]), cotangent)
        index = do.spread(beside_tokens(do, index, shape), shape)
        rows = do.run(ScatterAdd(1, mode="defer", told=True), rows, index, cotangent)
        to_x = rows[:, :visible] if needed[0] else None
        if not needs_token:
            return to_x, None
        summed = do.xp.sum(rows[:, visible], axis=0, dtype=cotangent.dtype)
        inner = token.shape[max(len(token.shape) - summed.ndim, 0) :]
        padded = (1,) * (summed.ndim - len(inner)) + tuple(inner)
        return to_x, do.xp.reshape(sum_to(do, summed, padded), token.shape)

    def tangent(
        self,
        do: Apply,
        tangents: tuple[Any, ...],
        specs: tuple[Any, ...],
        operands: tuple[Any, ...],
    ) -> Any:
        visible, _, token = tangents
        if visible is None:
            shape = specs[0].shape
            visible = do.xp.zeros(shape, dtype=token.dtype, device=device_of(token))
        return do.run(self, visible, operands[1], 0 if token is None else token)

    def batch(self, do: Apply, size: int, operands: Tuple, axes: Tuple) -> Any:
        x, ids = (to_front(do, a, axis, size) for a, axis in zip(operands[:2], axes[:2]))
        token = operands[2] if axes[2] is None else 0
        restored = do.run(self, merge_samples(do, x), merge_samples(do, ids), token)
        result = split_samples(do, restored, x)
        if axes[2] is None:
            return result
        # A token for each of the batch goes where a visible one did not.
        tokens, ndim = to_front(do, operands[2], axes[2], size), result.ndim - 3
        inner = tokens.shape[1:][max(tokens.ndim - 1 - ndim, 0) :]
        tokens = do.xp.reshape(tokens, (size, 1, 1, *(1,) * (ndim - len(inner)), *inner))
        removed = do.xp.reshape(ids >= x.shape[2], (*ids.shape, *(1,) * ndim))
        return do.xp.where(removed, do.xp.astype(tokens, result.dtype), result)


@dataclass(frozen=True)
class RestoreValidTokens(Operation):
    """Restoring where not every visible token is one: operands as of RestoreTokens, and valid."""

    names: ClassVar[tuple[str, ...]] = ("x_visible", "ids_restore", "mask_token", "valid")
    differentiable_parts: ClassVar[bool] = True
    sides: ClassVar[tuple[int, ...]] = (1, 3)
    values: ClassVar[tuple[int, ...]] = (2,)
    may_be_numbers: ClassVar[tuple[int, ...]] = (2,)

    #: As of RestoreTokens.
    errors: str = "raise"

    def result(self, x: Spec, index: Spec, token: Spec | None, valid: Spec) -> tuple[Spec, ...]:
        results = RestoreTokens(errors=self.errors).result(x, index, token)
        valid_tokens(valid, x.shape)
        return results

    def lower(self, do: Apply, *operands: Any) -> Any:
        """What is no token is where the mask token goes."""
        x, ids, token, valid = operands
        xp, restore = do.xp, RestoreTokens(errors=self.errors)
        visible = xp.reshape(valid, (*valid.shape, *(1,) * (x.ndim - 2)))
        value = token
        if not is_array(token):
            value = xp.full((), token, dtype=x.dtype, device=device_of(x))
        value = xp.astype(value, x.dtype)
        return do.run(restore, xp.where(visible, x, value), ids, token)


def one_source(noise: Any, seed: Any, sample_ids: Any) -> None:
    """Scores are given as noise, or drawn by a seed for sample ids."""
    if noise is not None and seed is not None:
        raise ValueError("both noise and seed were given: give one of them")
    if noise is not None and sample_ids is not None:
        raise ValueError("sample_ids was given with noise: it goes with seed")
    if seed is None and sample_ids is not None:
        raise ValueError("sample_ids was given without seed: it goes with seed")


def noise_shape(shape: Shape, pair: Shape, x: Shape, what: str) -> None:
    """Whether noise has the shape `[N, L]` of the tokens."""
    unlike = len(shape) != 2 or any(
        known(n) and known(m) and n != m for n, m in zip(shape, pair, strict=True)
    )
    if unlike:
        raise ValueError(f"noise has shape {shape} and {what} {x}: noise must be [N, L] = {pair}")


def ids_of(shape: Shape, samples: Any, what: str) -> None:
    """Whether there is one id for each sample."""
    if len(shape) != 1 or (known(shape[0]) and known(samples) and shape[0] != samples):
        raise ValueError(
            f"sample_ids has shape {shape}: one id for each of the {samples} samples of {what} is"
            " needed"
        )


def one_token(shape: Shape, inner: Shape) -> None:
    """A mask token broadcasts to one token; leading dimensions of 1 do not count."""
    sizes = shape
    while len(sizes) > len(inner) and sizes[0] == 1:
        sizes = sizes[1:]
    paired = zip(reversed(sizes), reversed(inner), strict=False)
    if len(sizes) > len(inner) or any(n not in (1, m) for n, m in paired):
        raise ValueError(
            f"mask_token has shape {shape}: it must broadcast to one token of shape {inner}"
        )


def castable_token(safe: bool, token_dtype: Any, dtype: Any) -> None:
    if not safe:
        raise TypeError(f"mask_token has dtype {token_dtype}: it must go into {dtype} without loss")


def valid_tokens(valid: Spec, x: Shape) -> None:
    """Whether ``valid`` says of each visible token whether it is one."""
    if valid.dtype.plain not in ("bool", "b1"):
        raise TypeError(f"valid has dtype {valid.dtype.name}: bool is needed")
    if valid.shape != x[:2]:
        raise ValueError(
            f"valid has shape {valid.shape} and x_visible {x}: valid must be [N, K] = {x[:2]}"
        )
