"""Long lanes are scattered in pieces: the bits of one call, and an interrupt between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import rng, same

import nbgather
from nbgather.engine import pieces, plan_scatter
from nbgather.kernels.cpu import launch, limits

#: The shape of the input, the dimension, the index's length along it; and how index and src lie.
LAYOUTS = {
    "lane": ((40,), 0, 900, "C"),
    "far": ((9000,), 0, 900, "C"),
    "few": ((3, 4), 1, 900, "C"),
    "columns": ((2, 40, 3), 1, 900, "C"),
    "wide": ((2, 40, 30), 1, 200, "C"),
    "rows": ((2, 40, 30), 1, 200, "rows"),
    "strided": ((40, 30), 0, 200, "F"),
    "strided lanes": ((40, 30), 1, 200, "half"),
}


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Pieces of few items; how many each call was made in.

    A call is repeated from its notes unless it names a backend.
    """
    counts: list[int] = []
    cut = pieces.pieces.__wrapped__

    def counted(plan: Any) -> Any:
        result = cut(plan)
        counts.append(len(result))
        return result

    monkeypatch.setattr(pieces, "PIECE_BYTES", 500)
    monkeypatch.setattr(pieces, "pieces", counted)
    yield counts
    plan_scatter.plan_scatter.cache_clear()


def operands(layout: str, dtype: str) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    shape, dim, length, order = LAYOUTS[layout]
    generator = rng(layout)
    index_shape = (*shape[:dim], length, *shape[dim + 1 :])
    x = generator.standard_normal(shape).astype(dtype)
    index = generator.integers(0, shape[dim], index_shape)
    src = (generator.standard_normal(index_shape) * 100).astype(dtype)
    if order == "rows":
        index = np.broadcast_to(index[..., :1], index_shape)
    elif order == "F":
        index, src = np.asfortranarray(index), np.asfortranarray(src)
    elif order == "half":
        index, src = (np.repeat(a, 2, axis=dim)[:, ::2] for a in (index, src))
    return x, dim, index, src


CALLS: dict[str, Callable[..., np.ndarray]] = {
    "scatter": nbgather.scatter,
    "scatter_add": nbgather.scatter_add,
    **{
        reduce: lambda *operands, _reduce=reduce, **options: nbgather.scatter_reduce(
            *operands, _reduce, **options
        )
        for reduce in ("sum", "prod", "amax", "amin")
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", CALLS)
def test_pieces_give_the_same_bits(call: str, layout: str, short_pieces: list[int]) -> None:
    for dtype in ("float32", "int64") if call == "prod" else ("float32",):
        given = operands(layout, dtype)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces, "PIECE_BYTES", 1 << 27)
            want = CALLS[call](*given, backend="cpu")
        assert not short_pieces
        same(CALLS[call](*given, backend="cpu"), want)
        assert max(short_pieces) > 1
        out = np.zeros_like(want)
        assert CALLS[call](*given, out=out, backend="cpu") is out
        same(out, want)
        short_pieces.clear()


def test_threads_that_share_the_places(
    monkeypatch: pytest.MonkeyPatch, short_pieces: list[int]
) -> None:
    monkeypatch.setattr(launch, "SHARED_MIN_BYTES", 0)
    generator = rng("shared")
    x = generator.standard_normal(1 << 16).astype("f4")
    index = generator.integers(0, 1 << 16, 100_000)
    src = generator.standard_normal(100_000).astype("f4")
    with limits.limit_threads(2):
        got = nbgather.scatter_add(x, 0, index, src)
    np.add.at(x, index, src)
    same(got, x)
    assert max(short_pieces) > 1


def test_a_bad_index_in_a_later_piece(short_pieces: list[int]) -> None:
    x, dim, index, src = operands("lane", "float32")
    index[-2] = 40
    out = np.full_like(x, 5)
    with pytest.raises(IndexError, match=r"index 40 at \(898,\) is out of bounds"):
        nbgather.scatter_add(x, dim, index, src, out=out)
    assert (out == 5).all()
    assert short_pieces


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_what_is_not_whole_after_each_value_is_not_cut(
    reduce: str, short_pieces: list[int]
) -> None:
    given = operands("lane", "float32")
    same(
        nbgather.scatter_reduce(*given, reduce, include_self=False),
        nbgather.scatter_reduce(*given, reduce, include_self=False, backend="reference"),
    )
    assert not short_pieces


def test_an_interrupt_between_pieces_leaves_out_as_it_was(
    monkeypatch: pytest.MonkeyPatch, short_pieces: list[int]
) -> None:
    x, dim, index, src = operands("lane", "float32")
    scatter, calls = launch.scatter, []

    def interrupted(*operands: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scatter(*operands, **options)

    monkeypatch.setattr(launch, "scatter", interrupted)
    out = np.full_like(x, 5)
    with pytest.raises(KeyboardInterrupt):
        nbgather.scatter_add(x, dim, index, src, out=out)
    assert (out == 5).all()
    monkeypatch.undo()
    same(
        nbgather.scatter_add(x, dim, index, src), nbgather.scatter_add(x, dim, index, src, out=out)
    )


def test_nothing_to_scatter_is_not_cut() -> None:
    empty, out = np.zeros((0, 3), "i1"), np.zeros((0, 3), "i1")
    for options in ({"include_self": False}, {}):
        got = nbgather.scatter_reduce(empty, 0, empty, empty, "mean", out=out, **options)
        assert got is out
