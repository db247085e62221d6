"""nbgather: gather along an axis, and token masking for masked autoencoders.

Importing this module imports NumPy and nothing heavier: numba is loaded at the first call, torch
and onnx only when they are asked for.
"""

from nbgather import backends, strategies
from nbgather.indexing import (
    gather,
    gather_tokens,
    infer_gather,
    scatter,
    scatter_add,
    take_along_axis,
)
from nbgather.kernels.cpu.limits import get_num_threads, limit_threads, set_num_threads
from nbgather.masking import (
    MaskedTokens,
    PaddedTokens,
    TokenMask,
    random_masking,
    rank_tokens,
    restore_tokens,
    token_noise,
)
from nbgather.operations.infer import GatherSolution
from nbgather.patches import masked_patchify, patchify, unpatchify

__version__ = "0.1.0"

__all__ = [
    "GatherSolution",
    "MaskedTokens",
    "PaddedTokens",
    "TokenMask",
    "backends",
    "gather",
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
    "set_num_threads",
    "strategies",
    "take_along_axis",
    "token_noise",
    "unpatchify",
]
