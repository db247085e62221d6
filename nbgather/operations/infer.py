"""The inverse of gather: which dimension and index made this output?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from nbgather.operations import checks
from nbgather.operations.base import Operation, Spec


class GatherSolution(NamedTuple):
    """One way to get an output from an input by a gather.

    Attributes
    ----------
    dim : int
        The dimension gathered along.
    index : array of int64
        Shape of the output; where several positions would do, the lowest.
    is_unique : bool
        Whether no other index along this dimension gives the same output.
    """

    dim: int
    index: Any
    is_unique: bool


@dataclass(frozen=True)
class InferGather(Operation):
    """Every gather of ``input`` that gives ``output``: a list of GatherSolution."""

    names: ClassVar[tuple[str, ...]] = ("input", "output")
    values: ClassVar[tuple[int, ...]] = (1,)

    def check(self, x: Spec, y: Spec) -> None:
        """Whether the two can be compared; what comes out is known when it has been looked for."""
        if x.dtype != y.dtype:
            raise TypeError(
                f"input has dtype {x.dtype.name} and output {y.dtype.name}: one is needed"
            )
        checks.itemsize(x.dtype, "input")
        if max(len(x.shape), 1) != max(len(y.shape), 1):
            raise ValueError(
                f"input has {len(x.shape)} dimensions (shape {x.shape}) and output"
                f" {len(y.shape)} (shape {y.shape}): both must have the same number"
            )
