"""Dask arrays that come to the top-level functions: the way to :mod:`nbgather.dask`."""

from __future__ import annotations

import functools
import math
import sys
from typing import Any

import numpy as np

from nbgather import _arrays, dask


def _no_options(out: Any, backend: Any) -> None:
    if out is not None or backend is not None:
        raise ValueError("out= or backend= was given for Dask arrays: they have neither")


def via_gather(
    kind: str, input: Any, dim: int, index: Any, mode: str, fill: Any, out: Any, backend: Any
) -> Any:
    _no_options(out, backend)
    if kind == "tokens":
        return dask.gather_tokens(input, index, mode=mode, fill_value=fill)
    call = dask.take_along_axis if kind == "along" else dask.gather
    operands = (input, index, dim) if kind == "along" else (input, dim, index)
    return call(*operands, mode=mode, fill_value=fill)


def via_noise(seed: int, ids: Any, num_tokens: Any, epoch: Any, backend: Any) -> Any:
    _no_options(None, backend)
    return dask.token_noise(seed, ids, num_tokens, epoch=epoch)


def via_masking(
    x: Any, ratio: float, noise: Any, seed: Any, ids: Any, epoch: Any, num_keep: Any, backend: Any
) -> Any:
    _no_options(None, backend)
    return dask.random_masking(
        x, ratio, noise=noise, seed=seed, sample_ids=ids, epoch=epoch, num_keep=num_keep
    )


def via_patches(images: Any, patch_size: Any, mask_ratio: Any, options: dict[str, Any]) -> Any:
    _no_options(None, options.pop("backend"))
    return dask.masked_patchify(images, patch_size, mask_ratio, **options)


def via_patchify(images: Any, patch_size: Any) -> Any:
    return dask.patchify(images, patch_size)


def via_unpatchify(patches: Any, patch_size: Any, image_size: Any) -> Any:
    return dask.unpatchify(patches, patch_size, image_size)


def via_strategy(order: functools.partial[Any], ids: Any) -> Any:
    """Chunk by chunk; ``order`` is the strategy's call but for the ids."""
    _no_options(None, order.keywords["backend"])
    tokens, dtype = math.prod(order.keywords["grid"]), np.dtype(np.float32)
    if "spatial" in order.keywords:
        # What is called within a frame may be somebody's own: its mistakes are told of now, and it
        # may give another dtype.
        trial = order(np.zeros(1, np.int64))
        if not isinstance(trial, np.ndarray):
            raise TypeError(
                f"the spatial strategy gave {type(trial).__name__} for NumPy ids: a NumPy array is"
                " needed where the ids are chunked"
            )
        dtype = trial.dtype
    return dask._masking.strategy_scores(order, ids, tokens, dtype)


def _missing(what: str) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{what} does not take Dask arrays: x.map_blocks(...) applies it to each chunk"
        )

    return refuse


via_scatter = _missing("scatter")
via_ranks = _missing("rank_tokens")
via_restore = _missing("restore_tokens")
via_infer = _missing("infer_gather")


class DaskAdapter(_arrays.Adapter):
    """What is known of a Dask array before its call goes to nbgather.dask."""

    name = "Dask"
    detours = True
    takes = frozenset({"NumPy"})

    def detour(self, *arrays: Any, operator: bool = True) -> Any:
        return sys.modules[__name__]

    def device(self, array: Any) -> str:
        return "a Dask cluster"


#: The one adapter of Dask's arrays.
adapter = DaskAdapter()
