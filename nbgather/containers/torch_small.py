"""Small calls on torch tensors: repeated by the memo, or by torch's own operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nbgather.containers.base import Container
from nbgather.containers.torch_dtypes import describe
from nbgather.containers.torch_state import at_rest, is_dynamo_compiling, wants_grad
from nbgather.engine.memo import SmallGather, SmallMasking
from nbgather.operations.indexing import Gather

#: Items of a gather up to which torch's own operator is as fast as a kernel behind a call of ours.
MAX_TORCH_ITEMS = 512
#: What torch.gather leaves the bits of as they are; of float16 it does not.
_KEPT_BY_TORCH = frozenset((torch.float32, torch.float64))
#: The types whose state is known: exactly these, not what derives from them.
_TYPES = frozenset((torch.Tensor, torch.nn.Parameter))

_int64 = torch.int64
_from_numpy, _torch_gather, _empty = torch.from_numpy, torch.gather, np.empty
_LOW64 = 0xFFFFFFFFFFFFFFFF


class SmallTorchCalls(Container):
    """How plain tensors repeat a small call."""

    exact_types = _TYPES

    def recall(
        self, entries: Any, kind: Any, first: Any, second: Any, x: Any, side: Any, values: Any
    ) -> Any:
        # Exact types only: ``x`` has one of `exact_types`.
        if (side is not None and type(side) not in _TYPES) or is_dynamo_compiling():
            return None
        if kind is Gather and second == "raise" and side is not None:
            # By torch itself, where a call costs more than the kernel saves. Its operator is right
            # in every mode, transform and kind of AD, and for every lazy view; its node of the
            # graph costs a tenth of one written in Python. What it cannot see is that memory is
            # gone.
            try:
                if (
                    side.dtype is _int64
                    and x.dtype in _KEPT_BY_TORCH
                    and side.numel() <= MAX_TORCH_ITEMS
                    and x.is_cpu
                    and side.is_cpu
                    and x.is_contiguous()
                    and side.is_contiguous()
                    and x.untyped_storage().nbytes() >= x.nbytes + x.storage_offset() * x.itemsize
                    and side.untyped_storage().nbytes() >= side.nbytes + side.storage_offset() * 8
                ):
                    return _torch_gather(x, first, side)
            except (RuntimeError, IndexError):
                pass  # no plain memory, or an error for which we have words of our own
        if not at_rest():
            return None
        try:
            call = entries.get(self.small_key(kind, first, second, x, side))
            if call is None or wants_grad(x):
                return None
            return call(x, side) if values is None else call(x, side, *values)
        except RuntimeError:
            return None  # a tensor without plain memory

    def small_key(self, kind: Any, first: Any, second: Any, x: Any, side: Any) -> Any:
        if side is None:
            return (kind, first, second, x.shape, x.dtype) if x.is_contiguous() else None
        if x.is_contiguous() and side.is_contiguous():
            return kind, first, second, x.shape, x.dtype, side.shape, side.dtype
        return None

    def small_gather(self, call: SmallGather, like: Any) -> Callable[..., Any]:
        run, numbers, shape = call.backend.small(), call.numbers_address, call.shape
        dtype = _numpy_dtype(like.dtype)
        item_mask, index_mask = call.item_mask, call.index_mask
        item, nbytes = call.itemsize, call.input_nbytes
        index_item, index_nbytes = call.index_itemsize, call.index_nbytes

        def repeat(x: Any, index: Any, call: SmallGather = call) -> Any:
            source = _plain_address(x, item, nbytes)
            positions = _plain_address(index, index_item, index_nbytes)
            if not source or not positions or source & item_mask or positions & index_mask:
                return None
            if dtype is None:
                result = torch.empty(shape, dtype=x.dtype, device="cpu")
            else:  # half the time of torch.empty, and three quarters of torch.empty_like's
                result = _from_numpy(_empty(shape, dtype))
            return None if run(result.data_ptr(), source, positions, numbers) else result

        return repeat

    def small_masking(self, call: SmallMasking, like: Any) -> Callable[..., Any]:
        run, numbers, shape, pair = call.run, call.numbers_address, call.shape, call.pair
        item, nbytes = call.itemsize, call.nbytes
        empty, float32 = torch.empty, torch.float32

        def repeat(x: Any, ids: Any, seed: int, epoch: int, call: SmallMasking = call) -> Any:
            source = _plain_address(x, item, nbytes)
            idx = 0 if ids is None else _plain_address(ids, 8, 8 * pair[0])
            if not source or idx & 7 or (idx == 0) != (ids is None):
                return None
            x_masked = empty(shape, dtype=x.dtype, device="cpu")
            mask = empty(pair, dtype=float32, device="cpu")
            ids_restore = empty(pair, dtype=_int64, device="cpu")
            bad = run(
                x_masked.data_ptr(), source, idx, ids_restore.data_ptr(), mask.data_ptr(), epoch,
                seed & _LOW64, numbers,
            )  # fmt: skip
            return None if bad else (x_masked, mask, ids_restore)

        return repeat


def _numpy_dtype(dtype: torch.dtype) -> Any:
    """The NumPy dtype whose arrays become tensors of this one, or None."""
    try:
        result = np.dtype(describe(dtype).name)
        return result if _from_numpy(_empty(0, result)).dtype is dtype else None
    except TypeError:
        return None  # bfloat16 and its like


def _plain_address(array: Any, itemsize: int, nbytes: int) -> int:
    """The address of a contiguous tensor whose memory is its value, or 0.

    A tensor without any memory may raise a RuntimeError.
    """
    if (
        not array.is_cpu
        or array.is_neg()
        or array.is_conj()
        or not array.is_contiguous()
        or array.untyped_storage().nbytes() < nbytes + array.storage_offset() * itemsize
    ):
        return 0
    return int(array.data_ptr())  # 0 where the storage has no memory
