"""Forward-mode AD: the tangent of each call is torch's own, cold and warm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad

import nbgather

INDEX = torch.tensor([[2, 0, 2], [1, 1, 0]])
IDS = torch.tensor([[2, 0], [1, 1]])
RANKS = torch.tensor([[1, 0, 2], [2, 0, 1]])
NOISE = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.8, 0.3]])


def tokens(ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.gather(x, 1, ids[..., None].expand(-1, -1, x.shape[2]))


def restored(x: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    filled = torch.cat([x, token.expand(2, 1, 4)], 1)
    return tokens(RANKS, filled)


Call = Callable[..., torch.Tensor]
#: Shapes of the operands; ours; torch's.
CASES: dict[str, tuple[list[tuple[int, ...]], Call, Call]] = {
    "gather": (
        [(2, 3)],
        lambda x: nbgather.gather(x, 1, INDEX),
        lambda x: torch.gather(x, 1, INDEX),
    ),
    "gather int32": (
        [(2, 3)],
        lambda x: nbgather.gather(x, 1, INDEX.int()),
        lambda x: torch.gather(x, 1, INDEX),
    ),
    "gather fill": (
        [(2, 3)],
        lambda x: nbgather.gather(x, 1, INDEX + 1, mode="fill", fill_value=5),
        lambda x: torch.cat([x[:, 1:], torch.full((2, 1), 5.0)], 1).gather(1, INDEX),
    ),
    "take_along_axis": (
        [(1, 3)],
        lambda x: nbgather.take_along_axis(x, INDEX - 3, 1),
        lambda x: torch.gather(x.expand(2, 3), 1, INDEX),
    ),
    "gather_tokens": (
        [(2, 3, 4)],
        lambda x: nbgather.gather_tokens(x, IDS),
        lambda x: tokens(IDS, x),
    ),
    "scatter": (
        [(2, 3), (2, 2)],
        lambda x, s: nbgather.scatter(x, 1, IDS[:, :1], s),
        lambda x, s: torch.scatter(x, 1, IDS[:, :1], s),
    ),
    "scatter number": (
        [(2, 3)],
        lambda x: nbgather.scatter(x, 1, IDS, 7),
        lambda x: torch.scatter(x, 1, IDS, 7),
    ),
    "scatter_add": (
        [(2, 3), (2, 3)],
        lambda x, s: nbgather.scatter_add(x, 1, INDEX, s),
        lambda x, s: torch.scatter_add(x, 1, INDEX, s),
    ),
    "scatter_reduce": (
        [(2, 3), (2, 3)],
        lambda x, s: nbgather.scatter_reduce(x, 1, INDEX, s, "amax"),
        lambda x, s: torch.scatter_reduce(x, 1, INDEX, s, "amax"),
    ),
    "restore_tokens": (
        [(2, 2, 4), (1, 1, 4)],
        lambda x, t: nbgather.restore_tokens(x, RANKS, t),
        restored,
    ),
    "restore_tokens valid": (
        [(2, 2, 4), (4,)],
        lambda x, t: nbgather.restore_tokens(x, RANKS, t, valid=[[True, True], [True, False]]),
        lambda x, t: restored(torch.cat([x[:1], torch.cat([x[1:, :1], t.expand(1, 1, 4)], 1)]), t),
    ),
    "random_masking": (
        [(2, 3, 4)],
        lambda x: nbgather.random_masking(x, num_keep=2, noise=NOISE).x_masked,
        lambda x: tokens(NOISE.argsort(dim=1, stable=True)[:, :2], x),
    ),
    "masked_patchify": (
        [(2, 1, 4, 6)],
        lambda x: nbgather.masked_patchify(x, (4, 2), num_keep=1, noise=NOISE).x_masked,
        lambda x: tokens(NOISE.argsort(dim=1, stable=True)[:, :1], nbgather.patchify(x, (4, 2))),
    ),
}


def operands(shapes: list[tuple[int, ...]], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("heat", ["cold", "warm"])
@pytest.mark.parametrize("name", CASES)
def test_tangents(name: str, heat: str) -> None:
    shapes, ours, theirs = CASES[name]
    values, tangents = operands(shapes, 1), operands(shapes, 2)
    if heat == "warm":
        for _ in range(3):
            ours(*values)
    # Each operand alone, then all of them.
    for chosen in [{k} for k in range(len(shapes))] + [set(range(len(shapes)))]:
        results: list[Any] = []
        for call in (ours, theirs):
            with forward_ad.dual_level():
                duals = [
                    forward_ad.make_dual(v, t) if k in chosen else v
                    for k, (v, t) in enumerate(zip(values, tangents, strict=True))
                ]
                results.append(forward_ad.unpack_dual(call(*duals)))
        assert torch.equal(results[0].primal, results[1].primal)
        assert results[0].tangent is not None
        assert torch.equal(results[0].tangent, results[1].tangent)


def test_forward_over_reverse() -> None:
    """The tangent of a gradient, as a Hessian-vector product takes it."""
    values, tangents = operands([(2, 3)], 1)[0], operands([(2, 3)], 2)[0]
    found = []
    for gather in (nbgather.gather, torch.gather):
        with forward_ad.dual_level():
            x = values.clone().requires_grad_()
            dual = forward_ad.make_dual(x, tangents)
            loss = (gather(dual, 1, INDEX) ** 3).sum()
            (grad,) = torch.autograd.grad(loss, dual)
            found.append(forward_ad.unpack_dual(grad))
    assert torch.equal(found[0].tangent, found[1].tangent)
    assert torch.equal(found[0].primal, found[1].primal)


def test_without_a_tangent_nothing_changes() -> None:
    """Inside of a dual level a plain tensor is served as always, with out= too."""
    x, out = operands([(2, 3)], 1)[0], torch.empty(2, 3)
    with forward_ad.dual_level():
        assert nbgather.gather(x, 1, INDEX, out=out) is out
    assert torch.equal(out, x.gather(1, INDEX))


def test_out_takes_no_tangent() -> None:
    x = operands([(2, 3)], 1)[0]
    with forward_ad.dual_level(), pytest.raises(ValueError, match="cannot flow through out="):
        nbgather.gather(forward_ad.make_dual(x, x), 1, INDEX, out=torch.empty(2, 3))
