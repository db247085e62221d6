"""The masked autoencoder paper's code in torch, which the demo and the bench compare with."""

from __future__ import annotations

from typing import Any

__all__ = ["published_masking", "published_restoring"]


def published_masking(
    x: Any, num_keep: int, *, noise: Any = None, expand: bool = False
) -> tuple[Any, Any, Any]:
    """The paper's random_masking, with a stable sort.

    Parameters
    ----------
    x : tensor, shape [N, L, D]
    num_keep : int
        Tokens that stay visible.
    noise : tensor of float, shape [N, L], optional
        What the tokens are ranked by; drawn by torch if it is not given.
    expand : bool
        Expand the index of the gather, which the paper's code repeats.

    Returns
    -------
    tuple of tensor
        ``x_masked``, ``mask`` and ``ids_restore``.

    Examples
    --------
    >>> import torch
    >>> from nbgather.apps.published import published_masking
    >>> x = torch.tensor([[[10.0], [20.0], [30.0]]])
    >>> noise = torch.tensor([[0.9, 0.1, 0.5]])
    >>> [array.flatten().tolist() for array in published_masking(x, 1, noise=noise)]
    [[20.0], [1.0, 0.0, 1.0], [2, 0, 1]]
    """
    import torch

    n, length, width = x.shape
    noise = torch.rand(n, length) if noise is None else noise
    ids_shuffle = torch.argsort(noise, dim=1, stable=True)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    ids_keep = ids_shuffle[:, :num_keep].unsqueeze(-1)
    index = ids_keep.expand(-1, -1, width) if expand else ids_keep.repeat(1, 1, width)
    x_masked = torch.gather(x, dim=1, index=index)
    mask = torch.ones([n, length])
    mask[:, :num_keep] = 0
    return x_masked, torch.gather(mask, dim=1, index=ids_restore), ids_restore


def published_restoring(x_visible: Any, ids_restore: Any, mask_token: Any) -> Any:
    """The decoder's unshuffle as the paper's code has it.

    Parameters
    ----------
    x_visible : tensor, shape [N, K, D]
    ids_restore : tensor of int64, shape [N, L]
    mask_token : tensor, shape [D]

    Returns
    -------
    tensor, shape [N, L, D]

    Examples
    --------
    >>> import torch
    >>> from nbgather.apps.published import published_restoring
    >>> visible, ids = torch.tensor([[[20.0]]]), torch.tensor([[2, 0, 1]])
    >>> published_restoring(visible, ids, torch.zeros(1)).flatten().tolist()
    [0.0, 20.0, 0.0]
    """
    import torch

    n, visible, width = x_visible.shape
    tokens = mask_token.view(1, 1, -1).repeat(n, ids_restore.shape[1] - visible, 1)
    joined = torch.cat([x_visible, tokens], dim=1)
    return torch.gather(joined, 1, ids_restore.unsqueeze(-1).repeat(1, 1, width))
