"""A model as callers hand it over: a path, bytes, or a ModelProto."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nbgather.onnx._build import ModelProto, onnx, to_bytes

__all__ = ["one_line", "proto", "source"]


def source(model: Any) -> tuple[str | bytes, str]:
    """What onnxruntime loads, and its name in messages.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        No such file; none of the three; not a regular file.

    Examples
    --------
    >>> source(b"1234")
    (b'1234', 'the model of 4 bytes')
    """
    if isinstance(model, ModelProto):
        return to_bytes(model), f"the model {model.graph.name!r}"
    if isinstance(model, (bytes, bytearray, memoryview)):
        return bytes(model), f"the model of {len(model)} bytes"
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            f"model is of type {type(model).__name__}: a path, bytes or onnx.ModelProto is needed"
        )
    path = Path(model)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise ValueError(f"{path} is {kind}: an ONNX file is needed")
    return str(path), str(path)


def proto(model: Any) -> tuple[ModelProto, str]:
    """The model, with what it keeps in other files, and its name in messages.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As :func:`source`; bytes that are no valid model.

    Examples
    --------
    >>> from nbgather.onnx import gather_model
    >>> proto(gather_model(1))[1]
    "the model 'gather_dim1'"
    """
    data, name = source(model)
    if isinstance(model, ModelProto):
        return model, name
    try:
        loaded = onnx.load(data) if isinstance(data, str) else onnx.load_from_string(data)
        onnx.checker.check_model(loaded)
    except Exception as error:  # of protobuf, of the checker: they share no class
        raise ValueError(f"{name} is no ONNX model: {one_line(error)}") from error
    return loaded, name


def one_line(error: Exception) -> str:
    """The text of an error in one line.

    Examples
    --------
    >>> one_line(ValueError("no   model"))
    'no model'
    """
    return " ".join(str(error).split())
