"""Packed tokens on the host: where each stands is counted by NumPy, and kernels move them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.engine import arrays
from nbgather.operations.base import Options
from nbgather.operations.indexing import GatherTokens
from nbgather.operations.packing import CutPacked, KeepPacked
from nbgather.operations.patches import CutPatches


def keep(container: Any, operation: KeepPacked, operands: tuple[Any, ...], options: Options) -> Any:
    """Gather the kept tokens of all samples."""
    x, ids_keep, _ = operands
    if container.home != "cpu":
        return NotImplemented
    samples, length, *inner = container.spec(x).shape
    if not samples * length:
        return NotImplemented
    xp = container.namespace(x)
    ids = _flat_ids(container, operation.counts, ids_keep, length, x)
    flat = xp.reshape(x, (1, samples * length, *inner))
    return container.run(container, GatherTokens(mode="defer"), (flat, ids), options)[0]


def cut(container: Any, operation: CutPacked, operands: tuple[Any, ...], options: Options) -> Any:
    """Cut the kept patches of all images."""
    images, ids_keep, ids_restore = operands
    if container.home != "cpu" or len(operation.patch_size) != 2:
        return NotImplemented
    length = container.spec(ids_restore).shape[1]
    ids = _flat_ids(container, operation.counts, ids_keep, length, images)
    video = container.namespace(images).permute_dims(images, (1, 0, 2, 3))[None]
    frames = CutPatches((1, *operation.patch_size), operation.affine)
    return container.run(container, frames, (video, ids, None), options)[0]


def _flat_ids(container: Any, counts: tuple[int, ...], ids: Any, length: int, like: Any) -> Any:
    """Ids of the kept tokens among those of all samples: int64 `[1, sum K]`."""
    numbers = arrays.integers(container, ids)
    held = np.arange(numbers.shape[1]) < np.array(counts, np.int64)[:, None]
    first = np.arange(len(counts), dtype=np.int64)[:, None] * length
    return container.from_numpy((numbers + first)[held][None], like)
