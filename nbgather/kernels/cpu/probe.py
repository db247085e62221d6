"""The kernel that is timed to choose how items are moved."""

from __future__ import annotations

import numpy as np

from nbgather.kernels.constants import BLOCK_ITEMS, PROBED_ITEMS, RAISE
from nbgather.kernels.cpu.blocks import gather_block

U = np.uint64


def make_probe(method):
    """The kernel that gathers rows, by one way to move sixteen items."""
    block = gather_block(RAISE, False, method, False, False)

    def probe(out, src, idx, aux, args, lo, hi):
        bad = U(0)
        for row in range(U(lo), U(hi)):
            first = row * U(PROBED_ITEMS)
            for k in range(U(0), U(PROBED_ITEMS), U(BLOCK_ITEMS)):
                bad |= block(
                    out, first + k, src, first, idx, first + k, U(PROBED_ITEMS), U(PROBED_ITEMS),
                    U(1), U(0), aux,
                )  # fmt: skip
        return np.int64(bad)

    return probe
