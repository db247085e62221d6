"""The operations inside functions that numba compiles.

numba finds this package by its entry point, and calls :func:`init` before it first compiles
anything. That costs next to nothing: what numba must know of a function of ours is made when it
first meets one.
"""

from __future__ import annotations

import types
from typing import Any

#: Where functions are defined, and the modules here that have what numba makes of them.
_HOMES = {
    "nbgather.indexing": ("gathers",),
    "nbgather.scattering": ("scatters",),
    "nbgather.segments": ("segments",),
    "nbgather.masking": ("tokens", "restoring"),
    "nbgather.patches": ("patching",),
    "nbgather.strategies": (),
}


def _known_to_numba(function: Any, context: Any) -> None:
    """Asked by numba for the type of a function: of ours it is told what it then finds itself."""
    if function.__module__ in _HOMES:
        from nbgather.numba_ext import registration

        registration.register(function, _HOMES[function.__module__])


def init() -> None:
    """Let numba know the functions of nbgather. It is called by numba itself."""
    from numba.core.typing.typeof import typeof_impl

    typeof_impl.register(types.FunctionType, _known_to_numba)
