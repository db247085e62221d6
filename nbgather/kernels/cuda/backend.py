"""The CUDA backend: what the engine asks of it, from the modules that launch."""

from __future__ import annotations

from typing import Any

from nbgather.kernels.cuda import launch
from nbgather.kernels.cuda.launch import copy, find_bad, gather, patches, use, write
from nbgather.kernels.cuda.launch_masking import masking, masks_in_one, token_noise
from nbgather.kernels.cuda.launch_scatter import scatter, segment_bounds, segment_reduce
from nbgather.kernels.cuda.launch_strategies import (
    axes_here,
    multiblock,
    multiblock_ids,
    scores_here,
    strategy,
    stripes,
)
from nbgather.kernels.cuda.writes import WRITE_BYTES

__all__ = [
    "WRITE_BYTES",
    "axes_here",
    "copy",
    "find_bad",
    "gather",
    "masking",
    "masks_in_one",
    "multiblock",
    "multiblock_ids",
    "patches",
    "scatter",
    "scores_here",
    "segment_bounds",
    "segment_reduce",
    "strategy",
    "stripes",
    "token_noise",
    "use",
    "write",
]

#: What is asked of a backend; see nbgather.engine.backends.
HOST_VIEWS = False
DOES = frozenset(("masking", "patches", "reduce", "scatter", "segments"))


def __getattr__(name: str) -> Any:
    """What can change, such as the driver, as it is now."""
    return getattr(launch, name)
