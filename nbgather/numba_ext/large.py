"""What compiled code asks of Python where it has its lock: large calls, as the engine makes them.

An answer of None says that it is to be done over there, with the error there is.
"""

from __future__ import annotations

from typing import Any

from nbgather import indexing, masking, patches, scattering, segments
from nbgather.kernels.constants import MODES
from nbgather.numba_ext.records import IDS, WAYS
from nbgather.operations.reducing import REDUCES

#: Calls that move so many bytes are made here: for less, the way here takes longer.
LARGE_BYTES = 1 << 17


def answer(name: str, *arguments: Any) -> Any:
    """The arrays of a call, or None.

    Who asks may have been compiled with another version of this package: what a name here stands
    for never changes, and what it is given neither. An interrupt is raised as it came.
    """
    try:
        return _CALLS[name](*arguments)
    except Exception:
        return None


def _gathering(call: Any) -> Any:
    return lambda x, dim, index, how, fill=0, out=None: call(
        x, dim, index, mode=MODES[how], fill_value=fill, out=out
    )


def _reducing(
    x: Any, dim: int, index: Any, src: Any, reduce: int, own: int, out: Any = None
) -> Any:
    name: Any = REDUCES[reduce]
    return scattering.scatter_reduce(x, dim, index, src, name, include_self=bool(own), out=out)


def _segments(reduce: int, by: int, size: int, x: Any, where: Any) -> Any:
    number = size if by == IDS else None
    name: Any = REDUCES[reduce]
    return segments.segment_reduce(x, name, num_segments=number, **{WAYS[by]: where})


def _bags(reduce: int, by: int, size: int, x: Any, ids: Any, where: Any = None) -> Any:
    name: Any = REDUCES[reduce]
    return segments.gather_reduce(x, ids, name, **({} if by == IDS else {WAYS[by]: where}))


def _segments_into(reduce: int, by: int, size: int, x: Any, where: Any, out: Any) -> Any:
    number = size if by == IDS else None
    name: Any = REDUCES[reduce]
    return segments.segment_reduce(x, name, num_segments=number, out=out, **{WAYS[by]: where})


def _bags_with(
    reduce: int, by: int, size: int, x: Any, ids: Any, how: int, fill: Any, *others: Any
) -> Any:
    """``others`` are offsets or counts, if there are any, and then ``out``, if there is any."""
    left = list(others)
    bags: dict[str, Any] = {} if by == IDS else {WAYS[by]: left.pop(0)}
    name: Any = REDUCES[reduce]
    bags |= {"out": left[0] if left else None, "mode": MODES[how], "fill_value": fill}
    return segments.gather_reduce(x, ids, name, **bags)


#: Functions of positional arguments: modes are numbers, and ``number`` is how many tokens stay.
_CALLS: dict[str, Any] = {
    "gather": _gathering(indexing.gather),
    "take_along_axis": _gathering(
        lambda x, axis, index, **options: indexing.take_along_axis(x, index, axis, **options)
    ),
    "gather_tokens": _gathering(
        lambda x, dim, ids, **options: indexing.gather_tokens(x, ids, **options)
    ),
    "scatter": indexing.scatter,
    "scatter_add": indexing.scatter_add,
    "scatter_into": lambda *operands: indexing.scatter(*operands[:4], out=operands[4]),
    "scatter_add_into": lambda *operands: indexing.scatter_add(*operands[:4], out=operands[4]),
    "scatter_reduce": _reducing,
    "segment_reduce": _segments,
    "gather_reduce": _bags,
    "segment_reduce_into": _segments_into,
    "gather_reduce_with": _bags_with,
    "token_noise": lambda seed, ids, tokens, epoch: masking.token_noise(
        seed, ids, tokens, epoch=epoch
    ),
    "rank_tokens": masking.rank_tokens,
    "masking_by_noise": lambda x, number, noise: masking.random_masking(
        x, noise=noise, num_keep=number
    ),
    "masking_by_seed": lambda x, number, seed, epoch, ids=None: masking.random_masking(
        x, seed=seed, sample_ids=ids, epoch=epoch, num_keep=number
    ),
    "restore_tokens": masking.restore_tokens,
    "restore_valid": lambda x, ids, token, valid: masking.restore_tokens(
        x, ids, token, valid=valid
    ),
    "patchify": patches.patchify,
    "unpatchify": patches.unpatchify,
}
