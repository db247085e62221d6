"""Times on the device, by events, the contestants in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from gpu_check_parts.device import Device
from gpu_check_parts.report import Report

#: A call of one contestant; its argument counts the turns.
Call = Callable[[int], Any]
WARM_UP_CALLS = 3
#: What a row may take, all contestants together.
ROW_SECONDS = 2.5
MIN_ROUNDS, MAX_ROUNDS = 5, 30
#: How long the device is kept busy while Python gets to a launch.
LEAD_MILLISECONDS = 0.12


class Contest(NamedTuple):
    """The contestants of a row, and how many bytes the call cannot but move."""

    calls: dict[str, Call]
    moved: int


class Row(NamedTuple):
    """A row of the table: a contest, and what is to be reached.

    ``targets``: by a contestant's name, how often its time must be ours at least; by ``copy``, the
    part of the device's own copy; by ``µs``, our time at most.
    """

    name: str
    make: Callable[[Device], Contest]
    targets: dict[str, float]


def summary(times: list[float]) -> dict[str, float]:
    """What is kept of a contestant's microseconds."""
    ordered = sorted(times)
    low, high = ordered[0], ordered[min(len(ordered) - 1, round(0.9 * len(ordered)))]
    return {
        "min": low, "median": statistics.median(ordered), "p90": high,
        "spread": (high - low) / low if low else 0.0, "rounds": len(ordered),
    }  # fmt: skip


def timed(device: Device, calls: dict[str, Call]) -> dict[str, dict[str, Any]]:
    """Each contestant's times; the error of one that cannot make the call."""
    results: dict[str, dict[str, Any]] = {}
    running: dict[str, list[float]] = {}
    for name, call in calls.items():
        try:
            for k in range(device.pick(WARM_UP_CALLS, 0)):
                call(k)
            device.synchronize()
            running[name] = []
        except Exception as error:  # that contestant is out, the others run
            results[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
    names = list(running)
    begun = time.perf_counter()
    for turn in range(device.pick(MAX_ROUNDS, 1)):
        if turn >= MIN_ROUNDS and time.perf_counter() - begun > ROW_SECONDS:
            break
        for name in names[turn % len(names) :] + names[: turn % len(names)] if names else ():
            device.synchronize()
            device.busy(LEAD_MILLISECONDS)
            first = device.record()
            result = calls[name](turn)
            last = device.record()
            device.synchronize()
            running[name].append(device.microseconds(first, last))
            del result
    return results | {name: summary(times) for name, times in running.items()}


def copy_bandwidth(device: Device) -> float:
    """Bytes per second that a copy on the device moves, read and written."""
    source = torch.zeros(device.pick(1 << 30, 1 << 10), dtype=torch.uint8, device=device.torch)
    target = torch.empty_like(source)
    times = timed(device, {"copy": lambda k: target.copy_(source)})["copy"]
    return 2 * source.numel() / (times["median"] * 1e-6)


def empty_row(row: Row, missed: list[str]) -> dict[str, Any]:
    """A row of which there are no times."""
    return {"name": row.name, "microseconds": {}, "ratios": {}, "GB/s": 0.0,
            "targets": row.targets, "missed": missed}  # fmt: skip


def judged(
    row: Row, contest: Contest, times: dict[str, dict[str, Any]], bandwidth: float
) -> dict[str, Any]:
    """A row for the report: its times, ratios and what was missed, by the medians."""
    ours = times["nbgather"].get("median")
    if ours is None:
        missed = [f"failed: {times['nbgather']['error']}"]
        return {**empty_row(row, missed), "microseconds": times}
    rate = contest.moved / (ours * 1e-6)
    ratios = {
        name: time["median"] / ours
        for name, time in times.items()
        if name != "nbgather" and "median" in time
    }
    ratios["copy"] = rate / bandwidth
    missed = []
    for name, target in row.targets.items():
        reached = ours <= target if name == "µs" else ratios.get(name, target) >= target
        if not reached:
            what = f"{ours:.1f} µs" if name == "µs" else f"{ratios[name]:.2f}"
            missed.append(f"{name} {what}, wanted {target:g}")
    return {"name": row.name, "microseconds": times, "ratios": ratios, "GB/s": rate / 1e9,
            "targets": row.targets, "missed": missed}  # fmt: skip


def run(rows: list[Row], device: Device, report: Report, pattern: str = "") -> None:
    """Time the rows whose names hold a pattern, beside the device's own copy."""
    bandwidth = copy_bandwidth(device)
    report.fact(f"copy GB/s, {report.stage}", round(bandwidth / 1e9, 1))
    for row in rows:
        if pattern not in row.name:
            continue
        try:
            contest = row.make(device)
            result = judged(row, contest, timed(device, contest.calls), bandwidth)
        except Exception as error:  # the next row runs
            result = empty_row(row, [f"failed: {error!r}"[:300]])
        contest = None  # type: ignore[assignment]
        if device.tiny:  # its clock is none
            result["missed"] = [text for text in result["missed"] if text.startswith("failed")]
            result["missed"] += [
                f"{name} failed: {time['error']}"
                for name, time in result["microseconds"].items()
                if "error" in time
            ]
        report.line("row", **result)
        device.empty_cache()
