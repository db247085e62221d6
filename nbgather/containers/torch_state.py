"""The states of torch that decide how a call goes: modes, transforms, traces, forward-mode AD."""

from __future__ import annotations

import sys
from typing import Any

import torch

is_compiling = torch.compiler.is_compiling
is_dynamo_compiling = torch.compiler.is_dynamo_compiling  # cheaper
current_transform = torch._C._functorch.maybe_current_level
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_tracing_state = torch._C._get_tracing_state
profiler_enabled = torch.autograd._profiler_enabled
_forward_ad = torch.autograd.forward_ad


#: What tells by 0 or None that torch just computes, but for forward-mode AD.
REST = {
    "dispatch_modes": _dispatch_modes,
    "function_modes": _function_modes,
    "transform": current_transform,
    "trace": _tracing_state,
}


def constant_in_graphs(function: Any) -> Any:
    """Mark a function as torch.compiler.assume_constant_result does, which loads the compiler.

    That takes longer than all of a first call else.
    """
    function._dynamo_marked_constant = True
    return function


def in_mode() -> bool:
    """Whether one of torch's modes, or its tracer of scripts, must see the call."""
    if _dispatch_modes() or _tracing_state() is not None:
        return True
    count = _function_modes()
    if not count:
        return False
    # A default device concerns what makes tensors from nothing; here all go where ``x`` is.
    devices = sys.modules.get("torch.utils._device")
    ignored: Any = () if devices is None else devices.DeviceContext
    get = torch._C._get_function_stack_at
    return any(not isinstance(get(k), ignored) for k in range(count))


def wants_grad(array: Any) -> bool:
    """Whether the graph must know what comes of an array."""
    if not isinstance(array, torch.Tensor):
        return False
    if array.requires_grad and torch.is_grad_enabled():
        return True
    # A dual number of forward-mode AD, outside of the autograd function that takes it apart.
    return (
        _forward_ad._current_level >= 0
        and torch._C._is_fwd_grad_enabled()
        and _forward_ad.unpack_dual(array).tangent is not None
    )
