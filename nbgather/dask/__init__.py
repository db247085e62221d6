"""Gather and masking on Dask arrays: lazy, chunked in any way, the same bits on any cluster.

The top-level functions take Dask arrays too; here an index may be a NumPy array, and the plan of a
gather can be chosen.
"""

try:
    import dask.array  # noqa: F401
except ImportError:
    raise ImportError('nbgather.dask needs dask: pip install "nbgather[dask]"') from None

from nbgather.dask._gather import gather, gather_tokens, take_along_axis
from nbgather.dask._masking import masked_patchify, random_masking, token_noise

__all__ = [
    "gather",
    "gather_tokens",
    "masked_patchify",
    "random_masking",
    "take_along_axis",
    "token_noise",
]
