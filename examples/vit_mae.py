"""ViTMAE of transformers, with the same mask for a sample wherever it is drawn.

The model takes noise: :func:`nbgather.token_noise` gives that of each sample by (seed, epoch, id).
Its own masking, two argsorts and two gathers of an expanded index, is replaced by one call.

    python examples/vit_mae.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recipes import BATCH, SEED, Recipe, main
from transformers import ViTMAEConfig, ViTMAEForPreTraining

import nbgather

RATIO, TOKENS = 0.75, 196
CONFIG = ViTMAEConfig(
    hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
    decoder_hidden_size=48, decoder_num_hidden_layers=1, decoder_num_attention_heads=4,
    decoder_intermediate_size=96, image_size=56, patch_size=4, mask_ratio=RATIO,
)  # fmt: skip


def masking(tokens: torch.Tensor, noise: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """What ``ViTMAEEmbeddings.random_masking`` does: visible tokens, mask, ids to restore."""
    return tuple(nbgather.random_masking(tokens, RATIO, noise=noise))


def model(library: bool) -> ViTMAEForPreTraining:
    """A small model; it differs from a large one in its sizes alone."""
    vit_mae = ViTMAEForPreTraining(CONFIG)
    if not library:
        vit_mae.vit.embeddings.random_masking = masking
    return vit_mae


def batch(ids: torch.Tensor, epoch: int) -> dict[str, torch.Tensor]:
    """Images that are made of the sample's id, and its noise in this epoch."""
    side = torch.linspace(0, 6, 56)
    waves = torch.sin(side[:, None] * (1 + ids[:, None, None] % 5) + side)
    noise = nbgather.token_noise(SEED, ids, TOKENS, epoch=epoch)
    return {"pixel_values": waves[:, None].expand(-1, 3, -1, -1), "noise": noise}


def maskings() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The library's masking and ours of a batch of the model's tokens."""
    tokens = torch.zeros(BATCH, TOKENS, CONFIG.hidden_size)
    noise = nbgather.token_noise(SEED, torch.arange(BATCH), TOKENS)
    library = model(True).vit.embeddings.random_masking
    return lambda: library(tokens, noise), lambda: masking(tokens, noise)


RECIPE = Recipe("ViTMAE", model, batch, maskings)

if __name__ == "__main__":
    main(RECIPE)
