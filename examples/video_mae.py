"""VideoMAE of transformers, with tubes that are the same for a clip wherever they are drawn.

A tube removes the same places in every frame. The scores of :func:`nbgather.strategies.tube` are
those of a sample by (seed, epoch, id); the visible tokens are gathered by their ids, whose number
is known, where the model picks them by a boolean mask.

    python examples/video_mae.py
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from recipes import BATCH, SEED, Recipe, main
from transformers import VideoMAEConfig, VideoMAEForPreTraining

import nbgather

FRAMES, SIDE, GRID = 8, 32, (4, 8, 8)
TOKENS, KEPT = 4 * 64, 4 * 7  # 7 of the 64 places of a frame, in each of the 4
CONFIG = VideoMAEConfig(
    image_size=SIDE, patch_size=4, num_frames=FRAMES, tubelet_size=2, hidden_size=48,
    num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, decoder_hidden_size=48,
    decoder_num_hidden_layers=1, decoder_num_attention_heads=4, decoder_intermediate_size=96,
)  # fmt: skip


def embed(embeddings: Any, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor) -> Any:
    """What ``VideoMAEEmbeddings`` does: the tokens that are visible, in order."""
    tokens = embeddings.patch_embeddings(pixel_values) + embeddings.position_embeddings
    return visible(tokens, bool_masked_pos)


def visible(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The tokens whose mask is 0: a stable rank of the mask has them first, in order."""
    return nbgather.gather_tokens(tokens, nbgather.rank_tokens(mask.float(), KEPT).ids_keep)


def model(library: bool) -> VideoMAEForPreTraining:
    """A small model; it differs from a large one in its sizes alone."""
    video_mae = VideoMAEForPreTraining(CONFIG)
    if not library:
        embeddings = video_mae.videomae.embeddings
        embeddings.forward = functools.partial(embed, embeddings)
    return video_mae


def batch(ids: torch.Tensor, epoch: int) -> dict[str, torch.Tensor]:
    """Clips that are made of the sample's id, and its mask in this epoch."""
    time, side = torch.arange(FRAMES)[:, None, None] / FRAMES, torch.linspace(0, 6, SIDE)
    waves = torch.sin(side[:, None] * (1 + ids[:, None, None, None] % 5) + side + time)
    return {
        "pixel_values": waves[:, :, None].expand(-1, -1, 3, -1, -1),
        "bool_masked_pos": masks(ids, epoch),
    }


def masks(ids: torch.Tensor, epoch: int = 0) -> torch.Tensor:
    """True where a token is removed."""
    scores = nbgather.strategies.tube(SEED, ids, GRID, epoch=epoch)
    return nbgather.rank_tokens(scores, KEPT).mask.bool()


def published_masks() -> torch.Tensor:
    """As VideoMAE's own loader draws them, for one clip after the other."""
    generator = np.random.default_rng()
    places = np.concatenate([np.zeros(KEPT // 4, bool), np.ones((TOKENS - KEPT) // 4, bool)])
    rows = [np.tile(generator.permutation(places), 4) for _ in range(BATCH)]
    return torch.from_numpy(np.stack(rows))


def maskings() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Masks of a batch and its visible tokens, as published and as here."""
    tokens, ids = torch.zeros(BATCH, TOKENS, CONFIG.hidden_size), torch.arange(BATCH)
    shape = BATCH, -1, CONFIG.hidden_size
    return (
        lambda: tokens[~published_masks()].reshape(shape),
        lambda: visible(tokens, masks(ids)),
    )


RECIPE = Recipe("VideoMAE", model, batch, maskings)

if __name__ == "__main__":
    main(RECIPE)
