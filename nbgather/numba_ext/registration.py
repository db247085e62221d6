"""Telling numba of one function."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

from numba.core.registry import cpu_target

import nbgather
from nbgather.numba_ext import arguments, subroutines

_registered: set[Any] = set()


def register(function: Any, modules: tuple[str, ...]) -> None:
    """Let numba know a function, if a module here has what is made of it."""
    if function in _registered:
        return
    _registered.add(function)
    name = function.__name__
    for module in modules:
        home = importlib.import_module(f"nbgather.numba_ext.{module}")
        defined = vars(home).get(name)
        if defined is not None:
            break
    else:
        if name not in sys.modules[function.__module__].__all__:
            return
        defined = _refusing(function)
    subroutines.public(function, defined)
    cpu_target.typing_context.refresh()


#: What else does the same, for functions that compiled code cannot call.
_INSTEAD = {
    "masked_patchify": "nbgather.random_masking of nbgather.patchify gives the same tokens",
}


def _refusing(function: Any) -> Any:
    """A definition that says of whatever comes that there is none."""
    name = function.__qualname__
    if not hasattr(nbgather, name):
        name = f"{function.__module__.rpartition('.')[2]}.{name}"
    text = f"{name} cannot be called in compiled code: {_INSTEAD.get(name, arguments.OUTSIDE)}"

    def definition(*args, **options):
        return text

    definition.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return definition
