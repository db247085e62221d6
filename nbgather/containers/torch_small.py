"""Small calls on torch tensors: repeated by the memo, or by torch's own operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import FunctionType
from typing import Any

import numpy as np
import torch

from nbgather.containers import torch_memory
from nbgather.containers.base import Container, Run
from nbgather.containers.torch_dtypes import describe, torch_dtype
from nbgather.containers.torch_state import is_compiling, is_dynamo_compiling, profiler_enabled
from nbgather.engine import memo, recycle
from nbgather.engine.plan import results_of
from nbgather.kernels import small
from nbgather.operations.base import PLAIN, Apply, DType, Operation
from nbgather.operations.indexing import Gather, GatherTokens, ScatterAdd

#: Items of a small call, of the input and of the result, that torch's own operators record.
MAX_TORCH_ITEMS = 4096
#: What torch's operators leave the bits of as they are, and add as ours do; of float16 they do not.
_KEPT_BY_TORCH = frozenset((torch.float32, torch.float64))
#: The types whose state is known: exactly these, not what derives from them.
_TYPES = frozenset((torch.Tensor, torch.nn.Parameter))

_kept = memo.entries.get
_int64 = torch.int64
_from_numpy, _torch_gather, _torch_add = torch.from_numpy, torch.gather, torch.scatter_add
_forward_ad = torch.autograd.forward_ad
#: Tells torch that tensors were written to, so that a gradient which needs what they held raises.
written = torch.autograd.graph.increment_version


class SmallTorchCalls(Container):
    """How plain tensors repeat a small call."""

    exact_types = _TYPES

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._is_told = torch_memory.tell()

    def may_repeat(self) -> bool:
        return not is_dynamo_compiling()

    def recall(self, head: Any, operands: tuple[Any, ...]) -> Any:
        # The modes, transforms and traces of torch are seen to where the call is repeated.
        if is_dynamo_compiling() or _forward_ad._current_level >= 0 or profiler_enabled():
            return None
        chain = _kept(head)
        if chain is None:
            return None
        result = memo.repeat(chain, *operands)
        if result is operands[-1] and result is not None:
            written(result)
        if type(result) is not FunctionType:
            return result
        try:
            return result(*operands)
        except (RuntimeError, IndexError):
            return None  # an error for which we have words of our own

    def apply(self, array: Any, backend: str | None = None) -> Apply:
        """What gradients run other operations by: small ones are repeated, too."""
        if backend is not None or is_compiling():
            return super().apply(array, backend)

        def run(operation: Operation, *operands: Any) -> Any:
            result = self.recall(*memo.call_of(operation, operands))
            return self.execute(operation, operands, PLAIN) if result is None else result

        return Apply(run, lambda: self.namespace(array))

    def small_operand(self, array: Any) -> tuple[int, int, tuple[int, ...]] | None:
        if not self._is_told:
            return None
        return small.TENSOR, torch_memory.dtype_number(array), array.stride()

    def small_gradient(self, head: Any, operands: Sequence[Any]) -> Any:
        """torch's own operator, whose node of the graph costs a tenth of one in Python.

        It depends on dtypes and shapes alone, so that a call has the same graph whether it is
        repeated or goes the whole way: activation checkpointing compares what graphs keep.
        """
        if head is None or head[0] not in (Gather, GatherTokens, ScatterAdd):
            return None
        kind, (x, index) = head[0], operands[:2]
        if x.dtype not in _KEPT_BY_TORCH or index.dtype is not _int64:
            return None
        if not set(map(type, operands)) <= _TYPES or x.numel() > MAX_TORCH_ITEMS:
            return None
        if kind is ScatterAdd:
            # Where src is larger than the index, torch's gradient fails.
            is_served = len(operands) == 3 and operands[2].shape == index.shape
            return _scatter_add(head[1]) if is_served else None
        items = index.numel() * (1 if kind is Gather else math.prod(x.shape[2:]))
        if head[2] != "raise" or len(operands) != 2 or items > MAX_TORCH_ITEMS:
            return None
        return _gather(head[1]) if kind is Gather else _gather_tokens(index, x)

    def small_graph(self, operation: Operation, operands: tuple[Any, ...]) -> Any:
        """A small call that wants a gradient by torch's own operator; None where there is none."""
        head, given = memo.call_of(operation, operands)
        given = tuple(o for o in given if o is not None)
        if _forward_ad._current_level >= 0 or not all(o.is_cpu for o in given):
            return None
        function = self.small_gradient(head, given)
        if function is None:
            return None
        # What torch does not see: memory that is gone, and shapes that we refuse.
        results_of(operation, *map(self.spec, given))
        try:
            return function(*given)
        except (RuntimeError, IndexError):
            return None  # an error for which we have words of our own

    def small_result(self, shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any, Any]:
        # NumPy's array as a tensor takes half the time of torch.empty.
        kind = torch_dtype(dtype) if isinstance(dtype, DType) else dtype
        numpy = _numpy_dtype(kind)
        if numpy is not None:
            return *recycle.maker(shape, numpy), _from_numpy
        bits = np.dtype(f"i{kind.itemsize}") if kind.itemsize <= 8 else np.dtype("c16")
        return *recycle.maker(shape, bits), lambda array: _from_numpy(array).view(kind)


def _gather(dim: int) -> Any:
    return lambda x, index: _torch_gather(x, dim, index)


def _gather_tokens(ids: Any, x: Any) -> Any:
    inner = x.shape[2:]
    narrow, wide = (*ids.shape, *(1,) * len(inner)), (*ids.shape, *inner)
    return lambda x, ids: _torch_gather(x, 1, ids.reshape(narrow).expand(wide))


def _scatter_add(dim: int) -> Any:
    return lambda x, index, src: _torch_add(x, dim, index, src)


def _numpy_dtype(dtype: torch.dtype) -> Any:
    """The NumPy dtype whose arrays become tensors of this one, or None."""
    try:
        result = np.dtype(describe(dtype).name)
        return result if _from_numpy(np.empty(0, result)).dtype is dtype else None
    except TypeError:
        return None  # bfloat16 and its like
