"""Torch tensors without memory, on the device "meta": shapes and dtypes alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.containers.base import Container, Run
from nbgather.containers.torch import TorchContainer


class TorchMetaContainer(TorchContainer):
    """Tensors on the device "meta", for which every call is an operator of torch's."""

    home = "meta"

    def __init__(self, run: Run) -> None:
        Container.__init__(self, run)

    def locate(self, array: Any, what: str) -> Container:
        return self

    def side(self, array: np.ndarray, like: Any) -> Any:
        return super().side(array, like).to("meta")

    def traces(self, operands: tuple[Any, ...], *, watched: bool = True) -> bool:
        return True


SERVES = TorchMetaContainer
