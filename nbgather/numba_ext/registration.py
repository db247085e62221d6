"""Telling numba of one function."""

from __future__ import annotations

import importlib
from typing import Any

from numba.core.registry import cpu_target

from nbgather.numba_ext import subroutines

_registered: set[Any] = set()


def register(function: Any, modules: tuple[str, ...]) -> None:
    """Let numba know a function, if a module here has what is made of it."""
    if function in _registered:
        return
    _registered.add(function)
    for module in modules:
        home = importlib.import_module(f"nbgather.numba_ext.{module}")
        defined = vars(home).get(function.__name__)
        if defined is not None:
            subroutines.public(function, defined)
            cpu_target.typing_context.refresh()
            return
