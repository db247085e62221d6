"""The masking module: what its masks depend on, and what it keeps."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.distributed.checkpoint
import torch.multiprocessing
import torch.utils.checkpoint
from torch._subclasses.fake_tensor import FakeTensorMode

import nbgather
from nbgather import strategies
from nbgather.torch import RandomMasking

IDS = torch.tensor([7, -2, 2**40, 0])


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_without_ids_the_mask_is_drawn_as_dropout_is() -> None:
    x, module = torch.rand(10, 16, 2), RandomMasking(seed=1)
    torch.manual_seed(3)
    first, second = module(x), module(x)
    assert not same(first, second)
    module.eval()
    module.set_epoch(5)
    torch.manual_seed(3)
    assert same(module(x), first)  # neither the epoch, nor the mode, nor calls before
    torch.manual_seed(3)
    assert same(nbgather.random_masking(x, 0.75), first)


def test_with_ids_nothing_else_enters() -> None:
    x, module = torch.rand(4, 32, 2), RandomMasking(0.6, seed=5)
    module.set_epoch(2)
    before = torch.get_rng_state()
    whole = module(x, IDS)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(whole, nbgather.random_masking(x, 0.6, seed=5, sample_ids=IDS, epoch=2))
    halves = module(x[:1], IDS[:1]), module(x[1:], IDS[1:])
    assert torch.equal(torch.cat([h.mask for h in halves]), whole.mask)
    assert torch.equal(module(x, IDS.tolist()).mask, whole.mask)


@pytest.mark.parametrize("strategy", ["random", "block"])
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_keeps_the_gradient(
    reentrant: bool, with_ids: bool, strategy: str
) -> None:
    module = RandomMasking(0.5, seed=1, strategy=strategy, grid=(4, 4))
    ids = torch.arange(3) if with_ids else None
    layer = torch.nn.Linear(2, 2)

    def block(x: torch.Tensor) -> torch.Tensor:
        made = module(layer(x), ids)
        return (made.x_masked**2).sum() + (made.mask * torch.arange(16.0)).sum() * layer.bias.sum()

    found = []
    for checkpointed in (False, True):
        torch.manual_seed(9)
        x = torch.rand(3, 16, 2, requires_grad=True)
        layer.zero_grad()
        if checkpointed:
            loss = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant)
        else:
            loss = block(x)
        loss.backward()
        found.append((loss.detach(), x.grad, layer.weight.grad, layer.bias.grad))
    assert same(*found)


def test_a_checkpoint_resumes_with_the_same_masks() -> None:
    x = torch.rand(4, 32, 2)
    first = RandomMasking(0.9, seed=2**64 - 5)
    first.set_epoch(2)
    stream = io.BytesIO()
    torch.save(first.half().state_dict(), stream)
    stream.seek(0)
    second = RandomMasking(0.9, seed=0)
    second.load_state_dict(torch.load(stream))
    assert repr(second) == repr(first)
    assert same(first(x, IDS), second(x, IDS))
    assert set(first.state_dict()) == {"seed", "epoch"}


def test_a_checkpoint_of_version_0_1_is_read() -> None:
    old = {
        "mask_ratio": torch.tensor(0.9, dtype=torch.float64),
        "seed": torch.tensor(5), "epoch": torch.tensor(2), "samples": torch.tensor(24),
    }  # fmt: skip
    module = torch.nn.Sequential(RandomMasking(0.5))
    module.load_state_dict({f"0.{name}": value for name, value in old.items()})
    x = torch.rand(4, 32, 2)
    expected = nbgather.random_masking(x, 0.9, seed=5, sample_ids=IDS, epoch=2)
    assert same(module[0](x, IDS), expected)
    with pytest.raises(RuntimeError, match="mask_rate"):
        module.load_state_dict({"0.mask_rate": torch.tensor(1)}, strict=True)


def test_what_is_loaded_in_place_is_seen(tmp_path: Path) -> None:
    """torch.distributed.checkpoint writes into the buffers, and calls nothing of the module."""
    x = torch.rand(4, 32, 2)
    first, second = RandomMasking(0.75, seed=8), RandomMasking(0.75, seed=1)
    first.set_epoch(3)
    second(x, IDS)
    torch.distributed.checkpoint.save(first.state_dict(), checkpoint_id=tmp_path, no_dist=True)
    torch.distributed.checkpoint.load(second.state_dict(), checkpoint_id=tmp_path, no_dist=True)
    assert same(second(x, IDS), first(x, IDS))
    second.epoch.data.fill_(4)
    first.set_epoch(4)
    assert same(second(x, IDS), first(x, IDS))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_thousand_epochs_compile_once(backend: str) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    module = RandomMasking(0.75, seed=1)
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    x = torch.rand(4, 16, 2)
    for epoch in range(1000):
        module.set_epoch(epoch)
        made = compiled(x, IDS)
        if epoch % 97 == 0 or epoch < 10:
            assert same(made, module(x, IDS))
    assert counter.frame_count <= 2
    twin = RandomMasking(0.75, seed=6)
    module.load_state_dict(twin.state_dict())
    assert same(compiled(x, IDS), twin(x, IDS))
    assert counter.frame_count <= 2


def test_without_ids_a_compiled_module_draws_as_the_eager_one() -> None:
    torch._dynamo.reset()
    module, x = RandomMasking(0.75), torch.rand(4, 16, 2)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for seed in range(5):
        torch.manual_seed(seed)
        made = compiled(x)
        torch.manual_seed(seed)
        assert same(made, module(x))


def test_copies() -> None:
    module = RandomMasking(0.5, seed=9, strategy="grid", grid=(4, 4), num_keep=3)
    module.set_epoch(7)
    x = torch.rand(4, 16, 2)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(other) == repr(module)
        assert same(other(x, IDS), module(x, IDS))
        other.set_epoch(8)
        assert int(module.epoch) == 7


def test_dtypes_and_default_devices_leave_its_state_alone() -> None:
    with torch.device("meta"):
        module = RandomMasking(0.5, seed=9)
    module = module.double().half()
    assert module.seed.dtype == torch.int64
    assert int(module.seed) == 9


def test_strategies_follow_the_epoch() -> None:
    module = RandomMasking(0.5, seed=9, strategy="block", grid=(4, 4))
    x = torch.rand(4, 16, 2)
    for epoch in (0, 1):
        module.set_epoch(epoch)
        scores = strategies.block(9, IDS, (4, 4), epoch=epoch)
        assert same(module(x, IDS), nbgather.random_masking(x, 0.5, noise=scores))


def _rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    module, x = RandomMasking(0.5, seed=1), torch.zeros(4, 16, 1)
    torch.manual_seed(100 + rank)
    masks = [module(x).mask, module(x, torch.arange(4)).mask]
    for k, mask in enumerate(masks):
        gathered = [torch.empty_like(mask) for _ in range(2)]
        torch.distributed.all_gather(gathered, mask)
        assert torch.equal(*gathered) == (k == 1)
    torch.distributed.destroy_process_group()


def test_ranks_that_are_seeded_apart_mask_apart(tmp_path: Path) -> None:
    """And with ids they mask alike."""
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)


@pytest.mark.parametrize("strategy", ["random", "block"])
def test_in_the_worlds_of_torch(strategy: str) -> None:
    """Where the buffers have no values that Python can know, they are operands."""
    module = RandomMasking(0.5, strategy=strategy, grid=(4, 8), seed=5)
    module.set_epoch(3)
    x = torch.rand(4, 32, 2)
    want = module(x, IDS)
    assert [tuple(part.shape) for part in copy.deepcopy(module).to("meta")(
        x.to("meta"), IDS.to("meta")
    )] == [tuple(part.shape) for part in want]  # fmt: skip
    with FakeTensorMode() as mode:
        fake = RandomMasking(0.5, strategy=strategy, grid=(4, 8))
        made = fake(mode.from_tensor(x), mode.from_tensor(IDS))
        assert [part.shape for part in made] == [part.shape for part in want]
    got, _ = torch.func.vjp(lambda a: module(a, IDS).x_masked, x)
    assert torch.equal(got, want.x_masked)
    batched = torch.func.vmap(lambda a: module(a, IDS.tolist()).mask)(x[None])
    assert torch.equal(batched[0], want.mask)


def test_an_ensemble_of_modules() -> None:
    """Their buffers are stacked, and each masks by its own seed."""
    modules = [RandomMasking(0.5, strategy="block", grid=(4, 8), seed=k) for k in range(3)]
    x = torch.rand(4, 32, 2)
    _, buffers = torch.func.stack_module_state(modules)

    def call(own: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(modules[0], own, (x, IDS)).mask

    together = torch.func.vmap(call)(buffers)
    assert torch.equal(together, torch.stack([module(x, IDS).mask for module in modules]))
