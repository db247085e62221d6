"""Plain Python loops: the specification. Every other backend must equal it bit for bit.

Nothing here is shared with the kernels on purpose: what is compared must not be the same code.
"""

from __future__ import annotations

import math

import numpy as np

from nbgather._plan import GatherPlan, ScatterPlan

HOST_VIEWS = True


def position(value: int, size: int, mode: str, from_end: bool) -> int | None:
    """Where an index points, or None when it points nowhere."""
    if from_end and value < 0:
        value += size
    if mode == "clip":
        return min(max(value, 0), size - 1)
    if mode == "wrap":
        return value % size
    return value if 0 <= value < size else None


def gather(
    plan: GatherPlan, out: np.ndarray, x: np.ndarray, index: np.ndarray, aux: np.ndarray
) -> int:
    bad = 0
    for p in np.ndindex(out.shape):
        value = int(index[p])
        j = position(value, plan.size, plan.mode, plan.from_end)
        if j is not None:
            out[p] = x[(*p[: plan.dim], j, *p[plan.dim + 1 :])]
            continue
        if plan.limit >= 0 and not 0 <= value < plan.limit:
            bad += 1
        if plan.mode == "fill":
            # One item for a plain fill, one row of them for restore_tokens.
            row = p[plan.dim + 1 :]
            at = int(np.ravel_multi_index(row, out.shape[plan.dim + 1 :])) if row else 0
            out[p] = aux[at if aux.size > 1 else 0]
    return bad


def scatter(
    plan: ScatterPlan, out: np.ndarray, index: np.ndarray, src: np.ndarray, add: str | None
) -> int:
    """Row-major over the index: the last value wins, or sums are added in that order."""
    bad = 0
    for p in np.ndindex(index.shape):
        j = int(index[p])
        if not 0 <= j < plan.size:
            bad += 1
            continue
        to = (*p[: plan.dim], j, *p[plan.dim + 1 :])
        with np.errstate(over="ignore", invalid="ignore"):
            out[to] = src[p] if add is None else out[to] + src[p]
    return bad


def philox4x32(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x32-10 of Salmon et al. (SC 2011): four 32-bit words from a counter and a key."""
    c, k, low = list(counter), list(key), 2**32 - 1
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & low, (p0 >> 32) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return tuple(c)


def token_noise(args: tuple[int, int, int], ids: np.ndarray, out: np.ndarray) -> None:
    epoch, low, high = args
    for n, sample in enumerate(ids.tolist()):
        sample &= 2**64 - 1
        for t in range(out.shape[1]):
            counter = (t // 4, sample & (2**32 - 1), sample >> 32, epoch)
            word = philox4x32(counter, (low, high))[t % 4]
            out[n, t] = (word >> 8) * 2.0**-24


def rank_tokens(
    scores: np.ndarray,
    ids_keep: np.ndarray,
    ids_restore: np.ndarray,
    mask: np.ndarray,
    counts: np.ndarray | None = None,
) -> None:
    """``counts`` is how many tokens each sample keeps; else all keep as many as ids_keep holds."""
    ids_keep[...] = -1
    for n, row in enumerate(scores.tolist()):
        stay = ids_keep.shape[1] if counts is None else int(counts[n])
        # sorted() is stable: of equal scores the lower token comes first. -0.0 == 0.0.
        order = sorted(
            range(len(row)), key=lambda t: (math.isnan(row[t]), 0 if math.isnan(row[t]) else row[t])
        )
        for r, token in enumerate(order):
            ids_restore[n, token] = r
            mask[n, token] = 0 if r < stay else 1
            if r < stay:
                ids_keep[n, r] = token
