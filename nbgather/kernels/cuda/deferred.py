"""numba's names for the modules of kernels, and numba itself only when a kernel is compiled.

Kernels that come with the package need no compiler, and numba takes longer to import than they take
to load. So these modules import ``cuda``, ``njit``, ``types`` and ``scalar`` from here: what they
get stands for the real thing, of any attribute too, until :func:`resolve` puts that in its place.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["cuda", "njit", "resolve", "scalar", "types"]

#: Whose modules are looked through.
_PACKAGE = "nbgather.kernels.cuda."


class _Later:
    """Stands for a module, or for what has a name in it."""

    def __init__(self, module: str, *names: str) -> None:
        self._module, self._names = module, names

    def __getattr__(self, name: str) -> _Later:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Later(self._module, *self._names, name)

    def _real(self) -> Any:
        found: Any = importlib.import_module(self._module)
        for name in self._names:
            found = getattr(found, name)
        return found


class _LaterFunction:
    """Stands for a function that numba is to compile."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self._function, self._options = function, options
        self._compiled: Any = None

    def _real(self) -> Any:
        if self._compiled is None:  # one object, whatever modules have it
            self._compiled = importlib.import_module("numba").njit(**self._options)(self._function)
        return self._compiled


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit``, once it is needed."""
    return lambda function: _LaterFunction(function, options)


cuda: Any = _Later("numba.cuda")
types: Any = _Later("numba.types")
scalar: Any = _Later("nbgather.kernels.scalar")


def resolve() -> None:
    """Put the real things into the modules of kernels that have been imported."""
    for name, module in list(sys.modules.items()):
        if name.startswith(_PACKAGE) and name != __name__:
            for key, value in list(vars(module).items()):
                if isinstance(value, (_Later, _LaterFunction)):
                    setattr(module, key, value._real())
