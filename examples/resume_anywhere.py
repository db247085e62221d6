"""Train, stop in the middle of an epoch, and go on with other ranks and workers: the same bits.

Ranks are processes that talk by gloo, workers those of their data loaders. The log has, for every
step, the loss, and a digest of every sample's mask and visible patches. The log of a run that was
stopped, or of which a rank was killed, and that went on with other ranks and workers, is that of a
run that never stopped, byte for byte:

    python examples/resume_anywhere.py --ranks 8 --workers 4 --stop-after 3 --folder run
    python examples/resume_anywhere.py --ranks 3 --workers 0 --folder run
    python examples/resume_anywhere.py --folder whole && cmp run/log.txt whole/log.txt

Masks and patches need nothing for that but the sample's id. The loss needs a sum whose order does
not matter: gradients are added as whole numbers, and each is computed sample by sample.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, Dataset

import nbgather
from nbgather.torch import MaskingCollate, require_same_masks

SAMPLES, GLOBAL_BATCH, EPOCHS, SEED = 96, 24, 2, 7
STEPS = EPOCHS * SAMPLES // GLOBAL_BATCH
#: A gradient is added as a whole number of these parts.
PARTS = 2.0**40


class Images(Dataset):
    """Random images, each a function of its number, which is its sample id."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        return number, torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=generator)


class Batches:
    """This rank's part of every global batch of an epoch, from a step on."""

    def __init__(self, epoch: int, first: int, rank: int, ranks: int) -> None:
        order = nbgather.token_noise(SEED, [epoch], SAMPLES)[0].argsort(kind="stable").tolist()
        starts = range(first * GLOBAL_BATCH, SAMPLES, GLOBAL_BATCH)
        self.batches = [order[s : s + GLOBAL_BATCH][rank::ranks] for s in starts]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def sum_of_all(model: torch.nn.Module, made: tuple, ids: torch.Tensor) -> tuple[float, list[str]]:
    """Leave the gradient of the global batch in the model; its loss, and a digest by sample."""
    parts = [torch.zeros(p.shape, dtype=torch.int64) for p in model.parameters()]
    total, lines = torch.zeros((), dtype=torch.int64), []
    for number, *sample in zip(ids.tolist(), *made, strict=True):
        visible = sample[0]
        loss = (model(visible) - visible).square().mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for part, gradient in zip(parts, gradients, strict=True):
            part += (gradient.double() * PARTS).round().long()
        total += (loss.detach().double() * PARTS).round().long()
        data = b"".join(part.numpy().tobytes() for part in sample)
        lines.append(f"{number:4d} {hashlib.blake2s(data, digest_size=8).hexdigest()}")
    for part in (*parts, total):
        dist.all_reduce(part)
    for parameter, part in zip(model.parameters(), parts, strict=True):
        parameter.grad = (part.double() / (PARTS * GLOBAL_BATCH)).float()
    every: list = [None] * dist.get_world_size()
    dist.all_gather_object(every, lines)
    return float(total) / (PARTS * GLOBAL_BATCH), sorted(line for own in every for line in own)


def train(rank: int, options: argparse.Namespace, meeting: str) -> None:
    """One rank, from the last checkpoint on."""
    torch.set_num_threads(1)
    ranks, folder = options.ranks, options.folder
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks,
        timeout=timedelta(seconds=120),
    )  # fmt: skip
    torch.manual_seed(SEED)
    model = torch.nn.Linear(48, 48)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    collate = MaskingCollate(4, 0.75, seed=SEED, scale=1 / 255)
    step, log = 0, folder / "log.txt"
    if (folder / "last.pt").exists():
        state = torch.load(folder / "last.pt")
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if rank == 0:  # what was written after the checkpoint is written again
            log.write_text(state["log"])
    while step < STEPS:
        collate.epoch, first = divmod(step, SAMPLES // GLOBAL_BATCH)
        require_same_masks(collate)
        loader = DataLoader(
            Images(), batch_sampler=Batches(collate.epoch, first, rank, ranks),
            num_workers=options.workers, collate_fn=collate,
        )  # fmt: skip
        for ids, made in loader:
            if (rank, step) == (options.kill_rank, options.kill_step):
                os._exit(9)
            loss, lines = sum_of_all(model, made, ids)
            optimizer.step()
            step += 1
            if rank == 0:
                with log.open("a") as file:
                    file.write(f"step {step} loss {loss.hex()}\n" + "\n".join(lines) + "\n")
                state = {"step": step, "model": model.state_dict(), "log": log.read_text()}
                torch.save({**state, "optimizer": optimizer.state_dict()}, folder / "new.pt")
                (folder / "new.pt").replace(folder / "last.pt")
            if step == options.stop_after:
                return


def main() -> None:
    """Run all ranks; a rank that dies ends the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="the log and the checkpoint")
    for name, text in (("ranks", "processes"), ("workers", "of each rank's loader"),
                       ("stop-after", "steps"), ("kill-rank", ""), ("kill-step", "")):  # fmt: skip
        default = {"ranks": 1, "workers": 0}.get(name, -1)
        parser.add_argument(f"--{name}", type=int, default=default, help=text or "for the test")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            train, (options, f"{folder}/meeting"), options.ranks, start_method="fork"
        )


if __name__ == "__main__":
    main()
