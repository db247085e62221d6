"""Runtimes of Python: each model in a process of the runtime's own environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from nbgather.onnx._build import ModelProto
from nbgather.onnx.cases import first_difference
from nbgather.onnx.runtimes import RuntimeSession
from onnx_conformance_parts import vectors
from onnx_conformance_parts.outcomes import Outcomes
from onnx_conformance_parts.vectors import Vector

#: Seconds that loading or one case may take.
TIMEOUT = 120.0


def run(
    runtime: str,
    options: Mapping[str, Any],
    python: Path,
    models: Mapping[str, ModelProto],
    cases: Sequence[Vector],
) -> Outcomes:
    """Every case on a runtime."""
    outcomes = Outcomes("")
    for file, mine in groupby(cases, lambda case: case.model):
        try:
            session = RuntimeSession(
                models[file], runtime, python=python, options=options, timeout=TIMEOUT
            )
        except ValueError as error:
            kind = "crashed" if "ended its process" in str(error) else "refused"
            for case in mine:
                outcomes.add(case.entry, case.group, kind, _reason(error))
            continue
        with session:
            outcomes.version = session.label.removeprefix(runtime).strip()
            _run_model(session, mine, outcomes)
    return outcomes


def _run_model(session: RuntimeSession, cases: Iterable[Vector], outcomes: Outcomes) -> None:
    for case in cases:
        try:
            got = session.run(case.feeds)
        except (RuntimeError, ValueError) as error:
            kind = "crashed" if "ended its process" in str(error) else "refused"
            if case.expected is None and kind == "refused":
                kind = "equal"
            outcomes.add(case.entry, case.group, kind, _reason(error))
            continue
        if case.expected is None:
            outcomes.add(case.entry, case.group, "taken")
            continue
        difference = first_difference(got, case.expected)
        kind = "wrong" if difference else "equal"
        if difference and vectors.flushed_in_part(case, got):
            kind, difference = "flushed", None
        outcomes.add(case.entry, case.group, kind, difference)


def _reason(error: Exception) -> str:
    """The runtime's own words, without the model's name before them."""
    text = str(error)
    for before in (" can load: ", " failed on ", " failed: "):
        _, found, after = text.partition(before)
        if found:
            return after.partition(": ")[2] if before == " failed on " else after
    return text
