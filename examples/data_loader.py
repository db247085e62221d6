"""Masks in the data loader: the same for a sample and epoch, whatever loads it.

A torch DataLoader whose collate function turns uint8 images into normalised visible patches in one
pass. It runs with 0, 2 and 4 workers, on one rank and on two, shuffled, for two epochs, and checks
that every sample has the same mask and the same patches in all of them. What is sent on to the
model is a quarter of the pixels.

    python examples/data_loader.py
"""

from __future__ import annotations

import argparse
import hashlib

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from nbgather.torch import MaskingCollate

PATCH = 16


class Images(Dataset):
    """Random images, each a function of its number, which is its sample id."""

    def __init__(self, count: int, side: int) -> None:
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        size = (3, self.side, self.side)
        return number, torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def run(count: int, side: int, workers: int, ranks: int) -> tuple[dict, int, int]:
    """Load two epochs on every rank: a digest for each (sample, epoch), bytes sent and whole."""
    seen: dict[tuple[int, int], str] = {}
    sent = whole = 0
    dataset = Images(count, side)
    for rank in range(ranks):
        collate = MaskingCollate(
            PATCH,
            0.75,
            seed=7,
            scale=1 / 255,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
        sampler = DistributedSampler(dataset, ranks, rank, shuffle=True)
        loader = DataLoader(
            dataset, batch_size=8, sampler=sampler, num_workers=workers, collate_fn=collate
        )
        for epoch in range(2):
            sampler.set_epoch(epoch)
            collate.epoch = epoch
            for ids, (patches, mask, ids_restore) in loader:
                sent += patches.nbytes
                whole += len(ids) * 3 * side * side * patches.itemsize
                for n, number in enumerate(ids.tolist()):
                    parts = (patches[n], mask[n], ids_restore[n])
                    digest = hashlib.blake2s(b"".join(p.numpy().tobytes() for p in parts))
                    seen[number, epoch] = digest.hexdigest()
    return seen, sent, whole


def main() -> None:
    """Compare the configurations; exit status 1 if a sample differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64, help="images in the dataset")
    parser.add_argument("--side", type=int, default=224, help="pixels of an image's side")
    options = parser.parse_args()
    first: dict[tuple[int, int], str] = {}
    print("workers  ranks  samples  bytes sent on    of all  same as the first")
    for ranks in (1, 2):
        for workers in (0, 2, 4):
            seen, sent, whole = run(options.images, options.side, workers, ranks)
            first = first or seen
            same = seen == first
            print(
                f"{workers:7d}{ranks:7d}{len(seen):9d}{sent:15,d}{sent / whole:10.2%}  "
                + ("yes" if same else "NO")
            )
            if not same:
                raise SystemExit(1)
    changed = sum(first[n, 0] != first[n, 1] for n in range(options.images))
    print(f"{changed} of {options.images} samples have another mask in the second epoch")


if __name__ == "__main__":
    main()
