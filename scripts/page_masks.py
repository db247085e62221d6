"""What the page of ``nbgather web`` must show: ``python scripts/page_masks.py FILE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import nbgather
from nbgather import files, strategies

SIZE = 224
#: Seed, epoch, ratio, patch: as they can be set on the page.
SETTINGS = (
    (0, 0, 0.75, 16), (3, 0, 0.6, 16), (-1, 7, 0.9, 8), (2**64 - 1, 2**32 - 1, 0.29, 32),
    (-(2**63), 1, 0.0, 28), (5, 0, 1.0, 14), (2**53 + 1, 0, 0.57, 16),
)  # fmt: skip


def main(out: str) -> None:
    cases = []
    for seed, epoch, ratio, patch in SETTINGS:
        side = SIZE // patch
        # As `nbgather mask` does it.
        scores = strategies.random(seed, 1, (side, side), epoch=epoch)
        empty = np.empty((1, side * side, 0), np.uint8)
        masked = nbgather.random_masking(empty, ratio, noise=scores)
        cases.append({
            "seed": str(seed), "epoch": epoch, "ratio": ratio, "patch": patch,
            "mask": masked.mask[0].astype(int).tolist(), "ids": masked.ids_restore[0].tolist(),
        })  # fmt: skip
    files.write(Path(out), json.dumps(cases).encode())


if __name__ == "__main__":
    main(sys.argv[1])
