"""Every public function in every world of torch, as the table of the docs says.

The worlds and how they are tried are those of ``scripts/torch_worlds.py``, which writes the table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import nbgather
from nbgather.engine import memo

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import torch_worlds
from torch_cases import INDEX, Case, X

TABLE = torch_worlds.TABLE.read_text(encoding="utf-8")
WEEKLY = [title for title, world in torch_worlds.WORLDS.items() if world.weekly]


@pytest.fixture(autouse=True, scope="module")
def no_group_is_left() -> Iterator[None]:
    """The distributed world makes a group of the process; other tests make their own."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def cold(case: Case) -> None:
    memo.entries.clear()


def warm(case: Case) -> None:
    """Small calls are repeated by the memo, in the worlds where they may be."""
    memo.entries.clear()
    for _ in range(3):
        case.ours(*case.args)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("title", "heat"),
    [
        # The way with fixed sizes is tried always, and open ones by `make_fx` and `torch.export`.
        pytest.param(
            title, heat, marks=pytest.mark.large if title == "`compile(dynamic=True)`" else ()
        )
        for title, world in torch_worlds.WORLDS.items()
        for heat in ((warm,) if world.slow else (cold, warm))
        if not world.weekly
    ],
)
def test_worlds(title: str, heat: Any) -> None:
    assert torch_worlds.row(title, torch_worlds.attempt_all(title, heat)) in TABLE


@pytest.mark.large
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("title", WEEKLY)
def test_worlds_that_take_minutes(title: str) -> None:
    assert torch_worlds.row(title, torch_worlds.attempt_all(title)) in TABLE


def test_a_wrong_result_is_noticed() -> None:
    case = Case((X, INDEX), lambda x, i: nbgather.gather(x, 1, i) + 1, lambda x, i: x.gather(1, i))
    for title in ("eager", "`func.vmap`", "`func.hessian`", "`compile(fullgraph=True)`"):
        if title == "`func.vmap`":  # is compared with the eager call, which is checked by itself
            case = case._replace(ours=lambda x, i: nbgather.gather(x, 1, i) * x.ndim)
            x = torch.func.vmap(case.ours)(X[None], INDEX[None])
            assert torch.equal(x[0], case.ours(X, INDEX))
            continue
        with pytest.raises(torch_worlds.Wrong):
            torch_worlds.attempt(case, torch_worlds.WORLDS[title])


class Seen(TorchDispatchMode):
    """Notes whose operators pass."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.namespace)
        return func(*args, **(kwargs or {}))


def test_a_mode_sees_the_operator() -> None:
    for x in (X, X.half(), X.clone().requires_grad_()):
        for _ in range(3):
            nbgather.gather(x, 1, INDEX)
        with Seen() as mode:
            nbgather.gather(x, 1, INDEX)
        assert mode.names == {"nbgather"}
