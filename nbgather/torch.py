"""For torch: a masking module, and a collate function for data loaders.

The functions of :mod:`nbgather` take tensors themselves, with gradients, under ``torch.compile``,
``torch.export`` and the transforms of ``torch.func``; as operators they are
``torch.ops.nbgather.gather``, ``take_along_axis``, ``gather_tokens``, ``scatter``, ``scatter_add``,
``scatter_reduce``, ``token_noise``, ``rank_tokens``, ``keep_tokens``, ``random_masking``,
``restore_tokens`` and ``score``, registered by importing this module.

A saved program holds these operators by name. Who loads one, by ``torch.export.load`` or
``torch.jit.load``, must ``import nbgather.torch`` first, else torch says that it cannot deserialize
the file, and names the operator in a warning. To ONNX they are translated by
``torch.onnx.export(..., dynamo=True, custom_translation_table=torch_translation_table())`` with the
table of :func:`nbgather.onnx.torch_translation_table`; without it torch finds no ONNX function for
them, and its older exporter (``dynamo=False``) knows none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from nbgather import strategies
from nbgather.containers import registry, torch_calls, torch_operators
from nbgather.loading import MaskingCollate, Strategy, require_same_masks, strategy_of
from nbgather.masking import MaskedTokens, random_masking
from nbgather.operations import checks, keep
from nbgather.operations import scores as score_rules
from nbgather.operations.on_device import OnDevice

__all__ = ["MaskingCollate", "RandomMasking", "require_same_masks"]

#: The container of tensors, whose module registers the operators, with the engine behind them.
_CONTAINER: Any = registry.load(registry.MODULES["torch"])


def _scores(seed: Any, epoch: Any, sample_ids: Any, strategy: str, grid: Sequence[int]) -> Any:
    score: Any = strategy_of(strategy) or strategies.random
    if seed.is_cuda and seed.device == epoch.device == sample_ids.device:  # the kernels read them
        seed, epoch = OnDevice(seed.to(torch.int64)), OnDevice(epoch.to(torch.int64))
        return score(seed, sample_ids, tuple(grid), epoch=epoch)
    return score(int(seed), sample_ids, tuple(grid), epoch=int(epoch))


def _scores_beside(seed: Any, epoch: Any, sample_ids: Any, strategy: str, grid: Any) -> Any:
    torch_operators.require_one_device(seed, epoch, sample_ids)
    return _scores(seed, epoch, sample_ids, strategy, grid)


def _fake_scores(seed: Any, epoch: Any, sample_ids: Any, strategy: str, grid: Sequence[int]) -> Any:
    return sample_ids.new_empty((*sample_ids.shape, math.prod(grid)), dtype=torch.float32)


#: The scores of a strategy whose seed and epoch are tensors, which a graph takes as they come.
_seeded_strategy = torch_operators.define(
    "seeded_strategy",
    "(Tensor seed, Tensor epoch, Tensor sample_ids, str strategy, SymInt[] grid) -> Tensor",
    _scores,
    _fake_scores,
    waits=True,  # the seed may be read on the host
)
torch_operators.batch_one_by_one(_seeded_strategy)

#: The same of a seed and an epoch on the device of the ids, for which nothing waits.
_strategy_beside = torch_operators.define(
    f"seeded_strategy{torch_operators.NOWAIT}",
    "(Tensor seed, Tensor epoch, Tensor sample_ids, str strategy, SymInt[] grid) -> Tensor",
    _scores_beside,
    _fake_scores,
)
torch_operators.batch_one_by_one(_strategy_beside)


def _takes_seeds_there(score: Strategy | None) -> bool:
    """Whether a strategy takes a seed that only a device knows: those of this package do."""
    if isinstance(score, functools.partial):
        return "spatial" not in score.keywords and _takes_seeds_there(score.func)
    name = getattr(score, "__name__", "")
    return score is None or (name in strategies.__all__ and score is getattr(strategies, name))


def _ids_beside(sample_ids: Any, x: torch.Tensor) -> torch.Tensor:
    """Sample ids as a tensor, where tokens are; one that is elsewhere is left there."""
    if isinstance(sample_ids, torch.Tensor):
        return sample_ids
    if isinstance(sample_ids, int):
        return torch.arange(checks.count(sample_ids, "sample_ids"), device=x.device)
    return torch.as_tensor(sample_ids, device=x.device)


def _name(strategy: str | Strategy) -> str:
    return strategy if isinstance(strategy, str) else getattr(strategy, "__name__", repr(strategy))


class RandomMasking(torch.nn.Module):
    """Token masking as a module.

    With ``sample_ids`` the mask of a sample is a pure function of the seed, the epoch and the
    sample's id: the same on every rank, worker and device, and after a restart.

    Without ids the mask is drawn from torch's generator, as dropout is, and neither the seed nor
    the epoch enters: activation checkpointing replays it, ``torch.manual_seed`` rules, and ranks
    mask apart if they were seeded apart.

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
    seed, epoch : Tensor
        Buffers of one int64, which go into checkpoints and are read at every call: whoever writes
        into them, be it :meth:`set_epoch` or a checkpoint that is loaded in place, is heeded, and a
        compiled module is not compiled again.
    mask_ratio : float
        As ``p`` of ``torch.nn.Dropout``, a part of the module and not of its state.

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind; a grid that is missing.

    Notes
    -----
    Where the module is on the GPU of the tokens, the kernels of masking and of the strategies of
    this package read the seed and the epoch there: nothing waits, and a CUDA graph heeds what was
    written before a replay. For a strategy of somebody's own they are read on the host, which waits
    for the device, and again only after they were written to.

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

    seed: torch.Tensor
    epoch: torch.Tensor

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
        self._score = strategy_of(strategy)
        if self._score is not None and grid is None:
            raise ValueError(f"strategy is {_name(strategy)!r}: it needs grid=")
        self.grid = None if grid is None else score_rules.token_grid(grid)
        self.num_keep = None if num_keep is None else checks.count(num_keep, "num_keep")
        self.mask_ratio = keep.ratio(mask_ratio)
        key = checks.bits64(seed, "seed")
        signed = key - 2**64 if key >= 2**63 else key
        for name, value in (("seed", signed), ("epoch", 0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.int64, device="cpu"))
        self._read: tuple[Any, ...] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: another mask for every sample that has an id.

        Parameters
        ----------
        epoch : int
            0 to 2**32 - 1.

        Raises
        ------
        TypeError, ValueError
            Not a whole number, or out of range.
        """
        self.epoch.fill_(checks.epoch(epoch))

    def forward(self, x: torch.Tensor, sample_ids: Any = None) -> MaskedTokens[torch.Tensor]:
        """Mask tokens.

        Parameters
        ----------
        x : Tensor, shape [N, L, ...]
            Tokens.
        sample_ids : Tensor of int, shape [N], optional
            The samples' ids in the dataset. Without them the mask is drawn from torch's generator.

        Returns
        -------
        MaskedTokens
            As :func:`nbgather.random_masking`.

        Raises
        ------
        TypeError, ValueError
            As :func:`nbgather.random_masking`; a grid of another number of tokens.
        """
        if sample_ids is None:
            return self._drawn(x)
        if self._is_traced() and (self._score is None or isinstance(self.strategy, str)):
            return self._traced(x, sample_ids)
        seed: Any
        epoch: Any
        if self._lies_beside(x, sample_ids):
            # Read by the kernels: nothing waits, and a CUDA graph sees each epoch that is set.
            seed, epoch = OnDevice(self.seed), OnDevice(self.epoch)
            sample_ids = _ids_beside(sample_ids, x)
        else:
            seed, epoch = self._seed_and_epoch()
        if self._score is None:
            choice: dict[str, Any] = {"seed": seed, "sample_ids": sample_ids, "epoch": epoch}
        else:
            choice = {"noise": self._score(seed, sample_ids, self.grid, epoch=epoch)}
        return random_masking(x, self.mask_ratio, num_keep=self.num_keep, **choice)

    def _traced(self, x: torch.Tensor, sample_ids: Any) -> MaskedTokens[torch.Tensor]:
        """Mask by a seed and an epoch that stay tensors."""
        sample_ids = _ids_beside(sample_ids, x)
        if self._score is None:
            return MaskedTokens(
                *torch_calls.seeded_masking(
                    x, self.mask_ratio, self.seed, self.epoch, sample_ids, self.num_keep
                )
            )
        scores = self._traced_scores(self.seed, self.epoch, sample_ids)
        return random_masking(x, self.mask_ratio, noise=scores, num_keep=self.num_keep)

    def _is_traced(self, *others: torch.Tensor) -> bool:
        """Whether the seed and the epoch, or others, have no values that Python can know."""
        container = _CONTAINER.locate(self.seed, "seed")
        return bool(container.traces((self.seed, self.epoch, *others)))

    def _drawn(self, x: torch.Tensor) -> MaskedTokens[torch.Tensor]:
        """Mask by a seed from torch's generator."""
        if self._score is None:
            return random_masking(x, self.mask_ratio, num_keep=self.num_keep)
        ids = torch.arange(x.shape[0], device=x.device)
        if self._is_traced() and isinstance(self.strategy, str):
            seed = torch_calls.seed_beside(x)
            scores = self._traced_scores(seed, torch.zeros_like(seed), ids)
        elif x.is_cuda and _takes_seeds_there(self._score) and not self._is_traced(x):
            scores = self._score(OnDevice(torch_calls.seed_beside(x)), ids, self.grid)
        else:
            scores = self._score(int(torch_calls.drawn_seed()), ids, self.grid)
        return random_masking(x, self.mask_ratio, noise=scores, num_keep=self.num_keep)

    def _traced_scores(self, seed: Any, epoch: Any, sample_ids: torch.Tensor) -> Any:
        dtype = str(sample_ids.dtype).removeprefix("torch.")
        checks.sample_ids(tuple(sample_ids.shape), dtype)
        op = _strategy_beside if seed.is_cuda and epoch.is_cuda else _seeded_strategy
        return op(seed, epoch, sample_ids, self.strategy, self.grid)

    def _lies_beside(self, x: torch.Tensor, sample_ids: Any) -> bool:
        """Whether seed and epoch are on the GPU of tokens and ids, for kernels to read."""
        there = self.seed.is_cuda and self.seed.device == self.epoch.device == x.device
        if isinstance(sample_ids, torch.Tensor) and sample_ids.device != x.device:
            return False  # which is refused by name
        return there and _takes_seeds_there(self._score) and not self._is_traced(x)

    def _seed_and_epoch(self) -> tuple[int, int]:
        """The seed and the epoch as Python numbers."""
        if self.seed.is_cpu and self.epoch.is_cpu:
            return int(self.seed), int(self.epoch)
        state = (self.seed, self.seed._version, self.epoch, self.epoch._version)
        if self._read is None or any(a is not b for a, b in zip(self._read[0], state)):
            self._read = state, (int(self.seed), int(self.epoch))
        return self._read[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": None}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # A checkpoint of version 0.1 has the ratio, and a count of samples that nothing needs.
        state_dict.pop(f"{prefix}samples", None)
        ratio = state_dict.pop(f"{prefix}mask_ratio", None)
        if ratio is not None:
            self.mask_ratio = keep.ratio(float(ratio))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        seed, epoch = int(self.seed), int(self.epoch)
        parts = [f"mask_ratio={self.mask_ratio:g}", f"strategy={_name(self.strategy)!r}"]
        parts += [] if self.grid is None else [f"grid={self.grid}"]
        parts += [] if self.num_keep is None else [f"num_keep={self.num_keep}"]
        return ", ".join([*parts, f"seed={seed}", f"epoch={epoch}"])
