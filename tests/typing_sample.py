"""What type checkers make of the calls; checked by test_typing.py, not run."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import assert_type

import nbgather
from nbgather import MaskedTokens, PackedImages, PackedTokens, PaddedTokens, TokenMask
from nbgather.torch import MaskingCollate, RandomMasking


def numpy_arrays(x: npt.NDArray[np.float32], index: npt.NDArray[np.int64]) -> None:
    assert_type(nbgather.gather(x, 1, index), npt.NDArray[np.float32])
    assert_type(nbgather.gather(x, 1, [[0, 1]], mode="clip"), npt.NDArray[np.float32])
    assert_type(nbgather.take_along_axis(x, index, None), npt.NDArray[np.float32])
    assert_type(nbgather.gather_tokens(x, index), npt.NDArray[np.float32])
    assert_type(nbgather.scatter(x, 0, index, x), npt.NDArray[np.float32])
    assert_type(nbgather.scatter_add(x, 0, index, x), npt.NDArray[np.float32])
    assert_type(nbgather.patchify(x, 4), npt.NDArray[np.float32])
    assert_type(nbgather.unpatchify(x, 4, (8, 8)), npt.NDArray[np.float32])
    assert_type(nbgather.token_noise(0, index, 5), npt.NDArray[np.int64])
    noise: np.ndarray[Any, Any] = nbgather.token_noise(0, 3, 5)
    noise = nbgather.token_noise(0, [3, 4], 5)
    assert noise.ndim == 2


def tensors(x: torch.Tensor, ids: torch.Tensor) -> None:
    assert_type(nbgather.gather(x, 1, ids), torch.Tensor)
    made = nbgather.random_masking(x, 0.75, seed=0, sample_ids=ids)
    assert_type(made, MaskedTokens[torch.Tensor])
    x_masked, mask, ids_restore = made
    assert_type(mask, torch.Tensor)
    assert_type(nbgather.restore_tokens(x_masked, ids_restore, 0.0), torch.Tensor)
    assert_type(nbgather.random_masking(x, num_keep=3), MaskedTokens[torch.Tensor])
    padded = nbgather.random_masking(x, num_keep=[3, 4])
    assert_type(padded, PaddedTokens[torch.Tensor])
    assert_type(padded.valid, torch.Tensor)
    _, mask, ranks = nbgather.masked_patchify(x, 4, seed=1)
    assert_type(ranks, torch.Tensor)
    assert_type(nbgather.masked_patchify(x, 4, num_keep=[1, 2]), PaddedTokens[torch.Tensor])
    packed = nbgather.random_masking(x, [0.5, 0.75], packed=True)
    assert_type(packed, PackedTokens[torch.Tensor])
    assert_type(packed.max_seqlen, int)
    assert_type(nbgather.masked_patchify(x, 4, packed=True), PackedTokens[torch.Tensor])
    assert_type(nbgather.masked_patchify([x, x], 4, packed=True), PackedImages[torch.Tensor])
    assert_type(nbgather.random_masking(x, [0.5, 0.5]), PaddedTokens[torch.Tensor])
    assert_type(nbgather.rank_tokens(x, 2), TokenMask[torch.Tensor])
    assert_type(made._replace(mask=mask), MaskedTokens[torch.Tensor])
    visible, mask, ranks = RandomMasking(0.5).forward(x, ids)
    assert_type(visible, torch.Tensor)
    ids, _ = MaskingCollate(4)([(0, x)])
    assert_type(ids, torch.Tensor)


def refused(x: torch.Tensor, ids: torch.Tensor) -> None:
    nbgather.gather(x, 1, ids, mode="rase")  # type: ignore[arg-type]  # pyright: ignore
    nbgather.random_masking(x, "0.5")  # type: ignore[arg-type]  # pyright: ignore
