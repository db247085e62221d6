"""What came of the cases: counts for each model and group, and the first words of a runtime."""

from __future__ import annotations

import re
from typing import Any

#: What may come of a case: as it should be; as it should be if subnormal scores were 0; an error of
#: the runtime's; the process ended; other bytes; outputs where an error should be.
KINDS = ("equal", "flushed", "refused", "crashed", "wrong", "taken")
MAX_WORDS = 200


class Outcomes:
    """Counts of one runtime, as they go into the file."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.models: dict[str, dict[str, dict[str, Any]]] = {}

    def add(self, entry: str, group: str, kind: str, said: str | None = None) -> None:
        """Count one case."""
        assert kind in KINDS, kind
        counts = self.models.setdefault(entry, {}).setdefault(group, {})
        counts[kind] = counts.get(kind, 0) + 1
        if kind != "equal" and said and kind not in counts.get("said", {}):
            counts.setdefault("said", {})[kind] = words(said)

    def json(self) -> dict[str, Any]:
        """For the file."""
        return {"version": self.version, "models": self.models}


def words(text: str) -> str:
    """An error in one line that does not change from run to run."""
    line = " ".join(text.split())
    line = re.sub(r"(?<![\w.])/\S*/(?=[\w.@-]+)", "", line)  # no paths of this machine
    line = re.sub(r"0x[0-9a-f]+", "0x…", line)
    line = re.sub(r"\[\d\d:\d\d:\d\d\] ?(:\d+: )?", "", line)
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"
