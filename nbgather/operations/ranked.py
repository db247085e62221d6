"""A masking by scores with all that a ranking gives: what a graph of torch holds as one node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nbgather.operations.base import Apply, Operation, Spec, Tuple
from nbgather.operations.keep import Keep
from nbgather.operations.tokens import KeepTokens, RandomMasking, RankTokens


@dataclass(frozen=True)
class RankedMasking(Operation):
    """Operands (x `[N, L, ...]`, noise `[N, L]`); results (x_masked, mask, ids_restore, ids_keep).

    :class:`~nbgather.operations.tokens.RandomMasking` gives the first three.
    """

    ratio: float

    names: ClassVar[tuple[str, ...]] = ("x", "noise")
    sides: ClassVar[tuple[int, ...]] = (1,)
    differentiable: ClassVar[tuple[int, ...]] = (0,)
    kept_results: ClassVar[tuple[int, ...]] = (3, 2)

    @property
    def keep(self) -> Keep:
        """How many tokens stay."""
        return Keep(ratio=self.ratio)

    def result(self, x: Spec, noise: Spec) -> tuple[Spec, ...]:
        masked = RandomMasking(self.keep).result(x, noise, None)
        return *masked, RankTokens(self.keep).result(noise)[0]

    def lower(self, do: Apply, *operands: Any) -> Any:
        x, noise = operands
        ids_keep, ids_restore, mask = do.run(RankTokens(self.keep), noise)
        return do.run(KeepTokens(), x, ids_keep, ids_restore), mask, ids_restore, ids_keep

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        return KeepTokens().transpose(do, cotangent, specs[:1], (None, *operands[2:]), needed)

    def tangent(self, do: Apply, tangents: Tuple, specs: Tuple, operands: Tuple) -> Any:
        return do.run(KeepTokens(), tangents[0], *operands[2:])
