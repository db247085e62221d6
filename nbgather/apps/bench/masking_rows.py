"""Rows of token masking, against the recipe that the paper's code publishes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import nbgather
from nbgather.apps.bench.contest import Contest, Row
from nbgather.apps.bench.operands import compiled, copy_call, floats
from nbgather.apps.published import published_masking, published_restoring

__all__ = ["MASKING_ROWS"]


def _masking(shape: tuple[int, ...], ratio: float = 0.75) -> Contest:
    import torch

    x = floats(shape)
    tx = torch.from_numpy(x)
    n, length, width = shape
    kept = nbgather.random_masking(x[:1], ratio, seed=1).x_masked.shape[1]

    return Contest(
        lambda: nbgather.random_masking(x, ratio, seed=1),
        {
            "published": lambda: published_masking(tx, kept),
            "expand": lambda: published_masking(tx, kept, expand=True),
            **compiled(partial(published_masking, num_keep=kept, expand=True), tx),
        },
        2 * n * kept * width * 4 + n * length * 12,
        batch=20 if n == 1 else 1,
        copied=copy_call(n * kept * width * 4),
        random=True,
    )


def _mask_only() -> Contest:
    import torch

    def recipe() -> tuple[Any, ...]:
        ids_shuffle = torch.argsort(torch.rand(4096, 196), dim=1)
        ids_restore = torch.argsort(ids_shuffle, dim=1)
        mask = torch.ones([4096, 196])
        mask[:, :49] = 0
        return torch.gather(mask, dim=1, index=ids_restore), ids_restore

    x = np.empty((4096, 196, 0), np.float32)
    return Contest(
        lambda: nbgather.random_masking(x, 0.75, seed=1)[1:],
        {"published": recipe, **compiled(recipe)},
        4096 * 196 * 12,
        random=True,
    )


def _restore() -> Contest:
    import torch

    x = floats((64, 196, 512))
    visible, _, ids = nbgather.random_masking(x, 0.75, seed=0)
    token = np.zeros(512, np.float32)
    tv, ti, tt = (torch.from_numpy(a) for a in (visible, ids, token))

    return Contest(
        lambda: nbgather.restore_tokens(visible, ids, token),
        {
            "published": lambda: published_restoring(tv, ti, tt),
            **compiled(published_restoring, tv, ti, tt),
        },
        visible.nbytes + ids.nbytes + x.nbytes,
    )


MASKING_ROWS: tuple[Row, ...] = (
    Row("masking, batch 64", "masking", "[64,196,768]",
        lambda: _masking((64, 196, 768)), {"published": 5, "expand": 4, "copy": 1.5}),
    Row("masking, batch 512", "masking", "[512,196,1024]",
        lambda: _masking((512, 196, 1024)), {"published": 6, "expand": 3.5}),
    Row("masking, one sample", "masking", "[1,196,768]",
        lambda: _masking((1, 196, 768)), {"published": 15, "expand": 10}),
    Row("mask only", "masking", "[4096,196]", _mask_only, {"published": 8}),
    Row("video", "masking", "[8,1568,768] at 0.9",
        lambda: _masking((8, 1568, 768), 0.9), {"published": 5, "expand": 4}),
    Row("audio", "masking", "[8,16384,64]",
        lambda: _masking((8, 16384, 64)), {"published": 5, "expand": 4}),
    Row("restore", "masking", "[64,49,512] to 196", _restore, {"published": 4}),
)  # fmt: skip
