"""Zeros that something is added to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nbgather.operations.base import Apply, Operation, Spec, Tuple, device_of, fresh


@dataclass(frozen=True)
class Cleared(Operation):
    """Zeros of a shape and of the dtype of ``like``, of which nothing else counts."""

    shape: tuple[int, ...]

    names: ClassVar[tuple[str, ...]] = ("like",)

    def result(self, like: Spec) -> tuple[Spec, ...]:
        return (fresh(self.shape, like.dtype, like),)

    def batch(self, do: Apply, size: int, operands: Tuple, axes: Tuple) -> Any:
        return do.run(Cleared((size, *self.shape)), *operands)

    def lower(self, do: Apply, like: Any) -> Any:
        return do.xp.zeros(self.shape, dtype=like.dtype, device=device_of(like))
