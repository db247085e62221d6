"""Numbers that only a device knows."""

from __future__ import annotations

from typing import Any


class OnDevice:
    """A seed or an epoch that a kernel reads where it lies: ``array`` is one int64 of a device.

    It stands where an operation has a number otherwise, and is equal to itself alone.
    """

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __repr__(self) -> str:
        return f"a number on {getattr(self.array, 'device', 'a device')}"
