"""Noise, ranks, masks of tokens and their way back inside compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from nbgather.kernels.constants import FILL
from nbgather.numba_ext import arguments, emit, token_loops
from nbgather.numba_ext.arguments import dtype_of, is_array, was_given
from nbgather.numba_ext.calls import Call, address_of, all_of, made_array, size_of
from nbgather.numba_ext.emit import I64
from nbgather.numba_ext.gather_loops import AXES, AXIS_WORDS, COUNT, gatherer, plan_gather
from nbgather.numba_ext.intrinsics import converter
from nbgather.numba_ext.moving import copier
from nbgather.numba_ext.records import RESTORE, TOKENS
from nbgather.operations import checks
from nbgather.results import MaskedTokens, TokenMask

_NOISE = types.Array(types.float32, 2, "C")
_IDS = types.Array(types.int64, 2, "C")
_IDS_1D = types.Array(types.int64, 1, "C")
#: Bytes that would take as long to copy as to draw, or to draw and rank, a token.
_DRAWN_BYTES, _RANKED_BYTES = 30, 100
_EPOCHS = 2**32


def _between(builder: Any, low: Any, value: Any, high: Any) -> Any:
    above = builder.icmp_signed(">=", value, low)
    return builder.and_(above, builder.icmp_signed("<=", value, high))


def _epoch(context: Any, builder: Any, kind: Any, value: Any) -> tuple[Any, Any]:
    """Whether an epoch is one, and its number."""
    epoch = arguments.whole(context, builder, kind, value)
    return builder.icmp_unsigned("<", epoch, I64(_EPOCHS)), epoch


def _is_ids(kind: Any) -> bool:
    return is_array(kind) and kind.ndim == 1 and isinstance(kind.dtype, types.Integer)


def _ids(context: Any, builder: Any, kind: Any, value: Any) -> tuple[Any, Any]:
    """New int64 ids, and their words, of an array of ids or of how many there are."""
    if not is_array(kind):
        count = arguments.whole(context, builder, kind, value)
        array, words = made_array(context, builder, _IDS_1D, count)
        token_loops.count_up.emit(context, builder, address_of(builder, words), count)
        return array, words
    given = emit.words_of(context, builder, kind, value)
    array, words = made_array(context, builder, _IDS_1D, size_of(builder, given, 0))
    make = token_loops.ids_maker(kind.dtype)
    make.emit(context, builder, address_of(builder, words), given)
    return array, words


class _Noise(Call):
    """token_noise(seed, sample_ids, num_tokens, epoch)."""

    name = "token_noise"
    result = _NOISE
    arrays = (_NOISE,)

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        self.is_refused = arguments.is_refused(self.name, kinds)

    def check(self, context, builder, kinds, values):
        seed, ids, tokens, epoch = kinds[:4]
        self.seed = arguments.whole(context, builder, seed, values[0])
        self.tokens = arguments.whole(context, builder, tokens, values[2])
        is_epoch, self.epoch = _epoch(context, builder, epoch, values[3])
        if is_array(ids):
            if ids.ndim != 1:
                return None
            words = emit.words_of(context, builder, ids, values[1])
            self.samples = size_of(builder, words, 0)
        else:
            self.samples = arguments.whole(context, builder, ids, values[1])
        counts = [builder.icmp_signed(">=", n, I64(0)) for n in (self.tokens, self.samples)]
        return all_of(builder, is_epoch, *counts)

    def work(self, builder):
        return builder.mul(builder.mul(self.samples, self.tokens), I64(_DRAWN_BYTES))

    def asked(self, kinds, values):
        ids = (kinds[1], values[1]) if is_array(kinds[1]) else (types.int64, self.samples)
        numbers = [(types.int64, n) for n in (self.seed, self.tokens, self.epoch)]
        return [numbers[0], ids, *numbers[1:]]

    def run(self, context, builder, kinds, values):
        ids, iw = _ids(context, builder, kinds[1], values[1])
        noise, nw = made_array(context, builder, _NOISE, self.samples, self.tokens)
        token_loops.draw_noise.emit(
            context, builder, address_of(builder, nw), address_of(builder, iw), self.samples,
            self.tokens, self.epoch, self.seed, emit.memory(builder, 5),
        )  # fmt: skip
        context.nrt.decref(builder, _IDS_1D, ids)
        return [noise]


def _mask_by(context, builder, source, pair, kept, drawn, scores=None):
    """(ids_keep, ids_restore, mask), new; ``drawn`` are the ids' words or 0, epoch and seed."""
    keep, kw = made_array(context, builder, _IDS, pair[0], kept)
    restore, rw = made_array(context, builder, _IDS, *pair)
    mask, mw = made_array(context, builder, _NOISE, *pair)
    args = emit.memory(builder, token_loops.WORDS)
    for k, value in (
        (token_loops.LENGTH, pair[1]),
        (token_loops.KEPT, kept),
        (token_loops.KEEP, address_of(builder, kw)),
        (token_loops.RESTORE, address_of(builder, rw)),
        (token_loops.MASK, address_of(builder, mw)),
    ):
        builder.store(value, emit.word(builder, args, k))
    ids, epoch, seed = drawn
    failed = token_loops.masker(source).emit(
        context, builder, args, pair[0], ids, I64(0) if scores is None else scores, epoch, seed
    )
    with builder.if_then(cgutils.is_not_null(builder, failed), likely=False):
        context.call_conv.return_user_exc(builder, MemoryError, ("no memory to rank tokens",))
    return (keep, kw), restore, mask


def _by_scores(context, builder, kind, value, pair, kept):
    """`_mask_by` of scores of any strides."""
    words = emit.words_of(context, builder, kind, value)
    plain = types.Array(kind.dtype, 2, "C")
    array, aw = made_array(context, builder, plain, *pair)
    copier(dtype_of(kind).itemsize).emit(context, builder, aw, words)
    source = f"f{dtype_of(kind).itemsize}"
    nothing = I64(0), I64(0), I64(0)
    made = _mask_by(context, builder, source, pair, kept, nothing, address_of(builder, aw))
    context.nrt.decref(builder, plain, array)
    return made


class _Ranks(Call):
    """rank_tokens(scores, num_keep)."""

    name = "rank_tokens"
    arrays = (_IDS, _IDS, _NOISE)
    result = types.NamedTuple(arrays, TokenMask)

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        self.is_refused = arguments.is_refused(self.name, kinds)

    def check(self, context, builder, kinds, values):
        scores, number = kinds[:2]
        if scores.ndim != 2:
            return None
        words = emit.words_of(context, builder, scores, values[0])
        self.pair = size_of(builder, words, 0), size_of(builder, words, 1)
        self.kept = arguments.whole(context, builder, number, values[1])
        return _between(builder, I64(0), self.kept, self.pair[1])

    def work(self, builder):
        return builder.mul(builder.mul(*self.pair), I64(_RANKED_BYTES))

    def asked(self, kinds, values):
        return [(kinds[0], values[0]), (types.int64, self.kept)]

    def run(self, context, builder, kinds, values):
        (keep, _), restore, mask = _by_scores(
            context, builder, kinds[0], values[0], self.pair, self.kept
        )
        return [keep, restore, mask]


class _Masking(Call):
    """random_masking(x, mask_ratio, noise, seed, sample_ids, epoch, num_keep)."""

    name = "random_masking"

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        x, _, noise, seed, ids, _, number = kinds[:7]
        self.is_refused = arguments.is_refused(self.name, kinds)
        self.ndim = max(x.ndim, 2)
        self.visible = types.Array(x.dtype, self.ndim, "C")
        self.arrays = self.visible, _NOISE, _IDS
        self.result = types.NamedTuple(self.arrays, MaskedTokens)
        self.by_noise, self.has_ids = was_given(noise), was_given(ids)
        self.by_number = was_given(number)
        self.asked_name = "masking_by_noise" if self.by_noise else "masking_by_seed"
        sources = self.by_noise and (was_given(seed) or self.has_ids)
        shapes = x.ndim < 2 or (self.by_noise and noise.ndim != 2)
        self.never_fits = sources or shapes or (is_array(ids) and ids.ndim != 1)

    def check(self, context, builder, kinds, values):
        if self.never_fits:
            return None
        x, ratio, noise, seed, ids, epoch, number = kinds[:7]
        self.words = emit.words_of(context, builder, x, values[0])
        self.pair = samples, length = (
            size_of(builder, self.words, 0),
            size_of(builder, self.words, 1),
        )
        fits = [self._count(context, builder, length, ratio, number, values)]
        is_epoch, self.epoch = _epoch(context, builder, epoch, values[5])
        fits.append(is_epoch)
        if self.by_noise:
            words = emit.words_of(context, builder, noise, values[2])
            fits += [
                builder.icmp_signed("==", size_of(builder, words, d), self.pair[d]) for d in (0, 1)
            ]
        else:
            self.seed = arguments.whole(context, builder, seed, values[3])
        if is_array(ids):
            words = emit.words_of(context, builder, ids, values[4])
            fits.append(builder.icmp_signed("==", size_of(builder, words, 0), samples))
        elif self.has_ids:
            number_of_ids = arguments.whole(context, builder, ids, values[4])
            fits.append(builder.icmp_signed("==", number_of_ids, samples))
        return all_of(builder, *fits)

    def _count(self, context, builder, length, ratio, number, values):
        """Find how many stay; whether as many can."""
        if self.by_number:
            self.kept = arguments.whole(context, builder, number, values[6])
            return _between(builder, I64(0), self.kept, length)
        double = ir.DoubleType()
        if isinstance(ratio, types.Omitted):
            value = double(ratio.value)
        else:
            value = context.cast(builder, values[1], ratio, types.float64)
        low = builder.fcmp_ordered(">=", value, double(0))
        fits = builder.and_(low, builder.fcmp_ordered("<=", value, double(1)))
        part = builder.fsub(double(1), builder.select(fits, value, double(0)))
        self.kept = builder.fptosi(builder.fmul(builder.sitofp(length, double), part), I64)
        return fits

    def work(self, builder):
        samples, length = self.pair
        ranked = builder.mul(length, I64(_RANKED_BYTES))
        row = I64(dtype_of_item(self.visible))
        for d in range(2, self.ndim):
            row = builder.mul(row, size_of(builder, self.words, d))
        return builder.mul(samples, builder.add(ranked, builder.mul(self.kept, row)))

    def asked(self, kinds, values):
        asked = [(kinds[0], values[0]), (types.int64, self.kept)]
        if self.by_noise:
            return [*asked, (kinds[2], values[2])]
        asked += [(types.int64, self.seed), (types.int64, self.epoch)]
        if is_array(kinds[4]):
            asked.append((kinds[4], values[4]))
        elif self.has_ids:
            asked.append((types.int64, self.pair[0]))
        return asked

    def run(self, context, builder, kinds, values):
        if self.by_noise:
            made = _by_scores(context, builder, kinds[2], values[2], self.pair, self.kept)
        else:
            ids, address = None, I64(0)
            if is_array(kinds[4]):
                ids, iw = _ids(context, builder, kinds[4], values[4])
                address = address_of(builder, iw)
            drawn = address, self.epoch, self.seed
            made = _mask_by(context, builder, "seed", self.pair, self.kept, drawn)
            if ids is not None:
                context.nrt.decref(builder, _IDS_1D, ids)
        (keep, kw), restore, mask = made
        visible = self._visible(context, builder, kinds[0], kw)
        context.nrt.decref(builder, _IDS, keep)
        return [visible, mask, restore]

    def _visible(self, context, builder, x, kw):
        """The tokens that stay, in the order of their rank."""
        rw = emit.result_words(builder, self.ndim)
        loop = emit.memory(builder, AXES + AXIS_WORDS * self.ndim)
        planned = I64(TOKENS), I64(1), I64(0), self.words, kw, rw, I64(self.ndim), loop
        plan_gather.emit(context, builder, *planned)
        visible = emit.new_array(context, builder, self.visible, rw)
        count = builder.load(emit.word(builder, loop, COUNT))
        with builder.if_then(cgutils.is_not_null(builder, count)):
            run = gatherer(dtype_of(x).itemsize, types.int64)
            run.emit(context, builder, I64(TOKENS), self.words, kw, rw, loop, I64(0), I64(0))
        return visible


def dtype_of_item(kind: Any) -> int:
    """Bytes of an item of an array type."""
    return int(dtype_of(kind).itemsize)


class _Restore(Call):
    """restore_tokens(x_visible, ids_restore, mask_token)."""

    name = "restore_tokens"

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        x, index, token = kinds[:3]
        self.ndim = max(x.ndim, 2)
        self.result = types.Array(x.dtype, self.ndim, "C")
        self.arrays = (self.result,)
        self.is_refused = arguments.is_refused(self.name, kinds) or index.ndim != 2 or x.ndim < 2
        self.item = dtype_of(x).itemsize
        if is_array(token) and not self.is_refused:
            # Which is not seen with arrays that are empty.
            safe = np.can_cast(dtype_of(token), dtype_of(x), "safe")
            self.is_refused = not safe

    def check(self, context, builder, kinds, values):
        x, index, token = kinds[:3]
        self.xw = emit.words_of(context, builder, x, values[0])
        self.iw = emit.words_of(context, builder, index, values[1])
        self.rw = emit.result_words(builder, self.ndim)
        self.loop = emit.memory(builder, AXES + AXIS_WORDS * self.ndim)
        planned = I64(RESTORE), I64(1), I64(FILL), self.xw, self.iw, self.rw, I64(self.ndim)
        fits = plan_gather.emit(context, builder, *planned, self.loop)
        self.count = builder.load(emit.word(builder, self.loop, COUNT))
        if is_array(token):
            self.tw = emit.words_of(context, builder, token, values[2])
            other = token_loops.fits_token.emit(context, builder, self.tw, self.xw)
        else:
            other, self.aux = arguments.item(context, builder, x.dtype, token, values[2])
        return builder.and_(fits, other)

    def work(self, builder):
        # What did not fit is not counted.
        return builder.mul(self.count, I64(self.item))

    def asked(self, kinds, values):
        return [*zip(kinds[:3], values[:3], strict=True)]

    def run(self, context, builder, kinds, values):
        x, index, token = kinds[:3]
        made = emit.new_array(context, builder, self.result, self.rw)
        with builder.if_then(cgutils.is_not_null(builder, self.count)):
            aux, step, row = I64(0), I64(0), None
            if is_array(token):
                plain = types.Array(x.dtype, self.ndim - 2, "C")
                sizes = [size_of(builder, self.xw, d) for d in range(2, self.ndim)]
                row, words = made_array(context, builder, plain, *sizes)
                aux, step = address_of(builder, words), I64(self.item)
                convert, key = converter(token.dtype, x.dtype)
                make = token_loops.rower(convert, key, self.item)
                make.emit(context, builder, aux, self.tw, self.xw)
            else:
                aux = self.aux
            run = gatherer(self.item, index.dtype)
            operands = I64(RESTORE), self.xw, self.iw, self.rw, self.loop, aux, step
            bad = run.emit(context, builder, *operands)
            if row is not None:
                context.nrt.decref(builder, plain, row)
            emit.refuse_result(context, builder, self.result, made, bad)
        return [made]


def _call(made: Any, kinds: tuple[Any, ...], backend: Any) -> Any:
    if was_given(backend) or not arguments.are_known(kinds):
        return None
    call = made(kinds)
    return call.result, call.write


def token_noise(seed, sample_ids, num_tokens, epoch=0, backend=None):
    return _call(_Noise, (seed, sample_ids, num_tokens, epoch), backend)


def rank_tokens(scores, num_keep, backend=None):
    if not is_array(scores) or is_array(num_keep):
        return None
    return _call(_Ranks, (scores, num_keep), backend)


def random_masking(
    x, mask_ratio=0.75, noise=None, seed=None, sample_ids=None, epoch=0, num_keep=None, backend=None
):
    sources = was_given(noise) or was_given(seed)
    if not is_array(x) or not sources or is_array(num_keep) or is_array(mask_ratio):
        return None
    if was_given(noise) and not is_array(noise):
        return None
    return _call(_Masking, (x, mask_ratio, noise, seed, sample_ids, epoch, num_keep), backend)


def restore_tokens(x_visible, ids_restore, mask_token, valid=None, mode="raise", backend=None):
    if was_given(mode) and getattr(mode, "literal_value", None) not in checks.WRITE_MODES:
        return None
    if was_given(valid) or not (is_array(x_visible) and is_array(ids_restore)):
        return None
    return _call(_Restore, (x_visible, ids_restore, mask_token), backend)
