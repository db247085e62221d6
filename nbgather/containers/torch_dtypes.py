"""What is known of torch's dtypes, and of tensors that may have no memory."""

from __future__ import annotations

from typing import Any

import torch

from nbgather.operations.base import DType, Spec


def describe(dtype: torch.dtype) -> DType:
    """What is known of a torch dtype."""
    result = _dtypes.get(dtype)
    return _describe(dtype) if result is None else result


def _describe(dtype: torch.dtype) -> DType:
    name = str(dtype).removeprefix("torch.")
    if name.startswith(("q", "bits")):
        raise TypeError(f"a torch tensor of quantised dtype {name} came: dequantise it first")
    index = None
    if name.startswith(("int", "uint")) and name[-1].isdigit():
        index = f"{name[0]}{dtype.itemsize}"
    return DType(name, dtype.itemsize, index, True)


def torch_dtype(dtype: DType) -> torch.dtype:
    """The torch dtype of a name."""
    result: torch.dtype = getattr(torch, dtype.name)
    return result


def _all_dtypes() -> dict[Any, DType]:
    """Every dtype of numbers: nothing is added later, where a trace would have seen it missing."""
    kinds = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    refused = ("q", "bits")
    plain = [d for d in kinds if not str(d).removeprefix("torch.").startswith(refused)]
    return {dtype: _describe(dtype) for dtype in plain}


_dtypes = _all_dtypes()


def fake_spec(tensor: Any) -> Any:
    """What is known of a tensor that may have no memory; None for what is none."""
    if not isinstance(tensor, torch.Tensor):
        return None
    return Spec(tuple(tensor.shape), (), describe(tensor.dtype), str(tensor.device))
