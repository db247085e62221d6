"""How a check is declared, and run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable

from gpu_check_parts.device import Device, Skip
from gpu_check_parts.report import Report

#: A check's note for the report, if it has one; it fails by any exception.
Check = Callable[[Device], str | None]


class Checks:
    """The checks of one stage, in their order."""

    def __init__(self) -> None:
        self.functions: dict[str, Check] = {}

    def __call__(self, function: Check) -> Check:
        """Register a check; its docstring says what it shows."""
        self.functions[function.__name__] = function
        return function

    def names(self, pattern: str) -> Iterable[str]:
        return (name for name in self.functions if pattern in name)

    def run(self, device: Device, report: Report, pattern: str = "") -> None:
        """Run those whose name holds a pattern; the next one runs whatever became of this one."""
        for name in self.names(pattern):
            begun = time.perf_counter()
            try:
                detail = self.functions[name](device) or ""
                device.synchronize()  # what went wrong on the device belongs to this check
                outcome = "passed"
            except Skip as reason:
                outcome, detail = "skipped", str(reason)
            except Exception:
                outcome, detail = "failed", traceback.format_exc()[-4000:]
            seconds = time.perf_counter() - begun
            report.line("check", name=name, outcome=outcome, detail=detail, seconds=seconds)
