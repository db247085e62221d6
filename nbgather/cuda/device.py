"""Noise, ranks and positions for kernels of your own, into which ``numba.cuda`` compiles them.

The same sources as the kernels of nbgather, so the same bits as :func:`nbgather.token_noise`,
:func:`nbgather.rank_tokens` and :func:`nbgather.gather`. In functions of ``numba.njit`` they work
as well. Nothing here can raise: a position that there is none of is -1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from nbgather.kernels import scalar
from nbgather.kernels.constants import CLIP, FILL, RAISE, WRAP

__all__ = [
    "CLIP",
    "FILL",
    "RAISE",
    "WRAP",
    "comes_before",
    "position",
    "rank",
    "take",
    "token_noise",
]

U = np.uint64
_LOW = U(0xFFFFFFFF)

philox4x32, resolve, unit_float = scalar.philox4x32, scalar.resolve, scalar.unit_float


@njit(inline="always")
def position(index: Any, size: Any, mode: Any) -> Any:
    """Where an index points to along a dimension.

    Parameters
    ----------
    index : int
        Of any integer type.
    size : int
        The length of the dimension.
    mode : int
        `RAISE`, `CLIP`, `WRAP` or `FILL`.

    Returns
    -------
    int
        A position below ``size``; -1 if there is none, which is out of bounds in the modes
        `RAISE` and `FILL`.

    Examples
    --------
    >>> from nbgather.cuda.device import CLIP, RAISE, WRAP, position
    >>> position(2, 5, RAISE), position(7, 5, RAISE), position(7, 5, CLIP), position(-1, 5, WRAP)
    (2, -1, 4, 4)
    """
    found = resolve(index, U(size), mode, False)
    return np.int64(found) if found < U(size) else np.int64(-1)


@njit(inline="always")
def take(row: Any, index: Any, mode: Any, fill_value: Any) -> Any:
    """An item of a row, or what to fill with where the index is out of bounds.

    Parameters
    ----------
    row : array, 1-d
        Of one item or more.
    index, mode
        As in :func:`position`.
    fill_value : scalar
        Of the row's dtype.

    Returns
    -------
    scalar

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.cuda.device import CLIP, FILL, take
    >>> row = np.array([1.0, 2.0, 3.0])
    >>> float(take(row, 9, CLIP, 0.0)), float(take(row, 9, FILL, -1.0))
    (3.0, -1.0)
    """
    found = position(index, row.shape[0], mode)
    return row[max(found, 0)] if found >= 0 else fill_value


@njit(inline="always")
def token_noise(seed: Any, epoch: Any, sample_id: Any, token: Any) -> Any:
    """The noise of one token, as :func:`nbgather.token_noise` has it.

    Parameters
    ----------
    seed, epoch, sample_id, token : int

    Returns
    -------
    float32
        In [0, 1).

    Examples
    --------
    >>> import nbgather
    >>> from nbgather.cuda.device import token_noise
    >>> float(token_noise(1, 0, 5, 2)) == float(nbgather.token_noise(1, [5], 3)[0, 2])
    True
    """
    key, sample, number = U(seed), U(sample_id), U(token)
    w0, w1, w2, w3 = philox4x32(
        number >> U(2), sample & _LOW, sample >> U(32), U(epoch), key & _LOW, key >> U(32)
    )
    which = number & U(3)
    word = w0 if which == U(0) else (w1 if which == U(1) else (w2 if which == U(2) else w3))
    return unit_float(word)


@njit(inline="always")
def comes_before(score: Any, token: Any, other: Any, other_token: Any) -> Any:
    """Whether a token has a lower rank than another, by their scores and then by their numbers.

    Parameters
    ----------
    score, other : float
    token, other_token : int

    Returns
    -------
    bool
        As :func:`nbgather.rank_tokens` orders them: -0 equals 0, NaN comes last.

    Examples
    --------
    >>> from nbgather.cuda.device import comes_before
    >>> comes_before(0.5, 3, 0.5, 4), comes_before(float("nan"), 0, 9.0, 1)
    (True, False)
    """
    # Two that compare to nothing are NaN, and equal.
    if score != score:
        return other != other and token < other_token
    return other != other or score < other or (score == other and token < other_token)


@njit(inline="always")
def rank(scores: Any, length: Any, token: Any) -> Any:
    """The rank of a token among those of its sample: how many come before it.

    Parameters
    ----------
    scores : array, 1-d
        Of all tokens, for one in shared memory, which every thread has written before.
    length : int
        How many tokens there are.
    token : int

    Returns
    -------
    int

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.cuda.device import rank
    >>> scores = np.array([0.5, 0.1, 0.5], np.float32)
    >>> [int(rank(scores, 3, token)) for token in range(3)]
    [1, 0, 2]
    """
    count = np.int64(0)
    score = scores[token]
    for other in range(length):
        if comes_before(scores[other], other, score, token):
            count += 1
    return count
