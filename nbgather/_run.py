"""From a public call to a backend and back: the one road that every gather takes."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nbgather import _arrays, _plan, _validate
from nbgather._arrays import Adapter
from nbgather.engine import backends, recycle
from nbgather.kernels.memory import bits_dtype, memory_address, view_memory
from nbgather.kernels.plans import GatherPlan, ScatterPlan

#: What an unused pointer points to.
_NOTHING = np.zeros(16, np.uint8)
_NOWHERE = memory_address(_NOTHING)


def gather(
    kind: str,
    input: Any,
    dim: int,
    index: Any,
    mode: str,
    fill: Any,
    out: Any,
    backend: str | None,
) -> Any:
    """Gather ``index`` from ``input`` as :func:`nbgather._plan.plan_gather` says of ``kind``.

    ``fill`` is a value for the mode ``fill``, or for ``restore`` the row's bits.
    """
    if out is None and backend is None:
        known = _arrays.known(type(input))
        if known is not None:
            result = known.again(small, (kind, dim, mode), input, index)
            if result is not None:
                return result
    mode = _validate.mode(mode)
    input_name, index_name = _plan.NAMES[kind]
    adapted = _arrays.adapter(input, input_name)
    if mode == "fill" and kind != "restore":
        fill = _arrays.scalar(fill, "fill_value")
    index = _arrays.beside(adapted, input, input_name, index, index_name)
    if adapted.detours:
        detour = adapted.detour(input, index)
        if detour is not None:
            fill = fill.item() if isinstance(fill, np.generic) else fill
            return detour.via_gather(kind, input, dim, index, mode, fill, out, backend)
    if adapted.wants_grad(input):
        from nbgather import _torch_grad as autograd

        return autograd.gather(kind, input, dim, index, mode, fill, out, backend)
    x, x_key = _arrays.ready(adapted, input)
    i, i_key = _arrays.ready(adapted, index)
    out_key = None
    if out is not None:
        operands = [(input_name, x, x_key), (index_name, i, i_key)]
        out_key = _checked_out(adapted, out, operands)
    plan = _plan.plan_gather(adapted, x_key, i_key, out_key, dim, mode, kind)
    module = backends.serving(backend, adapted.home, adapted.device(x))
    if plan.count == 0:
        return adapted.empty(plan.shape, x) if out is None else out
    x_address, i_address, place = adapted.address(x), adapted.address(i), adapted.place(x)
    # A GPU moves 16 bytes as one item, the host as two words.
    item_mask = plan.itemsize - 1 if place and plan.item_mask else plan.item_mask
    if plan.needs_copy or x_address & item_mask or i_address & plan.index_mask:
        return _gather_copies(adapted, kind, x, dim, i, mode, fill, out, backend)
    checked = plan.limit >= 0
    if place and checked:
        checked = module.may_wait(*place, needed=kind != "restore")
    result = adapted.empty_result(plan.shape, x, plan.nbytes) if out is None else out
    out_address = adapted.address(result)
    if out_address & item_mask:
        return _gather_copies(adapted, kind, x, dim, i, mode, fill, out, backend)
    if plan.size == 0 and mode in ("clip", "wrap"):
        _validate.no_position(plan.dim, mode)
    if plan.size == 0 and mode == "raise":
        bad = 1
    elif place:
        bits = adapted.scalar_bits(x, fill) if mode == "fill" and kind != "restore" else None
        row = adapted.address(fill) if kind == "restore" else 0
        with adapted.on(x):
            addresses = out_address, x_address, i_address
            bad = module.gather(plan, *addresses, *place, checked, bits, row)
    else:
        aux = None
        if mode == "fill":
            aux = adapted.scalar_bits(x, fill) if kind != "restore" else fill
            if plan.row and kind != "restore":
                aux = np.repeat(aux, plan.row)
        if hasattr(module, "HOST_VIEWS"):
            bad = _run_on_views(adapted, module, plan, result, x, i, aux)
        else:
            aux_address = _NOWHERE if aux is None else memory_address(aux)
            bad = module.gather(plan, out_address, x_address, i_address, aux_address)
    if bad:
        size = plan.limit if kind == "restore" else plan.size
        _validate.raise_bad_index(adapted.integers(i), size, plan.dim, plan.from_end)
    if out is None and backend is None and x is input and mode != "fill" and not place:
        _remember(module, (kind, dim, mode), adapted, plan, x, i)
    return result


#: Small gathers that went well, by all that their plan depends on: a tiny call costs more on its
#: way to the kernel than in it.
small: dict[Any, _arrays.SmallCall] = {}


def _remember(module: Any, head: Any, adapted: Adapter, plan: GatherPlan, x: Any, i: Any) -> None:
    made = module.small_call(plan)
    if made is not None:
        if len(small) >= 4096:
            small.clear()
        run, numbers = made
        small[adapted.again_key(head, x, i)] = _arrays.SmallCall(
            run,
            memory_address(numbers),
            plan.shape,
            adapted.numpy_dtype(x),
            plan.item_mask,
            plan.index_mask,
            (plan.itemsize, _nbytes(adapted, x), plan.index_mask + 1, _nbytes(adapted, i)),
            (plan, numbers),
        )


def _nbytes(adapted: Adapter, array: Any) -> int:
    shape, _, dtype = adapted.layout(adapted.key(array))
    return math.prod(shape) * dtype.itemsize


def _checked_out(
    adapted: Adapter, out: Any, operands: list[tuple[str, Any, _arrays.Key]]
) -> _arrays.Key:
    found = _arrays.adapter(out, "out")
    if found is not adapted:
        raise TypeError(f"out is a {found.name} array and the operands are {adapted.name} ones")
    if adapted.wants_grad(out):
        raise ValueError("out requires grad: gradients cannot flow into out")
    try:
        key = adapted.key(out)
    except LookupError:
        raise ValueError(
            "out is a lazy view (conjugate, negative or zero) of torch: a plain tensor is needed"
        ) from None
    _validate.out_writeable(adapted.writeable(out))
    layout = adapted.layout(key)
    _validate.out_apart(layout.shape, layout.strides, layout.dtype.itemsize)
    low, high = _extent(adapted, key)
    start = adapted.address(out)
    for name, array, its_key in operands:
        its_low, its_high = _extent(adapted, its_key)
        its_start = adapted.address(array)
        if start + low < its_start + its_high and its_start + its_low < start + high:
            _validate.out_alone(adapted.bits(out), adapted.bits(array), name)
    return key


@functools.lru_cache(maxsize=1024)
def _extent(adapted: Adapter, key: _arrays.Key) -> tuple[int, int]:
    """The bytes that an array reaches, as an offset from its address and one past the last."""
    shape, strides, dtype = adapted.layout(key)
    if 0 in shape:
        return 0, 0
    steps = [s * (n - 1) for n, s in zip(shape, strides, strict=True)]
    return sum(min(s, 0) for s in steps), sum(max(s, 0) for s in steps) + dtype.itemsize


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
    result = gather(kind, x, dim, i, mode, fill, None, backend)
    if out is None:
        return result
    adapted.assign(out, result)
    return out


def _run_on_views(
    adapted: Adapter,
    module: Any,
    plan: GatherPlan,
    result: Any,
    x: Any,
    i: Any,
    aux: np.ndarray | None,
) -> int:
    """Run a backend that takes NumPy views, at the shape of the result."""
    bits = bits_dtype(plan.itemsize)
    x_shape = (*plan.shape[: plan.dim], plan.size, *plan.shape[plan.dim + 1 :])
    if plan.shape == ():
        x_shape = (plan.size,)
    x_view = view_memory(adapted.address(x), x_shape, plan.input_strides[: len(x_shape)], bits, x)
    index_shape, index_strides = plan.shape, plan.index_strides
    out_view = adapted.bits(result)
    if plan.shape == ():
        index_shape, index_strides, out_view = (1,), (0,), out_view.reshape(1)
    index_view = view_memory(
        adapted.address(i), index_shape, index_strides, np.dtype(plan.index), i
    )
    fill = np.zeros(1, bits) if aux is None else aux
    return int(module.gather(plan, out_view, x_view, index_view, fill))


#: The kind of numbers that scatter_add adds in a dtype; integers of one size wrap alike.
_ADDED = {
    "bool": "bool",
    **{f"{sign}int{8 * n}": f"u{n}" for n in (1, 2, 4, 8) for sign in ("", "u")},
    "float32": "f4",
    "float64": "f8",
    "complex64": "c8",
    "complex128": "c16",
}
#: Summed in float32 and rounded once, as torch does.
_WIDENED = ("float16", "bfloat16")


def scatter(
    input: Any, dim: int, index: Any, src: Any, *, add: bool, out: Any, backend: str | None
) -> Any:
    """Scatter ``src`` into a copy of ``input``; ``add`` sums into it."""
    adapted = _arrays.adapter(input, "input")
    index = _arrays.beside(adapted, input, "input", index, "index")
    if add or not _arrays.is_number(src):
        _arrays.same_adapter(input, "input", src, "src")
    if adapted.detours:
        detour = adapted.detour(input, index, src)
        if detour is not None:
            return detour.via_scatter(input, dim, index, src, add, out, backend)
    x, x_key = _arrays.ready(adapted, input)
    i, i_key = _arrays.ready(adapted, index)
    if not add and _arrays.is_number(src):
        s, s_key = adapted.scalar_bits(x, src, "src"), None
    else:
        s, s_key = _arrays.ready(adapted, src)
    if out is not None:
        operands = [("input", x, x_key), ("index", i, i_key)]
        operands += [] if s_key is None else [("src", s, s_key)]
        found = adapted.layout(_checked_out(adapted, out, operands))
        wanted = adapted.layout(x_key)
        _validate.out_matches(found.shape, found.dtype.name, wanted.shape, wanted.dtype.name)
    plan = _plan.plan_scatter(adapted, x_key, i_key, s_key, dim)
    module = backends.serving(backend, adapted.home, adapted.device(x))
    if not hasattr(module, "scatter"):
        raise ValueError(f"backend {backend!r} cannot scatter: cpu, reference and torch can")
    if adapted.wants_grad(input) or (s_key is not None and adapted.wants_grad(src)):
        from nbgather import _torch_grad as autograd

        return autograd.scatter(input, dim, index, src, add, out, backend)
    kind = None
    if add:
        dtype = adapted.layout(x_key).dtype
        name = dtype.name.rpartition(".")[2]
        if name in _WIDENED:
            wide, values = adapted.cast(x, "float32"), adapted.cast(s, "float32")
            sums = scatter(wide, dim, i, values, add=True, out=None, backend=backend)
            return _into(adapted, adapted.cast(sums, x.dtype), out)
        kind = _validate.addable(dtype.name, _ADDED.get(name) if dtype.native else None)
    if plan.count and _unaligned(adapted, plan, i, s, s_key):
        i, s = adapted.contiguous(i), s if s_key is None else adapted.clone(s)
        return scatter(x, dim, i, s if s_key else src, add=add, out=out, backend=backend)
    place = adapted.place(x)
    if place:
        module.may_wait(*place)
    result = _copy(adapted, module, x, x_key, plan.nbytes)
    if plan.count and place:
        if s_key is None:
            s = adapted.from_numpy(s.copy(), x)
        addresses = adapted.address(result), adapted.address(s), adapted.address(i)
        with adapted.on(x):
            bad = module.scatter(plan, *addresses, kind, *place)
        if bad:
            _validate.raise_bad_index(adapted.integers(i), plan.size, plan.dim, False)
    elif plan.count:
        s_address = adapted.address(s) if s_key is not None else memory_address(s)
        if hasattr(module, "HOST_VIEWS"):
            bad = _scatter_views(adapted, module, plan, result, i, (s_address, s), kind)
        else:
            bad = module.scatter(plan, adapted.address(result), adapted.address(i), s_address, kind)
        if bad:
            _validate.raise_bad_index(adapted.integers(i), plan.size, plan.dim, False)
    return _into(adapted, result, out)


def _unaligned(adapted: Adapter, plan: ScatterPlan, i: Any, s: Any, s_key: Any) -> bool:
    wrong = plan.needs_copy or adapted.address(i) & plan.index_mask
    mask = plan.itemsize - 1 if adapted.home == "cuda" else plan.item_mask
    return bool(wrong or (s_key is not None and adapted.address(s) & mask))


def _into(adapted: Adapter, result: Any, out: Any) -> Any:
    """The result, or ``out`` with it: nothing is written there before all has gone well."""
    if out is None:
        return result
    adapted.assign(out, result)
    return out


def _copy(adapted: Adapter, module: Any, x: Any, key: _arrays.Key, nbytes: int) -> Any:
    """A C-contiguous copy of ``x``, by all cores if it is large and lies together."""
    shape, strides, dtype = adapted.layout(key)
    if adapted.home != "cpu":
        return adapted.clone(x)
    together = strides == _plan.contiguous_strides(shape, dtype.itemsize)
    if nbytes < recycle.SMALLEST or not together or not hasattr(module, "copy"):
        return adapted.clone(x)
    result = adapted.empty_large(shape, x, nbytes)
    module.copy(adapted.address(result), adapted.address(x), nbytes)
    return result


def _scatter_views(
    adapted: Adapter,
    module: Any,
    plan: ScatterPlan,
    result: Any,
    i: Any,
    source: tuple[int, Any],
    kind: str | None,
) -> int:
    """Run a backend that takes NumPy views, at the shape of the index."""
    items = bits_dtype(plan.itemsize) if kind is None else np.dtype(kind)
    target = adapted.bits(result).reshape(plan.shape or (1,)).view(items)
    index = view_memory(
        adapted.address(i), plan.index_shape, plan.index_strides, np.dtype(plan.index), i
    )
    src = view_memory(source[0], plan.index_shape, plan.src_strides, items, source[1])
    return int(module.scatter(plan, target, index, src, kind))
