"""Arrays of array-api-strict, the reference implementation of the Python array API standard.

They have no functions but the standard's, so they show that a container needs no others.
"""

from __future__ import annotations

from typing import Any

import array_api_strict
import numpy as np

from nbgather.containers.base import Container, HostViews, Run
from nbgather.containers.numpy import NumpyContainer

_Array = type(array_api_strict.zeros(()))
_CPU = array_api_strict.zeros(()).device


class ArrayApiStrictContainer(HostViews):
    """Arrays on array-api-strict's CPU device, viewed by DLPack."""

    name = "array-api-strict"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.numpy = NumpyContainer(run)

    def serves(self, kind: type) -> bool:
        return issubclass(kind, _Array)

    def locate(self, array: Any, what: str) -> Container:
        if array.device != _CPU:
            raise TypeError(
                f"{what} is an array-api-strict array on {array.device}: one on its CPU device is"
                " needed"
            )
        return self

    def view(self, array: Any) -> Any:
        return np.asarray(array) if isinstance(array, _Array) else array

    def back(self, array: np.ndarray, like: Any) -> Any:
        return array_api_strict.asarray(array)

    def namespace(self, array: Any) -> Any:
        return array_api_strict


SERVES = ArrayApiStrictContainer
