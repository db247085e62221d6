"""Results of the reference's loops that several tests need: each is computed once in a process.

``verify`` draws the same cases for every model of a kind, and the loops are most of its time.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nbgather.onnx  # noqa: F401

NAMES = ("gather", "rank_tokens", "restore_tokens", "token_noise")

_results: dict[Any, Any] = {}


def cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``verify`` compute each result of the reference once."""
    module = sys.modules["nbgather.onnx.cases"]
    for name in NAMES:
        monkeypatch.setattr(module, name, _cached(getattr(module, name)))


def _cached(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*operands: Any, **options: Any) -> Any:
        assert options["backend"] == "reference"
        named = tuple((name, _key(value)) for name, value in sorted(options.items()))
        key = (function.__name__, tuple(map(_key, operands)), named)
        if key not in _results:
            result = function(*operands, **options)
            for array in result if isinstance(result, tuple) else (result,):
                array.flags.writeable = False
            _results[key] = result
        return _results[key]

    return call


def _key(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return type(value), value
    return value.dtype.name, value.shape, hashlib.sha256(value.tobytes()).digest()
