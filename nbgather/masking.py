"""Token masking for masked autoencoders (He et al., arXiv 2111.06377).

Mask polarity everywhere: **0 keep, 1 remove**. ``x_masked`` is what stays *visible*, as in the
paper's code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np

from nbgather import dispatch
from nbgather.operations import checks
from nbgather.operations.keep import keep_of
from nbgather.operations.packing import PackedMasking, RestorePacked, check_ends
from nbgather.operations.tokens import (
    RandomMasking,
    RankTokens,
    RestoreTokens,
    RestoreValidTokens,
    TokenNoise,
    one_source,
)
from nbgather.operations.tokens import token_noise as noise_operation
from nbgather.results import (
    Array,
    MaskedTokens,
    PackedTokens,
    PaddedTokens,
    TokenMask,
    WriteMode,
)

__all__ = [
    "MaskedTokens",
    "PackedTokens",
    "PaddedTokens",
    "TokenMask",
    "random_masking",
    "rank_tokens",
    "restore_tokens",
    "token_noise",
]

_RAISE = "raise"


@overload
def token_noise(
    seed: int,
    sample_ids: int | list[int] | tuple[int, ...] | range,
    num_tokens: int,
    *,
    epoch: int = 0,
    backend: str | None = None,
) -> np.ndarray: ...
@overload
def token_noise(
    seed: int,
    sample_ids: Array,
    num_tokens: int,
    *,
    epoch: int = 0,
    backend: str | None = None,
) -> Array: ...
def token_noise(
    seed: int,
    sample_ids: Any,
    num_tokens: int,
    *,
    epoch: int = 0,
    backend: str | None = None,
) -> Any:
    """Noise for each token that depends on (seed, epoch, sample id, token) alone.

    Philox4x32-10 (Salmon et al., SC 2011) with key = (seed's low, high 32 bits) and counter =
    (block q, id's low, high 32 bits, epoch); word w of block q belongs to token 4q + w and gives
    ``(word >> 8) * 2**-24``. Batch, order, worker, thread and device do not enter.

    Parameters
    ----------
    seed : int
        64 bits, signed or unsigned.
    sample_ids : array or sequence of int, shape [N], or int
        The samples' ids in the dataset, of any integer dtype, 64 bits of which count; an int N
        stands for 0 to N-1.
    num_tokens : int
        L.
    epoch : int
        0 to 2**32 - 1.
    backend : str, optional
        A name from :func:`nbgather.backends.available`.

    Returns
    -------
    array of float32, shape [N, L]
        In [0, 1), multiples of 2**-24; of the container of ``sample_ids``, NumPy for an int.

    Raises
    ------
    TypeError, ValueError
        A seed, epoch or count out of range or not a whole number; ids not integers or not 1-d.

    Examples
    --------
    >>> import nbgather
    >>> nbgather.token_noise(0, 1, 4).tolist()
    [[0.3990464210510254, 0.8805201649665833, 0.7357127666473389, 0.6054818034172058]]
    """
    if backend is None and type(num_tokens) is int:
        head = TokenNoise, int, num_tokens or "0"
        result = dispatch.recall_draw(head, sample_ids, seed, epoch)
        if result is not None:
            return result
    operation = noise_operation(seed, epoch, num_tokens)
    return dispatch.execute(operation, dispatch.array_of_ids(sample_ids), backend=backend)


def rank_tokens(scores: Array, num_keep: Any, *, backend: str | None = None) -> TokenMask[Array]:
    """Rank tokens by score and keep the lowest.

    The order is ascending and stable: of equal scores the lower token comes first, -0 equals 0,
    and NaN comes last, as in ``torch.argsort(stable=True)``.

    Parameters
    ----------
    scores : array of float16, bfloat16, float32 or float64, shape [N, L]
        Any strides.
    num_keep : int, or sequence or array of int, shape [N]
        K, between 0 and L; or how many tokens each sample keeps, whose largest is K.
    backend : str, optional
        A name from :func:`nbgather.backends.available`.

    Returns
    -------
    TokenMask
        ``ids_keep`` int64 `[N, K]`, ``ids_restore`` int64 `[N, L]`, ``mask`` float32 `[N, L]`, of
        the container of ``scores``.

    Raises
    ------
    TypeError
        Scores of another dtype.
    ValueError
        Scores that are not 2-d; ``num_keep`` out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> ids_keep, ids_restore, mask = nbgather.rank_tokens(np.array([[0.5, 0.1, 0.5, 0.2]]), 2)
    >>> ids_keep.tolist(), ids_restore.tolist(), mask.tolist()
    ([[1, 3]], [[2, 0, 3, 1]], [[1.0, 0.0, 1.0, 0.0]])
    """
    if backend is None and type(num_keep) is int:
        result = dispatch.recall((RankTokens, int, num_keep or "0"), scores)
        if result is not None:
            return TokenMask(*result)
    samples, length = dispatch.pair_of(scores, "scores")
    keep = keep_of(None, dispatch.host_counts(num_keep, "num_keep"), samples, length)
    return TokenMask(*dispatch.execute(RankTokens(keep), scores, backend=backend))


@overload
def random_masking(
    x: Array,
    mask_ratio: float = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: int | None = None,
    packed: Literal[False] = False,
    backend: str | None = None,
) -> MaskedTokens[Array]: ...
@overload
def random_masking(
    x: Array,
    mask_ratio: float | Sequence[float] = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any = None,
    packed: Literal[True],
    backend: str | None = None,
) -> PackedTokens[Array]: ...
@overload
def random_masking(
    x: Array,
    mask_ratio: float | Sequence[float] = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any,
    packed: Literal[False] = False,
    backend: str | None = None,
) -> PaddedTokens[Array]: ...
@overload
def random_masking(
    x: Array,
    mask_ratio: Sequence[float],
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: None = None,
    packed: Literal[False] = False,
    backend: str | None = None,
) -> PaddedTokens[Array]: ...
def random_masking(
    x: Array,
    mask_ratio: float | Sequence[float] = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any = None,
    packed: bool = False,
    backend: str | None = None,
) -> MaskedTokens[Array] | PaddedTokens[Array] | PackedTokens[Array]:
    """Keep a random part of each sample's tokens, and remember how to put them back.

    Parameters
    ----------
    x : array, shape [N, L, ...]
        Tokens of any dtype of 1, 2, 4, 8 or 16 bytes.
    mask_ratio : float, or sequence of N floats
        The part to remove, 0 to 1; ``int(L * (1 - mask_ratio))`` tokens stay, in float64.
    noise : array of float, shape [N, L], optional
        Scores to rank by; the lowest stay. Not together with ``seed``. NumPy's will do beside
        torch, JAX and Dask on the CPU.
    seed : int, optional
        For :func:`token_noise`. With neither noise nor seed one is drawn: for torch tensors from
        torch's generator, so that ``torch.manual_seed`` rules, else from the system.
    sample_ids : array or sequence of int, shape [N], or int, optional
        The samples' ids in the dataset, with ``seed``; 0 to N-1 by default, and for the int N.
    epoch : int
        With ``seed``: another epoch, another mask.
    num_keep : int, or sequence or array of int, shape [N], optional
        How many tokens stay, instead of ``mask_ratio``: in every sample, or in each.
    packed : bool
        Give the visible tokens of all samples one after the other, without padding.
    backend : str, optional
        A name from :func:`nbgather.backends.available`.

    Returns
    -------
    MaskedTokens, PaddedTokens where each sample has a number or ratio of its own, or PackedTokens
        ``(x_masked, mask, ids_restore)``. ``x_masked`` `[N, K, ...]` is what stays *visible*, in
        the order of its rank; ``mask`` float32 `[N, L]`, **0 keep, 1 remove**; ``ids_restore``
        int64 `[N, L]`, each token's rank. Packed tokens are `[sum K, ...]`, the same ones in the
        same order, and ``cu_seqlens`` and ``max_seqlen`` go with them.

    Raises
    ------
    TypeError, ValueError
        A ratio outside [0, 1], ``num_keep`` outside [0, L], noise of the wrong shape or dtype,
        both noise and seed, ``sample_ids`` of the wrong length or without a seed.

    Notes
    -----
    Source: He et al., Masked Autoencoders Are Scalable Vision Learners, arXiv 2111.06377, with the
    sort made stable.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> x = np.arange(16).reshape(1, 8, 2)
    >>> x_masked, mask, ids_restore = nbgather.random_masking(x, 0.75, seed=1)
    >>> x_masked.tolist(), mask.tolist()
    ([[[12, 13], [4, 5]]], [[1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]])
    """
    if backend is None and packed is False:
        result = dispatch.recall_masking(
            (RandomMasking,), mask_ratio, num_keep, (x, noise, sample_ids, seed, epoch)
        )
        if result is not None:
            return MaskedTokens(*result)
    samples, length = dispatch.pair_of(x, "x")
    sample_ids = dispatch.ids_beside(sample_ids, samples, "x")
    one_source(noise, seed, sample_ids)
    keep = keep_of(mask_ratio, dispatch.host_counts(num_keep, "num_keep"), samples, length)
    key = None if seed is None else checks.bits64(seed, "seed")
    if checks.flag(packed, "packed"):
        packing = PackedMasking(keep, key, checks.epoch(epoch))
        rows, mask, ranks, ends = dispatch.execute(packing, x, noise, sample_ids, backend=backend)
        return PackedTokens(rows, mask, ranks, ends, keep.of(length) if samples else 0)
    operation = RandomMasking(keep, key, checks.epoch(epoch))
    results = dispatch.execute(operation, x, noise, sample_ids, backend=backend)
    return MaskedTokens(*results) if keep.counts is None else PaddedTokens(*results)


def restore_tokens(
    x_visible: Array,
    ids_restore: Any,
    mask_token: Any,
    *,
    valid: Any = None,
    cu_seqlens: Any = None,
    cu_tokens: Any = None,
    mode: WriteMode = "raise",
    backend: str | None = None,
) -> Array:
    """Put visible tokens back in their places, with the mask token everywhere else.

    The decoder's unshuffle: ``out[n, l]`` is ``x_visible[n, ids_restore[n, l]]`` where that rank
    is below K, else ``mask_token``.

    Parameters
    ----------
    x_visible : array, shape [N, K, ...], or [T, ...]
        Visible tokens in the order of their rank; packed ones with ``cu_seqlens``.
    ids_restore : array of int, shape [N, L], or [S]
        Each token's rank, as :func:`random_masking` gives it; of samples of different lengths one
        after the other, with ``cu_tokens``.
    mask_token : array or scalar
        Of the library and device of ``x_visible``. Broadcast to one token, e.g. `[D]` or
        `[1, 1, D]`; cast to x's dtype only if that is safe.
    valid : array of bool, shape [N, K], optional
        Which of ``x_visible`` are tokens, as :class:`PaddedTokens` has it; all by default.
    cu_seqlens, cu_tokens : array or sequence of int, shape [N + 1], optional
        Where the packed tokens of each sample begin and the last ends, as :class:`PackedTokens` has
        it; and the same of its ids, as :class:`PackedImages` has it.
    mode : {"raise", "defer"}
        What to do with a rank that is negative or not below L: raise an IndexError, or on a GPU put
        the mask token there and raise the IndexError later, without waiting for the device: see
        :mod:`nbgather.cuda`. Elsewhere ``"defer"`` is ``"raise"``.
    backend : str, optional
        A name from :func:`nbgather.backends.available`.

    Returns
    -------
    array, shape [N, L, ...], or [S, ...]
        Dtype and container of ``x_visible``.

    Raises
    ------
    TypeError, ValueError
        Shapes or dtypes that do not fit.
    IndexError
        A rank that is negative or not below L.

    Notes
    -----
    On a GPU the check of the ranks waits for the device. Where a CUDA graph is captured nothing can
    wait: there it is put off as by ``mode="defer"``.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> x = np.arange(8.0).reshape(1, 4, 2)
    >>> x_masked, mask, ids_restore = nbgather.random_masking(x, 0.5, seed=0)
    >>> nbgather.restore_tokens(x_masked, ids_restore, -1.0).tolist()
    [[[0.0, 1.0], [-1.0, -1.0], [-1.0, -1.0], [6.0, 7.0]]]
    """
    if cu_seqlens is not None or cu_tokens is not None:
        return _restore_packed(
            (x_visible, ids_restore, mask_token, cu_seqlens, cu_tokens), valid, mode, backend
        )
    if valid is None:
        if backend is None and mode is _RAISE:
            result = _recall_restoring(x_visible, ids_restore, mask_token)
            if result is not None:
                return result
        restore = RestoreTokens(errors=mode)
        return dispatch.execute(restore, x_visible, ids_restore, mask_token, backend=backend)
    restore_valid = RestoreValidTokens(errors=mode)
    return dispatch.execute(
        restore_valid, x_visible, ids_restore, mask_token, valid, backend=backend
    )


def _restore_packed(operands: Any, valid: Any, mode: WriteMode, backend: str | None) -> Any:
    x, ids, _, cu_seqlens, cu_tokens = operands
    if cu_seqlens is None:
        raise ValueError("cu_tokens was given without cu_seqlens: it goes with packed tokens")
    if valid is not None:
        raise ValueError("both valid and cu_seqlens were given: packed tokens are all valid")
    counts = (
        (cu_seqlens, "cu_seqlens", x, "x_visible"),
        (cu_tokens, "cu_tokens", ids, "ids_restore"),
    )
    for values, what, array, of in counts:
        known = dispatch.known_integers(values, what)
        shape = dispatch.shape_of(array, of)
        if known is not None and shape:
            check_ends(known, shape[0], what, of)
    return dispatch.execute(RestorePacked(errors=mode), *operands, backend=backend)


def _recall_restoring(x: Any, ids: Any, token: Any) -> Any:
    kind = type(token)
    if kind is float or kind is int:
        return dispatch.recall(dispatch.head(RestoreTokens, token), x, ids)
    return dispatch.recall((RestoreTokens,), x, ids, token)
