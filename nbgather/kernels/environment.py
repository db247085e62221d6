"""Variables of the environment that calls ask for, which are nearly never set."""

from __future__ import annotations

import os
from typing import Any

_environment = os.environ
#: What holds the variables, by names as the system has them: to look there takes a tenth of the
#: time. None where this Python has no such thing.
_held: Any = getattr(os.environ, "_data", None)


class Variable:
    """A variable by its name, looked for at each call."""

    __slots__ = ("_key", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        encode = getattr(os.environ, "encodekey", None)
        self._key = None if encode is None else encode(name)

    def text(self) -> str:
        """What it is set to; empty where it is not."""
        if type(_held) is dict and os.environ is _environment and self._key not in _held:
            return ""
        return os.environ.get(self.name, "")
