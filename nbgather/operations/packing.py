"""Packed tokens: the visible ones of all samples one after the other, as varlen attention has them.

Sample n has the rows ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``, and nothing stands between the
samples. Whatever picks tokens by a sample and an id within it takes packed ones too, where all
samples are looked at as one: token l of sample n is token ``n * L + l`` of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nbgather.operations import checks
from nbgather.operations.base import (
    Apply,
    DType,
    Operation,
    Spec,
    device_of,
    fresh,
    known,
)
from nbgather.operations.indexing import Gather, ScatterAdd
from nbgather.operations.keep import Keep
from nbgather.operations.patches import CutPatches, MaskedPatchify
from nbgather.operations.shapes import Shape
from nbgather.operations.tokens import KeepTokens, RandomMasking, RestoreTokens, one_token

INT32 = DType("int32", 4, "i4")
#: What `cu_seqlens` can hold.
MAX_PACKED = 2**31 - 1


def total(keep: Keep, samples: Any, length: Any) -> Any:
    """How many tokens all samples keep; None where that is not known."""
    each = keep.of(length) if keep.counts is None else 0
    if keep.counts is None and not all(known(n) or checks.is_open(n) for n in (samples, each)):
        return None
    count = samples * each if keep.counts is None else sum(keep.counts)
    if known(count) and count > MAX_PACKED:
        raise ValueError(
            f"the samples keep {count} tokens together: cu_seqlens is int32, so at most"
            f" {MAX_PACKED} can be packed"
        )
    return count


def ends(counts: tuple[int, ...]) -> list[int]:
    """Where each sample begins, and the last one ends."""
    places = [0]
    for count in counts:
        places.append(places[-1] + count)
    return places


def owners(do: Apply, start: Any, packed: Any) -> Any:
    """Which sample each of ``packed`` rows is of, where the samples begin at ``start``.

    Counted and not repeated: a graph has a size for that, and ONNX an operator.
    """
    xp, device = do.xp, device_of(start)
    zeros = xp.zeros((packed + 1,), dtype=start.dtype, device=device)
    later = start[1:]
    marks = do.run(ScatterAdd(0, mode="defer"), zeros, later, xp.ones_like(later))
    return xp.cumsum(marks, 0)[:packed]


class _Picking:
    """What picks the tokens of all samples at once: operands (x, ids_keep `[N, K]`, ids_restore).

    ``counts`` is how many each sample keeps; behind these ids_keep is not looked at.
    """

    counts: tuple[int, ...]

    names: ClassVar[tuple[str, ...]] = ("x", "ids_keep", "ids_restore")
    sides: ClassVar[tuple[int, ...]] = (1, 2)
    differentiable_parts: ClassVar[bool] = True

    def pick(self, do: Apply, x: Any, ids: Any, ranks: Any) -> Any:
        """The tokens that ids `[1, T]` of all samples name; ``ranks`` is for a gradient alone."""
        raise NotImplementedError

    def lower(self, do: Apply, *operands: Any) -> Any:
        x, ids_keep, ids_restore = operands
        xp, packed = do.xp, sum(self.counts)
        samples, length = ids_restore.shape
        device, kind = device_of(ids_keep), ids_keep.dtype
        counts = xp.asarray(list(self.counts), dtype=kind, device=device)
        start = xp.asarray(ends(self.counts)[:-1], dtype=kind, device=device)
        sample = owners(do, start, packed)
        rank = xp.arange(packed, dtype=kind, device=device) - xp.take(start, sample, axis=0)
        slot = sample * ids_keep.shape[1] + rank
        ids = xp.take(xp.reshape(ids_keep, (-1,)), slot, axis=0) + sample * length
        at = xp.where(ids_restore < counts[:, None], ids_restore + start[:, None], packed)
        ids, at = xp.reshape(ids, (1, packed)), xp.reshape(at, (1, samples * length))
        return self.pick(do, x, ids, at)


@dataclass(frozen=True)
class KeepPacked(_Picking, Operation):
    """The tokens of x `[N, L, ...]` that a ranking keeps: `[sum K, ...]`."""

    counts: tuple[int, ...]

    def result(self, x: Spec, ids: Spec, ranks: Spec | None = None) -> tuple[Spec, ...]:
        KeepTokens(padded=True).result(x, ids)
        return (fresh((sum(self.counts), *x.shape[2:]), x.dtype, x),)

    def pick(self, do: Apply, x: Any, ids: Any, ranks: Any) -> Any:
        samples, length, *inner = x.shape
        if not samples * length:
            return do.xp.reshape(x, (0, *inner))
        flat = do.xp.reshape(x, (1, samples * length, *inner))
        return do.run(KeepTokens(), flat, ids, ranks)[0]


@dataclass(frozen=True)
class CutPacked(_Picking, Operation):
    """The patches of images that a ranking keeps: `[sum K, prod(patch_size) * C]`."""

    counts: tuple[int, ...]
    patch_size: tuple[int, ...]
    affine: tuple[float, ...] | None = None

    names: ClassVar[tuple[str, ...]] = ("images", "ids_keep", "ids_restore")

    def result(self, images: Spec, ids: Spec, ranks: Spec | None = None) -> tuple[Spec, ...]:
        (padded,) = CutPatches(self.patch_size, self.affine, padded=True).result(images, ids)
        return (fresh((sum(self.counts), padded.shape[2]), padded.dtype, images),)

    def lower(self, do: Apply, *operands: Any) -> Any:
        if len(self.patch_size) == 2:
            return super().lower(do, *operands)
        # Time is an axis already: clip by clip.
        images, ids_keep, ids_restore = operands
        cut = CutPatches(self.patch_size, self.affine)
        parts = [
            do.run(cut, images[n : n + 1], ids_keep[n : n + 1, :k], ids_restore[n : n + 1])[0]
            for n, k in enumerate(self.counts)
        ]
        if not parts:
            return do.run(cut, images, ids_keep, ids_restore)[:, 0]
        return do.xp.concat(parts, axis=0)

    def pick(self, do: Apply, x: Any, ids: Any, ranks: Any) -> Any:
        # Images one after the other are the frames of one video.
        video = do.xp.permute_dims(x, (1, 0, 2, 3))[None]
        return do.run(CutPatches((1, *self.patch_size), self.affine), video, ids, ranks)[0]


class _Packing:
    """What packed maskings share: results (x_masked, mask, ids_restore, cu_seqlens)."""

    keep: Keep
    may_pad: ClassVar[bool] = False

    def length(self, shape: Shape) -> Any:
        """L of an operand of this shape."""
        raise NotImplementedError

    def dense(self) -> RandomMasking:
        """The same masking, not packed."""
        raise NotImplementedError

    def picker(self) -> Operation:
        """What picks the tokens where samples keep different numbers."""
        raise NotImplementedError

    def check(self, x: Spec, noise: Spec | None, ids: Spec | None) -> None:
        self.dense().check(x, noise, ids)
        total(self.keep, x.shape[0], self.length(x.shape))

    def result(self, x: Spec, noise: Spec | None, ids: Spec | None) -> tuple[Spec, ...]:
        self.check(x, noise, ids)
        x_masked, mask, ids_restore, *_ = self.dense().result(x, noise, ids)
        samples, length = mask.shape
        shape = total(self.keep, samples, length), *x_masked.shape[2:]
        rows = fresh(shape, x_masked.dtype, x)
        ends = samples + 1 if known(samples) or checks.is_open(samples) else None
        return rows, mask, ids_restore, fresh((ends,), INT32, x)

    def lower(self, do: Apply, *operands: Any) -> Any:
        x, noise, ids = operands
        xp, device, counts = do.xp, device_of(x), self.keep.counts
        if counts is None:
            x_masked, mask, ids_restore = do.run(self.dense(), x, noise, ids)
            samples, kept, *inner = x_masked.shape
            rows = xp.reshape(x_masked, (samples * kept, *inner))
            cu_seqlens = xp.arange(samples + 1, dtype=xp.int32, device=device) * kept
            return rows, mask, ids_restore, cu_seqlens
        length = self.length(tuple(x.shape))
        ids_keep, ids_restore, mask = self.dense().choose(do, x, length, noise, ids)
        rows = do.run(self.picker(), x, ids_keep, ids_restore)
        cu_seqlens = xp.asarray(ends(counts), dtype=xp.int32, device=device)
        return rows, mask, ids_restore, cu_seqlens


@dataclass(frozen=True)
class PackedMasking(_Packing, RandomMasking):
    """RandomMasking whose visible tokens are packed."""

    def length(self, shape: Shape) -> Any:
        return shape[1]

    def dense(self) -> RandomMasking:
        return RandomMasking(self.keep, self.seed, self.epoch)

    def picker(self) -> Operation:
        return KeepPacked(self.keep.counts or ())


@dataclass(frozen=True)
class PackedPatchify(_Packing, MaskedPatchify):
    """MaskedPatchify whose visible patches are packed."""

    def length(self, shape: Shape) -> Any:
        return self.tokens(shape)

    def dense(self) -> MaskedPatchify:
        return MaskedPatchify(self.keep, self.seed, self.epoch, self.patch_size, self.affine)

    def picker(self) -> Operation:
        return CutPacked(self.keep.counts or (), self.patch_size, self.affine)


@dataclass(frozen=True)
class RestorePacked(Operation):
    """The unshuffle of packed tokens: (x_visible `[T, ...]`, ids_restore, mask_token, cu_seqlens).

    Ids are `[N, L]`; or `[S]` for samples of different lengths, with one operand more, of which the
    items n and n + 1 say where the tokens of sample n begin and end.
    """

    #: As of RestoreTokens.
    errors: str = "raise"

    names: ClassVar[tuple[str, ...]] = (
        "x_visible", "ids_restore", "mask_token", "cu_seqlens", "cu_tokens",
    )  # fmt: skip
    sides: ClassVar[tuple[int, ...]] = (1, 3, 4)
    optional: ClassVar[tuple[int, ...]] = (4,)
    values: ClassVar[tuple[int, ...]] = (2,)
    may_be_numbers: ClassVar[tuple[int, ...]] = (2,)
    differentiable_parts: ClassVar[bool] = True

    def result(
        self, x: Spec, ids: Spec, token: Spec | None, ends: Spec, tokens: Spec | None = None
    ) -> tuple[Spec, ...]:
        checks.mode(self.errors, checks.WRITE_MODES)
        checks.itemsize(x.dtype, "x_visible")
        checks.index_dtype(ids.dtype, "ids_restore")
        samples: Any = ids.shape[0] if tokens is None and ids.shape else None
        if len(x.shape) < 1 or len(ids.shape) != (2 if tokens is None else 1):
            wanted = "[N, L]" if tokens is None else "[S]"
            raise ValueError(
                f"x_visible has shape {x.shape} and ids_restore {ids.shape}: packed tokens [T, ...]"
                f" and {wanted} are needed"
            )
        for spec, name in ((ends, "cu_seqlens"), (tokens, "cu_tokens")):
            if spec is not None:
                checks.index_dtype(spec.dtype, name)
        if len(ends.shape) != 1 or (known(samples) and ends.shape[0] not in (samples + 1,)):
            needed = "[N + 1]" if samples is None else f"[N + 1] = ({samples + 1},)"
            raise ValueError(f"cu_seqlens has shape {ends.shape}: {needed} is needed")
        if tokens is not None and tokens.shape != ends.shape:
            raise ValueError(
                f"cu_tokens has shape {tokens.shape} and cu_seqlens {ends.shape}: both need one"
                " number more than there are samples"
            )
        every = math.prod(ids.shape) if all(map(known, ids.shape)) else None
        if every is not None and known(x.shape[0]) and x.shape[0] > every:
            raise ValueError(
                f"x_visible has {x.shape[0]} tokens (shape {x.shape}) and ids_restore only {every}"
                f" (shape {ids.shape}): no more can be visible than there are"
            )
        if token is not None:
            one_token(token.shape, x.shape[1:])
        return (fresh((*ids.shape, *x.shape[1:]), x.dtype, x),)

    def lower(self, do: Apply, *operands: Any) -> Any:
        x, ids, token, cu_seqlens, cu_tokens = operands
        xp, device, visible, inner = do.xp, device_of(ids), x.shape[0], x.shape[1:]
        cu_seqlens = xp.astype(cu_seqlens, xp.int64)
        start, end = cu_seqlens[:-1], cu_seqlens[1:]
        if cu_tokens is None:
            # A gather from where each rank stands: the check of the ranks is that of any gather.
            rank = xp.arange(ids.shape[1], dtype=xp.int64, device=device)[None]
            at = start[:, None] + rank
            table = xp.where(at < end[:, None], at, visible)
            flat = do.run(Gather(1, mode=self.errors), table, ids)
            errors = "defer"  # of ranks that are told of already
        else:
            ids, errors = xp.astype(ids, xp.int64), self.errors
            cu_tokens = xp.astype(cu_tokens, xp.int64)
            lengths, every = cu_tokens[1:] - cu_tokens[:-1], ids.shape[0]
            sample = owners(do, cu_tokens[:-1], every)
            at = xp.take(start, sample, axis=0) + ids
            flat = xp.where(at < xp.take(end, sample, axis=0), at, visible)
            beyond = ids >= xp.take(lengths, sample, axis=0)
            flat = xp.where(beyond, every, xp.where(ids < 0, ids, flat))
        count = math.prod(flat.shape)
        flat = xp.reshape(flat, (1, count))
        rows = do.run(
            RestoreTokens(errors=errors), xp.reshape(x, (1, visible, *inner)), flat, token
        )
        return xp.reshape(rows, (*ids.shape, *inner))


def check_ends(values: np.ndarray, packed: Any, what: str, of: str) -> None:
    """Whether values that are known begin with 0, never fall, and end with all there is."""
    if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
        return  # told of by the operation
    steps = np.diff(values.astype(np.int64))
    if values[0] != 0:
        raise ValueError(f"{what}[0] is {values[0]}: it must be 0, where the first sample begins")
    if (steps < 0).any():
        n = int(np.flatnonzero(steps < 0)[0])
        raise ValueError(
            f"{what}[{n + 1}] is {values[n + 1]} and {what}[{n}] {values[n]}: no sample may end"
            " before it begins"
        )
    if known(packed) and values[-1] != packed:
        raise ValueError(f"{what}[{len(values) - 1}] is {values[-1]} and {of} has {packed} tokens")
