"""From a public call to a backend and back: the one road that every gather takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather import _arrays, _plan, _recycle, _validate, backends
from nbgather._arrays import Adapter

#: What an unused pointer points to.
_NOTHING = np.zeros(16, np.uint8)
_NOWHERE = _arrays.memory_address(_NOTHING)


def gather(
    kind: str,
    input: Any,
    dim: int,
    index: Any,
    *,
    mode: str,
    fill: Any,
    out: Any,
    backend: str | None,
) -> Any:
    """Gather ``index`` from ``input`` as :func:`nbgather._plan.plan_gather` says of ``kind``.

    ``fill`` is a value for the mode ``fill``, or for ``restore`` the row's bits.
    """
    input_name, index_name = _plan.NAMES[kind]
    adapted = _arrays.same_adapter(input, input_name, index, index_name)
    x, x_key = _arrays.ready(adapted, input)
    i, i_key = _arrays.ready(adapted, index)
    out_key = None if out is None else _checked_out(adapted, out, {input_name: x, index_name: i})
    plan = _plan.plan_gather(adapted, x_key, i_key, out_key, dim, mode, kind)
    module = backends.get("cpu" if backend is None else backend)
    if adapted.wants_grad(input):
        from nbgather import torch as autograd

        return autograd.gather(kind, input, dim, index, mode, fill, out, backend)
    if plan.count == 0:
        return adapted.empty(plan.shape, x) if out is None else out
    x_address, i_address = adapted.address(x), adapted.address(i)
    if plan.needs_copy or x_address & plan.item_mask or i_address & plan.index_mask:
        return _gather_copies(adapted, kind, x, dim, i, mode, fill, out, backend)
    if out is not None:
        result = out
    elif plan.nbytes < _recycle.SMALLEST:
        result = adapted.empty(plan.shape, x)
    else:
        result = adapted.empty_large(plan.shape, x, plan.nbytes)
    out_address = adapted.address(result)
    if out_address & plan.item_mask:
        return _gather_copies(adapted, kind, x, dim, i, mode, fill, out, backend)
    if plan.size == 0 and mode in ("clip", "wrap"):
        _validate.no_position(plan.dim, mode)
    if plan.size == 0 and mode == "raise":
        bad = 1
    else:
        aux = None
        if mode == "fill":
            aux = adapted.scalar_bits(x, fill) if kind != "restore" else fill
            if plan.row and kind != "restore":
                aux = np.repeat(aux, plan.row)
        if hasattr(module, "HOST_VIEWS"):
            bad = _run_on_views(adapted, module, plan, result, x, i, aux)
        else:
            aux_address = _NOWHERE if aux is None else _arrays.memory_address(aux)
            bad = module.gather(plan, out_address, x_address, i_address, aux_address)
    if bad:
        size = plan.limit if kind == "restore" else plan.size
        _validate.raise_bad_index(adapted.integers(i), size, plan.dim, plan.from_end)
    return result


def _checked_out(adapted: Adapter, out: Any, operands: dict[str, Any]) -> _arrays.Key:
    found = _arrays.adapter(out, "out")
    if found is not adapted:
        raise TypeError(f"out is a {found.name} array and the operands are {adapted.name} ones")
    if adapted.wants_grad(out):
        raise ValueError("out requires grad: gradients cannot flow into out")
    key = adapted.key(out)
    _validate.out_writeable(adapted.writeable(out))
    bits = {name: adapted.bits(array) for name, array in operands.items()}
    _validate.out_alone(adapted.bits(out), bits)
    return key


def _gather_copies(
    adapted: Adapter,
    kind: str,
    x: Any,
    dim: int,
    i: Any,
    mode: str,
    fill: Any,
    out: Any,
    backend: str | None,
) -> Any:
    """For strides or addresses that no kernel can walk: gather between plain copies."""
    x, i = adapted.contiguous(x), adapted.contiguous(i)
    result = gather(kind, x, dim, i, mode=mode, fill=fill, out=None, backend=backend)
    if out is None:
        return result
    adapted.assign(out, result)
    return out


def _run_on_views(
    adapted: Adapter,
    module: Any,
    plan: _plan.GatherPlan,
    result: Any,
    x: Any,
    i: Any,
    aux: np.ndarray | None,
) -> int:
    """Run a backend that takes NumPy views, at the shape of the result."""
    bits = _arrays.bits_dtype(plan.itemsize)
    x_shape = (*plan.shape[: plan.dim], plan.size, *plan.shape[plan.dim + 1 :])
    if plan.shape == ():
        x_shape = (plan.size,)
    x_view = _arrays.view_memory(
        adapted.address(x), x_shape, plan.input_strides[: len(x_shape)], bits, x
    )
    index_shape, index_strides = plan.shape, plan.index_strides
    out_view = adapted.bits(result)
    if plan.shape == ():
        index_shape, index_strides, out_view = (1,), (0,), out_view.reshape(1)
    index_view = _arrays.view_memory(
        adapted.address(i), index_shape, index_strides, np.dtype(plan.index), i
    )
    fill = np.zeros(1, bits) if aux is None else aux
    return int(module.gather(plan, out_view, x_view, index_view, fill))
