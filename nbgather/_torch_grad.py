"""Gradients for torch tensors: the kernels forward, torch's own operations backward.

Backward passes are made of differentiable torch operations, so second derivatives follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nbgather import _run


def _inside(index: torch.Tensor, size: int, mode: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Positions that are all in bounds, and which of them took part (None: all)."""
    index = index.to(torch.int64)
    if mode == "clip":
        return index.clamp(0, size - 1), None
    if mode == "wrap":
        return index.remainder(size), None
    if mode == "fill":
        valid = (index >= 0) & (index < size)
        return torch.where(valid, index, 0), valid
    return index, None


def gather_grad(
    grad: torch.Tensor, shape: torch.Size, dim: int, index: torch.Tensor, mode: str
) -> torch.Tensor:
    if index.numel() == 0 or 0 in shape:
        return grad.new_zeros(shape)
    position, valid = _inside(index, shape[dim] if shape else 1, mode)
    if valid is not None:
        grad = torch.where(valid, grad, 0)
    return grad.new_zeros(shape).scatter_add(dim, position, grad)


def expanded(ids: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return ids.reshape(*ids.shape, *(1,) * (len(shape) - 2)).expand(*ids.shape, *shape[2:])


def along_grad(
    grad: torch.Tensor, shape: torch.Size, axis: int, index: torch.Tensor, mode: str
) -> torch.Tensor:
    """As above where the other dimensions were broadcast and negative values counted back."""
    full = list(grad.shape)
    full[axis] = shape[axis] if shape else 1
    index = index.to(torch.int64)
    index = torch.where(index < 0, index + full[axis], index).expand(grad.shape)
    return gather_grad(grad, torch.Size(full), axis, index, mode).sum_to_size(shape)


def restore_grad(
    grad: torch.Tensor,
    ids_restore: torch.Tensor,
    shapes: tuple[torch.Size, torch.Size],
    wanted: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of restore_tokens to the visible tokens and the mask token."""
    x_shape, token_shape = shapes
    ids = expanded(ids_restore, grad.shape)
    to_x = to_token = None
    if wanted[0]:
        to_x = gather_grad(grad, x_shape, 1, ids, "fill")
    if wanted[1]:
        removed = torch.where(ids >= x_shape[1], grad, 0)
        to_token = removed.sum((0, 1)).sum_to_size(token_shape[-(grad.ndim - 2) :])
        to_token = to_token.reshape(token_shape)
    return to_x, to_token


def restore_tangent(
    x_visible: torch.Tensor | None,
    mask_token: torch.Tensor | None,
    ids_restore: torch.Tensor,
    shape: tuple[int, ...],
) -> torch.Tensor | None:
    """The tangent of restore_tokens, of ``shape``, by those of its operands (None for zero)."""
    given = x_visible if x_visible is not None else mask_token
    if given is None:
        return None
    ids = expanded(ids_restore, torch.Size(shape)).to(torch.int64)
    result = given.new_zeros(shape)
    if mask_token is not None:
        while mask_token.ndim > len(shape) - 2:  # one token may come as [1, 1, D]
            mask_token = mask_token[0]
        result = mask_token.to(given.dtype).expand(shape)
    kept = 0 if x_visible is None else x_visible.shape[1]
    if x_visible is not None and kept:
        visible = torch.gather(x_visible, 1, ids.clamp(max=kept - 1))
        result = torch.where(ids < kept, visible, result)
    return result.contiguous()


def scatter_grads(
    grad: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    src_shape: torch.Size,
    add: bool,
    wanted: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of scatter and scatter_add to input and src."""
    position = index.to(torch.int64)
    to_input = to_src = None
    if wanted[0]:
        to_input = grad if add else grad.scatter(dim, position, 0)
    if wanted[1]:
        read = torch.gather(grad, dim, position)
        pads = [n - m for n, m in zip(src_shape, index.shape, strict=True)]
        to_src = torch.nn.functional.pad(read, [p for n in reversed(pads) for p in (0, n)])
    return to_input, to_src


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Any, call: tuple[Any, ...], index: Any) -> Any:
        kind, dim, mode, fill, backend = call
        ctx.save_for_backward(index)
        ctx.save_for_forward(index)
        ctx.shape, ctx.call = input.shape, call
        return _run.gather(kind, input, dim, index, mode, fill, None, backend)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (index,) = ctx.saved_tensors
        kind, dim, mode, _, _ = ctx.call
        if kind == "along":
            return along_grad(grads[0], ctx.shape, dim, index, mode), None, None
        if kind == "tokens":
            index = expanded(index, ctx.shape)
        return gather_grad(grads[0], ctx.shape, dim, index, mode), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (index,) = ctx.saved_tensors
        kind, dim, mode, _, backend = ctx.call
        return _run.gather(kind, tangents[0], dim, index, mode, 0, None, backend)


def gather(
    kind: str, input: Any, dim: int, index: Any, mode: str, fill: Any, out: Any, backend: Any
) -> Any:
    """Gather with a gradient to ``input``."""
    if out is not None:
        raise ValueError("input requires grad: gradients cannot flow through out=")
    return _Gather.apply(input, (kind, dim, mode, fill, backend), index)


class _Restore(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_visible: Any, mask_token: Any, ids_restore: Any, call: Any) -> Any:
        ctx.save_for_backward(ids_restore)
        ctx.save_for_forward(ids_restore)
        ctx.shapes = x_visible.shape, mask_token.shape
        row, backend = call
        return _run.gather("restore", x_visible, 1, ids_restore, "fill", row, None, backend)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (ids_restore,) = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        to_x, to_token = restore_grad(grads[0], ids_restore, ctx.shapes, wanted)
        return to_x, to_token, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (ids_restore,) = ctx.saved_tensors
        shape = (*ids_restore.shape, *ctx.shapes[0][2:])
        return restore_tangent(tangents[0], tangents[1], ids_restore, shape)


def restore(x_visible: Any, ids_restore: Any, mask_token: Any, row: Any, backend: Any) -> Any:
    """Restore tokens with gradients to ``x_visible`` and ``mask_token``."""
    return _Restore.apply(x_visible, mask_token, ids_restore, (row, backend))


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Any, src: Any, index: Any, call: tuple[Any, ...]) -> Any:
        dim, add, backend = call
        ctx.save_for_backward(index)
        ctx.save_for_forward(index)
        ctx.input_shape = input.shape
        ctx.call, ctx.src_shape = (dim, add), getattr(src, "shape", None)
        return _run.scatter(input, dim, index, src, add=add, out=None, backend=backend)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (index,) = ctx.saved_tensors
        dim, add = ctx.call
        wanted = ctx.needs_input_grad[:2]
        to_input, to_src = scatter_grads(grads[0], dim, index, ctx.src_shape, add, wanted)
        return to_input, to_src, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (index,) = ctx.saved_tensors
        dim, add = ctx.call
        to_input, to_src = tangents[:2]
        if to_input is None:
            to_input = to_src.new_zeros(ctx.input_shape)
        if to_src is None:
            to_src = 0 if ctx.src_shape is None else to_input.new_zeros(ctx.src_shape)
        return _run.scatter(to_input, dim, index, to_src, add=add, out=None, backend=None)


def scatter(input: Any, dim: int, index: Any, src: Any, add: bool, out: Any, backend: Any) -> Any:
    """Scatter with gradients to ``input`` and ``src``; as in torch, duplicates get the same."""
    if out is not None:
        raise ValueError("input or src requires grad: gradients cannot flow through out=")
    return _Scatter.apply(input, src, index, (dim, add, backend))
