"""I-JEPA with the encoder of transformers: blocks of each sample by (seed, epoch, id).

The published collator draws one size of block for a batch, and crops every sample to the shortest;
here each sample has blocks of its own, as lists of ids with -1 behind them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from recipes import BATCH, SEED, Recipe, main
from torch import nn
from transformers import IJepaConfig, IJepaModel

import nbgather

GRID, TARGETS, WIDTH, MOMENTUM = (12, 12), 4, 48, 0.996
CONFIG = IJepaConfig(
    image_size=48, patch_size=4, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=96,
)  # fmt: skip


def pick(tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Tokens `[N, K, D]` by ids `[N, K]`, 0 for the padding."""
    return nbgather.gather_tokens(tokens, ids, mode="fill")


def published_pick(tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The same as the published ``apply_masks`` does it, by an index for every number."""
    index = ids.clamp(min=0).unsqueeze(-1).repeat(1, 1, tokens.shape[-1])
    return torch.where(ids.unsqueeze(-1) < 0, 0.0, torch.gather(tokens, 1, index))


class IJepa(nn.Module):
    """A small model; it differs from a large one in its sizes alone."""

    def __init__(self, library: bool) -> None:
        super().__init__()
        self.pick = published_pick if library else pick
        self.encoder = IJepaModel(CONFIG)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False).eval()
        self.mask_token = nn.Parameter(torch.zeros(WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 96, dropout=0.0, batch_first=True)
        self.predictor = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def gradient_checkpointing_enable(self, options: dict) -> None:
        """As transformers' models have it."""
        self.encoder.gradient_checkpointing_enable(options)

    def follow(self) -> None:
        """The target encoder goes a little of the way after every step."""
        for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            slow.data.lerp_(fast.data, 1 - MOMENTUM)

    def forward(self, pixel_values: Any, context: torch.Tensor, goals: torch.Tensor) -> Any:
        states = self.pick(self.encoder.embeddings(pixel_values), context)
        padding = torch.where(context < 0, -torch.inf, 0.0)[:, None, None]
        for layer in self.encoder.layers:
            states = layer(states, padding)
        states = self.encoder.layernorm(states)
        with torch.no_grad():
            features = self.target(pixel_values).last_hidden_state
        flat = goals.flatten(1)
        places = self.encoder.embeddings.position_embeddings.detach().expand(len(goals), -1, -1)
        # One sequence for each target: the context, and mask tokens at the target's places.
        asked = (self.mask_token + self.pick(places, flat)).view(-1, goals.shape[2], WIDTH)
        known = states.repeat_interleave(TARGETS, 0)
        is_padding = torch.cat([context.repeat_interleave(TARGETS, 0), goals.flatten(0, 1)], 1) < 0
        answers = self.predictor(torch.cat([known, asked], 1), src_key_padding_mask=is_padding)
        answers = answers[:, known.shape[1] :].reshape(len(goals), -1, WIDTH)
        errors = nn.functional.smooth_l1_loss(answers, self.pick(features, flat), reduction="none")
        valid = (flat >= 0).unsqueeze(-1)
        return SimpleNamespace(loss=(errors * valid).sum() / (valid.sum() * WIDTH))


def batch(ids: torch.Tensor, epoch: int) -> dict[str, torch.Tensor]:
    """Images that are made of the sample's id, and its blocks in this epoch."""
    side = torch.linspace(0, 6, CONFIG.image_size)
    waves = torch.sin(side[:, None] * (1 + ids[:, None, None] % 5) + side)
    blocks = nbgather.strategies.multiblock_ids(SEED, ids, GRID, targets=TARGETS, epoch=epoch)
    images = waves[:, None].expand(-1, 3, -1, -1)
    return {"pixel_values": images, "context": blocks.encoder, "goals": blocks.predictor}


def maskings() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The tokens of a batch's contexts; who draws the blocks is left out."""
    tokens, ids = torch.zeros(BATCH, 144, WIDTH), batch(torch.arange(BATCH), 0)["context"]
    return lambda: published_pick(tokens, ids), lambda: pick(tokens, ids)


RECIPE = Recipe("I-JEPA", IJepa, batch, maskings, IJepa.follow)

if __name__ == "__main__":
    main(RECIPE)
