"""What the stages find: a line of JSON for each thing, written at once, and one document of all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: What a check or a stage may end with, and be good.
GOOD = ("passed", "skipped", "done")


class Report:
    """Appends lines to a file that the processes of all stages share."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage

    def line(self, kind: str, **fields: Any) -> None:
        """Write one thing, whole, whatever happens to this process after."""
        text = json.dumps({"kind": kind, "stage": self.stage, **fields})
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, text.encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
        print(_readable(kind, fields), flush=True)

    def fact(self, name: str, value: Any) -> None:
        self.line("fact", name=name, value=value)


def _readable(kind: str, fields: dict[str, Any]) -> str:
    if kind == "fact":
        return f"  {fields['name']}: {fields['value']}"
    if kind == "check":
        detail = f"  {fields['detail']}" if fields["detail"] else ""
        return f"  {fields['name']:40} {fields['seconds']:7.2f} s  {fields['outcome']}{detail}"
    if kind == "row":
        times = ", ".join(
            f"{name} {time['median']:.1f}" if "median" in time else f"{name} failed"
            for name, time in fields["microseconds"].items()
        )
        missed = f"  MISSED {', '.join(fields['missed'])}" if fields["missed"] else ""
        return f"  {fields['name']:36} µs: {times}{missed}"
    if kind == "begin":
        return f"== {fields['about']} (at most {fields['limit']:.0f} s)"
    return f"   {fields.get('outcome', '')} {fields.get('seconds', 0):.1f} s"


def document(path: Path) -> dict[str, Any]:
    """All lines of a file as one document; a line that was cut off is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            lines.append({"kind": "damaged", "stage": "", "text": text[:200]})
    result: dict[str, Any] = {"facts": {}, "stages": [], "checks": [], "rows": [], "failed": []}
    for line in lines:
        kind = line.pop("kind")
        if kind == "fact":
            result["facts"][line["name"]] = line["value"]
        elif kind in ("check", "row"):
            result[f"{kind}s"].append(line)
        elif kind == "end":
            result["stages"].append(line)
    result["failed"] = failures(result)
    return result


def failures(result: dict[str, Any]) -> list[str]:
    """What is wrong: checks that failed, stages that did not end well, targets that were missed."""
    wrong = [f"{c['stage']}: {c['name']}" for c in result["checks"] if c["outcome"] not in GOOD]
    wrong += [f"{s['stage']}: {s['outcome']}" for s in result["stages"] if s["outcome"] not in GOOD]
    wrong += [f"{r['stage']}: {r['name']}, {m}" for r in result["rows"] for m in r["missed"]]
    return wrong
