"""The table of runtimes says what was found, of the models that are here; nothing is wrong."""

from __future__ import annotations

import copy
import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from script_modules import script_module

from nbgather.onnx import CATALOG

conformance = script_module("onnx_conformance")
page, vectors, python_runs = conformance.page, conformance.vectors, conformance.python_runs

KEPT: dict[str, Any] = json.loads(conformance.KEPT.read_text())
FILES = [entry.file for entry in CATALOG]
GATHERS = [file for file in FILES if file.startswith("gather")]


def test_the_page_says_what_was_found() -> None:
    assert conformance.main(["--check"]) == 0, "scripts/onnx_conformance.py --page"
    assert list(KEPT["rows"]) == list(conformance.ROWS)


def test_the_models_are_those_that_were_run() -> None:
    assert page.stale(KEPT) == [], "scripts/onnx_conformance.py"


def test_every_runtime_was_given_every_case() -> None:
    counts = {row: page._count(made) for row, made in KEPT["rows"].items()}
    assert len(set(counts.values())) == 1, counts


def test_no_runtime_gives_other_bytes_without_an_error() -> None:
    assert page.wrong(KEPT) == []


def test_that_those_tests_can_fail() -> None:
    other = copy.deepcopy(KEPT)
    groups = other["rows"]["OpenVINO"]["models"]["mae_masking.onnx"]
    groups["ties"] = {"wrong": 1, "equal": 2, "said": {"wrong": "mask at (0, 0) is 1.0"}}
    line = "WRONG: OpenVINO, mae_masking.onnx, ties: 1 cases, mask at (0, 0) is 1.0"
    assert line in page.wrong(other)
    assert "**WRONG**" in page.text(other)
    assert page.text(other) != page.text(KEPT)
    other["rows"]["tract"]["digests"]["mae_restore.onnx"] = "0" * 16
    assert page.stale(other) == ["tract, mae_restore.onnx"]


def cells(row: str) -> dict[str, str]:
    models = KEPT["rows"][row]["models"]
    return {file: page._cell(models[file]) for file in FILES}


@pytest.mark.parametrize(
    "row",
    [row for row in conformance.ROWS if row.startswith("onnxruntime") and "WebGPU, " not in row],
)
def test_every_onnxruntime_is_equal(row: str) -> None:
    assert cells(row) == dict.fromkeys(FILES, "equal")
    ties = dict(KEPT["rows"][row]["ties"])
    if "WebGPU" in row:  # that bundle has no float64
        assert ties.pop("float64").startswith("refused: ")
    assert set(ties.values()) == {"stable"}


#: What the others take; the page tells what they refuse of it.
TAKEN = {
    "onnx ReferenceEvaluator": FILES,
    "OpenVINO": FILES,
    "OpenCV": FILES,
    "onnxruntime-web WebGPU, Chromium": FILES,
    "onnxruntime-web WebGPU, Node": [],
    "tract": ["mae_restore.onnx", *GATHERS],
    "MNN": ["mae_restore.onnx", *GATHERS],
    "IREE": ["mae_restore.onnx", *GATHERS],
    "TVM": GATHERS,
}


@pytest.mark.parametrize("row", TAKEN)
def test_what_the_others_take(row: str) -> None:
    taken = [
        file for file, cell in cells(row).items() if cell not in ("refused", "ends the process")
    ]
    assert taken == TAKEN[row]


def test_who_takes_functions() -> None:
    """What the graphs are flat for; onnxruntime and onnx's own evaluator take functions."""
    taken = {row for row, made in KEPT["rows"].items() if made["functions"] == "taken"}
    others = {"OpenVINO", "OpenCV", "tract", "MNN", "IREE", "TVM", "onnxruntime-web WebGPU, Node"}
    assert set(KEPT["rows"]) - taken == others
    functions = conformance.functions
    assert functions.run("onnx", {}, Path(sys.executable)) == "taken"
    assert not any(node.domain for model in vectors.models().values() for node in model.graph.node)


def test_every_node_has_a_name_and_a_doc() -> None:
    for model in vectors.models().values():
        assert all(node.name and node.doc_string for node in model.graph.node)
        assert len({node.name for node in model.graph.node}) == len(model.graph.node)


@pytest.mark.parametrize("part", ["usual", "weekly", "full"])
def test_what_is_tried(part: str) -> None:
    models = vectors.models()
    assert {name.split("@")[0].removesuffix(".onnx") for name in models} == {
        file.removesuffix(".onnx") for file in FILES
    }
    groups: dict[str, set[str]] = {}
    for case in vectors.vectors(part, {k: m for k, m in models.items() if "seeded" not in k}):
        groups.setdefault(case.entry, set()).add(case.group)
    assert groups["mae_masking.onnx"] == {
        "lengths", "large", "empty", "ties", "NaN, ±0, ±inf", "largest scores",
        "subnormal scores", "bad sizes and indices", "all or none kept",
    }  # fmt: skip


def selected(every: int) -> list[Any]:
    """Some of the usual cases, of each model and group one at least."""
    models = vectors.models()
    cases = list(vectors.vectors("usual", models))
    chosen = []
    for _, some in groupby(cases, lambda case: (case.model, case.group)):
        chosen += list(some)[::every]
    return chosen


@pytest.mark.parametrize(
    "row", ["onnxruntime, newest, no optimisations", "onnxruntime, newest, .ort format"]
)
def test_optimisations_and_formats(row: str) -> None:
    one = conformance.environments.RUNTIMES[row]
    outcomes = python_runs.run(
        one.runtime, one.options, Path(sys.executable), vectors.models(), selected(4)
    )
    kinds = {kind for groups in outcomes.models.values() for c in groups.values() for kind in c}
    assert kinds == {"equal"}, outcomes.models


def test_the_evaluator_of_onnx() -> None:
    """What it refuses is what the table says it refuses."""
    row = "onnx ReferenceEvaluator"
    outcomes = python_runs.run("onnx", {}, Path(sys.executable), vectors.models(), selected(3))
    found = {row: outcomes.json()}
    assert set(found[row]["models"]) == set(FILES)
    assert conformance.compare(copy.deepcopy(found), KEPT) == 0
    found[row]["models"]["mae_restore.onnx"]["lengths"]["crashed"] = 1
    assert conformance.compare(found, KEPT) == 1


def test_words_of_an_error_do_not_change_from_run_to_run() -> None:
    words = sys.modules["onnx_conformance_parts.outcomes"].words
    assert words("a\n  b /tmp/x1/model.mlir:3: c") == "a b model.mlir:3: c"
    assert words("[15:51:38] :220: at 0x7f21") == "at 0x…"
    assert words("see src/a/b.cpp:3") == "see src/a/b.cpp:3"
    assert len(words("x" * 999)) == 200


def test_what_is_right_if_some_subnormal_scores_are_zero() -> None:
    model = {"mae_mask_only.onnx": vectors.models()["mae_mask_only.onnx"]}
    case = next(c for c in vectors.vectors("usual", model) if c.flushed and "subn" in c.group)
    noise = np.array([[0.5, 1e-45, -1e-39, 0.5, -0.0, 1e-39]], np.float32)
    case = case._replace(feeds={"noise": noise})
    for order, right in (
        ([1, 2, 4, 5, 0, 3], True), ([5, 4, 2, 1, 0, 3], True), ([2, 1, 4, 5, 0, 3], True),
        ([1, 2, 4, 5, 3, 0], False), ([1, 2, 4, 0, 5, 3], False),
    ):  # fmt: skip
        ids = np.array([order])
        ranks = np.argsort(ids, 1)
        mask = (ranks >= 1).astype(np.float32)
        got = {"mask": mask, "ids_restore": ranks, "ids_keep": ids[:, :1]}
        assert vectors.flushed_in_part(case, got) == right, order
        assert not vectors.flushed_in_part(case, got | {"mask": 1 - mask})
    assert not vectors.flushed_in_part(case._replace(flushed=None), got)
