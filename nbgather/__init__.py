"""nbgather: gather along an axis, and token masking for masked autoencoders.

Importing this module imports nothing else. NumPy and what a function needs are loaded when it is
first asked for, numba when something has to be compiled, torch and onnx never unless they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbgather import backends, strategies
    from nbgather.indexing import (
        gather,
        gather_tokens,
        infer_gather,
        take_along_axis,
    )
    from nbgather.kernels.cpu.limits import get_num_threads, limit_threads, set_num_threads
    from nbgather.masking import (
        MaskedTokens,
        PackedTokens,
        PaddedTokens,
        TokenMask,
        random_masking,
        rank_tokens,
        restore_tokens,
        token_noise,
    )
    from nbgather.operations.infer import GatherSolution
    from nbgather.packing import PackedImages
    from nbgather.patches import masked_patchify, patchify, unpatchify
    from nbgather.scattering import scatter, scatter_add, scatter_reduce
    from nbgather.segments import gather_reduce, segment_reduce

__version__ = "0.1.0"

__all__ = [
    "GatherSolution",
    "MaskedTokens",
    "PackedImages",
    "PackedTokens",
    "PaddedTokens",
    "TokenMask",
    "backends",
    "gather",
    "gather_reduce",
    "gather_tokens",
    "get_num_threads",
    "infer_gather",
    "limit_threads",
    "masked_patchify",
    "patchify",
    "random_masking",
    "rank_tokens",
    "restore_tokens",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "segment_reduce",
    "set_num_threads",
    "strategies",
    "take_along_axis",
    "token_noise",
    "unpatchify",
]

#: Where the public names are defined; the others are modules.
_HOMES = {
    "indexing": (
        "gather",
        "gather_tokens",
        "infer_gather",
        "take_along_axis",
    ),
    "kernels.cpu.limits": ("get_num_threads", "limit_threads", "set_num_threads"),
    "masking": (
        "MaskedTokens",
        "PackedTokens",
        "PaddedTokens",
        "TokenMask",
        "random_masking",
        "rank_tokens",
        "restore_tokens",
        "token_noise",
    ),
    "operations.infer": ("GatherSolution",),
    "packing": ("PackedImages",),
    "patches": ("masked_patchify", "patchify", "unpatchify"),
    "scattering": ("scatter", "scatter_add", "scatter_reduce"),
    "segments": ("gather_reduce", "segment_reduce"),
}
#: Modules that load another library, and are imported by name.
_MODULES = ("cuda", "dask", "explain", "jax", "loading", "numba_ext", "onnx", "plotting", "torch")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        hint = f": import {__name__}.{name} first" if name in _MODULES else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    from nbgather.kernels import forks

    with forks.held_back():
        for home, names in _HOMES.items():
            if name in names:
                value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
                break
        else:
            value = importlib.import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
