"""Strange operands: the same outcome cold and warm, in our own words, and never a signal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

#: What is said of a bad argument.
OWN = ("TypeError", "ValueError", "IndexError", "AxisError")
#: Strangers whose own library speaks first, and what it raises.
FOREIGN = [
    ("jax deleted", "RuntimeError: Array has been deleted"),
    ("torch fake", "AssertionError: Please convert all Tensors to FakeTensors first"),
    ("valid torch negative view", "NotImplementedError: \"neg_cpu\" not implemented for 'Bool'"),
]
#: What needs a device, and what cannot be traced, with our own words for it.
CANNOT = [
    ("cuda look-alike", "ImportError: backend 'cuda' is not available"),
    ("torch fake", "NotImplementedError: infer_gather cannot be traced by torch"),
    ("torch functional", "NotImplementedError: infer_gather cannot be traced by torch"),
    ("torch two", "NotImplementedError: infer_gather cannot be traced by torch"),
    ("torch derived", "NotImplementedError: infer_gather cannot be traced by torch"),
]

#: cold or warm → function and stranger → what came of it.
Outcomes = dict[str, dict[str, str]]


def run_both() -> Outcomes:
    program = Path(__file__).with_name("strangers.py")
    children = {
        heat: subprocess.Popen(
            [sys.executable, program, heat],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for heat in ("cold", "warm")
    }
    results = {}
    for heat, child in children.items():
        printed, errors = child.communicate(timeout=600)
        results[heat] = dict(json.loads(line) for line in printed.splitlines())
        assert child.returncode == 0, (heat, list(results[heat])[-1:], errors[-2000:])
    return results


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What both programs printed; they are run once, whichever of pytest's workers asks first."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return run_both()
    file = tmp_path_factory.getbasetemp().parent / "strangers.json"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            file.write_text(json.dumps(run_both()))
    return json.loads(file.read_text())


@pytest.mark.timeout(700)
def test_nothing_kills_the_process(outcomes: Outcomes) -> None:
    """Both programs came to their ends, else the fixture names the last call that was begun."""
    assert len(outcomes["cold"]) > 4000


def test_a_warm_call_ends_as_a_cold_one(outcomes: Outcomes) -> None:
    different = {
        label: (text, outcomes["warm"][label])
        for label, text in outcomes["cold"].items()
        if text != outcomes["warm"][label]
    }
    assert not different


def test_what_is_refused_is_refused_in_our_words(outcomes: Outcomes) -> None:
    others = {}
    for label, text in outcomes["cold"].items():
        kind = text.partition(":")[0]
        if not kind.endswith(("Error", "Exception", "Interrupt")):
            continue
        expected = [text_of for kind_of, text_of in (*FOREIGN, *CANNOT) if label.endswith(kind_of)]
        if not (kind in OWN and len(text) > 20) and not any(map(text.startswith, expected)):
            others[label] = text
    assert not others


def test_side_operands_are_friendly(outcomes: Outcomes) -> None:
    """What only says where may be a list, of any width, or NumPy's beside torch."""
    friendly = (
        "numpy", "list", "tuple", "read-only", "byte order", "reversed", "unaligned", "uint64",
        "int16",
    )  # fmt: skip
    sides = {
        "gather": "index", "take_along_axis": "indices", "gather_tokens": "ids",
        "scatter": "index", "scatter_add": "index", "token_noise": "sample_ids",
        "random_masking": "sample_ids", "random_masking counts": "num_keep",
        "rank_tokens": "num_keep", "restore_tokens": "ids_restore",
        "masked_patchify": "sample_ids", "strategies.block": "sample_ids",
    }  # fmt: skip
    for name, side in sides.items():
        for library in ("numpy", "torch"):
            of = f"{name} ({library})/{side} "
            ordinary = outcomes["cold"][of + library]
            assert not ordinary.partition(":")[0].endswith("Error"), ordinary
            for kind in friendly:
                if name in ("token_noise", "strategies.block"):
                    # Here the ids decide the container.
                    ordinary = outcomes["cold"][of + "numpy"]
                assert outcomes["cold"][of + kind] == ordinary, of + kind


def test_values_are_not_mixed(outcomes: Outcomes) -> None:
    for name, operand in (
        ("scatter", "src"), ("scatter_add", "src"), ("restore_tokens", "mask_token"),
    ):  # fmt: skip
        main = {"scatter": "input", "scatter_add": "input", "restore_tokens": "x_visible"}[name]
        for library, other in (("numpy", "torch"), ("torch", "numpy"), ("torch", "jax")):
            names = {"numpy": "NumPy", "torch": "torch", "jax": "JAX"}
            text = outcomes["cold"][f"{name} ({library})/{operand} {other}"]
            assert text == (
                f"TypeError: {main} is a {names[library]} array and {operand} a {names[other]}"
                " one: both must be of one library"
            )
