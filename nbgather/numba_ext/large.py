"""What compiled code asks of Python where it has its lock: large calls, as the engine makes them.

An answer of None says that it is to be done over there, with the error there is.
"""

from __future__ import annotations

from typing import Any

from nbgather import indexing, masking, patches
from nbgather.kernels.constants import MODES
from nbgather.kernels.cpu import limits
from nbgather.numba_ext import regions

#: Calls that move so many bytes are made here: for less, the way here takes longer.
LARGE_BYTES = 1 << 18


def _run(call: Any, *operands: Any, **options: Any) -> Any:
    try:
        if regions.is_inside():
            with limits.limit_threads(1):
                return call(*operands, **options)
        return call(*operands, **options)
    except Exception:
        return None


def gather(x: Any, dim: int, index: Any, how: int, fill: Any = 0) -> Any:
    return _run(indexing.gather, x, dim, index, mode=MODES[how], fill_value=fill)


def take_along_axis(x: Any, axis: int, index: Any, how: int, fill: Any = 0) -> Any:
    return _run(indexing.take_along_axis, x, index, axis, mode=MODES[how], fill_value=fill)


def gather_tokens(x: Any, dim: int, ids: Any, how: int, fill: Any = 0) -> Any:
    return _run(indexing.gather_tokens, x, ids, mode=MODES[how], fill_value=fill)


def scatter(x: Any, dim: int, index: Any, src: Any) -> Any:
    return _run(indexing.scatter, x, dim, index, src)


def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    return _run(indexing.scatter_add, x, dim, index, src)


def token_noise(seed: int, ids: Any, tokens: int, epoch: int) -> Any:
    return _run(masking.token_noise, seed, ids, tokens, epoch=epoch)


def rank_tokens(scores: Any, number: int) -> Any:
    return _run(masking.rank_tokens, scores, number)


def masking_by_noise(x: Any, number: int, noise: Any) -> Any:
    return _run(masking.random_masking, x, noise=noise, num_keep=number)


def masking_by_seed(x: Any, number: int, seed: int, epoch: int) -> Any:
    return _run(masking.random_masking, x, seed=seed, epoch=epoch, num_keep=number)


def masking_of_ids(x: Any, number: int, seed: int, epoch: int, ids: Any) -> Any:
    return _run(masking.random_masking, x, seed=seed, epoch=epoch, sample_ids=ids, num_keep=number)


def restore_tokens(x: Any, ids: Any, token: Any) -> Any:
    return _run(masking.restore_tokens, x, ids, token)


def patchify(images: Any, size: Any) -> Any:
    return _run(patches.patchify, images, size)


def unpatchify(made: Any, size: Any, image_size: Any) -> Any:
    return _run(patches.unpatchify, made, size, image_size)
