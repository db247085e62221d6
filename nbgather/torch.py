"""For torch: a masking module, and a collate function for data loaders.

The functions of :mod:`nbgather` take tensors themselves, with gradients, under ``torch.compile``,
``torch.export`` and ``torch.func.vmap``; as operators they are ``torch.ops.nbgather.gather``,
``take_along_axis``, ``gather_tokens``, ``scatter``, ``scatter_add``, ``token_noise``,
``rank_tokens``, ``random_masking`` and ``restore_tokens``, registered by importing this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from nbgather import _torch_ops, _validate, strategies
from nbgather.masking import MaskedTokens, PaddedTokens, random_masking
from nbgather.patches import masked_patchify

__all__ = ["MaskingCollate", "RandomMasking"]

_ = _torch_ops  # imported for what it registers

Strategy = Callable[..., Any]


def _strategy(name: str | Strategy) -> Strategy | None:
    """A strategy by name or as it is; None for the random one, which needs no scores."""
    if callable(name):
        return name
    if name not in strategies.__all__:
        known = ", ".join(map(repr, strategies.__all__))
        raise ValueError(f"strategy is {name!r}: it must be one of {known}, or a callable")
    return None if name == "random" else getattr(strategies, name)


def _name(strategy: str | Strategy) -> str:
    return strategy if isinstance(strategy, str) else getattr(strategy, "__name__", repr(strategy))


class RandomMasking(torch.nn.Module):
    """Token masking as a module whose checkpoint resumes with the same masks.

    The mask of a sample depends on the seed, the epoch and the sample's id. Where no ids are given
    the samples are numbered as they come, from 0 in each epoch, while the module is training; in
    evaluation every batch begins at 0.

    Parameters
    ----------
    mask_ratio : float
        The part to remove, 0 to 1.
    strategy : str or callable
        A name from :mod:`nbgather.strategies`, or a function called like one of them.
    grid : sequence of int, optional
        Tokens along each side; for every strategy but ``"random"``.
    seed : int
        64 bits, signed or unsigned.
    num_keep : int, optional
        How many tokens stay, instead of ``mask_ratio``.

    Attributes
    ----------
    mask_ratio, seed, epoch, samples : Tensor
        Buffers: the ratio (float64), the seed, the epoch, and how many samples it has numbered
        (int64).

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind; a grid that is missing.

    Examples
    --------
    >>> import torch
    >>> from nbgather.torch import RandomMasking
    >>> masking = RandomMasking(0.75, strategy="block", grid=(14, 14), seed=3)
    >>> masking
    RandomMasking(mask_ratio=0.75, strategy='block', grid=(14, 14), seed=3, epoch=0)
    >>> x_masked, mask, ids_restore = masking(torch.zeros(2, 196, 8), torch.tensor([40, 41]))
    >>> x_masked.shape
    torch.Size([2, 49, 8])
    """

    mask_ratio: torch.Tensor
    seed: torch.Tensor
    epoch: torch.Tensor
    samples: torch.Tensor

    def __init__(
        self,
        mask_ratio: float = 0.75,
        *,
        strategy: str | Strategy = "random",
        grid: Sequence[int] | None = None,
        seed: int = 0,
        num_keep: int | None = None,
    ) -> None:
        super().__init__()
        self.strategy = strategy
        self._score = _strategy(strategy)
        if self._score is not None and grid is None:
            raise ValueError(f"strategy is {_name(strategy)!r}: it needs grid=")
        self.grid = None if grid is None else _validate.token_grid(grid)
        self.num_keep = None if num_keep is None else _validate.count(num_keep, "num_keep")
        key = _validate.bits64(seed, "seed")
        ratio = torch.tensor(_validate.ratio(mask_ratio), dtype=torch.float64)
        self.register_buffer("mask_ratio", ratio)
        self.register_buffer("seed", torch.tensor(key - 2**64 if key >= 2**63 else key))
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("samples", torch.tensor(0))
        self.register_load_state_dict_post_hook(RandomMasking._read)
        RandomMasking._read(self)

    def _read(self, _: Any = None) -> None:
        # As Python numbers, so that a forward pass waits for no device.
        self._numbers = float(self.mask_ratio), int(self.seed), int(self.epoch)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        # A ratio in half precision would be another ratio.
        super()._apply(fn, recurse)
        self.mask_ratio = torch.tensor(
            self._numbers[0], dtype=torch.float64, device=self.mask_ratio.device
        )
        return self

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: another mask for every sample, and the numbering begins at 0.

        Parameters
        ----------
        epoch : int
            0 to 2**32 - 1.

        Raises
        ------
        TypeError, ValueError
            Not a whole number, or out of range.
        """
        self.epoch.fill_(_validate.epoch(epoch))
        self.samples.fill_(0)
        self._read()

    def forward(self, x: torch.Tensor, sample_ids: torch.Tensor | None = None) -> MaskedTokens:
        """Mask tokens.

        Parameters
        ----------
        x : Tensor, shape [N, L, ...]
            Tokens.
        sample_ids : Tensor of int64, shape [N], optional
            The samples' ids in the dataset.

        Returns
        -------
        MaskedTokens
            As :func:`nbgather.random_masking`.

        Raises
        ------
        TypeError, ValueError
            As :func:`nbgather.random_masking`; a grid of another number of tokens.
        """
        ratio, seed, epoch = self._numbers
        if sample_ids is None:
            sample_ids = torch.arange(x.shape[0], device=x.device)
            if self.training:
                sample_ids = sample_ids + self.samples
                self.samples.add_(x.shape[0])
        if self._score is None:
            made = random_masking(
                x, ratio, seed=seed, sample_ids=sample_ids, epoch=epoch, num_keep=self.num_keep
            )
        else:
            scores = self._score(seed, sample_ids, self.grid, epoch=epoch)
            made = random_masking(x, ratio, noise=scores, num_keep=self.num_keep)
        return made  # type: ignore[return-value]

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        ratio, seed, epoch = self._numbers
        parts = [f"mask_ratio={ratio:g}", f"strategy={_name(self.strategy)!r}"]
        parts += [] if self.grid is None else [f"grid={self.grid}"]
        parts += [] if self.num_keep is None else [f"num_keep={self.num_keep}"]
        return ", ".join([*parts, f"seed={seed}", f"epoch={epoch}"])


class MaskingCollate:
    """A ``collate_fn`` that turns images into visible patches, in the loader's workers.

    Parameters
    ----------
    patch_size : int or sequence of int
        As in :func:`nbgather.patchify`.
    mask_ratio : float
        The part to remove, 0 to 1.
    strategy : str or callable
        As in :class:`RandomMasking`; the grid follows from the images.
    seed : int
        64 bits, signed or unsigned.
    scale, mean, std : float or sequence of float, optional
        As in :func:`nbgather.masked_patchify`.

    Attributes
    ----------
    epoch : int
        Set it before each epoch; workers that persist see it too.

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind.

    Examples
    --------
    >>> import torch
    >>> from nbgather.torch import MaskingCollate
    >>> collate = MaskingCollate(16, 0.75, seed=3, scale=1 / 255)
    >>> images = [(k, torch.zeros(3, 32, 32, dtype=torch.uint8)) for k in (7, 4)]
    >>> ids, (patches, mask, ids_restore) = collate(images)
    >>> ids.tolist(), patches.shape, patches.dtype
    ([7, 4], torch.Size([2, 1, 768]), torch.float32)
    """

    def __init__(
        self,
        patch_size: int | Sequence[int],
        mask_ratio: float = 0.75,
        *,
        strategy: str | Strategy = "random",
        seed: int = 0,
        scale: float | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
    ) -> None:
        _validate.ratio(mask_ratio)
        _validate.bits64(seed, "seed")
        self.patch_size, self.mask_ratio, self.seed = patch_size, mask_ratio, seed
        self.strategy = strategy
        self._score = _strategy(strategy)
        self._affine: dict[str, Any] = {"scale": scale, "mean": mean, "std": std}
        self._epoch = torch.tensor(0).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch, the same in this process and in every worker."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(_validate.epoch(value))

    def __call__(
        self, samples: Sequence[tuple[int, Any]]
    ) -> tuple[torch.Tensor, MaskedTokens | PaddedTokens]:
        """Collate ``(sample id, image)`` pairs.

        Parameters
        ----------
        samples : sequence of (int, Tensor or array)
            Images of one shape, `[C, H, W]` or `[C, T, H, W]`.

        Returns
        -------
        sample_ids : Tensor of int64, shape [N]
        made : MaskedTokens
            As :func:`nbgather.masked_patchify`.

        Raises
        ------
        TypeError, ValueError
            As :func:`nbgather.masked_patchify`; samples that are no such pairs.
        """
        try:
            numbers, images = zip(*samples, strict=True)
            ids = torch.tensor([int(n) for n in numbers])
        except (TypeError, ValueError):
            raise TypeError("samples must be pairs of a sample id and an image") from None
        batch = torch.stack([torch.as_tensor(np.asarray(i)) if not isinstance(i, torch.Tensor)
                             else i for i in images])  # fmt: skip
        choice: dict[str, Any] = {"seed": self.seed, "sample_ids": ids, "epoch": self.epoch}
        if self._score is not None:
            sizes = _validate.patch_size(self.patch_size, tuple(batch.shape))
            grid = _validate.grid(tuple(batch.shape[2:]), sizes)
            choice = {"noise": self._score(self.seed, ids, grid, epoch=self.epoch)}
        made = masked_patchify(batch, self.patch_size, self.mask_ratio, **choice, **self._affine)
        return ids, made
