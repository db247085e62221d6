"""Every public function on tensors, beside the same by torch's own operators.

The values that a gradient flows to are small whole numbers: sums of them are exact in any order, so
that first and second derivatives can be compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import nbgather
import nbgather.torch

N, L, D, K = 2, 6, 4, 3
IDS = torch.tensor([7, 2**40])


def expanded(ids: torch.Tensor) -> torch.Tensor:
    return ids[..., None].expand(-1, -1, D)


def ranked(noise: torch.Tensor, keep: int) -> tuple[torch.Tensor, ...]:
    order = torch.argsort(noise, dim=1, stable=True)
    restore = torch.argsort(order, dim=1, stable=True)
    return order[:, :keep], restore, (restore >= keep).float()


def masked(x: torch.Tensor, noise: torch.Tensor, keep: int = K) -> tuple[torch.Tensor, ...]:
    ids, restore, mask = ranked(noise, keep)
    return torch.gather(x, 1, expanded(ids)), mask, restore


def padded(x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
    kept, _, restore = masked(x, noise)
    counts = torch.tensor(COUNTS)[:, None]
    valid = torch.arange(K) < counts
    return torch.where(valid[..., None], kept, 0.0), (restore >= counts).float(), restore, valid


def drawn(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    seed = torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64)
    # Of noise by a tensor's seed torch has no other recipe; its values are those of "token_noise".
    zero = torch.zeros_like(seed)
    return masked(x, torch.ops.nbgather.seeded_noise(seed, zero, torch.arange(N), L))


def restored(x: torch.Tensor, ranks: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    filled = torch.cat([x, token.expand(N, L - K, D)], 1)
    return torch.gather(filled, 1, expanded(ranks))


def cut(images: torch.Tensor) -> torch.Tensor:
    n, c, h, w = images.shape
    return (
        images.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 4 * c)
    )


class Case(NamedTuple):
    args: tuple[torch.Tensor, ...]
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    #: Why torch cannot trace it, where it cannot.
    untraced: str = ""
    #: Whether the same call takes any number of samples.
    any_count: bool = True


_generator = torch.Generator().manual_seed(0)


def whole(*shape: int) -> torch.Tensor:
    return torch.randint(-4, 5, shape, generator=_generator).float()


X = whole(N, L, D)
INDEX = torch.randint(0, L, (N, K, D), generator=_generator)
PICKS = torch.randint(0, L, (N, K), generator=_generator)
NOISE = torch.rand(N, L, generator=_generator)
RANKS = torch.argsort(torch.rand(N, L, generator=_generator), 1)
SEEDED = nbgather.token_noise(3, IDS, L, epoch=1, backend="reference")
SMALL = whole(N, K, D)
APART = torch.arange(1.0 * L * D).reshape(L, D)
TOKEN = whole(D)
IMAGES = whole(N, 3, 4, 6)
PATCH_NOISE = nbgather.token_noise(3, IDS, 6, backend="reference")
BLOCK = nbgather.strategies.block(1, IDS, (3, 2), backend="reference")
GRID = nbgather.strategies.grid(1, IDS, (3, 2), backend="reference")
LINES = nbgather.strategies.time_frequency(1, IDS, (3, 2), backend="reference")
TUBE = nbgather.strategies.tube(1, IDS, (3, 2), backend="reference")
COUNTS = [3, 1]

CASES: dict[str, Case] = {
    "gather": Case((X, INDEX), lambda x, i: nbgather.gather(x, 1, i), lambda x, i: x.gather(1, i)),
    "gather fill": Case(
        (X, INDEX), lambda x, i: nbgather.gather(x, 1, i - 1, mode="fill", fill_value=2),
        lambda x, i: torch.where(i > 0, x.gather(1, (i - 1).clamp(min=0)), 2.0),
    ),
    "gather int32": Case(
        (X, INDEX), lambda x, i: nbgather.gather(x, 1, i.int()), lambda x, i: x.gather(1, i)
    ),
    "take_along_axis": Case(
        (X, INDEX), lambda x, i: nbgather.take_along_axis(x, i - L, 1), lambda x, i: x.gather(1, i)
    ),
    "gather_tokens": Case(
        (X, PICKS), nbgather.gather_tokens, lambda x, i: x.gather(1, expanded(i))
    ),
    "scatter": Case(
        (X, RANKS[:, :K].clone(), SMALL), lambda x, i, s: nbgather.scatter(x, 1, expanded(i), s),
        lambda x, i, s: x.scatter(1, expanded(i), s),
    ),
    "scatter number": Case(
        (X, INDEX), lambda x, i: nbgather.scatter(x, 1, i, 3), lambda x, i: x.scatter(1, i, 3)
    ),
    "scatter_add": Case(
        (X, INDEX, SMALL), lambda x, i, s: nbgather.scatter_add(x, 1, i, s),
        lambda x, i, s: x.scatter_add(1, i, s),
    ),
    "scatter_reduce": Case(
        (X, INDEX, SMALL), lambda x, i, s: nbgather.scatter_reduce(x, 1, i, s, "mean"),
        lambda x, i, s: x.scatter_reduce(1, i, s, "mean"),
    ),
    "segment_reduce": Case(
        (SMALL[0],), lambda x: nbgather.segment_reduce(x, "sum", ids=[1, 0, 1]),
        lambda x: torch.stack([x[1], x[0] + x[2]]),
    ),
    "infer_gather": Case(
        (APART, APART[:, 2:]), lambda x, y: nbgather.infer_gather(x, y)[0].index,
        lambda x, y: torch.arange(2, D).expand(L, 2), "infer_gather cannot be traced by torch",
    ),
    "token_noise": Case(
        (IDS,), lambda ids: nbgather.token_noise(3, ids, L, epoch=1), lambda ids: SEEDED.clone()
    ),
    "rank_tokens": Case(
        (NOISE,), lambda n: tuple(nbgather.rank_tokens(n, K)), lambda n: ranked(n, K)
    ),
    "random_masking noise": Case(
        (X, NOISE), lambda x, n: tuple(nbgather.random_masking(x, 0.5, noise=n)), masked
    ),
    "random_masking seed": Case(
        (X, IDS),
        lambda x, i: tuple(nbgather.random_masking(x, 0.5, seed=3, sample_ids=i, epoch=1)),
        lambda x, i: masked(x, SEEDED),
    ),
    "random_masking drawn": Case((X,), lambda x: tuple(nbgather.random_masking(x, 0.5)), drawn),
    "random_masking num_keep": Case(
        (X, NOISE), lambda x, n: tuple(nbgather.random_masking(x, noise=n, num_keep=2)),
        lambda x, n: masked(x, n, 2),
    ),
    "random_masking num_keep=[...]": Case(
        (X, NOISE), lambda x, n: tuple(nbgather.random_masking(x, noise=n, num_keep=COUNTS)),
        padded, any_count=False,
    ),
    "restore_tokens": Case((SMALL, RANKS, TOKEN), nbgather.restore_tokens, restored),
    "restore_tokens number": Case(
        (SMALL, RANKS), lambda x, r: nbgather.restore_tokens(x, r, 0.5),
        lambda x, r: restored(x, r, torch.full((D,), 0.5, device=x.device)),
    ),
    "patchify": Case((IMAGES,), lambda x: nbgather.patchify(x, 2), cut),
    "unpatchify": Case(
        (cut(IMAGES).clone(),), lambda p: nbgather.unpatchify(p, 2, (4, 6)),
        lambda p: p.reshape(N, 2, 3, 2, 2, 3).permute(0, 5, 1, 3, 2, 4).reshape(N, 3, 4, 6),
    ),
    "masked_patchify": Case(
        (IMAGES, IDS),
        lambda x, i: nbgather.masked_patchify(x, 2, 0.5, seed=3, sample_ids=i).x_masked,
        lambda x, i: cut(x).gather(1, ranked(PATCH_NOISE, 3)[0][..., None].expand(-1, -1, 12)),
    ),
    "strategies.random": Case(
        (IDS,), lambda i: nbgather.strategies.random(3, i, (3, 2), epoch=1),
        lambda i: SEEDED.clone(),
    ),
    "strategies.block": Case(
        (IDS,), lambda i: nbgather.strategies.block(1, i, (3, 2)), lambda i: BLOCK.clone()
    ),
    "strategies.grid": Case(
        (IDS,), lambda i: nbgather.strategies.grid(1, i, (3, 2)), lambda i: GRID.clone()
    ),
    "strategies.time_frequency": Case(
        (IDS,), lambda i: nbgather.strategies.time_frequency(1, i, (3, 2)),
        lambda i: LINES.clone(),
    ),
    "strategies.tube": Case(
        (IDS,), lambda i: nbgather.strategies.tube(1, i, (3, 2)), lambda i: TUBE.clone()
    ),
}  # fmt: skip


def flat(result: Any) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def same(one: Any, other: Any) -> bool:
    """Whether results agree in container, dtype, device, shape and every value."""
    pairs = zip(flat(one), flat(other), strict=True)
    return all(
        type(a) is type(b) and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
        for a, b in pairs
    )
