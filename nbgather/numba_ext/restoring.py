"""The way back of tokens inside compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from nbgather.kernels.constants import FILL
from nbgather.numba_ext import arguments, emit, token_loops
from nbgather.numba_ext.arguments import dtype_of, is_array, was_given
from nbgather.numba_ext.calls import Call, address_of, all_of, compiled, made_array, size_of
from nbgather.numba_ext.emit import I64
from nbgather.numba_ext.gather_loops import AXES, AXIS_WORDS, COUNT, gatherer, plan_gather
from nbgather.numba_ext.intrinsics import converter
from nbgather.numba_ext.moving import copier
from nbgather.numba_ext.records import RESTORE


class _Restore(Call):
    """restore_tokens(x_visible, ids_restore, mask_token, valid)."""

    name = "restore_tokens"

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        x, index, token = kinds[:3]
        self.ndim = max(x.ndim, 2)
        self.result = types.Array(x.dtype, self.ndim, "C")
        self.arrays = (self.result,)
        self.is_refused = arguments.is_refused(self.name, kinds) or index.ndim != 2 or x.ndim < 2
        self.item = dtype_of(x).itemsize
        self.valid = kinds[3] if was_given(kinds[3]) else None
        if self.valid is not None:
            self.asked_name = "restore_valid"
            is_marks = self.valid.ndim == 2 and isinstance(self.valid.dtype, types.Boolean)
            self.is_refused = self.is_refused or not is_marks
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
        fits = builder.and_(fits, other)
        if self.valid is None:
            return fits
        self.vw = emit.words_of(context, builder, self.valid, values[3])
        pairs = [[size_of(builder, w, d) for w in (self.vw, self.xw)] for d in range(2)]
        return all_of(builder, fits, *(builder.icmp_signed("==", *pair) for pair in pairs))

    def work(self, builder):
        # What did not fit is not counted.
        return builder.mul(self.count, I64(self.item))

    def asked(self, kinds, values):
        count = 3 if self.valid is None else 4
        return [*zip(kinds[:count], values[:count], strict=True)]

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
            visible, xw = None, self.xw
            if self.valid is not None:
                # What is no token is where the mask token goes.
                whole = types.Array(x.dtype, x.ndim, "C")
                sizes = [size_of(builder, xw, d) for d in range(x.ndim)]
                visible, copied = made_array(context, builder, whole, *sizes)
                copier(self.item).emit(context, builder, copied, xw)
                xw = copied
                blank = token_loops.blanker(self.item)
                blank.emit(context, builder, xw, self.vw, aux, step)
                replan = I64(RESTORE), I64(1), I64(FILL), xw, self.iw, self.rw, I64(self.ndim)
                plan_gather.emit(context, builder, *replan, self.loop)
            run = gatherer(self.item, index.dtype)
            operands = I64(RESTORE), xw, self.iw, self.rw, self.loop, aux, step
            bad = run.emit(context, builder, *operands)
            if visible is not None:
                context.nrt.decref(builder, whole, visible)
            if row is not None:
                context.nrt.decref(builder, plain, row)
            emit.refuse_result(context, builder, self.result, made, bad)
        return [made]


def restore_tokens(
    x_visible, ids_restore, mask_token, valid=None, backend=None, mode="raise"
):  # fmt: skip
    arrays = {"x_visible": x_visible, "ids_restore": ids_restore}
    if was_given(valid):
        arrays["valid"] = valid
    kinds = x_visible, ids_restore, mask_token, valid
    reason = arguments.why_no_mode("restore_tokens", mode)
    return reason or compiled(_Restore, kinds, backend, **arrays)
