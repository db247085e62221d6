"""Hugging Face models of a small size, random weights, with our calls in place of torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    DebertaV2Config,
    DebertaV2Model,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

import nbgather

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64}  # fmt: skip


@pytest.fixture
def vit_mae() -> ViTMAEForPreTraining:
    torch.manual_seed(0)
    decoder = {
        "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 4, "decoder_intermediate_size": 64,
    }  # fmt: skip
    return ViTMAEForPreTraining(ViTMAEConfig(**SMALL, **decoder, image_size=64, patch_size=8))


def step(model: torch.nn.Module, **inputs: Any) -> tuple[Any, list[torch.Tensor]]:
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    return output, [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_vit_mae_with_our_masking(vit_mae: ViTMAEForPreTraining, monkeypatch) -> None:
    images, noise = torch.rand(3, 3, 64, 64), torch.rand(3, 64)
    want, want_grads = step(vit_mae, pixel_values=images, noise=noise)
    calls = []

    def ours(sequence: torch.Tensor, noise: torch.Tensor | None = None) -> Any:
        calls.append(sequence.shape)
        return tuple(nbgather.random_masking(sequence, vit_mae.config.mask_ratio, noise=noise))

    monkeypatch.setattr(vit_mae.vit.embeddings, "random_masking", ours)
    got, got_grads = step(vit_mae, pixel_values=images, noise=noise)
    assert calls == [(3, 64, 32)]
    assert torch.equal(got.mask, want.mask)
    assert torch.equal(got.ids_restore, want.ids_restore)
    assert torch.equal(got.loss, want.loss)
    assert torch.equal(got.logits, want.logits)
    assert len(got_grads) == len(want_grads) > 20
    assert all(torch.equal(a, b) for a, b in zip(got_grads, want_grads, strict=True))


def test_vit_mae_compiles_with_our_masking(vit_mae: ViTMAEForPreTraining, monkeypatch) -> None:
    torch._dynamo.reset()
    images, noise = torch.rand(2, 3, 64, 64), torch.rand(2, 64)
    monkeypatch.setattr(
        vit_mae.vit.embeddings,
        "random_masking",
        lambda x, noise=None: tuple(nbgather.random_masking(x, 0.75, noise=noise)),
    )
    want = vit_mae(images, noise=noise).loss
    got = torch.compile(vit_mae, backend="aot_eager")(images, noise=noise).loss
    torch.testing.assert_close(got, want)  # torch's compiler may order sums otherwise


def test_deberta_with_our_gather(monkeypatch) -> None:
    torch.manual_seed(0)
    config = DebertaV2Config(
        **SMALL, vocab_size=100, relative_attention=True, position_biased_input=False,
        pos_att_type=["p2c", "c2p"], position_buckets=16, max_relative_positions=-1,
        share_att_key=True, norm_rel_ebd="layer_norm",
    )  # fmt: skip
    model = DebertaV2Model(config).eval()
    tokens = torch.randint(0, 100, (2, 40))
    want = model(tokens).last_hidden_state
    want.sum().backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    calls = []

    def ours(input: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
        calls.append(index.shape)
        return nbgather.gather(input, dim, index)

    monkeypatch.setattr(torch, "gather", ours)
    got = model(tokens).last_hidden_state
    got.sum().backward()
    assert len(calls) >= 4
    assert torch.equal(got, want)
    ours_grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(ours_grads, grads, strict=True))


def test_videomae_with_tube_masks() -> None:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        **SMALL, image_size=32, patch_size=8, num_frames=8, tubelet_size=2,
        decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    )  # fmt: skip
    model = VideoMAEForPreTraining(config)
    video = torch.rand(3, 8, 3, 32, 32)
    scores = nbgather.strategies.tube(5, torch.arange(3), (4, 4, 4), epoch=1)
    # VideoMAE's count: 12 of the 16 places in a frame, in all 4 frames.
    mask = nbgather.rank_tokens(scores, 4 * 4).mask.bool()
    assert (mask.reshape(3, 4, 16) == mask.reshape(3, 4, 16)[:, :1]).all()
    output, grads = step(model, pixel_values=video, bool_masked_pos=mask)
    assert output.logits.shape == (3, 48, 2 * 8 * 8 * 3)
    assert torch.isfinite(output.loss)
    assert len(grads) > 20
