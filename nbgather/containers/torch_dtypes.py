"""Torch's dtypes by name, and back."""

from __future__ import annotations

from typing import Any

import torch

from nbgather.operations.base import DType

_dtypes: dict[Any, DType] = {}


def describe(dtype: torch.dtype) -> DType:
    """What is known of a torch dtype."""
    result = _dtypes.get(dtype)
    if result is None:
        result = _dtypes[dtype] = _describe(dtype)
    return result


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
