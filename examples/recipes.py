"""What the recipes share: some steps of training in every state that users are in.

A recipe makes a model, a batch of given samples, and their masks from (seed, epoch, sample id)
alone. It is trained plainly, compiled, with activation checkpointing, and by two processes with
DistributedDataParallel; the masks must be the same in all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

BATCH, SEED = 8, 7


@dataclass(frozen=True)
class Recipe:
    """A model, and how it is trained; all functions are those of a module, so that they pickle."""

    name: str
    #: The model, with nbgather in the place of the library's masking unless ``library``.
    model: Callable[[bool], nn.Module]
    #: What the model is called with, for sample ids `[N]` and an epoch.
    batch: Callable[[torch.Tensor, int], dict[str, torch.Tensor]]
    #: The library's masking and ours of one batch, to be timed.
    maskings: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]
    #: What is done with the model after every step.
    after: Callable[[Any], None] | None = None


def train(recipe: Recipe, steps: int, state: str = "plain", library: bool = False, rank: int = 0,
          ranks: int = 1) -> tuple[list[torch.Tensor], str, float]:  # fmt: skip
    """Train one rank's part of every batch: losses, a digest of the masks, seconds of a step."""
    torch.manual_seed(0)
    model: Any = recipe.model(library)
    if state == "checkpointed":
        name = "activation_checkpointing_enable"  # its name since transformers 5.23
        getattr(model, name, model.gradient_checkpointing_enable)({"use_reentrant": False})
    inner = model
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    if ranks > 1:
        model = nn.parallel.DistributedDataParallel(model)
    if state == "compiled":
        model = torch.compile(model, backend="aot_eager")
    losses, masks, seconds = [], hashlib.sha256(), []
    for step in range(steps):
        ids = torch.arange(step * BATCH, (step + 1) * BATCH)
        begun = time.perf_counter()
        inputs = recipe.batch(ids[rank::ranks], step // 10)
        whole = recipe.batch(ids, step // 10) if ranks > 1 else inputs
        loss = model(**inputs).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if recipe.after is not None:
            recipe.after(inner)
        seconds.append(time.perf_counter() - begun)
        losses.append(loss.detach())
        _add_masks(masks, inputs, whole, rank, ranks)
    return losses, masks.hexdigest(), statistics.median(seconds)


def _add_masks(digest: Any, inputs: dict, whole: dict, rank: int, ranks: int) -> None:
    """The masks of a batch as all ranks made them, in the order of the samples."""
    for name, mask in inputs.items():
        if name == "pixel_values":
            continue
        parts = [torch.empty_like(mask) for _ in range(ranks)]
        if ranks > 1:
            dist.all_gather(parts, mask.contiguous())
        joined = torch.stack(parts, 1).flatten(0, 1) if ranks > 1 else mask
        assert torch.equal(joined, whole[name]), f"rank {rank} masks otherwise than one process"
        digest.update(joined.numpy().tobytes())


def _on_rank(rank: int, recipe: Recipe, steps: int, ranks: int, path: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}.init", rank=rank, world_size=ranks)
    result = train(recipe, steps, rank=rank, ranks=ranks)
    if rank == 0:
        torch.save(result, path)
    dist.destroy_process_group()


def by_ranks(recipe: Recipe, steps: int, ranks: int = 2) -> tuple[list[torch.Tensor], str, float]:
    """The same by several processes, each with a part of every batch."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "result")
        torch.multiprocessing.spawn(_on_rank, (recipe, steps, ranks, path), ranks)
        return torch.load(path)


def _median(call: Callable[[], Any]) -> float:
    call()
    taken = []
    for _ in range(20):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main(recipe: Recipe) -> None:
    """Run all states; exit status 1 if something is not as it should be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)  # such small models are slower with more
    library, _, step_seconds = train(recipe, steps, library=True)
    losses, masks, _ = train(recipe, steps)
    print(f"{recipe.name}: loss {losses[0]:.4f} in step 1, {losses[-1]:.4f} in step {steps}")
    equal = all(map(torch.equal, losses, library))
    print(f"every loss equal to that with the library's own masking, to the bit: {equal}")
    same = equal
    for name, run in {
        "compiled": lambda: train(recipe, steps, "compiled"),
        "checkpointed": lambda: train(recipe, steps, "checkpointed"),
        "two ranks": lambda: by_ranks(recipe, steps),
    }.items():
        curve, digest, _ = run()
        same &= digest == masks
        print(f"{name}: loss {curve[-1]:.4f} in step {steps}, same masks {digest == masks}")
    before, after = map(_median, recipe.maskings())
    print(
        f"masking a batch: {before * 1e6:.0f} µs before, {after * 1e6:.0f} µs after:"
        f" {before / step_seconds:.1%} and {after / step_seconds:.1%} of a step"
    )
    if not same:
        raise SystemExit(1)
