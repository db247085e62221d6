"""Noise, ranks and masks of tokens inside compiled code."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from nbgather.kernels.constants import FILL, RAISE
from nbgather.numba_ext import arguments, emit, records, token_loops
from nbgather.numba_ext.arguments import dtype_of, is_array, was_given
from nbgather.numba_ext.calls import Call, address_of, all_of, compiled, made_array, size_of
from nbgather.numba_ext.emit import I64
from nbgather.numba_ext.gather_loops import AXES, AXIS_WORDS, COUNT, gatherer, plan_gather
from nbgather.numba_ext.moving import copier
from nbgather.numba_ext.records import TOKENS
from nbgather.results import MaskedTokens, PaddedTokens, TokenMask

_NOISE = types.Array(types.float32, 2, "C")
_IDS = types.Array(types.int64, 2, "C")
_IDS_1D = types.Array(types.int64, 1, "C")
_VALID = types.Array(types.boolean, 2, "C")
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


class _Kept:
    """How many tokens stay: in all samples alike, or in each a number of its own."""

    def __init__(self, kind: Any) -> None:
        self.kind, self.for_each = kind, is_array(kind)
        self.never_fits = self.for_each and kind.ndim != 1

    def check(self, context: Any, builder: Any, pair: tuple[Any, Any], value: Any) -> Any:
        """Find the most that stay of `(samples, length)` tokens; whether as many can."""
        samples, length = pair
        if not self.for_each:
            self.most = arguments.whole(context, builder, self.kind, value)
            return _between(builder, I64(0), self.most, length)
        words, counts = emit.words_of(context, builder, self.kind, value), self._counting()
        self.most = counts.most.emit(context, builder, words)
        is_one_each = builder.icmp_signed("==", size_of(builder, words, 0), samples)
        with builder.if_then(is_one_each):
            bad = counts.first_bad.emit(context, builder, words, length)
            with builder.if_then(builder.icmp_signed(">=", bad, I64(0)), likely=False):
                number = counts.at.emit(context, builder, words, bad)
                emit.refuse_words(context, builder, [I64(records.BAD_COUNT), bad, number, length])
        return is_one_each

    def _counting(self) -> token_loops.Counting:
        return token_loops.counting(self.kind.dtype)

    def asked(self, value: Any) -> tuple[Any, Any]:
        """What Python is given."""
        return (self.kind, value) if self.for_each else (types.int64, self.most)

    def open(self, context: Any, builder: Any, value: Any) -> Any:
        """The address of int64 numbers, one for each sample, in new memory; 0 without."""
        self.array = None
        if not self.for_each:
            return I64(0)
        self.array, words = _ids(context, builder, self.kind, value)
        return address_of(builder, words)

    def close(self, context: Any, builder: Any) -> None:
        """Give up the memory."""
        if self.array is not None:
            context.nrt.decref(builder, _IDS_1D, self.array)


def _mask_by(context, builder, source, pair, kept, drawn, counts, scores=None):
    """(ids_keep, ids_restore, mask), new; ``drawn`` are the ids' words or 0, epoch and seed.

    ``counts`` is the address of a number for each sample, or 0.
    """
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
        context, builder, args, pair[0], ids, I64(0) if scores is None else scores, epoch, seed,
        counts,
    )  # fmt: skip
    with builder.if_then(cgutils.is_not_null(builder, failed), likely=False):
        context.call_conv.return_user_exc(builder, MemoryError, ("no memory to rank tokens",))
    return (keep, kw), restore, mask


def _by_scores(context, builder, kind, value, pair, kept, counts):
    """`_mask_by` of scores of any strides."""
    words = emit.words_of(context, builder, kind, value)
    plain = types.Array(kind.dtype, 2, "C")
    array, aw = made_array(context, builder, plain, *pair)
    copier(dtype_of(kind).itemsize).emit(context, builder, aw, words)
    source = f"f{dtype_of(kind).itemsize}"
    nothing = I64(0), I64(0), I64(0)
    made = _mask_by(context, builder, source, pair, kept, nothing, counts, address_of(builder, aw))
    context.nrt.decref(builder, plain, array)
    return made


class _Ranks(Call):
    """rank_tokens(scores, num_keep)."""

    name = "rank_tokens"
    arrays = (_IDS, _IDS, _NOISE)
    result = types.NamedTuple(arrays, TokenMask)

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        self.is_refused = arguments.is_refused(self.name, kinds)
        self.kept = _Kept(kinds[1])

    def check(self, context, builder, kinds, values):
        scores = kinds[0]
        if scores.ndim != 2 or self.kept.never_fits:
            return None
        words = emit.words_of(context, builder, scores, values[0])
        self.pair = size_of(builder, words, 0), size_of(builder, words, 1)
        return self.kept.check(context, builder, self.pair, values[1])

    def work(self, builder):
        return builder.mul(builder.mul(*self.pair), I64(_RANKED_BYTES))

    def asked(self, kinds, values):
        return [(kinds[0], values[0]), self.kept.asked(values[1])]

    def run(self, context, builder, kinds, values):
        counts = self.kept.open(context, builder, values[1])
        (keep, _), restore, mask = _by_scores(
            context, builder, kinds[0], values[0], self.pair, self.kept.most, counts
        )
        self.kept.close(context, builder)
        return [keep, restore, mask]


class _Masking(Call):
    """random_masking(x, mask_ratio, noise, seed, sample_ids, epoch, num_keep)."""

    name = "random_masking"

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        x, _, noise, seed, ids, _, number = kinds[:7]
        self.is_refused = arguments.is_refused(self.name, kinds)
        self.ndim = max(x.ndim, 2)
        self.visible = types.Array(x.dtype, self.ndim, "C")
        self.kept, self.by_number = _Kept(number), was_given(number)
        self.arrays = self.visible, _NOISE, _IDS
        self.result = types.NamedTuple(self.arrays, MaskedTokens)
        if self.kept.for_each:
            self.arrays = *self.arrays, _VALID
            self.result = types.NamedTuple(self.arrays, PaddedTokens)
        self.by_noise, self.has_ids = was_given(noise), was_given(ids)
        self.asked_name = "masking_by_noise" if self.by_noise else "masking_by_seed"
        sources = self.by_noise and (was_given(seed) or self.has_ids)
        shapes = x.ndim < 2 or (self.by_noise and noise.ndim != 2)
        self.never_fits = sources or shapes or self.kept.never_fits
        self.never_fits = self.never_fits or (is_array(ids) and ids.ndim != 1)

    def check(self, context, builder, kinds, values):
        if self.never_fits:
            return None
        x, ratio, noise, seed, ids, epoch = kinds[:6]
        self.words = emit.words_of(context, builder, x, values[0])
        self.pair = samples, length = (
            size_of(builder, self.words, 0),
            size_of(builder, self.words, 1),
        )
        if self.by_number:
            fits = [self.kept.check(context, builder, self.pair, values[6])]
        else:
            fits = [self._count(context, builder, length, ratio, values[1])]
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

    def _count(self, context, builder, length, ratio, given):
        """Find how many stay at a ratio; whether it is one."""
        double = ir.DoubleType()
        if isinstance(ratio, types.Omitted):
            value = double(ratio.value)
        else:
            value = context.cast(builder, given, ratio, types.float64)
        low = builder.fcmp_ordered(">=", value, double(0))
        fits = builder.and_(low, builder.fcmp_ordered("<=", value, double(1)))
        part = builder.fsub(double(1), builder.select(fits, value, double(0)))
        self.kept.most = builder.fptosi(builder.fmul(builder.sitofp(length, double), part), I64)
        return fits

    def work(self, builder):
        samples, length = self.pair
        ranked = builder.mul(length, I64(_RANKED_BYTES))
        row = I64(dtype_of_item(self.visible))
        for d in range(2, self.ndim):
            row = builder.mul(row, size_of(builder, self.words, d))
        return builder.mul(samples, builder.add(ranked, builder.mul(self.kept.most, row)))

    def asked(self, kinds, values):
        asked = [(kinds[0], values[0]), self.kept.asked(values[6])]
        if self.by_noise:
            return [*asked, (kinds[2], values[2])]
        asked += [(types.int64, self.seed), (types.int64, self.epoch)]
        if is_array(kinds[4]):
            asked.append((kinds[4], values[4]))
        elif self.has_ids:
            asked.append((types.int64, self.pair[0]))
        return asked

    def run(self, context, builder, kinds, values):
        counts, kept = self.kept.open(context, builder, values[6]), self.kept.most
        if self.by_noise:
            made = _by_scores(context, builder, kinds[2], values[2], self.pair, kept, counts)
        else:
            ids, address = None, I64(0)
            if is_array(kinds[4]):
                ids, iw = _ids(context, builder, kinds[4], values[4])
                address = address_of(builder, iw)
            drawn = address, self.epoch, self.seed
            made = _mask_by(context, builder, "seed", self.pair, kept, drawn, counts)
            if ids is not None:
                context.nrt.decref(builder, _IDS_1D, ids)
        (keep, kw), restore, mask = made
        visible = self._visible(context, builder, kinds[0], kw)
        context.nrt.decref(builder, _IDS, keep)
        results = [visible, mask, restore]
        if self.kept.for_each:
            valid, vw = made_array(context, builder, _VALID, self.pair[0], kept)
            marked = address_of(builder, vw), counts, self.pair[0], kept
            token_loops.mark_valid.emit(context, builder, *marked)
            results.append(valid)
        self.kept.close(context, builder)
        return results

    def _visible(self, context, builder, x, kw):
        """The tokens that stay, in the order of their rank, and zeros where there is none."""
        zeros = emit.memory(builder, 2)
        for k in range(2):
            builder.store(I64(0), emit.word(builder, zeros, k))
        rw = emit.result_words(builder, self.ndim)
        loop = emit.memory(builder, AXES + AXIS_WORDS * self.ndim)
        how = I64(FILL if self.kept.for_each else RAISE)
        planned = I64(TOKENS), I64(1), how, self.words, kw, rw, I64(self.ndim), loop
        plan_gather.emit(context, builder, *planned)
        visible = emit.new_array(context, builder, self.visible, rw)
        count = builder.load(emit.word(builder, loop, COUNT))
        with builder.if_then(cgutils.is_not_null(builder, count)):
            run = gatherer(dtype_of(x).itemsize, types.int64)
            run.emit(context, builder, I64(TOKENS), self.words, kw, rw, loop, zeros, I64(0))
        return visible


def dtype_of_item(kind: Any) -> int:
    """Bytes of an item of an array type."""
    return int(dtype_of(kind).itemsize)


def token_noise(seed, sample_ids, num_tokens, epoch=0, backend=None):
    return compiled(_Noise, (seed, sample_ids, num_tokens, epoch), backend)


def _of_no_dimension(name: str, number: Any) -> str | None:
    if is_array(number) and number.ndim == 0:
        return f"{name}: num_keep is an array without dimensions: give num_keep[()]"
    return None


def rank_tokens(scores, num_keep, backend=None):
    reason = _of_no_dimension("rank_tokens", num_keep)
    return reason or compiled(_Ranks, (scores, num_keep), backend, scores=scores)


def random_masking(
    x, mask_ratio=0.75, noise=None, seed=None, sample_ids=None, epoch=0, num_keep=None, backend=None
):
    if not (was_given(noise) or was_given(seed)):
        return (
            "random_masking in compiled code draws no seed: give noise= or seed=, as"
            " np.random.randint(2**62) is"
        )
    if is_array(mask_ratio):
        return "random_masking: mask_ratio is an array: a number is needed"
    arrays = {"x": x, "noise": noise} if was_given(noise) else {"x": x}
    kinds = x, mask_ratio, noise, seed, sample_ids, epoch, num_keep
    reason = _of_no_dimension("random_masking", num_keep)
    return reason or compiled(_Masking, kinds, backend, **arrays)
