"""Several blocks as in I-JEPA, stripes, and strategies of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from cases import same

import nbgather
from nbgather import strategies

GRIDS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((14, 14), {}),
    ((16, 10), {"targets": 2, "target_scale": (0.05, 0.5), "target_aspect": (0.1, 10)}),
    ((3, 8, 6), {"overlap": True, "context_aspect": (0.5, 2)}),
    ((6, 6), {"min_keep": 20, "target_scale": (0.3, 0.6)}),
]
IDS = np.array([0, 1, -5, 2**40 + 3, 7])


def block(drawn: np.ndarray, frame: tuple[int, int], scale: Any, aspect: Any) -> set[int]:
    """The tokens of a block, by four numbers, as a reader of the documentation would find them."""
    area, ratio, row, column = drawn.astype(np.float32)
    tokens = math.prod(frame)
    least, most = (max(1, int(tokens * s)) for s in scale)
    low, high = (round(256 * a) for a in aspect)
    area = least + min(int(area * np.float32(most - least + 1)), most - least)
    ratio = (low + min(int(ratio * np.float32(high - low + 1)), high - low)) / 256
    h = max(1, min(frame[0], math.floor(math.sqrt(area * ratio) + 0.5)))
    w = max(1, min(frame[1], math.floor(math.sqrt(area / ratio) + 0.5)))
    top = min(int(row * np.float32(frame[0] - h + 1)), frame[0] - h)
    left = min(int(column * np.float32(frame[1] - w + 1)), frame[1] - w)
    return {r * frame[1] + c for r in range(top, top + h) for c in range(left, left + w)}


def by_hand(
    seed: int, grid: tuple[int, ...], *, targets: int = 4, target_scale: Any = (0.15, 0.2),
    target_aspect: Any = (0.75, 1.5), context_aspect: Any = (1, 1), min_keep: int = 4,
    overlap: bool = False,
) -> list[tuple[list[int], list[list[int]]]]:  # fmt: skip
    frame, frames = grid[-2:], math.prod(grid[:-2])
    length, tokens = math.prod(grid), math.prod(frame)
    noise = nbgather.token_noise(seed, IDS, length + 4 * (targets + 1))[:, length:]
    found = []
    for row in noise.reshape(len(IDS), targets + 1, 4):
        blocks = [block(d, frame, target_scale, target_aspect) for d in row[:-1]]
        context = block(row[-1], frame, (0.85, 1.0), context_aspect)
        left = context
        for m in range(0 if overlap else targets, -1, -1):
            left = context.difference(*blocks[:m])
            if len(left) * frames >= min_keep:
                break
        whole = [sorted(f * tokens + t for f in range(frames) for t in b) for b in (left, *blocks)]
        found.append((whole[0], whole[1:]))
    return found


@pytest.mark.parametrize(("grid", "own"), GRIDS)
def test_blocks_are_those_of_a_readable_loop(grid: Any, own: Any, backend: str) -> None:
    want = by_hand(3, grid, **own)
    got = strategies.multiblock_ids(3, IDS, grid, backend=backend, **own)
    scores = strategies.multiblock(3, IDS, grid, backend=backend, **own)
    packed = strategies.multiblock_ids(3, IDS, grid, backend=backend, packed=True, **own)
    targets = own.get("targets", 4)
    for n, (context, blocks) in enumerate(want):
        assert got.encoder_counts[n] == len(context)
        assert got.encoder[n].tolist() == context + [-1] * (got.encoder.shape[1] - len(context))
        assert np.flatnonzero(scores[n] < 0).tolist() == context
        outside = set().union(*blocks) - set(context)
        assert set(np.flatnonzero(scores[n] >= 1).tolist()) == outside
        ends = packed.encoder_cu_seqlens[n : n + 2]
        assert packed.encoder[slice(*ends)].tolist() == context
        for m, tokens in enumerate(blocks):
            assert got.predictor_counts[n, m] == len(tokens)
            ids = got.predictor[n, m]
            assert ids.tolist() == tokens + [-1] * (len(ids) - len(tokens))
            ends = packed.predictor_cu_seqlens[n * targets + m :][:2]
            assert packed.predictor[slice(*ends)].tolist() == tokens
    assert packed.encoder_cu_seqlens.dtype == packed.predictor_cu_seqlens.dtype == np.int32


def test_the_papers_ranges() -> None:
    ids = strategies.multiblock_ids(0, 2000, (14, 14))
    areas = ids.predictor_counts.ravel() / 196
    assert 0.12 < areas.min() < 0.16 < 0.19 < areas.max() < 0.23
    rows, columns = np.divmod(ids.predictor, 14)
    held = ids.predictor >= 0
    heights = np.where(held, rows, -1).max(2) - np.where(held, rows, 14).min(2) + 1
    widths = np.where(held, columns, -1).max(2) - np.where(held, columns, 14).min(2) + 1
    same(heights * widths, ids.predictor_counts)
    assert 0.6 < (heights / widths).min() < 0.8
    assert 1.4 < (heights / widths).max() < 1.8  # whole sides
    # Sizes are each block's own, and every token may be in one, those of the corners included.
    assert len(np.unique(heights[:, 0] * 100 + widths[:, 0])) > 5
    assert (heights[:, 0] != heights[:, 1]).any()
    covered = np.zeros(196, int)
    np.add.at(covered, ids.predictor[held], 1)
    assert covered.min() > 0
    assert ids.encoder_counts.min() >= 4
    tight = strategies.multiblock_ids(0, 2000, (14, 14), min_keep=100)
    assert tight.encoder_counts.min() >= 100


@pytest.mark.parametrize(
    ("grid", "own"),
    # A graph of each takes torch and JAX seconds.
    [GRIDS[3], *(pytest.param(*case, marks=pytest.mark.large) for case in GRIDS[:3])],
)
def test_every_library_gives_the_same_blocks(grid: Any, own: Any) -> None:
    want = strategies.multiblock_ids(3, IDS, grid, **own)
    scores = strategies.multiblock(3, IDS, grid, **own)
    tensors = torch.from_numpy(IDS)
    for call in (
        lambda t: strategies.multiblock_ids(3, t, grid, **own),
        torch.compile(
            lambda t: strategies.multiblock_ids(3, t, grid, **own),
            fullgraph=True, dynamic=False, backend="aot_eager",
        ),
    ):  # fmt: skip
        for mine, theirs in zip(call(tensors), want, strict=True):
            same(mine.numpy(), theirs)
    small = IDS.astype(np.int32)
    want = strategies.multiblock_ids(3, small, grid, **own)
    traced = jax.jit(lambda i: strategies.multiblock_ids(3, i, grid, **own))
    for mine, theirs in zip(traced(jax.numpy.asarray(small)), want, strict=True):
        assert np.asarray(mine).tolist() == theirs.tolist()
    da = pytest.importorskip("dask.array", reason="dask is not installed")
    chunked = strategies.multiblock(3, da.from_array(IDS, chunks=2), grid, **own)
    same(chunked.compute(), scores)


def test_packed_ids_cannot_be_traced() -> None:
    with pytest.raises(TypeError, match="packed ids were asked for where a library traces"):
        jax.jit(lambda i: strategies.multiblock_ids(3, i, (6, 6), packed=True))(jax.numpy.arange(3))


def test_contexts_and_targets_feed_an_encoder_and_a_predictor() -> None:
    x = torch.randn(5, 196, 8)
    ids = strategies.multiblock_ids(1, torch.arange(5), (14, 14))
    context = nbgather.gather_tokens(x, ids.encoder, mode="fill")
    packed = strategies.multiblock_ids(1, torch.arange(5), (14, 14), packed=True)
    ends = packed.encoder_cu_seqlens.tolist()
    for n in range(5):
        own = packed.encoder[ends[n] : ends[n + 1]]
        assert torch.equal(context[n, : ids.encoder_counts[n]], x[n, own])
        assert not context[n, ids.encoder_counts[n] :].any()
    made = nbgather.random_masking(
        x,
        num_keep=ids.encoder_counts,
        noise=strategies.multiblock(1, torch.arange(5), (14, 14)),
        packed=True,
    )
    assert made.cu_seqlens.tolist() == ends
    for n in range(5):
        removed = set(torch.nonzero(made.mask[n])[:, 0].tolist())
        assert removed.isdisjoint(packed.encoder[ends[n] : ends[n + 1]].tolist())


def test_stripes_go_whole() -> None:
    scores = strategies.stripes(2, 300, (10, 20), ratios=(0.7, 0.3))
    assert ((scores < 0).sum(1) == 3 * 14).all()
    kept = (scores < 0).reshape(300, 10, 20)
    assert (kept.any(2).sum(1) == 3).all()
    assert (kept.any(1).sum(1) == 14).all()
    assert np.unique(kept.any(2), axis=0).shape[0] > 50
    same(strategies.stripes(2, torch.arange(300), (10, 20)).numpy(), scores)


def test_a_strategy_of_ones_own() -> None:
    seen: list[Any] = []

    @strategies.strategy(draws=2)
    def own(noise: Any, drawn: Any, grid: Any, *, sign: float = 1.0) -> Any:
        """Documented."""
        seen.append((type(noise), tuple(noise.shape), tuple(drawn.shape), grid))
        return sign * noise

    assert own.__doc__ == "Documented."
    noise = nbgather.token_noise(4, IDS, 14, epoch=1)
    same(own(4, IDS, [3, 4], epoch=1), noise[:, :12].copy())
    same(own(4, torch.from_numpy(IDS), (3, 4), epoch=1, sign=-1.0).numpy(), -noise[:, :12])
    assert seen == [
        (np.ndarray, (5, 12), (5, 2), (3, 4)),
        (torch.Tensor, (5, 12), (5, 2), (3, 4)),
    ]

    @strategies.strategy
    def plain(noise: Any, drawn: Any, grid: Any) -> Any:
        assert drawn.shape[1] == 0
        return noise

    same(plain(4, 5, (12,)), nbgather.token_noise(4, 5, 12))
    tube = strategies.tube(4, 5, (2, 12), spatial=plain)
    same(tube[:, 12:].copy(), nbgather.token_noise(4, 5, 12))


@strategies.strategy
def misshaped(noise: Any, drawn: Any, grid: Any) -> Any:
    return noise[:, 1:]


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: strategies.multiblock(0, 1, (14,)), ValueError, "grid is (14,): (H, W) or (T, H, W)"),
    (lambda: strategies.multiblock(0, 1, (6, 6), targets=0), ValueError, "targets is 0"),
    (lambda: strategies.multiblock(0, 1, (6, 6), targets=2.0), TypeError, "targets is 2.0"),
    (
        lambda: strategies.multiblock(0, 1, (6, 6), target_scale=(0.5, 0.2)),
        ValueError,
        "target_scale is (0.5, 0.2): 0 < least <= most, at most 1 is needed",
    ),
    (
        lambda: strategies.multiblock_ids(0, 1, (6, 6), context_scale=(0.5, 1.2)),
        ValueError,
        "context_scale is (0.5, 1.2)",
    ),
    (
        lambda: strategies.multiblock(0, 1, (6, 6), target_aspect=0.5),
        TypeError,
        "target_aspect is 0.5: two numbers are needed",
    ),
    (
        lambda: strategies.multiblock(0, 1, (6, 6), min_keep=31),
        ValueError,
        "min_keep is 31: the smallest context has 25 tokens",
    ),
    (lambda: strategies.multiblock(0, 1, (6, 6), overlap=1), TypeError, "overlap is 1"),
    (lambda: strategies.multiblock_ids(0, 1, (6, 6), packed=1), TypeError, "packed is 1"),
    (
        lambda: strategies.multiblock(0, 1, (600, 600)),
        ValueError,
        "grid is (600, 600): a frame of at most 65536 tokens is needed",
    ),
    (
        lambda: strategies.multiblock(0, 1, (6, 6), context_aspect=(0.05, 1)),
        ValueError,
        "context_aspect is (0.05, 1.0): ratios of 1 / 16 to 16 are possible",
    ),
    (lambda: strategies.stripes(0, 1, (4, 5), ratios=(0.5,)), ValueError, "ratios is (0.5,)"),
    (lambda: strategies.stripes(0, 1, (4, 5), ratios=0.5), TypeError, "ratios is 0.5"),
    (
        lambda: strategies.stripes(0, 1, (4, 5), ratios=(0.5, 2)),
        ValueError,
        "ratios[1] is 2.0: it must be between 0 and 1",
    ),
    (
        lambda: misshaped(0, 2, (4, 5)),
        ValueError,
        "strategy misshaped gave shape (2, 19): [N, 20] is needed",
    ),
    (lambda: strategies.strategy(5), TypeError, "a int came for a strategy"),
    (lambda: strategies.strategy(draws=-1), ValueError, "draws is -1"),
]


@pytest.mark.parametrize(("call", "kind", "text"), REFUSED)
def test_refusals(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as raised:
        call()
    assert text in str(raised.value), str(raised.value)
    assert "\n" not in str(raised.value)
