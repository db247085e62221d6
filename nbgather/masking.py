"""Token masking for masked autoencoders (He et al., arXiv 2111.06377).

Mask polarity everywhere: **0 keep, 1 remove**. ``x_masked`` is what stays *visible*, as in the
paper's code.
"""

from __future__ import annotations

import math
import secrets
from typing import Any, NamedTuple, overload

import numpy as np

from nbgather import _arrays, _plan, _run, _validate
from nbgather.engine import backends
from nbgather.kernels.memory import memory_address, view_memory
from nbgather.results import Array, MaskedTokens, PaddedTokens, TokenMask

__all__ = [
    "MaskedTokens",
    "PaddedTokens",
    "TokenMask",
    "random_masking",
    "rank_tokens",
    "restore_tokens",
    "token_noise",
]


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
    key = _validate.bits64(seed, "seed")
    tokens = _validate.count(num_tokens, "num_tokens")
    at = _validate.epoch(epoch)
    sample_ids = counted_ids(sample_ids)
    adapted = _arrays.adapter(sample_ids, "sample_ids")
    detour = adapted.detour(sample_ids) if adapted.detours else None
    if detour is not None:
        return detour.via_noise(seed, sample_ids, num_tokens, epoch, backend)
    adapted, ids = plain_ids(sample_ids)
    samples = int(ids.shape[0])
    noise = adapted.empty((samples, tokens), ids, "float32")
    module = backends.serving(backend, adapted.home, adapted.device(ids))
    args, place = (at, key & 0xFFFFFFFF, key >> 32), adapted.place(ids)
    if samples and tokens and place:
        addresses = adapted.address(ids), adapted.address(noise)
        with adapted.on(ids):
            module.token_noise(args, samples, tokens, *addresses, *place)
    elif samples and tokens:
        module.token_noise(args, *views(adapted, ids, noise))
    return noise


def plain_ids(sample_ids: Any) -> tuple[_arrays.Adapter, Any]:
    """Sample ids, or 0 to N-1 for a number N, as a contiguous array of native int64."""
    sample_ids = counted_ids(sample_ids)
    adapted = _arrays.adapter(sample_ids, "sample_ids")
    ids, ids_key = _arrays.ready(adapted, sample_ids)
    layout = adapted.layout(ids_key)
    integer = layout.dtype.integer
    _validate.sample_ids(layout.shape, layout.dtype.name)
    if integer not in ("i8", "u8"):
        return adapted, adapted.cast(ids, "int64")
    if layout.strides != (8,) or not layout.dtype.native or adapted.address(ids) % 8:
        ids = adapted.contiguous(ids)
    # Of an id, 64 bits enter the counter.
    return adapted, ids if integer == "i8" else adapted.reinterpret(ids, "int64")


def counted_ids(sample_ids: Any) -> Any:
    """Sample ids that are no array yet as one: 0 to N-1 for a number N, or a sequence of ids."""
    if isinstance(sample_ids, (int, np.integer)):
        return np.arange(_validate.count(sample_ids, "sample_ids"), dtype=np.int64)
    if isinstance(sample_ids, (list, tuple, range)):
        return _arrays.from_sequence(sample_ids, "sample_ids")
    return sample_ids


def _ids_beside(adapted: _arrays.Adapter, x: Any, what: str, sample_ids: Any) -> Any:
    """Sample ids as an array of the library of ``x``; a number N must be the count of samples."""
    if isinstance(sample_ids, (int, np.integer)):
        count = _validate.count(sample_ids, "sample_ids")
        _validate.ids_of((count,), int(x.shape[0]), what)
        sample_ids = range(count)
    return _arrays.beside(adapted, x, what, sample_ids, "sample_ids")


def views(adapted: _arrays.Adapter, *arrays: Any) -> list[np.ndarray]:
    """NumPy views of arrays that are known to be contiguous."""
    views = []
    for array in arrays:
        layout = adapted.layout(adapted.key(array))
        views.append(
            view_memory(
                adapted.address(array), layout.shape, layout.strides, layout.dtype.name, array
            )
        )
    return views


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
    adapted = _arrays.adapter(scores, "scores")
    if adapted.detours:
        detour = adapted.detour(scores)
        if detour is not None:
            return detour.via_ranks(scores, num_keep, backend)
    _, key = _arrays.ready(adapted, scores)
    shape, _, dtype = adapted.layout(key)
    _validate.scores(shape, dtype.name)
    n, tokens = shape
    keep, counts = _kept(n, tokens, None, num_keep)
    module = backends.serving(backend, adapted.home, adapted.device(scores))
    if hasattr(module, "masking"):
        ids_keep = adapted.empty((n, keep), scores, "int64")
        _, mask, ids_restore = _mask(
            adapted, scores, (n, tokens), keep, counts, _Source(scores), ids_keep=ids_keep
        )
        return TokenMask(ids_keep, ids_restore, mask)
    made = TokenMask(
        adapted.empty((n, keep), scores, "int64"),
        adapted.empty((n, tokens), scores, "int64"),
        adapted.empty((n, tokens), scores, "float32"),
    )
    if n and tokens:
        keys = _scores(adapted, scores, "scores")
        module.rank_tokens(keys, *views(adapted, *made), counts)
    return made


def _kept(
    samples: int, tokens: int, mask_ratio: Any, num_keep: Any
) -> tuple[int, np.ndarray | None]:
    """K, and how many tokens each sample keeps where they differ."""
    num_keep = _arrays.host_counts(num_keep, "num_keep")
    counts = _validate.keep_counts(num_keep, samples, tokens)
    if counts is None:
        return _validate.len_keep(tokens, mask_ratio, num_keep), None
    return max(counts, default=0), np.array(counts, np.int64)


def _scores(adapted: _arrays.Adapter, scores: Any, what: str) -> Any:
    """Scores as contiguous float32 or float64: narrower ones are widened, which is exact.

    A NumPy view of the host's memory, or on a device an array of the scores' own library.
    """
    ready, key = _arrays.ready(adapted, scores)
    layout = adapted.layout(key)
    _validate.scores(layout.shape, layout.dtype.name, what)
    name = layout.dtype.name
    if adapted.home != "cpu":
        size = layout.dtype.itemsize
        if size == 2:
            return adapted.cast(adapted.contiguous(ready), "float32")
        together = layout.strides == _plan.contiguous_strides(layout.shape, size)
        return ready if together else adapted.contiguous(ready)
    bits = adapted.bits(ready)
    if not layout.dtype.native:
        bits = bits.byteswap()
    bits = np.ascontiguousarray(bits)
    if name.endswith("bfloat16"):
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    values = bits.view(f"f{layout.dtype.itemsize}")
    return values.astype(np.float32) if values.dtype == np.float16 else values


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
    backend: str | None = None,
) -> MaskedTokens[Array]: ...
@overload
def random_masking(
    x: Array,
    mask_ratio: float = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any,
    backend: str | None = None,
) -> PaddedTokens[Array]: ...
def random_masking(
    x: Array,
    mask_ratio: float = 0.75,
    *,
    noise: Any = None,
    seed: int | None = None,
    sample_ids: Any = None,
    epoch: int = 0,
    num_keep: Any = None,
    backend: str | None = None,
) -> MaskedTokens[Array] | PaddedTokens[Array]:
    """Keep a random part of each sample's tokens, and remember how to put them back.

    Parameters
    ----------
    x : array, shape [N, L, ...]
        Tokens of any dtype of 1, 2, 4, 8 or 16 bytes.
    mask_ratio : float
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
    backend : str, optional
        A name from :func:`nbgather.backends.available`.

    Returns
    -------
    MaskedTokens, or PaddedTokens where ``num_keep`` has a number for each sample
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
    if noise is None and backend is None:
        result = _again(x, sample_ids, mask_ratio, num_keep, seed, epoch)
        if result is not None:
            return result
    shape = adapted.shape(x)
    _validate.tokens(shape)
    noise, sample_ids = sides(adapted, x, "x", noise, sample_ids)
    if adapted.detours:
        detour = adapted.detour(x, noise, sample_ids)
        if detour is not None:
            return detour.via_masking(
                x, mask_ratio, noise, seed, sample_ids, epoch, num_keep, backend
            )
    keep, counts = _kept(shape[0], shape[1], mask_ratio, num_keep)
    source = _source(adapted, x, "x", shape[:2], noise, seed, sample_ids, epoch)
    if hasattr(backends.serving(backend, adapted.home, adapted.device(x)), "masking"):
        made = _one_pass(adapted, x, keep, counts, source)
        if (
            adapted.home == "cpu"
            and counts is None
            and seed is not None
            and type(mask_ratio) is float
            and (num_keep is None or type(num_keep) is int)
            and source.ids is sample_ids
        ):
            _remember(adapted, x, sample_ids, mask_ratio, num_keep, keep)
    else:
        ids_keep, ids_restore, mask = _ranked(adapted, x, shape[:2], keep, counts, source, backend)
        made = MaskedTokens(_visible(x, ids_keep, counts, backend), mask, ids_restore)
    return made if counts is None else _padded(adapted, x, made, counts)


def sides(
    adapted: _arrays.Adapter, x: Any, what: str, noise: Any, sample_ids: Any
) -> tuple[Any, Any]:
    """Noise and sample ids as arrays of the library of ``x``, where they were given."""
    if noise is not None:
        noise = _arrays.beside(adapted, x, what, noise, "noise")
    if sample_ids is not None:
        sample_ids = _ids_beside(adapted, x, what, sample_ids)
    return noise, sample_ids


class _Source(NamedTuple):
    """Where the scores of a masking come from: given as noise, or drawn by seed."""

    noise: Any = None
    key: int = 0
    epoch: int = 0
    ids: Any = None  # None: 0, 1, ...


def _source(
    adapted: _arrays.Adapter,
    x: Any,
    what: str,
    pair: tuple[int, ...],
    noise: Any,
    seed: int | None,
    sample_ids: Any,
    epoch: int,
) -> _Source:
    _validate.one_source(noise, seed, sample_ids)
    if noise is not None:
        _validate.noise(adapted.shape(noise), pair, adapted.shape(x), what)
        return _Source(noise)
    if seed is None:
        seed = _drawn_seed(adapted)
    ids = None
    if sample_ids is not None:
        _validate.ids_of(adapted.shape(sample_ids), pair[0], what)
        _, ids = plain_ids(sample_ids)
    return _Source(None, _validate.bits64(seed, "seed"), _validate.epoch(epoch), ids)


def _visible(x: Any, ids_keep: Any, counts: np.ndarray | None, backend: str | None) -> Any:
    mode = "raise" if counts is None else "fill"
    if mode == "raise" and _arrays.adapter(x, "x").home == "cuda":
        mode = "clip"  # the ids are ours, and a check would wait for the device
    return _run.gather("tokens", x, 1, ids_keep, mode, 0, None, backend)


def _padded(
    adapted: _arrays.Adapter, x: Any, made: MaskedTokens, counts: np.ndarray
) -> PaddedTokens:
    return PaddedTokens(*made, adapted.from_numpy(valid_tokens(counts), x))


def valid_tokens(counts: np.ndarray) -> np.ndarray:
    """Which slots hold a token where sample n keeps ``counts[n]``: bool `[N, max K]`."""
    return np.arange(int(counts.max(initial=0))) < counts[:, None]


def choose_tokens(
    adapted: _arrays.Adapter,
    images: Any,
    pair: tuple[int, int],
    mask_ratio: Any,
    num_keep: Any,
    noise: Any,
    seed: int | None,
    sample_ids: Any,
    epoch: int,
    backend: str | None,
) -> tuple[TokenMask, np.ndarray | None]:
    """Which of L tokens stay in each of N samples, and how many where they differ."""
    keep, counts = _kept(*pair, mask_ratio, num_keep)
    source = _source(adapted, images, "images", pair, noise, seed, sample_ids, epoch)
    return _ranked(adapted, images, pair, keep, counts, source, backend), counts


def _ranked(
    adapted: _arrays.Adapter,
    x: Any,
    pair: tuple[int, ...],
    keep: int,
    counts: np.ndarray | None,
    source: _Source,
    backend: str | None,
) -> TokenMask:
    """Ranks without tokens: in one pass from the seed where the kernels do it."""
    module = backends.serving(backend, adapted.home, adapted.device(x))
    if source.noise is None and hasattr(module, "masking"):
        ids_keep = adapted.empty((pair[0], keep), x, "int64")
        _, mask, ids_restore = _mask(adapted, x, pair, keep, counts, source, ids_keep=ids_keep)
        return TokenMask(ids_keep, ids_restore, mask)
    noise = source.noise
    if noise is None:
        ids = source.ids
        if ids is None:
            ids = adapted.from_numpy(np.arange(pair[0], dtype=np.int64), x)
        noise = token_noise(source.key, ids, pair[1], epoch=source.epoch, backend=backend)
    return rank_tokens(noise, keep if counts is None else counts, backend=backend)


def _one_pass(
    adapted: _arrays.Adapter, x: Any, keep: int, counts: np.ndarray | None, source: _Source
) -> MaskedTokens:
    """All in one pass where the bytes of a token lie together; else the tokens in one more."""
    pair = int(x.shape[0]), int(x.shape[1])
    taken, x_key = _arrays.ready(adapted, x)
    _, strides, dtype = adapted.layout(x_key)
    _validate.itemsize(dtype.name, dtype.itemsize, _arrays.ITEMSIZES, "x")
    inner = tuple(int(m) for m in x.shape[2:])
    row = math.prod(inner) * dtype.itemsize
    together = strides[2:] == _plan.contiguous_strides(inner, dtype.itemsize)
    if adapted.home == "cuda":
        together &= backends.get("cuda").masks_in_one(pair[1], keep, row)
    if not together or adapted.wants_grad(x):
        ids_keep = adapted.empty((pair[0], keep), x, "int64")
        _, mask, ids_restore = _mask(adapted, x, pair, keep, counts, source, ids_keep=ids_keep)
        return MaskedTokens(_visible(x, ids_keep, counts, None), mask, ids_restore)
    x_masked = adapted.empty_result((pair[0], keep, *inner), x, pair[0] * keep * row)
    tokens = adapted.address(x_masked), adapted.address(taken), row, strides[0], strides[1]
    return _mask(adapted, x, pair, keep, counts, source, x_masked=x_masked, tokens=tokens)


#: What a masking kernel calls the source of its scores.
_KINDS = {"seed": "seed", "float32": "f4", "float64": "f8"}


def _mask(
    adapted: _arrays.Adapter,
    x: Any,
    pair: tuple[int, ...],
    keep: int,
    counts: np.ndarray | None,
    source: _Source,
    *,
    ids_keep: Any = None,
    x_masked: Any = None,
    tokens: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0),
) -> MaskedTokens:
    """One call of the masking kernel. ``tokens``: where to, where from, bytes, strides."""
    mask = adapted.empty(tuple(pair), x, "float32")
    ids_restore = adapted.empty(tuple(pair), x, "int64")
    scores = None if source.noise is None else _scores(adapted, source.noise, "noise")
    place, at = adapted.place(x), memory_address
    kind = "seed" if scores is None else str(scores.dtype).replace("torch.", "")
    numbers: Any = counts
    if place:
        at = adapted.address
        numbers = None if counts is None else adapted.from_numpy(counts, x)
    if pair[0] and pair[1]:
        to, taken, row, x_n, x_l = tokens
        with adapted.on(x):
            backends.get(adapted.home).masking(
                _KINDS[kind],
                pair[0],
                to,
                taken,
                0 if source.ids is None else adapted.address(source.ids),
                0 if scores is None else at(scores),
                *place,
                length=pair[1],
                kept=keep,
                epoch=source.epoch,
                key_low=source.key & 0xFFFFFFFF,
                key_high=source.key >> 32,
                row=row,
                x_n=x_n,
                x_l=x_l,
                keep=0 if ids_keep is None else adapted.address(ids_keep),
                restore=adapted.address(ids_restore),
                mask=adapted.address(mask),
                counts=0 if counts is None else at(numbers),
                implied=int(source.ids is None),
            )
    return MaskedTokens(x_masked, mask, ids_restore)


class _SmallMasking(NamedTuple):
    """All of a masking by seed on the calling thread but its addresses, key and epoch."""

    run: Any
    numbers: int  # their address
    shape: tuple[int, ...]
    pair: tuple[int, int]
    itemsize: int  # of the tokens
    nbytes: int
    owner: np.ndarray  # of the numbers


#: Small maskings by seed that went well, by all that they depend on but the seed and the values.
small: dict[Any, _SmallMasking] = {}


def _again(
    x: Any, ids: Any, mask_ratio: Any, num_keep: Any, seed: Any, epoch: Any
) -> MaskedTokens | None:
    """Repeat a small masking whose like went well before; None to go the whole way."""
    adapted = _arrays.known(type(x))
    if (
        adapted is None
        or type(seed) is not int
        or type(epoch) is not int
        or type(mask_ratio) is not float
        or not (-(2**63) <= seed < 2**64 and 0 <= epoch < 2**32)
        or not adapted.settled(ids)
        or (num_keep is not None and type(num_keep) is not int)
    ):
        return None
    try:
        call = small.get((adapted.tokens_key(x, ids), mask_ratio, num_keep))
        if call is None or adapted.wants_grad(x):
            return None
        source = adapted.plain_address(x, call.itemsize, call.nbytes)
        idx = 0 if ids is None else adapted.plain_address(ids, 8, 8 * call.pair[0])
    except RuntimeError:
        return None  # a tensor without plain memory
    if not source or idx & 7 or (idx == 0) != (ids is None):
        return None
    x_masked = adapted.empty(call.shape, x)
    mask, ids_restore = (adapted.empty(call.pair, x, kind) for kind in ("float32", "int64"))
    bad = call.run(
        adapted.address(x_masked), source, idx, adapted.address(ids_restore),
        adapted.address(mask), epoch, seed & 0xFFFFFFFFFFFFFFFF, call.numbers,
    )  # fmt: skip
    return None if bad else MaskedTokens(x_masked, mask, ids_restore)


def _remember(
    adapted: _arrays.Adapter, x: Any, ids: Any, mask_ratio: Any, num_keep: Any, keep: int
) -> None:
    try:
        shape, strides, dtype = adapted.layout(adapted.key(x))
        if not adapted.plain_address(x, dtype.itemsize, math.prod(shape) * dtype.itemsize):
            return
    except LookupError:
        return
    item, inner = dtype.itemsize, shape[2:]
    row = math.prod(inner) * item
    if strides[2:] != _plan.contiguous_strides(inner, item) or not math.prod(shape[:2]):
        return
    made = backends.get("cpu").small_masking(
        shape[0], length=shape[1], kept=keep, row=row, x_n=strides[0], x_l=strides[1],
        implied=int(ids is None),
    )  # fmt: skip
    if made is not None:
        if len(small) >= 4096:
            small.clear()
        run, numbers = made
        small[adapted.tokens_key(x, ids), mask_ratio, num_keep] = _SmallMasking(
            run,
            memory_address(numbers),
            (shape[0], keep, *inner),
            (shape[0], shape[1]),
            dtype.itemsize,
            math.prod(shape) * dtype.itemsize,
            numbers,
        )


def _drawn_seed(adapted: _arrays.Adapter) -> int:
    if isinstance(adapted, _arrays.TorchAdapter):
        torch = adapted.torch
        drawn = torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu")
        return int(drawn.item())
    return secrets.randbits(64)


def restore_tokens(
    x_visible: Array,
    ids_restore: Any,
    mask_token: Any,
    *,
    valid: Any = None,
    backend: str | None = None,
) -> Array:
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
        Of the library and device of ``x_visible``. Broadcast to one token, e.g. `[D]` or
        `[1, 1, D]`; cast to x's dtype only if that is safe.
    valid : array of bool, shape [N, K], optional
        Which of ``x_visible`` are tokens, as :class:`PaddedTokens` has it; all by default.
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

    Notes
    -----
    On a GPU the check of the ranks waits for the device. Where a CUDA graph is captured nothing can
    wait: there a rank out of range takes the mask token.

    Examples
    --------
    >>> import numpy as np
    >>> import nbgather
    >>> x = np.arange(8.0).reshape(1, 4, 2)
    >>> x_masked, mask, ids_restore = nbgather.random_masking(x, 0.5, seed=0)
    >>> nbgather.restore_tokens(x_masked, ids_restore, -1.0).tolist()
    [[[0.0, 1.0], [-1.0, -1.0], [-1.0, -1.0], [6.0, 7.0]]]
    """
    adapted = _arrays.adapter(x_visible, "x_visible")
    shape = adapted.shape(x_visible)
    _validate.tokens(shape, "x_visible")
    ids_restore = _arrays.beside(adapted, x_visible, "x_visible", ids_restore, "ids_restore")
    if valid is not None:
        valid = _arrays.beside(adapted, x_visible, "x_visible", valid, "valid")
    _arrays.require_beside(adapted, x_visible, "x_visible", mask_token, "mask_token")
    if adapted.detours:
        detour = adapted.detour(x_visible, ids_restore, mask_token)
        if detour is not None:
            return detour.via_restore(x_visible, ids_restore, mask_token, valid, backend)
    x_visible, key = _arrays.ready(adapted, x_visible)
    adapted.layout(key)  # which refuses what is no plain number
    row = adapted.row_bits(x_visible, mask_token, shape[2:])
    if valid is not None:
        valid, _ = _arrays.ready(adapted, valid)
        _validate.valid_tokens(adapted.shape(valid), str(valid.dtype), shape)
        visible = valid.reshape(*shape[:2], *(1,) * (len(shape) - 2))
        x_visible = adapted.where(visible, x_visible, mask_token)
    if isinstance(adapted, _arrays.TorchAdapter):
        zero = adapted.torch.zeros((), device=x_visible.device)
        token = mask_token if isinstance(mask_token, adapted.torch.Tensor) else zero
        if adapted.wants_grad(x_visible) or adapted.wants_grad(token):
            from nbgather import _torch_grad as autograd

            return autograd.restore(x_visible, ids_restore, token, row, backend)
    return _run.gather("restore", x_visible, 1, ids_restore, "fill", row, None, backend)
