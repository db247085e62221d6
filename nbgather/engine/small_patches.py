"""Small images cut into patches and put together again, kept to be repeated.

Both only move the items of each sample, so a small call is a gather by an index that stays: what
the operation makes of 0, 1, 2, ...
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbgather.engine import arrays, backends, memo
from nbgather.engine.plan import plan_gather
from nbgather.kernels import small
from nbgather.kernels.memory import memory_address
from nbgather.operations.base import INT64, Apply, Operation, Spec, contiguous_strides
from nbgather.operations.checks import ITEMSIZES
from nbgather.operations.indexing import Gather
from nbgather.operations.patches import Patchify, Unpatchify

#: Items of a sample from which on the index costs more than it saves.
MAX_ITEMS = 4096
_UNUSED = np.zeros(16, np.uint8)


def keep(
    container: Any, operation: Patchify | Unpatchify, array: Any, shape: tuple[int, ...]
) -> None:
    """Keep a small call that went well; ``shape`` is its result's."""
    sizes = operation.patch_size
    if isinstance(operation, Unpatchify):
        sizes = *sizes, *operation.image_size
    head = memo.head(type(operation), *sizes)
    if container.home != "cpu" or type(array) not in container.exact_types:
        return
    spec = container.spec(array)
    items = math.prod(spec.shape[1:])
    if not items * spec.shape[0] > 0 or items > MAX_ITEMS or not arrays.is_contiguous(spec):
        return
    if spec.dtype.itemsize not in ITEMSIZES or not memo.again(container, head, spec):
        return
    backend = backends.serving(None, container.home)
    numbers = np.arange(items, dtype=np.int64).reshape(1, *spec.shape[1:])
    index = np.ascontiguousarray(operation.lower(_by_numpy, numbers)).reshape(-1)
    flat = spec.shape[0], items
    x_spec = Spec(flat, contiguous_strides(flat, spec.dtype.itemsize), spec.dtype)
    plan = plan_gather(Gather, 1, "raise", x_spec, Spec(flat, (0, 8), INT64), None)
    step = backend.gather(
        plan, small.result(0), small.operand(0), memory_address(index), memory_address(_UNUSED),
        run=backend.step,
    )  # fmt: skip
    results = [memo.Result(shape, array.dtype)]
    memo.keep(container, backend, head, (array,), results, [step], owner=(plan, index))


class _NumPyNames:
    """What the two operations ask of a namespace, by NumPy itself."""

    reshape = staticmethod(np.reshape)
    permute_dims = staticmethod(np.transpose)


def _refuse(operation: Operation, *operands: Any) -> Any:
    raise NotImplementedError


_by_numpy = Apply(_refuse, lambda: _NumPyNames)
