"""Token masking for masked autoencoders (He et al., arXiv 2111.06377).

Mask polarity everywhere: **0 keep, 1 remove**. ``x_masked`` is what stays *visible*, as in the
paper's code.
"""

from __future__ import annotations

import math
import secrets
from typing import Any, NamedTuple

import numpy as np

from nbgather import _arrays, _plan, _run, _validate, backends

__all__ = [
    "MaskedTokens",
    "TokenMask",
    "random_masking",
    "rank_tokens",
    "restore_tokens",
    "token_noise",
]


class TokenMask(NamedTuple):
    """Which tokens stay.

    Attributes
    ----------
    ids_keep : array of int64, shape [N, K]
        The kept tokens of each sample, lowest score first.
    ids_restore : array of int64, shape [N, L]
        The rank of each token: where to find it in the ranked order.
    mask : array of float32, shape [N, L]
        0 keep, 1 remove.
    """

    ids_keep: Any
    ids_restore: Any
    mask: Any


class MaskedTokens(NamedTuple):
    """What :func:`random_masking` gives, in the order of the paper's code.

    Attributes
    ----------
    x_masked : array, shape [N, K, ...]
        The visible tokens, lowest score first.
    mask : array of float32, shape [N, L]
        0 keep, 1 remove.
    ids_restore : array of int64, shape [N, L]
        The rank of each token.
    """

    x_masked: Any
    mask: Any
    ids_restore: Any


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
    sample_ids : array of int64, shape [N], or int
        The samples' ids in the dataset; an int N stands for 0 to N-1.
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
        A seed, epoch or count out of range or not a whole number; ids not int64 or not 1-d.

    Examples
    --------
    >>> import nbgather
    >>> nbgather.token_noise(0, 1, 4).tolist()
    [[0.3990464210510254, 0.8805201649665833, 0.7357127666473389, 0.6054818034172058]]
    """
    key = _validate.bits64(seed, "seed")
    tokens = _validate.count(num_tokens, "num_tokens")
    at = _validate.epoch(epoch)
    if isinstance(sample_ids, (int, np.integer)):
        sample_ids = np.arange(_validate.count(sample_ids, "sample_ids"), dtype=np.int64)
    adapted = _arrays.adapter(sample_ids, "sample_ids")
    ids = _plain_ids(adapted, sample_ids)
    noise = adapted.empty((ids.shape[0], tokens), ids, "float32")
    module = backends.get("cpu" if backend is None else backend)
    if noise.shape[0] and tokens:
        module.token_noise((at, key & 0xFFFFFFFF, key >> 32), *_views(adapted, ids, noise))
    return noise


def _plain_ids(adapted: _arrays.Adapter, sample_ids: Any) -> Any:
    """Sample ids as a contiguous array of native int64."""
    ids, ids_key = _arrays.ready(adapted, sample_ids)
    layout = adapted.layout(ids_key)
    _validate.sample_ids(layout.shape, layout.dtype.name)
    if layout.strides != (8,) or not layout.dtype.native or adapted.address(ids) % 8:
        ids = adapted.contiguous(ids)
    return ids


def _views(adapted: _arrays.Adapter, *arrays: Any) -> list[np.ndarray]:
    """NumPy views of arrays that are known to be contiguous."""
    views = []
    for array in arrays:
        layout = adapted.layout(adapted.key(array))
        views.append(
            _arrays.view_memory(
                adapted.address(array), layout.shape, layout.strides, layout.dtype.name, array
            )
        )
    return views


def rank_tokens(scores: Any, num_keep: int, *, backend: str | None = None) -> TokenMask:
    """Rank tokens by score and keep the lowest.

    The order is ascending and stable: of equal scores the lower token comes first, -0 equals 0,
    and NaN comes last, as in ``torch.argsort(stable=True)``.

    Parameters
    ----------
    scores : array of float16, bfloat16, float32 or float64, shape [N, L]
        Any strides.
    num_keep : int
        K, between 0 and L.
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
    adapted = _arrays.adapter(scores, "scores")
    ranked, key = _arrays.ready(adapted, scores)
    layout = adapted.layout(key)
    _validate.scores(layout.shape, layout.dtype.name)
    n, tokens = layout.shape
    keep = _validate.len_keep(tokens, None, num_keep)
    keys = _score_array(adapted, ranked, layout)
    made = TokenMask(
        adapted.empty((n, keep), scores, "int64"),
        adapted.empty((n, tokens), scores, "int64"),
        adapted.empty((n, tokens), scores, "float32"),
    )
    module = backends.get("cpu" if backend is None else backend)
    if n and tokens:
        module.rank_tokens(keys, *_views(adapted, *made))
    return made


def _score_array(adapted: _arrays.Adapter, scores: Any, layout: _arrays.Layout) -> np.ndarray:
    """The scores as contiguous float32 or float64: narrower ones are widened, which is exact."""
    name = layout.dtype.name
    bits = adapted.bits(scores)
    if not layout.dtype.native:
        bits = bits.byteswap()
    bits = np.ascontiguousarray(bits)
    if name.endswith("bfloat16"):
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    values = bits.view(f"f{layout.dtype.itemsize}")
    return values.astype(np.float32) if values.dtype == np.float16 else values


def random_masking(
    x: Any,
    mask_ratio: float = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: int | None = None,
    backend: str | None = None,
) -> MaskedTokens:
    """Keep a random part of each sample's tokens, and remember how to put them back.

    Parameters
    ----------
    x : array, shape [N, L, ...]
        Tokens of any dtype of 1, 2, 4, 8 or 16 bytes.
    mask_ratio : float
        The part to remove, 0 to 1; ``int(L * (1 - mask_ratio))`` tokens stay, in float64.
    noise : array of float, shape [N, L], optional
        Scores to rank by; the lowest stay. Not together with ``seed``.
    seed : int, optional
        For :func:`token_noise`. With neither noise nor seed one is drawn: for torch tensors from
        torch's generator, so that ``torch.manual_seed`` rules, else from the system.
    sample_ids : array of int64, shape [N], optional
        The samples' ids in the dataset, with ``seed``; 0 to N-1 by default.
    epoch : int
        With ``seed``: another epoch, another mask.
    num_keep : int, optional
        How many tokens stay, instead of ``mask_ratio``.
    backend : str, optional
        A name from :func:`nbgather.backends.available`.

    Returns
    -------
    MaskedTokens
        ``(x_masked, mask, ids_restore)``. ``x_masked`` `[N, K, ...]` is what stays *visible*, in
        the order of its rank; ``mask`` float32 `[N, L]`, **0 keep, 1 remove**; ``ids_restore``
        int64 `[N, L]`, each token's rank.

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
    adapted = _arrays.adapter(x, "x")
    shape = tuple(x.shape)
    _validate.tokens(shape)
    keep = _validate.len_keep(shape[1], mask_ratio, num_keep)
    if noise is not None:
        if seed is not None:
            raise ValueError("both noise and seed were given: give one of them")
        if sample_ids is not None:
            raise ValueError("sample_ids was given with noise: it goes with seed")
        _arrays.same_adapter(x, "x", noise, "noise")
        _validate.noise(tuple(noise.shape), shape)
    else:
        if seed is None:
            if sample_ids is not None:
                raise ValueError("sample_ids was given without seed: it goes with seed")
            seed = _drawn_seed(adapted)
        if sample_ids is None:
            sample_ids = adapted.from_numpy(np.arange(shape[0], dtype=np.int64), x)
        _arrays.same_adapter(x, "x", sample_ids, "sample_ids")
        if tuple(sample_ids.shape) != shape[:1]:
            raise ValueError(
                f"sample_ids has shape {tuple(sample_ids.shape)}: one id for each of the"
                f" {shape[0]} samples of x is needed"
            )
        if backend is None or backend == "cpu":
            return _seeded_masking(adapted, x, keep, seed, sample_ids, epoch)
        noise = token_noise(seed, sample_ids, shape[1], epoch=epoch, backend=backend)
    ids_keep, ids_restore, mask = rank_tokens(noise, keep, backend=backend)
    return MaskedTokens(_visible(x, ids_keep, backend), mask, ids_restore)


def _visible(x: Any, ids_keep: Any, backend: str | None) -> Any:
    return _run.gather("tokens", x, 1, ids_keep, "raise", 0, None, backend)


def _seeded_masking(
    adapted: _arrays.Adapter, x: Any, keep: int, seed: int, sample_ids: Any, epoch: int
) -> MaskedTokens:
    """All in one pass where the bytes of a token lie together; else the tokens in one more."""
    n, length = int(x.shape[0]), int(x.shape[1])
    key, at = _validate.bits64(seed, "seed"), _validate.epoch(epoch)
    ids = _plain_ids(adapted, sample_ids)
    source, x_key = _arrays.ready(adapted, x)
    _, strides, dtype = adapted.layout(x_key)
    _validate.itemsize(dtype.name, dtype.itemsize, _arrays.ITEMSIZES, "x")
    shape = (n, keep, *(int(m) for m in x.shape[2:]))
    row = math.prod(shape[2:]) * dtype.itemsize
    whole = strides[2:] == _plan.contiguous_strides(shape[2:], dtype.itemsize)
    apart = not whole or adapted.wants_grad(x)
    mask = adapted.empty((n, length), x, "float32")
    ids_restore = adapted.empty((n, length), x, "int64")
    ids_keep = adapted.empty((n, keep), x, "int64") if apart else None
    x_masked = None if apart else adapted.empty_result(shape, x, math.prod(shape[:2]) * row)
    if n and length:
        backends.get("cpu").seeded_masking(
            (length, keep, at, key & 0xFFFFFFFF, key >> 32),
            n,
            (
                adapted.address(ids),
                adapted.address(source),
                *(0 if a is None else adapted.address(a)
                  for a in (x_masked, ids_keep, ids_restore, mask)),
            ),
            (0 if apart else row, strides[0], strides[1]),
        )  # fmt: skip
    if apart:
        x_masked = _visible(x, ids_keep, None)
    return MaskedTokens(x_masked, mask, ids_restore)


def _drawn_seed(adapted: _arrays.Adapter) -> int:
    if isinstance(adapted, _arrays.TorchAdapter):
        torch = adapted.torch
        return int(torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64).item())
    return secrets.randbits(64)


def restore_tokens(
    x_visible: Any, ids_restore: Any, mask_token: Any, *, backend: str | None = None
) -> Any:
    """Put visible tokens back in their places, with the mask token everywhere else.

    The decoder's unshuffle: ``out[n, l]`` is ``x_visible[n, ids_restore[n, l]]`` where that rank
    is below K, else ``mask_token``.

    Parameters
    ----------
    x_visible : array, shape [N, K, ...]
        Visible tokens in the order of their rank.
    ids_restore : array of int, shape [N, L]
        Each token's rank, as :func:`random_masking` gives it.
    mask_token : array or scalar
        Broadcast to one token, e.g. `[D]` or `[1, 1, D]`; cast to x's dtype only if that is safe.
    backend : str, optional
        A name from :func:`nbgather.backends.available`.

    Returns
    -------
    array, shape [N, L, ...]
        Dtype and container of ``x_visible``.

    Raises
    ------
    TypeError, ValueError
        Shapes or dtypes that do not fit.
    IndexError
        A rank that is negative or not below L.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> x = np.arange(8.0).reshape(1, 4, 2)
    >>> x_masked, mask, ids_restore = nbgather.random_masking(x, 0.5, seed=0)
    >>> nbgather.restore_tokens(x_masked, ids_restore, -1.0).tolist()
    [[[0.0, 1.0], [-1.0, -1.0], [-1.0, -1.0], [6.0, 7.0]]]
    """
    adapted = _arrays.same_adapter(x_visible, "x_visible", ids_restore, "ids_restore")
    shape = tuple(x_visible.shape)
    _validate.tokens(shape, "x_visible")
    row = adapted.row_bits(x_visible, mask_token, shape[2:])
    if isinstance(adapted, _arrays.TorchAdapter):
        token = mask_token if hasattr(mask_token, "requires_grad") else adapted.torch.tensor(0.0)
        if adapted.wants_grad(x_visible) or adapted.wants_grad(token):
            from nbgather import torch as autograd

            return autograd.restore(x_visible, ids_restore, token, row, backend)
    return _run.gather("restore", x_visible, 1, ids_restore, "fill", row, None, backend)
