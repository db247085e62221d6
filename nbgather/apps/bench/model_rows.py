"""Rows of the ONNX models under onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np

import nbgather
from nbgather.apps.bench.contest import Call, Contest, Row
from nbgather.apps.bench.operands import floats, installed, onnx_session
from nbgather.apps.published import published_masking

__all__ = ["MODEL_ROWS"]


def _model(n: int, width: int, noise: str = "input", gather: str = "elements") -> Contest | None:
    """A model under onnxruntime; the peers are torch's recipe and the other models."""
    if not installed("onnxruntime"):
        return None
    import torch

    from nbgather.onnx import masking_model

    x, ids = floats((n, 196, width)), np.arange(n)
    noise_values = nbgather.token_noise(1, ids, 196)
    tx, tn = torch.from_numpy(x), torch.from_numpy(noise_values)
    noise_feeds = {"x": x, "noise": noise_values}
    feeds = noise_feeds
    if noise == "seed":
        feeds = {"x": x, "seed": np.array(1), "sample_ids": ids, "epoch": np.array(0)}

    def runner(model: Any, feeds: dict[str, np.ndarray]) -> Call:
        session = onnx_session(model)
        return lambda: tuple(session.run(["x_masked", "mask", "ids_restore"], feeds))

    peers: dict[str, Call] = {
        "published": lambda: published_masking(tx, 49, noise=tn),
        "expand": lambda: published_masking(tx, 49, noise=tn, expand=True),
    }
    if noise == "seed":
        peers["the model that takes noise"] = runner(
            masking_model(0.75, gather=gather), noise_feeds
        )
    visible = nbgather.random_masking(x, 0.75, noise=noise_values).x_masked
    return Contest(
        runner(masking_model(0.75, noise=noise, gather=gather), feeds),
        peers,
        2 * visible.nbytes + n * 196 * 16,
        copied=visible.copy,
        scales=False,
    )


MODEL_ROWS: tuple[Row, ...] = (
    Row("model, batch 64", "onnx", "[64,196,768], GatherElements",
        lambda: _model(64, 768), {"published": 1.3}),
    Row("model, batch 512", "onnx", "[512,196,1024], GatherElements",
        lambda: _model(512, 1024), {"published": 1 / 0.5}),
    Row("model nd, batch 64", "onnx", "[64,196,768], GatherND",
        lambda: _model(64, 768, gather="nd"), {"copy": 1.3}),
    Row("model nd, batch 512", "onnx", "[512,196,1024], GatherND",
        lambda: _model(512, 1024, gather="nd"), {"copy": 1.3}),
    Row("model seeded, batch 64", "onnx", "[64,196,768], GatherElements",
        lambda: _model(64, 768, "seed"), {"the model that takes noise": 1 / 1.25}),
    Row("model seeded, batch 512", "onnx", "[512,196,1024], GatherElements",
        lambda: _model(512, 1024, "seed"), {"the model that takes noise": 1 / 1.25}),
)  # fmt: skip
