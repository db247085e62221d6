"""Batches from a loader's workers: the memory they come in, and when it is used again."""

from __future__ import annotations

import copy
import os
import pickle
import sys
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import nbgather
from nbgather import sending
from nbgather.torch import MaskingCollate

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="memory with a descriptor alone is of Linux"
)


@pytest.fixture
def inbox() -> Iterator[sending.Inbox]:
    box = sending.Inbox("here")
    yield box
    sys.modules["multiprocessing.resource_sharer"].stop()  # type: ignore[attr-defined]


def masked(number: int) -> tuple[torch.Tensor, nbgather.MaskedTokens[torch.Tensor]]:
    """A batch that holds its number."""
    x = torch.full((2, 3, 5), float(number))
    return torch.tensor([number, -number]), nbgather.random_masking(x, 0.5, seed=number)


def posted(sender: sending.Sender, number: int) -> Any:
    ids, made = masked(number)
    tensors = [(tuple(t.shape), t.dtype) for t in (ids, *made)]
    parcel = sender.parcel(sending.size_of(*tensors))
    assert parcel is not None
    return parcel.pair(ids, made)


def arrived(message: Any) -> Any:
    """As a queue takes it and gives it back."""
    return pickle.loads(bytes(ForkingPickler.dumps(message)))


def same(got: Any, number: int) -> bool:
    ids, made = masked(number)
    assert type(got) is tuple
    assert type(got[1]) is nbgather.MaskedTokens
    return torch.equal(got[0], ids) and all(map(torch.equal, got[1], made))


def test_a_block_is_used_again_when_all_of_its_batch_is_gone(inbox: sending.Inbox) -> None:
    sender = sending.Sender("here")
    got = arrived(posted(sender, 1))
    assert same(got, 1)
    part = got[1].mask[:1]
    del got
    other = arrived(posted(sender, 2))
    assert len(sender.blocks) == 2
    assert torch.equal(part, masked(1)[1].mask[:1])
    del part
    third = arrived(posted(sender, 3))
    assert len(sender.blocks) == 2
    assert same(other, 2)
    assert same(third, 3)
    assert len(inbox.blocks) == 2
    assert all(block.file < 0 for block in sender.blocks if block.memory[0] and block.is_free())


def test_what_is_looked_at_in_the_worker_is_not_written_over(inbox: sending.Inbox) -> None:
    sender = sending.Sender("here")
    kept = posted(sender, 1)
    arrived(kept)  # and gone
    posted(sender, 2)
    assert same((kept[0], nbgather.MaskedTokens(*kept[1])), 1)
    assert len(sender.blocks) == 2


def test_a_message_is_short_and_opens_no_file_twice(inbox: sending.Inbox) -> None:
    sender = sending.Sender("here")
    arrived(posted(sender, 1))
    before = len(os.listdir("/proc/self/fd"))
    message = ForkingPickler.dumps(posted(sender, 2))
    assert len(message) < 1000
    assert same(pickle.loads(bytes(message)), 2)
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("name", ["here", "nowhere"])
def test_whatever_is_made_of_a_batch_arrives(inbox: sending.Inbox, name: str) -> None:
    sender = sending.Sender(name)
    pair = posted(sender, 1)
    labels, inner = arrived(("labels", pair))
    assert labels == "labels"
    assert same(inner, 1)
    again = arrived(pair)  # a second time, by torch's means
    del labels, inner, pair
    posted(sender, 0)
    assert same(again, 1)
    ids, made = posted(sender, 2)
    own, other = arrived((ids, made))
    assert same((own, other), 2)
    apart = arrived(tuple(posted(sender, 3)[1]))
    assert all(map(torch.equal, apart, masked(3)[1]))
    assert same(copy.deepcopy(posted(sender, 4)), 4)
    assert same(pickle.loads(pickle.dumps(posted(sender, 5))), 5)
    assert bool(inbox.blocks) == (name == "here")


def test_other_sizes_and_too_many(inbox: sending.Inbox) -> None:
    sender = sending.Sender("here")
    small, large = sender.parcel(64), sender.parcel(128)
    assert small is not None
    assert large is not None
    assert [block.nbytes for block in sender.blocks] == [64, 128]
    del small, large
    middle = sender.parcel(100)
    assert middle is not None
    assert middle.block.nbytes == 128
    wide = sender.parcel(200)
    assert wide is not None
    assert [block.nbytes for block in sender.blocks] == [128, 200]  # 64 was of no more use
    assert sender.given_up == [0]
    held = [sender.parcel(300) for _ in range(sending.MAX_BLOCKS)]
    assert sum(parcel is None for parcel in held) == 2


def test_only_the_process_that_has_a_batch_says_that_it_is_gone(inbox: sending.Inbox) -> None:
    got = [arrived(posted(sending.Sender("here"), 1))]
    (memory,) = inbox.blocks.values()
    child = os.fork()
    if not child:
        got.clear()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert memory[sending.GONE] == 0
    got.clear()
    assert memory[sending.GONE] == 1


def test_blocks_of_workers_that_ended_are_dropped(inbox: sending.Inbox) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    sender = sending.Sender("here")
    arrived(posted(sender, 1))
    inbox.blocks[child, 0] = next(iter(inbox.blocks.values()))
    inbox.forget(os.getpid(), ())
    assert (child, 0) in inbox.blocks  # asked only when another worker comes
    inbox.forget(1, (0,))
    assert list(inbox.blocks) == [(os.getpid(), 0)]
    inbox.forget(os.getpid(), (0,))
    assert not inbox.blocks


class Images(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor]:
        return number, torch.full((1, 8, 8), number, dtype=torch.uint8)


@pytest.mark.parametrize("held", [False, True])
def test_a_loader_of_many_batches(held: bool) -> None:
    """More than a worker has blocks, all of them held or none."""
    collate = MaskingCollate(4, 0.75, seed=3)
    loader: Any = DataLoader(
        Images(), 2, num_workers=1, collate_fn=copy.copy(collate), persistent_workers=True
    )
    del collate  # the copy keeps what is mapped
    for _ in range(2):
        places, batches = set(), []
        for ids, made in loader:
            places.add(made.x_masked.data_ptr())
            assert made.x_masked.nbytes * 4 == len(ids) * 64  # a quarter of all pixels
            batches += [(ids, made)] if held else []
        assert len(places) == 30 if held else len(places) < 6
        for n, (ids, made) in enumerate(batches):
            assert ids.tolist() == [2 * n, 2 * n + 1]
            assert (made.x_masked == ids[:, None, None]).all()
