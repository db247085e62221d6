"""timm's ViT with patch dropout, the same patches for a sample wherever it is trained.

``PatchDropout`` draws by torch's generator: other patches with another number of workers, ranks or
samples in a batch. Here noise by (seed, epoch, id) takes the place of the draw, and one call that
of an argsort and a gather by an expanded index.

    python examples/timm_vit.py
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import timm
import torch
from recipes import BATCH, SEED, Recipe, main
from timm.layers.patch_dropout import PatchDropout
from torch import nn

import nbgather

RATIO, SIDE, PATCH, WIDTH = 0.5, 32, 4, 48
TOKENS = (SIDE // PATCH) ** 2


class SeededPatchDropout(nn.Module):
    """Keep the patches of the lowest noise; the class token stays."""

    noise: torch.Tensor

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        kept = nbgather.random_masking(tokens[:, 1:], RATIO, noise=self.noise).x_masked
        return torch.cat([tokens[:, :1], kept], 1)


class Classifier(nn.Module):
    """A small ViT; it differs from a large one in its sizes alone."""

    def __init__(self, library: bool) -> None:
        super().__init__()
        self.vit = timm.models.VisionTransformer(
            SIDE, PATCH, num_classes=5, embed_dim=WIDTH, depth=2, num_heads=4,
            patch_drop_rate=RATIO,
        )  # fmt: skip
        self.library = library
        if not library:
            self.vit.patch_drop = SeededPatchDropout()

    def gradient_checkpointing_enable(self, _: Any) -> None:
        """What transformers' models call it."""
        self.vit.set_grad_checkpointing()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor) -> Any:
        if self.library:
            with mock.patch("torch.randn", return_value=noise):
                scores = self.vit(pixel_values)
        else:
            self.vit.patch_drop.noise = noise
            scores = self.vit(pixel_values)
        return SimpleNamespace(loss=nn.functional.cross_entropy(scores, labels))


def batch(ids: torch.Tensor, epoch: int) -> dict[str, torch.Tensor]:
    """Images and labels that are made of the sample's id, and its noise in this epoch."""
    side, labels = torch.linspace(0, 6, SIDE), ids % 5
    waves = torch.sin(side[:, None] * (1 + labels[:, None, None]) + side)
    noise = nbgather.token_noise(SEED, ids, TOKENS, epoch=epoch)
    return {
        "pixel_values": waves[:, None].expand(-1, 3, -1, -1), "labels": labels, "noise": noise,
    }  # fmt: skip


def maskings() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The library's patch dropout of a batch, and ours."""
    tokens, ours = torch.zeros(BATCH, 1 + TOKENS, WIDTH), SeededPatchDropout()
    ours.noise = nbgather.token_noise(SEED, torch.arange(BATCH), TOKENS)
    library = PatchDropout(RATIO)
    return lambda: library(tokens), lambda: ours(tokens)


RECIPE = Recipe("timm's ViT", Classifier, batch, maskings)

if __name__ == "__main__":
    main(RECIPE)
