"""Plain Python loops: the specification. Every other backend must equal it bit for bit.

It shares no code with the kernels on purpose, since it is compared with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nbgather.kernels.plans import GatherPlan, ScatterPlan

#: What is asked of a backend; see nbgather.engine.backends.
HOST_VIEWS = True
DOES = frozenset(("reduce", "scatter"))


def position(value: int, size: int, mode: str, from_end: bool) -> int | None:
    """The position that an index points to, or None if it is out of bounds."""
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
            # aux is one item for a plain fill, one row of items for restore_tokens.
            row = p[plan.dim + 1 :]
            item = int(np.ravel_multi_index(row, out.shape[plan.dim + 1 :])) if row else 0
            out[p] = aux[item if aux.size > 1 else 0]
    return bad


def scatter(
    plan: ScatterPlan, out: np.ndarray, index: np.ndarray, src: np.ndarray, add: Any
) -> int:
    """Row-major over the index: the last value wins, or sums are added in that order."""
    if isinstance(add, tuple):
        return scatter_reduce(plan, out, index, src, *add)
    bad = 0
    for p in np.ndindex(index.shape):
        j = int(index[p])
        if not 0 <= j < plan.size:
            bad += 1
            continue
        target = (*p[: plan.dim], j, *p[plan.dim + 1 :])
        with np.errstate(over="ignore", invalid="ignore"):
            out[target] = src[p] if add is None else out[target] + src[p]
    return bad


def scatter_reduce(
    plan: ScatterPlan,
    out: np.ndarray,
    index: np.ndarray,
    src: np.ndarray,
    reduce: str,
    kind: str,
    include_self: bool,
) -> int:
    """Row-major over the index; without the input the first value of a place begins."""
    if ((index < 0) | (index >= plan.size)).any():
        return 1
    count = np.full(out.shape, include_self, out.dtype)
    started = np.full(out.shape, include_self)
    step = {"sum": _plus, "mean": _plus, "prod": _times}.get(reduce)
    for p in np.ndindex(index.shape):
        target = (*p[: plan.dim], int(index[p]), *p[plan.dim + 1 :])
        with np.errstate(all="ignore"):
            count[target] += 1
            if step is not None:
                old = out[target] if started[target] else out.dtype.type(reduce == "prod")
                out[target] = step(old, src[p])
            elif not started[target] or _wins(src[p], out[target], reduce == "amax", kind):
                out[target] = src[p]
        started[target] = True
    if reduce == "mean":
        hit = count != 0
        with np.errstate(all="ignore"):
            divided = out / count if out.dtype.kind == "f" else out // np.where(hit, count, 1)
        out[...] = np.where(hit, divided, out)
    return 0


def _plus(one: Any, other: Any) -> Any:
    return one + other


def _times(one: Any, other: Any) -> Any:
    return one * other


def _wins(new: Any, old: Any, largest: bool, kind: str) -> bool:
    """Whether a number takes the place of another: a NaN does, an equal one does not."""
    if kind in ("half", "brain"):
        new, old = _as_float(int(new), kind), _as_float(int(old), kind)
    return bool(new != new or (new > old if largest else new < old))


def _as_float(bits: int, kind: str) -> float:
    if kind == "half":
        return float(np.uint16(bits).view(np.float16))
    return float(np.uint32(bits << 16).view(np.float32))


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
        kept = ids_keep.shape[1] if counts is None else int(counts[n])
        # sorted() is stable: of equal scores the lower token comes first. -0.0 == 0.0.
        order = sorted(
            range(len(row)), key=lambda t: (math.isnan(row[t]), 0 if math.isnan(row[t]) else row[t])
        )
        for r, token in enumerate(order):
            ids_restore[n, token] = r
            mask[n, token] = 0 if r < kept else 1
            if r < kept:
                ids_keep[n, r] = token


def strategy(
    name: str,
    sizes: tuple[int, ...],
    numbers: tuple[int, int, int],
    aspects: np.ndarray,
    args: tuple[int, int, int],
    ids: np.ndarray,
    out: np.ndarray,
) -> None:
    """Order a grid's tokens: the score of a token is its rank in the order.

    They are sorted by the strategy's value, then by their noise, then by their number.
    """
    order = {"grid": _grid_order, "lines": _line_order, "block": _block_order}[name]
    noise = np.empty(out.shape, np.float32)
    token_noise(args, ids, noise)
    for n, sample in enumerate(ids.tolist()):
        values = order(_words(sample, args), sizes, numbers, aspects)
        tokens = sorted(range(out.shape[1]), key=lambda t: (values[t], noise[n, t]))
        for rank, token in enumerate(tokens):
            out[n, token] = rank


Word = Callable[[int, int], int]


def _words(sample: int, args: tuple[int, int, int]) -> Word:
    """A sample's words of 32 bits: ``word(stream, number)``. The tokens' noise is stream 0."""
    epoch, low, high = args
    sample &= 2**64 - 1

    def word(stream: int, number: int) -> int:
        counter = ((stream << 28) + number // 4, sample & (2**32 - 1), sample >> 32, epoch)
        return philox4x32(counter, (low, high))[number % 4]

    return word


def _below(word: int, count: int) -> int:
    return word * count >> 32


def _grid_order(word: Word, sizes: tuple[int, ...], numbers: tuple[int, ...], _: object) -> list:
    """False, which sorts first, on a lattice of one token in ``stride`` along each axis."""
    stride = numbers[0]
    phases = [_below(word(1, d), min(stride, size)) for d, size in enumerate(sizes)]
    return [
        any(i % stride != phase for i, phase in zip(token, phases, strict=True))
        for token in np.ndindex(sizes)
    ]


def _line_order(word: Word, sizes: tuple[int, ...], numbers: tuple[int, ...], _: object) -> list:
    """The rank of the last of a token's lines, in a random order of the lines across the axes."""
    axes = [d for d in range(len(sizes)) if numbers[0] >> d & 1]
    lines = [(d, i) for d in axes for i in range(sizes[d])]
    by_word = sorted(range(len(lines)), key=lambda k: word(3, k))
    ranks = {lines[k]: r for r, k in enumerate(by_word)}
    return [max(ranks[d, token[d]] for d in axes) for token in np.ndindex(sizes)]


def _block_order(
    word: Word, sizes: tuple[int, ...], numbers: tuple[int, ...], aspects: np.ndarray
) -> list:
    """What the first box that covers a token leaves of the limit, and the token's line in it."""
    least, largest, wrap = numbers
    nd = len(sizes)
    height, width = (1, *sizes)[-2:]
    limit = 8 * (math.prod(sizes) // least) + 32
    values = dict.fromkeys(np.ndindex(sizes), (0, 0))
    for box in range(limit):
        if all(value != (0, 0) for value in values.values()):
            break
        w = [word(2, 16 * box + k) for k in range(12)]
        area = least + _below(w[0], largest - least + 1)
        sides = _box_sides(area, float(aspects[w[1] >> 22]), height, width)[-min(nd, 2) :]
        # Words 4 to 7 and 8 to 11 belong to four axes, of which the grid has the last `nd`.
        leading = [1 + _below(w[8 + 4 - nd + d], sizes[d]) for d in range(nd - 2)]
        side = (*leading, *sides)
        room = sizes if wrap else [m - s + 1 for m, s in zip(sizes, side, strict=True)]
        start = [_below(w[4 + 4 - nd + d], room[d]) for d in range(nd)]
        axis, turned = divmod(_below(w[2], 2 * nd), 2)
        for inside in np.ndindex(*side):
            token = tuple((b + i) % m for b, i, m in zip(start, inside, sizes, strict=True))
            if values[token] == (0, 0):
                line = side[axis] - 1 - inside[axis] if turned else inside[axis]
                values[token] = (limit - box, line)
    return list(values.values())


def _box_sides(area: int, aspect: float, height: int, width: int) -> tuple[int, int]:
    """Height and width of a box: cut to the grid, and its area kept as far as possible."""
    h = math.floor(math.sqrt(area * aspect) + 0.5)
    w = math.floor(math.sqrt(area * (1.0 / aspect)) + 0.5)
    if h > height:
        h, w = height, (2 * area + height) // (2 * height)
    if w > width:
        h, w = min((2 * area + width) // (2 * width), height), width
    return max(h, 1), max(w, 1)
