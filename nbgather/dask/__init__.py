"""Gather and masking on Dask arrays: lazy, chunked in any way, the same bits on any cluster.

The top-level functions and :mod:`nbgather.strategies` take Dask arrays too; here the plan of a
gather can be chosen. What says where items are (an index, ids, noise, counts) may also be a NumPy
array, a list or a range.
"""

try:
    import dask.array  # noqa: F401
except ImportError:
    raise ImportError('nbgather.dask needs dask: pip install "nbgather[dask]"') from None

from nbgather.containers.dask.expectations import Choice
from nbgather.dask.explaining import explain
from nbgather.dask.indexing import gather, gather_tokens, take_along_axis
from nbgather.dask.masking import masked_patchify, random_masking, token_noise
from nbgather.dask.patches import patchify, unpatchify

__all__ = [
    "Choice",
    "explain",
    "gather",
    "gather_tokens",
    "masked_patchify",
    "patchify",
    "random_masking",
    "take_along_axis",
    "token_noise",
    "unpatchify",
]
