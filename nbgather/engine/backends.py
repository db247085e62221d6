"""The table of backends: which exist, which serve what, and why one is not available.

A backend is a module with these functions, on memory that has been checked:

``gather(plan, out, x, index, aux) -> int``
    Move the bits of a :class:`nbgather.kernels.plans.GatherPlan`; return a number that is not 0
    when an index was bad.
``token_noise(args, ids, out)``
    Fill ``out`` float32 `[N, L]` for ``args = (epoch, key low, key high)``.
``rank_tokens(scores, ids_keep, ids_restore, mask, counts)``
    Rank float32 or float64 scores `[N, L]` into the three results; ``counts`` int64 `[N]` or None.
``strategy(name, sizes, numbers, aspects, args, ids, out)``
    Fill ``out`` float32 `[N, L]` with each token's place in the order of a strategy.

``cpu`` takes addresses, ``cuda`` addresses on a device and the place to run at, the others NumPy
views of the host's memory: ``HOST_VIEWS`` says so. What else a backend does it says in ``DOES``:

``scatter``
    ``scatter(plan, ...)`` of a :class:`nbgather.kernels.plans.ScatterPlan`.
``reduce``, ``means``
    ``scatter`` by a reduction, and by the means of which its ``reduces`` says so.
``checks``
    ``find_outside(index, idx, count, size, below)``: whether an index is good, before a scatter or
    a copy; ``below``: how many negative ones are.
``copy``
    Copying a block of memory by all cores, and of a scatter's input on the way where its plan says
    so.
``masking``
    Noise, ranks, mask and tokens in one pass, instead of ``rank_tokens``.
``patches``
    Cutting kept patches out of images.
``moved patches``
    Copying all patches, out of images and into them, by a
    :class:`nbgather.kernels.plans.PatchPlan`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import NamedTuple

from nbgather.kernels import forks
from nbgather.kernels.cuda import driver as cuda_driver


class Backend(NamedTuple):
    """A backend's module, and what must be importable for it."""

    module: str
    needs: tuple[str, ...]


#: The backends by name.
BACKENDS: dict[str, Backend] = {
    "cpu": Backend("nbgather.kernels.cpu.launch", ("numba",)),
    "cuda": Backend("nbgather.kernels.cuda.backend", ()),
    "reference": Backend("nbgather.kernels.views.reference", ()),
    "torch": Backend("nbgather.kernels.views.torch", ("torch",)),
    "onnxruntime": Backend("nbgather.onnx.backend", ("onnx", "onnxruntime")),
}

_loaded: dict[str, ModuleType] = {}


def get(name: str) -> ModuleType:
    """The backend's module; ValueError for a name that is none, ImportError if it cannot run."""
    module = _loaded.get(name) if isinstance(name, str) else None
    if module is None:
        if not isinstance(name, str) or name not in BACKENDS:
            raise ValueError(
                f"backend is {name!r}: it must be one of {', '.join(map(repr, BACKENDS))}"
            )
        reason = _why_not(name)
        if reason is not None:
            raise ImportError(f"backend {name!r} is not available: {reason}")
        with forks.lock:
            module = _loaded[name] = importlib.import_module(BACKENDS[name].module)
    return module


def loaded(name: str) -> ModuleType | None:
    """The backend's module if it has been used."""
    return _loaded.get(name)


def serving(name: str | None, home: str, device: str = "the host") -> ModuleType:
    """The module that serves arrays whose home is a backend, by the name that was asked for."""
    if name is None or (isinstance(name, str) and name == home):
        return get(home)
    module = get(name)
    if "cuda" in (name, home):
        raise ValueError(
            f"backend {name!r} cannot serve arrays on {device}: leave it out, or move them"
        )
    return module


def _compiler_is_off() -> bool:
    config = sys.modules.get("numba.core.config")
    if config is not None:
        return bool(config.DISABLE_JIT)
    return os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0")


def available() -> dict[str, str | None]:
    """Every backend with None, or with the reason why it cannot be used here.

    Examples
    --------
    >>> import nbgather
    >>> nbgather.backends.available()["reference"] is None
    True
    """
    return {name: _why_not(name) for name in BACKENDS}


def _why_not(name: str) -> str | None:
    """The reason why a backend cannot be used here, or None; of no other anything is loaded."""
    missing = [n for n in BACKENDS[name].needs if importlib.util.find_spec(n) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    if name == "cpu" and _compiler_is_off():
        return (
            "NUMBA_DISABLE_JIT is set, and its kernels are compiled: unset it, or give"
            " backend='reference'"
        )
    if name == "cuda":
        return cuda_driver.why_not()
    return None
