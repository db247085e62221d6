"""Telling numba of one function."""

from __future__ import annotations

import importlib
from typing import Any

from numba.core.registry import cpu_target

from nbgather.numba_ext import subroutines

_registered: set[Any] = set()


def register(function: Any, module: str) -> None:
    """Let numba know a function, if a module here has what is made of it."""
    if function in _registered:
        return
    _registered.add(function)
    home = importlib.import_module(f"nbgather.numba_ext.{module}")
    defined = getattr(home, function.__name__, None)
    if defined is not None:
        subroutines.public(function, defined)
        cpu_target.typing_context.refresh()
