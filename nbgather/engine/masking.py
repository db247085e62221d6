"""Noise, ranks and masks of tokens, in one pass where the kernels do it."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nbgather.engine import apart, arrays, backends, device_errors, memo, small_masking
from nbgather.engine.plan import results_of
from nbgather.kernels.memory import memory_address
from nbgather.operations import checks
from nbgather.operations.base import (
    FLOAT32,
    INT64,
    Options,
    Spec,
    contiguous_strides,
    is_contiguous,
)
from nbgather.operations.keep import Keep
from nbgather.operations.on_device import OnDevice
from nbgather.operations.tokens import ChooseTokens, RandomMasking, RankTokens, TokenNoise

_LOW32 = 0xFFFFFFFF
#: What drawing a token's noise costs, and ranking it, in bytes that are moved meanwhile.
NOISE_BYTES, TOKEN_BYTES = 30, 100
#: What a GPU's kernels are told; see :mod:`nbgather.kernels.cuda.masking`.
SEED_THERE, EPOCH_THERE = 2, 4


def token_noise(
    container: Any, operation: TokenNoise, operands: tuple[Any, ...], options: Options
) -> Any:
    """Fill float32 `[N, L]`."""
    (ids,) = operands
    spec = container.spec(ids)
    checks.sample_ids(spec.shape, spec.dtype.name)
    ids = arrays.int64_ids(container, ids)
    samples, tokens = spec.shape[0], operation.num_tokens
    noise = container.empty((samples, tokens), ids, FLOAT32)
    backend = backends.serving(options.backend, container.home, spec.device)
    if not samples or not tokens:
        return noise
    *args, told = key_of(container, operation.seed, operation.epoch)
    place = container.place(ids)
    if place:
        device_errors.poll(backend, *place)
        addresses = container.address(ids), container.address(noise)
        backend.token_noise(tuple(args), samples, tokens, *addresses, *place, told)
    else:
        views = arrays.views(container, ids, noise)
        apart.run(tokens * NOISE_BYTES, noise, backend.token_noise, tuple(args), *views)
        if options.backend is None and ids is operands[0]:
            head, pair = memo.head(TokenNoise, tokens), (samples, tokens)
            step = functools.partial(backend.noise_by_address, pair)
            small_masking.keep_scores(container, backend, head, ids, pair, step)
    return noise


def rank_tokens(
    container: Any, operation: RankTokens, operands: tuple[Any, ...], options: Options
) -> Any:
    """(ids_keep, ids_restore, mask) of scores."""
    (scores,) = operands
    spec = container.spec(scores)
    results_of(operation, spec)
    samples, length = spec.shape
    backend = backends.serving(options.backend, container.home, spec.device)
    number = operation.keep.of(length)
    ids_keep = container.empty((samples, number), scores, INT64)
    if "masking" in backend.DOES:
        call = _Call(container, backend, scores, (samples, length), operation.keep)
        mask, ids_restore = call.run(scores=_Scores(container, scores, spec), ids_keep=ids_keep)
        if options.backend is None and container.home == "cpu":
            small_masking.keep_ranks(container, backend, operation, scores)
        return ids_keep, ids_restore, mask
    ids_restore = container.empty((samples, length), scores, INT64)
    mask = container.empty((samples, length), scores, FLOAT32)
    if samples and length:
        keys = _ready_scores(container, scores, spec)
        results = arrays.views(container, ids_keep, ids_restore, mask)
        backend.rank_tokens(keys, *results, _counts(operation.keep))
    return ids_keep, ids_restore, mask


def choose_tokens(
    container: Any, operation: ChooseTokens, operands: tuple[Any, ...], options: Options
) -> Any:
    """(ids_keep, ids_restore, mask) by a seed, without making the noise."""
    x, ids = operands
    spec = container.spec(x)
    backend = backends.serving(options.backend, container.home, spec.device)
    if "masking" not in backend.DOES:
        return NotImplemented
    operation.check(spec, None if ids is None else container.spec(ids))
    pair = spec.shape[0], operation.num_tokens
    ids_keep = container.empty((pair[0], operation.keep.of(pair[1])), x, INT64)
    call = _Call(container, backend, x, pair, operation.keep)
    sample_ids = None if ids is None else arrays.int64_ids(container, ids)
    draw = operation.seed, operation.epoch, sample_ids
    mask, ids_restore = call.run(draw=draw, ids_keep=ids_keep)
    return ids_keep, ids_restore, mask


def random_masking(
    container: Any, operation: RandomMasking, operands: tuple[Any, ...], options: Options
) -> Any:
    """All in one pass where the bytes of a token are neighbours; else by its lowering."""
    x, noise, ids = operands
    spec = container.spec(x)
    operation.check(
        spec,
        None if noise is None else container.spec(noise),
        None if ids is None else container.spec(ids),
    )
    backend = backends.serving(options.backend, container.home, spec.device)
    (samples, length), inner, item = spec.shape[:2], spec.shape[2:], spec.dtype.itemsize
    number, row = operation.keep.of(length), math.prod(inner) * item
    in_one = "masking" in backend.DOES
    in_one = in_one and spec.strides[2:] == contiguous_strides(inner, item)
    if in_one and container.home == "cuda":
        in_one = backend.masks_in_one(samples, length, number, row, *container.place(x))
    if not in_one:
        return NotImplemented
    x_masked = container.empty((samples, number, *inner), x)
    call = _Call(container, backend, x, (samples, length), operation.keep)
    draw = None
    if noise is None:
        sample_ids = None if ids is None else arrays.int64_ids(container, ids)
        draw = operation.seed, operation.epoch, sample_ids
    tokens = container.address(x_masked), container.address(x), row, *spec.strides[:2]
    scores = None if noise is None else _Scores(container, noise, container.spec(noise))
    mask, ids_restore = call.run(scores=scores, draw=draw, tokens=tokens, x_masked=x_masked)
    if options.backend is None and container.home == "cpu" and (draw is None or draw[2] is ids):
        small_masking.keep_masking(container, backend, operation, operands)
    return with_valid(container, operation, x, (x_masked, mask, ids_restore))


def with_valid(
    container: Any, operation: RandomMasking, x: Any, results: tuple[Any, ...]
) -> tuple[Any, ...]:
    """The results, and which slots hold a token where samples keep different numbers."""
    if operation.keep.counts is None:
        return results
    return *results, container.from_numpy(operation.keep.valid_slots(), x)


def _counts(keep: Keep) -> np.ndarray | None:
    return None if keep.counts is None else np.array(keep.counts, np.int64)


class _Scores:
    """Scores of a call, and where the kernel reads them."""

    def __init__(self, container: Any, array: Any, spec: Spec) -> None:
        self.container, self.array, self.spec = container, array, spec

    def place(self) -> tuple[str, int, Any]:
        """What the kernel calls their source, their address, and what keeps them in memory."""
        container, spec = self.container, self.spec
        item, address = spec.dtype.itemsize, container.address(self.array)
        if (
            item >= 4
            and spec.dtype.native
            and spec.strides == contiguous_strides(spec.shape, item)
            and not address % item
        ):
            return f"f{item}", address, self.array
        ready = _ready_scores(container, self.array, spec)
        item = max(item, 4)  # narrower ones were widened
        on_host = container.home == "cpu"
        return f"f{item}", memory_address(ready) if on_host else container.address(ready), ready


class _Call:
    """One call of the masking kernel, on arrays beside ``like``."""

    def __init__(
        self, container: Any, backend: Any, like: Any, pair: tuple[int, int], keep: Keep
    ) -> None:
        self.container, self.backend, self.like = container, backend, like
        self.pair, self.keep = pair, keep

    def run(
        self,
        *,
        scores: _Scores | None = None,
        draw: tuple[Any, Any, Any] | None = None,
        ids_keep: Any = None,
        tokens: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0),
        x_masked: Any = None,
    ) -> tuple[Any, Any]:
        """Mask and ids_restore, by scores or a draw (seed, epoch, int64 ids or None for 0, 1, ...).

        ``tokens`` are the addresses of ``x_masked`` and of all tokens, a token's bytes, and the
        strides of N and L.
        """
        container, like, (samples, length) = self.container, self.like, self.pair
        mask = container.empty(self.pair, like, FLOAT32)
        ids_restore = container.empty(self.pair, like, INT64)
        if not samples or not length:
            return mask, ids_restore
        place = container.place(like)
        if place:
            device_errors.poll(self.backend, *place)
        source, aux, owner, key, ids = "seed", 0, None, (0, 0, 0, 0), None
        if scores is not None:
            source, aux, owner = scores.place()
        elif draw is not None:
            seed, epoch, ids = draw
            key = key_of(container, seed or 0, epoch)
        counts: Any = _counts(self.keep)
        if place and counts is not None:
            counts = container.from_numpy(counts, like)
        address = container.address if place else memory_address
        target, first, row, x_n, x_l = tokens
        on_device: dict[str, Any] = {}
        if place:
            on_device = {"told": key[3], "scratch": arrays.scratch_beside(container, like)}
        kept = self.keep.of(length)
        work = 0 if place else length * TOKEN_BYTES + kept * row
        owners = like, mask, ids_restore, ids_keep, owner, ids, counts, x_masked
        apart.run(
            work,
            owners,
            self.backend.masking,
            source,
            samples,
            target,
            first,
            0 if ids is None else container.address(ids),
            aux,
            *place,
            length=length,
            kept=kept,
            row=row,
            x_n=x_n,
            x_l=x_l,
            keep=0 if ids_keep is None else container.address(ids_keep),
            restore=container.address(ids_restore),
            mask=container.address(mask),
            counts=0 if counts is None else address(counts),
            implied=int(ids is None),
            epoch=key[0],
            key_low=key[1],
            key_high=key[2],
            **on_device,
        )
        return mask, ids_restore


def key_of(container: Any, seed: Any, epoch: Any) -> tuple[int, int, int, int]:
    """Epoch, key (low, high), and what is told of these: which are addresses on a device."""
    if type(seed) is int and type(epoch) is int:
        return epoch, seed & _LOW32, seed >> 32, 0
    there = isinstance(seed, OnDevice), isinstance(epoch, OnDevice)
    low = container.address(seed.array) if there[0] else seed & _LOW32
    return (
        container.address(epoch.array) if there[1] else epoch,
        low,
        0 if there[0] else seed >> 32,
        SEED_THERE * there[0] | EPOCH_THERE * there[1],
    )


def _ready_scores(container: Any, scores: Any, spec: Spec) -> Any:
    """Scores as contiguous float32 or float64: narrower ones are widened, which is exact.

    A NumPy array or view on the host, or on a device an array of the scores' own library.
    """
    if container.home != "cpu":
        if spec.dtype.itemsize == 2:
            xp = container.namespace(scores)
            return xp.astype(container.copy(scores), xp.float32)
        return scores if is_contiguous(spec) else container.copy(scores)
    bits = arrays.bits(container, scores)
    if not spec.dtype.native:
        bits = bits.byteswap()
    bits = np.require(bits, requirements=("C", "A"))
    if spec.dtype.plain == "bfloat16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    values = bits.view(f"f{spec.dtype.itemsize}")
    return values.astype(np.float32) if values.dtype == np.float16 else values
