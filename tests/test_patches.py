"""Patches: the paper's einsum, the way back, video, containers, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import DTYPES, random_bits, rng, same

import nbgather


def paper_patchify(images: torch.Tensor, p: int) -> torch.Tensor:
    """As in the code of the paper."""
    h = w = images.shape[2] // p
    x = images.reshape(images.shape[0], 3, h, p, w, p)
    x = torch.einsum("nchpwq->nhwpqc", x)
    return x.reshape(images.shape[0], h * w, p**2 * 3)


def test_the_papers_order() -> None:
    images = torch.randn(2, 3, 32, 32)
    got = nbgather.patchify(images, 8)
    assert type(got) is torch.Tensor
    assert torch.equal(got, paper_patchify(images, 8))
    assert torch.equal(nbgather.unpatchify(got, 8, 32), images)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_there_and_back(dtype: str) -> None:
    images = random_bits(rng(dtype), (2, 3, 6, 8), DTYPES[dtype])
    patches = nbgather.patchify(images, (3, 2))
    assert patches.shape == (2, 8, 18)
    # Patch (row 1, column 2), pixel (2, 1), channel 0.
    same(patches[:, 6, (2 * 2 + 1) * 3], images[:, 0, 5, 5])
    same(np.ascontiguousarray(nbgather.unpatchify(patches, (3, 2), (6, 8))), images)


@pytest.mark.parametrize("view", ["transposed", "reversed", "broadcast"])
def test_any_strides(view: str) -> None:
    images = random_bits(rng(view), (2, 3, 4, 6), "float32")
    images = {
        "transposed": images.transpose(0, 1, 3, 2),
        "reversed": images[:, ::-1, ::-1, ::-1],
        "broadcast": np.broadcast_to(images[:1, :1], images.shape),
    }[view]
    same(nbgather.patchify(images, 2), nbgather.patchify(images.copy(), 2))


def test_video() -> None:
    video = np.arange(2 * 3 * 4 * 6 * 8).reshape(2, 3, 4, 6, 8)
    patches = nbgather.patchify(video, (2, 3, 4))
    assert patches.shape == (2, 2 * 2 * 2, 2 * 3 * 4 * 3)
    # Patch (time 1, row 0, column 1), pixel (1, 2, 3), channel 2.
    assert patches[1, 5, ((1 * 3 + 2) * 4 + 3) * 3 + 2] == video[1, 2, 3, 2, 7]
    same(np.ascontiguousarray(nbgather.unpatchify(patches, (2, 3, 4), (4, 6, 8))), video)


def test_empty_batch() -> None:
    patches = nbgather.patchify(np.zeros((0, 3, 4, 4)), 2)
    assert patches.shape == (0, 4, 12)
    assert nbgather.unpatchify(patches, 2, 4).shape == (0, 3, 4, 4)


def test_gradients_flow() -> None:
    images = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: nbgather.patchify(x, 2), (images,))


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: nbgather.patchify(np.zeros((1, 3, 5, 4)), 2), ValueError, "5"),
        (lambda: nbgather.patchify(np.zeros((3, 4, 4)), 2), ValueError, "(3, 4, 4)"),
        (lambda: nbgather.patchify(np.zeros((1, 3, 4, 4)), 0), ValueError, "0"),
        (lambda: nbgather.patchify(np.zeros((1, 3, 4, 4)), 2.0), TypeError, "2.0"),
        (lambda: nbgather.patchify(np.zeros((1, 3, 4, 4)), (2, 2, 2)), ValueError, "(2, 2, 2)"),
        (lambda: nbgather.unpatchify(np.zeros((1, 3, 12)), 2, 4), ValueError, "(1, 3, 12)"),
        (lambda: nbgather.unpatchify(np.zeros((1, 4, 13)), 2, 4), ValueError, "(1, 4, 13)"),
        (lambda: nbgather.unpatchify(np.zeros((1, 4, 12)), 2, (4, 4, 4)), ValueError, "3 sides"),
    ],
)
def test_refusals(call, kind, text) -> None:
    with pytest.raises(kind) as raised:
        call()
    assert text in str(raised.value), str(raised.value)
